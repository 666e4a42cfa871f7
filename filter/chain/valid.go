package chain

import (
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"slices"
	"time"
)

// understood are the extensions that may be critical, since they are minded
// here, in full.
var understood = []asn1.ObjectIdentifier{
	{2, 5, 29, 15}, // keyUsage
	oidSAN,
	{2, 5, 29, 19}, // basicConstraints
	oidNameConstraints,
	oidDistributionPoints,
	{2, 5, 29, 32}, // certificatePolicies
	{2, 5, 29, 33}, // policyMappings
	{2, 5, 29, 35}, // authorityKeyIdentifier: a hint to path building
	{2, 5, 29, 36}, // policyConstraints
	{2, 5, 29, 37}, // extKeyUsage
	{2, 5, 29, 54}, // inhibitAnyPolicy
}

var oidKeyUsage = understood[0]

// valid judges a path whose signatures are right, from the anchor down (RFC
// 5280 §6.1), all but revocation.
func (j *Judge) valid(top *step, r Request) error {
	path := top.certs()
	var above []*constraints
	rules := newPolicies()
	budget := maxComparisons
	longest := maxPath // non-self-issued intermediates that may still follow
	for i := len(path) - 1; i >= 0; i-- {
		c, leaf, root := path[i], i == 0, i == len(path)-1
		selfIssued := canonical(c.RawSubject).key() == canonical(c.RawIssuer).key()
		if err := sound(c, r.At); err != nil {
			return err
		}
		if len(above) > 0 && (leaf || !selfIssued) {
			names, err := namesOf(c)
			if err != nil {
				return err
			}
			for _, k := range above {
				if err := k.check(names, &budget); err != nil {
					return fmt.Errorf("judge %s: %w", name(c), err)
				}
			}
		}
		if !root {
			if err := rules.enter(c, selfIssued, leaf); err != nil {
				return fmt.Errorf("judge %s: %w", name(c), err)
			}
		}
		if leaf {
			break
		}
		if !root && !selfIssued {
			if longest--; longest < 0 {
				return fmt.Errorf("%s stands lower than the path length that is allowed above it: %w", name(c), ErrUntrusted)
			}
		}
		if err := issues(c, root); err != nil {
			return err
		}
		if c.BasicConstraintsValid && c.MaxPathLen >= 0 {
			longest = min(longest, c.MaxPathLen)
		}
		k, err := constraintsOf(c)
		if err != nil {
			return err
		}
		if k != nil {
			above = append(above, k)
		}
		if !root {
			if err := rules.leave(c, selfIssued); err != nil {
				return err
			}
		}
	}
	leaf := path[0]
	if len(path) > 1 {
		if err := rules.end(leaf); err != nil {
			return fmt.Errorf("judge %s: %w", name(leaf), err)
		}
	}
	if after := top.anchor.DistrustAfter; !after.IsZero() && leaf.NotBefore.After(after) {
		return fmt.Errorf("%s was issued after %s, since when its root %s is no longer trusted: %w",
			name(leaf), after.Format("2006-01-02"), name(top.anchor.Cert), ErrUntrusted)
	}
	return serves(leaf, r.Use, j.config.BareOwn && top.anchor.Own)
}

// sound checks what holds for every certificate of a path.
func sound(c *x509.Certificate, at time.Time) error {
	if len(c.Raw) > maxCert {
		return fmt.Errorf("judge %s: larger than %d bytes: %w", name(c), maxCert, ErrForm)
	}
	for _, e := range c.Extensions {
		if e.Critical && !slices.ContainsFunc(understood, e.Id.Equal) {
			return fmt.Errorf("%s has the critical extension %v, which is unknown: %w", name(c), e.Id, ErrForm)
		}
	}
	if err := strongKey(c); err != nil {
		return err
	}
	switch {
	case at.Before(c.NotBefore):
		return fmt.Errorf("%s is valid only from %s on: %w", name(c), c.NotBefore.UTC().Format("2006-01-02 15:04:05"), ErrExpired)
	case at.After(c.NotAfter):
		return fmt.Errorf("%s was valid until %s: %w", name(c), c.NotAfter.UTC().Format("2006-01-02 15:04:05"), ErrExpired)
	}
	return nil
}

// issues checks that a certificate may sign others. Anchors of version 1
// can't say so; that they are anchors does.
func issues(c *x509.Certificate, root bool) error {
	switch {
	case root && c.Version < 3:
	case c.Version < 3 || !c.BasicConstraintsValid || !c.IsCA:
		return fmt.Errorf("%s issued a certificate and is no authority: %w", name(c), ErrUntrusted)
	}
	if extension(c, oidKeyUsage) != nil && c.KeyUsage&x509.KeyUsageCertSign == 0 {
		return fmt.Errorf("%s issued a certificate and has no key usage keyCertSign: %w", name(c), ErrUntrusted)
	}
	if bare, mail := purposes(c); !bare && !mail {
		return fmt.Errorf("%s is an authority, and not for mail: %w", name(c), ErrPurpose)
	}
	return nil
}

// serves checks what the leaf may be used for (RFC 8550 §4.4).
func serves(c *x509.Certificate, use Use, mayBeBare bool) error {
	switch bare, mail := purposes(c); {
	case bare && !mayBeBare:
		return fmt.Errorf("%s has no extended key usage, so it is not known to be for mail: %w", name(c), ErrPurpose)
	case !bare && !mail:
		return fmt.Errorf("%s has no extended key usage emailProtection: %w", name(c), ErrPurpose)
	}
	wanted, words := x509.KeyUsageDigitalSignature|x509.KeyUsageContentCommitment, "digitalSignature nor nonRepudiation"
	if use == Encryption {
		wanted, words = x509.KeyUsageKeyEncipherment|x509.KeyUsageKeyAgreement, "keyEncipherment nor keyAgreement"
	}
	if extension(c, oidKeyUsage) != nil && c.KeyUsage&wanted == 0 {
		return fmt.Errorf("%s has neither key usage %s: %w", name(c), words, ErrPurpose)
	}
	if signs := c.PublicKeyAlgorithm == x509.Ed25519; agrees(c) && use == Signing || signs && use == Encryption {
		return fmt.Errorf("%s has a key that cannot do that: %w", name(c), ErrPurpose)
	}
	return nil
}

// purposes reads extended key usage: there is none, or it allows mail.
func purposes(c *x509.Certificate) (bare, mail bool) {
	for _, p := range c.ExtKeyUsage {
		mail = mail || p == x509.ExtKeyUsageEmailProtection || p == x509.ExtKeyUsageAny
	}
	return len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) == 0 && extension(c, asn1.ObjectIdentifier{2, 5, 29, 37}) == nil, mail
}
