package config

import (
	"fmt"
	"slices"
	"strings"
)

// Archive is a table of [archive].
type Archive struct {
	Certs     []string `toml:"certs" need:"yes" form:"fingerprint" doc:"Fingerprints of certificates for the address, trusted in the keyring, of which the private key is not here. Copies are sealed to the first one that can be used; with none they wait, and so does the mail. To change it, put the new one first."`
	When      []string `toml:"when" enum:"inbound|outbound" doc:"inbound: mail to the domain that came encrypted, as it is delivered: opened, or as it came where it could not be opened. outbound: mail of authors of the domain that leaves encrypted, as it was before. Mail in clear and mail that is only signed goes to no archive: other programs can read it. Default: inbound."`
	OnFailure string   `toml:"on-failure" default:"defer" enum:"defer|pass" doc:"What becomes of a mail whose copy the archive's next hop does not take, whatever it answers. defer: it waits with 451 4.3.0, and nobody gets it before the archive has. pass: it goes without, and the log says so."`
	NextHop   *Hop     `toml:"next-hop" doc:"Where the copies go, with the words of [next-hop]. A mail counts as archived when this host has taken its copy. Default: [next-hop.inbound] for an address at one of our own domains, [next-hop.outbound] for any other."`
}

// checkArchives fills in what depends on other fields, and finds what does not
// fit together.
func (c *Filterd) checkArchives(r *reading) {
	used := map[string]bool{}
	for d, v := range c.Domains {
		if v.Archive == "" {
			continue
		}
		local, domain, _ := cutLast(v.Archive, "@") // has its form already
		v.Archive = local + "@" + strings.ToLower(domain)
		if _, ok := c.Archives[v.Archive]; !ok {
			r.wrong(r.line("domain", d, "archive"), fmt.Sprintf("domain.%s.archive: there is no [archive.%s]", quote(d), quote(v.Archive)), "it says who can read the archive")
		}
		used[v.Archive] = true
		c.Domains[d] = v
	}
	for address, a := range c.Archives {
		at := func(field ...any) int { return r.line(append([]any{"archive", address}, field...)...) }
		if !used[address] {
			r.wrong(at(), fmt.Sprintf("archive.%s: is the archive of no domain", quote(address)), fmt.Sprintf("set archive = %s in [domain]", quote(address)))
		}
		if a.When == nil {
			a.When = []string{"inbound"}
		}
		checkList(r, a.When, "archive", address, "when")
		if len(a.Certs) == 0 && at("certs") != at() {
			r.wrong(at("certs"), fmt.Sprintf("archive.%s.certs: is empty", quote(address)), "nothing can be sealed for the archive without one")
		}
		_, domain, _ := cutLast(address, "@")
		_, ours := c.Domains[domain]
		switch {
		case a.NextHop != nil:
			c.checkHop(r, a.NextHop, "archive", address, "next-hop")
		case ours && c.NextHop.Inbound == nil:
			r.wrong(at(), fmt.Sprintf("archive.%s: there is no [next-hop.inbound]", quote(address)), "add next-hop to the archive")
		case !ours && c.NextHop.Outbound == nil:
			r.wrong(at(), fmt.Sprintf("archive.%s: there is no [next-hop.outbound]", quote(address)), "add next-hop to the archive")
		}
		c.Archives[address] = a
	}
}

// checkList finds lists of choices that are empty or have one twice.
func checkList(r *reading, list []string, path ...any) {
	if len(list) == 0 {
		r.wrong(r.line(path...), name(path)+": is empty", "leave it out for the default")
	}
	for i, v := range list {
		if slices.Contains(list[:i], v) {
			r.wrong(r.line(path...), fmt.Sprintf("%s: %s stands here twice", name(path), quote(v)), "")
		}
	}
}
