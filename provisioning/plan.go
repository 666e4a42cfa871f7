package provisioning

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"postern/filter/credential"
	"postern/filter/message"
)

// Plan is what the file of enrol says, checked as far as it can be without a
// look at anything else.
type Plan struct {
	Renew       time.Duration // before its end a certificate gets its successor
	Asked       int           // certificates in Per; 0: no limit
	Per         time.Duration
	Authorities map[string]Authority
	Groups      []Group
}

// Authority is where certificates come from: a folder, or a server.
type Authority struct {
	Folder                     string // "": the server
	ACME                       *ACME  // nil: it is asked by EST
	URL, Label, CAFile         string
	User, PasswordFile, Client string
	Reenrol                    bool
}

// Group is whom the plan wants the same for: a domain, a server, or users.
type Group struct {
	Domain    string
	Host      string
	Addresses []string
	File      string   // with more addresses
	Joiners   []string // domains of ours, as addresses have them
	AtOnce    int      // joiners of one run
	Wrapped   bool     // new keys of users are kept outside the token

	OpenPGP *EnrolOpenPGP
	SMIME   *EnrolSMIME
	DKIM    *EnrolDKIM
	TLS     *EnrolTLS
}

// EnrolDKIM are the keys of DKIM that are wanted.
type EnrolDKIM struct {
	Algorithms []string
	Rotate     time.Duration // 0: never
}

// EnrolOpenPGP is the OpenPGP certificate that is wanted.
type EnrolOpenPGP struct {
	Algorithm, Lifetime, Name string
	V6                        bool
}

// EnrolSMIME are the S/MIME certificates that are wanted.
type EnrolSMIME struct {
	Authority, Sign, Open, Name, Mailbox string
}

// EnrolTLS are the certificates of a server that are wanted.
type EnrolTLS struct {
	Authority string // "": the keys certify themselves
	Lifetime  string
}

// Limits of a file of users.
const (
	maxUsers    = 100_000
	maxUserFile = 16 << 20 // bytes
)

// person is one line of a file of users.
type person struct {
	address message.Address
	name    string
}

// readUsers reads addresses, one on each line, with a name behind it or not.
// Lines that begin with # and empty ones say nothing.
func readUsers(path string, data []byte) ([]person, error) {
	if !utf8.Valid(data) {
		return nil, no("save it as UTF-8", "read users: %s is not UTF-8", path)
	}
	var list []person
	n := 0
	for line := range bytes.Lines(data) {
		n++
		text := strings.TrimSpace(string(line))
		if text == "" || text[0] == '#' {
			continue
		}
		at := strings.IndexFunc(text, unicode.IsSpace)
		if at < 0 {
			at = len(text)
		}
		a, err := message.ParseAddress(text[:at])
		if err != nil {
			return nil, no("a line is an address, and behind it the person's name if there is one", "%s:%d: address %.80q: %w", path, n, text[:at], err)
		}
		name := strings.TrimSpace(text[at:])
		if !isName(name) {
			return nil, no(nameHint, "%s:%d: name %.80q", path, n, name)
		}
		if len(list) == maxUsers {
			return nil, no("split the file", "read users: %s has more than %d", path, maxUsers)
		}
		list = append(list, person{a, name})
	}
	return list, nil
}

const nameHint = "a name is at most 200 bytes, without <, > and control characters"

// isName reports whether a name can stand in a certificate.
func isName(s string) bool {
	return len(s) <= 200 && s == printable(s) && !strings.ContainsAny(s, "<>")
}

// wanted is one certificate, or one key where there is no certificate to it.
type wanted struct {
	owner  owner
	name   string // for the certificate
	use    string // openpgp, smime, dkim, tls
	joined string // day of the first mail, of a joiner
	part   string // of smime: sign or unwrap; of tls: the kind of key; of dkim: the algorithm

	wrapped bool // its keys are of that class

	openpgp *EnrolOpenPGP
	smime   *EnrolSMIME
	dkim    *EnrolDKIM
	tls     *EnrolTLS
}

// wants is the plan in single certificates, in the order that they are made:
// domains, servers, users, each by name.
func (c *call) wants(p Plan) (list []wanted, err error) {
	var domains, hosts, users []wanted
	had := map[string]bool{}
	for _, g := range p.Groups {
		for _, name := range []*string{nameOf(g.OpenPGP), nameOfSMIME(g.SMIME)} {
			if name != nil && !isName(*name) {
				return nil, no(nameHint, "name %.80q", *name)
			}
		}
		switch {
		case g.Host != "":
			o, err := parseOwner(g.Host)
			if err != nil {
				return nil, err
			}
			for _, kind := range credential.Kinds {
				hosts = append(hosts, wanted{owner: o, use: useTLS, part: kind, tls: g.TLS})
			}
		case g.Domain != "":
			o, err := parseOwner(g.Domain)
			if err != nil {
				return nil, err
			}
			if g.DKIM != nil {
				for _, a := range g.DKIM.Algorithms {
					domains = append(domains, wanted{owner: o, use: "dkim", part: a, dkim: g.DKIM})
				}
			}
			domains = append(domains, g.forMail(o, "")...)
		default:
			people, err := c.people(g)
			if err != nil {
				return nil, err
			}
			for _, one := range people {
				if had[one.address.Key()] {
					return nil, no("each user stands in one group, once", "%s: two lines want certificates", one.address.Key())
				}
				had[one.address.Key()] = true
				users = append(users, g.forMail(owner{address: one.address}, one.name)...)
			}
		}
	}
	for _, part := range [][]wanted{domains, hosts, users} {
		slices.SortStableFunc(part, func(a, b wanted) int { return cmp.Compare(a.owner.String(), b.owner.String()) })
		list = append(list, part...)
	}
	return list, nil
}

func nameOf(p *EnrolOpenPGP) *string {
	if p == nil {
		return nil
	}
	return &p.Name
}

func nameOfSMIME(p *EnrolSMIME) *string {
	if p == nil {
		return nil
	}
	return &p.Name
}

// people are the users of a group.
func (c *call) people(g Group) (list []person, err error) {
	for _, s := range g.Addresses {
		a, err := message.ParseAddress(s)
		if err != nil {
			return nil, no("an address looks like name@company1.example", "address %.80q: %w", s, err)
		}
		list = append(list, person{address: a})
	}
	if g.File == "" {
		return list, nil
	}
	data, err := c.read(g.File, maxUserFile)
	if errors.Is(err, fs.ErrNotExist) && len(g.Joiners) > 0 { // nobody has joined yet
		return list, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read users: %w", err)
	}
	more, err := readUsers(g.File, data)
	return append(list, more...), err
}

// forMail are the certificates of one owner.
func (g Group) forMail(o owner, name string) (list []wanted) {
	if g.OpenPGP != nil {
		list = append(list, wanted{owner: o, name: cmpOr(name, g.OpenPGP.Name), use: "openpgp", wrapped: g.Wrapped, openpgp: g.OpenPGP})
	}
	if g.SMIME != nil {
		for _, u := range uses["smime"] {
			list = append(list, wanted{owner: o, name: cmpOr(name, g.SMIME.Name), use: "smime", wrapped: g.Wrapped, part: u.String(), smime: g.SMIME})
		}
	}
	return list
}

// askedOf are the authorities that the list needs, by name.
func askedOf(list []wanted) []string {
	names := map[string]bool{}
	for _, w := range list {
		if w.smime != nil {
			names[w.smime.Authority] = true
		}
		if w.tls != nil && w.tls.Authority != "" {
			names[w.tls.Authority] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}
