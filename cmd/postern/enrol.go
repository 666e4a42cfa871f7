package main

import (
	"maps"
	"slices"
	"time"

	"postern/appliance/config"
	"postern/provisioning"
)

// plan reads the file of postern enrol.
func plan(path string) (provisioning.Plan, error) {
	c, err := config.LoadPlan(path)
	if err != nil {
		return provisioning.Plan{}, err
	}
	p := provisioning.Plan{Renew: time.Duration(c.Renew), Asked: c.Rate.Count, Per: time.Duration(c.Rate.Per), Authorities: map[string]provisioning.Authority{}}
	for name, a := range c.Authorities {
		p.Authorities[name] = provisioning.Authority{Folder: a.Folder, URL: a.URL, Label: a.Label, CAFile: a.CAFile,
			User: a.User, PasswordFile: a.PasswordFile, Client: a.Client, Reenrol: a.Reenrol, ACME: accountOf(a)}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Domains)) {
		d := c.Domains[name]
		g := provisioning.Group{Domain: name, OpenPGP: openPGP(d.OpenPGP), SMIME: sMIME(d.SMIME)}
		if d.DKIM != nil {
			g.DKIM = &provisioning.EnrolDKIM{Algorithms: d.DKIM.Algorithms, Rotate: time.Duration(d.DKIM.Rotate)}
		}
		p.Groups = append(p.Groups, g)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Users)) {
		u := c.Users[name]
		p.Groups = append(p.Groups, provisioning.Group{Addresses: u.Addresses, File: u.File, Joiners: u.Joiners, AtOnce: u.AtOnce, Wrapped: u.Wrapped, OpenPGP: openPGP(u.OpenPGP), SMIME: sMIME(u.SMIME)})
	}
	for _, name := range slices.Sorted(maps.Keys(c.Hosts)) {
		h := c.Hosts[name]
		p.Groups = append(p.Groups, provisioning.Group{Host: name, TLS: &provisioning.EnrolTLS{Authority: h.Authority, Lifetime: h.Lifetime}})
	}
	return p, nil
}

// accountOf is nil for an authority that is not asked by ACME.
func accountOf(a config.Authority) *provisioning.ACME {
	if a.Kind != "acme" {
		return nil
	}
	return &provisioning.ACME{Contact: a.Contact, Agreed: a.TermsAgreed, Binding: a.Binding, BindingFile: a.BindingFile,
		Join: a.Join, Submit: a.Submit, Wait: time.Duration(a.Wait)}
}

func openPGP(c *config.EnrolOpenPGP) *provisioning.EnrolOpenPGP {
	if c == nil {
		return nil
	}
	return &provisioning.EnrolOpenPGP{Algorithm: c.Algorithm, Lifetime: c.Lifetime, Name: c.Name, V6: c.V6}
}

func sMIME(c *config.EnrolSMIME) *provisioning.EnrolSMIME {
	if c == nil {
		return nil
	}
	return &provisioning.EnrolSMIME{Authority: c.Authority, Sign: c.Sign, Open: c.Open, Name: c.Name, Mailbox: c.Mailbox}
}
