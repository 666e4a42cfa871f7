package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Plan is plan.toml, the file of `postern enrol`: who is to have keys and
// certificates, and where they come from.
type Plan struct {
	Renew       Duration             `toml:"renew" default:"30d" min:"1d" max:"366d" doc:"How long before the end of a certificate a new key gets its successor; of a short one, when a third of its life is left. The old one goes on opening."`
	Rate        Rate                 `toml:"rate" default:"60/1m" doc:"How many certificates authorities are asked for in a time, such as 60/1m, at an even pace."`
	Authorities map[string]Authority `toml:"authority" form:"name" doc:"Where certificates of S/MIME and TLS come from."`
	Domains     map[string]Enrolled  `toml:"domain" form:"ours" doc:"Certificates and keys of a whole domain."`
	Users       map[string]Users     `toml:"users" form:"name" doc:"Certificates of single users, one table for each group of them."`
	Hosts       map[string]Host      `toml:"host" form:"domain" doc:"Certificates that a listener shows, by the name of the server. It gets one of each kind of key, ECDSA and RSA."`
}

// Authority is a table [authority."…"].
type Authority struct {
	Kind         string `toml:"kind" need:"yes" enum:"folder|est|acme" doc:"folder: requests are written to a folder, for any authority, and certificates are taken from it in the next run. est: a server is asked (RFC 7030). acme: a server is asked (RFC 8555) that proves each address by a mail to it, which filterd recognises and postern enrol answers (RFC 8823)."`
	Folder       string `toml:"folder" form:"path" doc:"The folder, with kind = \"folder\". Certificates are found there by their keys, in files that end in .pem, .crt, .cer, .der, .p7b or .p7c."`
	URL          string `toml:"url" form:"https" doc:"The server. Of EST, such as https://ca.company1.example: without a path it is asked below /.well-known/est. Of ACME, the URL of its directory."`
	Label        string `toml:"label" form:"name" doc:"Which of several authorities at the server (RFC 7030 §3.2.2)."`
	CAFile       string `toml:"ca-file" form:"path" doc:"Certificates in PEM that the server is known by. Default: those of the system."`
	User         string `toml:"user" form:"text" doc:"Who asks, by HTTP Basic."`
	PasswordFile string `toml:"password-file" form:"path" doc:"File with the password in its one line."`
	Client       string `toml:"client" form:"path" doc:"Certificate in PEM with its chain, that the server knows us by. Its key is a tls key of the token."`
	Reenrol      bool   `toml:"reenrol" doc:"Whether the successor of a certificate for signatures is asked for with that certificate (/simplereenroll). The authority must have made it one for TLS clients too."`
	// The rest is for kind = "acme".
	Contact     []string `toml:"contact" form:"address" doc:"With kind = \"acme\": addresses at which the authority reaches whoever runs the account."`
	TermsAgreed bool     `toml:"terms-agreed" doc:"With kind = \"acme\": whether the authority's terms of service are agreed to. It is asked for only where there are some."`
	Binding     string   `toml:"binding" form:"text" doc:"With kind = \"acme\": key identifier of an account elsewhere at the authority, which ours is bound to (external account binding)."`
	BindingFile string   `toml:"binding-file" form:"path" doc:"File with the MAC key of that account in its one line, in base64url."`
	Join        string   `toml:"join" default:"text" enum:"text|bytes" doc:"With kind = \"acme\": how the halves of a token become one, which RFC 8823 leaves open. text: as they are written. bytes: as the bytes that they encode. An authority that calls every answer wrong wants the other one."`
	Submit      string   `toml:"submit" form:"dial" doc:"With kind = \"acme\": the outbound listener of filterd, as host and port, that takes the answers, without login. Default: the first in filterd.toml that this machine may use so."`
	Wait        Duration `toml:"wait" default:"5m" max:"1d" doc:"With kind = \"acme\": how long a run waits for the authority's mails. What has not come by then is taken up by the next run; 0s: nothing is waited for."`
}

// Enrolled is a table [domain."…"].
type Enrolled struct {
	OpenPGP *EnrolOpenPGP `toml:"openpgp" doc:"An OpenPGP certificate."`
	SMIME   *EnrolSMIME   `toml:"smime" doc:"Two certificates of S/MIME, for signatures and for encryption."`
	DKIM    *EnrolDKIM    `toml:"dkim" doc:"Keys that sign for the domain (RFC 6376), as postern dkim rotate makes them; their records are for the operator to publish."`
}

// Users is a table [users."…"].
type Users struct {
	Addresses []string      `toml:"addresses" form:"address" doc:"Their addresses."`
	File      string        `toml:"file" form:"path" doc:"A file with more of them, one on each line, and behind it the name for the certificate if there is one."`
	Joiners   []string      `toml:"joiners" form:"ours" doc:"Domains of ours whose joiners are of this group: those whom filterd has noted at their first mail (joiners in [domain]). They are written into file, which is made where there is none: whoever is to have no certificate any more is taken out of it."`
	AtOnce    int           `toml:"joiners-at-once" default:"20" min:"1" max:"1000" doc:"How many joiners one run takes at most."`
	OpenPGP   *EnrolOpenPGP `toml:"openpgp" doc:"An OpenPGP certificate for each."`
	SMIME     *EnrolSMIME   `toml:"smime" doc:"Two certificates of S/MIME for each."`
	Wrapped   bool          `toml:"wrapped" doc:"Whether their new keys are kept outside the token, as ciphertext that it alone opens, so that they take no room in a small one. keyd needs allow-wrapped."`
}

// EnrolOpenPGP is a table openpgp of a plan.
type EnrolOpenPGP struct {
	Algorithm string `toml:"algorithm" default:"rsa-3072" enum:"rsa-3072|rsa-4096|p-256|p-384|p-521|ed25519" doc:"Of both keys; ed25519 opens with x25519."`
	Lifetime  string `toml:"lifetime" default:"2y" form:"lifetime" doc:"How long a certificate is valid, such as 2y, 18m or 90d; 0 is for ever."`
	Name      string `toml:"name" form:"text" doc:"The name in the user id, of a domain."`
	V6        bool   `toml:"v6" doc:"Version 6 (RFC 9580), which many programs do not read yet."`
}

// EnrolSMIME is a table smime of a plan.
type EnrolSMIME struct {
	Authority string `toml:"authority" need:"yes" form:"name" doc:"Which authority."`
	Sign      string `toml:"sign" default:"rsa-3072" enum:"rsa-3072|rsa-4096|p-256|p-384|p-521" doc:"Algorithm of the key that signs."`
	Open      string `toml:"open" default:"rsa-3072" enum:"rsa-3072|rsa-4096|p-256|p-384|p-521" doc:"Algorithm of the key that opens. One on a curve cannot sign a request, so that only an authority with a folder can certify it."`
	Name      string `toml:"name" form:"text" doc:"Common name, of a domain."`
	Mailbox   string `toml:"mailbox" form:"text" doc:"What stands before the @ of the address that a domain's certificates name. Default: domain-confidentiality-authority (RFC 3183)."`
}

// EnrolDKIM is a table dkim of a plan.
type EnrolDKIM struct {
	Algorithms []string `toml:"algorithms" enum:"rsa-2048|ed25519" doc:"Kinds of keys. Default: both."`
	Rotate     Duration `toml:"rotate" default:"0s" max:"3650d" doc:"After how long a key gets a successor, which signs a week after it was made; 0s: when somebody says so."`
}

// Host is a table [host."…"].
type Host struct {
	Authority  string `toml:"authority" form:"name" doc:"Which authority."`
	SelfSigned bool   `toml:"self-signed" doc:"Whether the keys certify themselves, in place of an authority: enough for DANE and pins."`
	Lifetime   string `toml:"lifetime" default:"2y" form:"lifetime" doc:"How long such a certificate is valid."`
}

// LoadPlan reads a plan, as LoadFilterd does its file.
func LoadPlan(path string) (*Plan, error) { return loadFile(path, parsePlan) }

func parsePlan(name string, data []byte) (*Plan, error) {
	c := new(Plan)
	return parse(name, data, c, c.check)
}

// check finds what does not fit together.
func (c *Plan) check(r *reading) {
	for _, name := range slices.Sorted(maps.Keys(c.Authorities)) {
		c.Authorities[name].check(r, name)
	}
	c.Domains = lowerDomains(r, "domain", c.Domains)
	for _, name := range slices.Sorted(maps.Keys(c.Domains)) {
		d := c.Domains[name]
		if d.OpenPGP == nil && d.SMIME == nil && d.DKIM == nil {
			r.wrong(r.line("domain", name), fmt.Sprintf("domain.%q: asks for nothing", name), "add openpgp, smime or dkim")
		}
		if d.DKIM != nil {
			d.DKIM.check(r, name)
		}
		c.certified(r, d.SMIME, "domain", name, "smime")
	}
	had, joined := map[string]string{}, map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(c.Users)) {
		u := c.Users[name]
		at := r.line("users", name)
		if u.OpenPGP == nil && u.SMIME == nil {
			r.wrong(at, fmt.Sprintf("users.%s: asks for nothing", name), "add openpgp or smime")
		}
		if len(u.Addresses) == 0 && u.File == "" {
			r.wrong(at, fmt.Sprintf("users.%s: names nobody", name), "add addresses or file")
		}
		if u.OpenPGP != nil && u.OpenPGP.Name != "" || u.SMIME != nil && u.SMIME.Name+u.SMIME.Mailbox != "" {
			r.wrong(at, fmt.Sprintf("users.%s: name and mailbox are for a domain", name), "names of users stand in the file, behind their addresses")
		}
		for _, a := range u.Addresses {
			if other, ok := had[strings.ToLower(a)]; ok {
				r.wrong(r.line("users", name, "addresses"), fmt.Sprintf("users.%s.addresses: %s stands in users.%s already", name, quote(a), other), "")
			}
			had[strings.ToLower(a)] = name
		}
		if len(u.Joiners) > 0 && u.File == "" {
			r.wrong(at, fmt.Sprintf("users.%s: joiners need file", name), "who was taken once stands there, and gets successors of his certificates")
		}
		for i, d := range u.Joiners {
			u.Joiners[i] = strings.ToLower(d)
			if other, ok := joined[strings.ToLower(d)]; ok {
				r.wrong(r.line("users", name, "joiners"), fmt.Sprintf("users.%s.joiners: %s stands in users.%s already", name, quote(d), other), "")
			}
			joined[strings.ToLower(d)] = name
		}
		c.certified(r, u.SMIME, "users", name, "smime")
	}
	for _, name := range slices.Sorted(maps.Keys(c.Hosts)) {
		h := c.Hosts[name]
		at := r.line("host", name)
		switch {
		case h.SelfSigned == (h.Authority != ""):
			r.wrong(at, fmt.Sprintf("host.%q: want one of authority and self-signed", name), "")
		case h.SelfSigned && h.Lifetime == "0":
			r.wrong(at, fmt.Sprintf("host.%q.lifetime: a certificate of X.509 ends", name), "")
		case !h.SelfSigned && c.known(r, h.Authority, "host", name, "authority") && c.Authorities[h.Authority].Kind == "acme":
			r.wrong(r.line("host", name, "authority"), fmt.Sprintf("host.%q.authority: %s proves addresses of mail, not servers", name, h.Authority), "any ACME program keeps the certificates of a listener: cert-files in filterd.toml")
		}
	}
}

// check fills in both kinds where none is named.
func (d *EnrolDKIM) check(r *reading, domain string) {
	if len(d.Algorithms) == 0 {
		d.Algorithms = []string{"rsa-2048", "ed25519"}
	}
	if len(slices.Compact(slices.Sorted(slices.Values(d.Algorithms)))) < len(d.Algorithms) {
		r.wrong(r.line("domain", domain, "dkim", "algorithms"), fmt.Sprintf("domain.%q.dkim.algorithms: one stands here twice", domain), "")
	}
	if d.Rotate != 0 && time.Duration(d.Rotate) < 30*day {
		r.wrong(r.line("domain", domain, "dkim", "rotate"), fmt.Sprintf("domain.%q.dkim.rotate: want 30d or more, or 0s", domain), "a key has to be in the DNS before it signs, and some time after")
	}
}

// check finds fields of the other kind.
func (a Authority) check(r *reading, name string) {
	wrong := func(field, problem, hint string) {
		r.wrong(r.line("authority", name, field), fmt.Sprintf("authority.%s.%s: %s", name, field, problem), hint)
	}
	of := map[string]struct {
		kinds string
		set   bool
	}{
		"folder": {"folder", a.Folder != ""}, "url": {"est acme", a.URL != ""}, "ca-file": {"est acme", a.CAFile != ""},
		"label": {"est", a.Label != ""}, "user": {"est", a.User != ""}, "password-file": {"est", a.PasswordFile != ""}, "client": {"est", a.Client != ""}, "reenrol": {"est", a.Reenrol},
		"contact": {"acme", len(a.Contact) > 0}, "terms-agreed": {"acme", a.TermsAgreed}, "binding": {"acme", a.Binding != ""}, "binding-file": {"acme", a.BindingFile != ""},
		"join": {"acme", a.Join != "text"}, "submit": {"acme", a.Submit != ""}, "wait": {"acme", time.Duration(a.Wait) != 5*time.Minute},
	}
	for _, field := range slices.Sorted(maps.Keys(of)) {
		if of[field].set && a.Kind != "" && !slices.Contains(strings.Fields(of[field].kinds), a.Kind) {
			wrong(field, fmt.Sprintf("has no effect with kind = %q", a.Kind), "")
		}
	}
	switch a.Kind {
	case "folder":
		if a.Folder == "" {
			wrong("folder", "is missing", "requests and certificates need a place")
		}
	case "est":
		if a.URL == "" {
			wrong("url", "is missing", "it is the EST server of the authority")
		}
		if (a.User == "") != (a.PasswordFile == "") {
			wrong("user", "goes with password-file", "")
		}
		if a.User == "" && a.Client == "" {
			wrong("url", "the server does not know who asks", "add user and password-file, or client")
		}
	case "acme":
		if a.URL == "" {
			wrong("url", "is missing", "it is the directory of the ACME server")
		}
		if (a.Binding == "") != (a.BindingFile == "") {
			wrong("binding", "goes with binding-file", "")
		}
	}
}

// certified finds what the authority of a table smime cannot do.
func (c *Plan) certified(r *reading, s *EnrolSMIME, at ...any) {
	if s == nil || !c.known(r, s.Authority, append(slices.Clip(at), "authority")...) {
		return
	}
	if c.Authorities[s.Authority].Kind != "folder" && !strings.HasPrefix(s.Open, "rsa-") {
		r.wrong(r.line(append(slices.Clip(at), "open")...), fmt.Sprintf("%s.open: %s cannot sign the request that authority %q wants", name(at), s.Open, s.Authority), "take rsa-3072 or rsa-4096")
	}
}

// known reports whether there is such an authority.
func (c *Plan) known(r *reading, authority string, at ...any) bool {
	_, ok := c.Authorities[authority]
	if !ok && authority != "" {
		hint := "there is none"
		if len(c.Authorities) > 0 {
			hint = "known here: " + strings.Join(slices.Sorted(maps.Keys(c.Authorities)), ", ")
		}
		r.wrong(r.line(at...), fmt.Sprintf("%s: no authority %q", name(at), authority), hint)
	}
	return ok
}

// lifetimeForm says what is wrong with a time such as 2y, or "".
func lifetimeForm(s string) string {
	const want = "want a lifetime such as 2y, 18m or 90d, or 0 for ever"
	if s == "0" {
		return ""
	}
	n, unit := 0, byte(0)
	if _, err := fmt.Sscanf(s, "%d%c", &n, &unit); err != nil || fmt.Sprintf("%d%c", n, unit) != s || n < 1 {
		return want
	}
	days, ok := map[byte]int{'y': 366, 'm': 31, 'd': 1}[unit]
	if !ok || n > int(100*366*24*time.Hour/day)/days {
		return want
	}
	return ""
}

func samplePlan() *Plan {
	return &Plan{
		Authorities: map[string]Authority{
			"company": {Kind: "est", URL: "https://ca.company1.example", Label: "mail", User: "postern", PasswordFile: "/etc/postern/est-password"},
			"paper":   {Kind: "folder", Folder: "/var/lib/postern/requests"},
			"public":  {Kind: "acme", URL: "https://acme.ca.example/directory", Contact: []string{"postmaster@company1.example"}, TermsAgreed: true, Binding: "k1", BindingFile: "/etc/postern/acme-binding"},
		},
		Domains: map[string]Enrolled{"company1.example": {OpenPGP: &EnrolOpenPGP{}, SMIME: &EnrolSMIME{Authority: "paper"}, DKIM: &EnrolDKIM{}}},
		Users:   map[string]Users{"staff": {File: "/etc/postern/staff.txt", SMIME: &EnrolSMIME{Authority: "company", Sign: "p-256"}}},
		Hosts:   map[string]Host{"mx.company1.example": {SelfSigned: true}},
	}
}
