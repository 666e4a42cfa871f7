package policy

import (
	"cmp"
	"slices"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/protect"
)

// Plan is one copy: who gets it and how.
type Plan struct {
	Format     keyring.Format // "" when it is neither signed nor encrypted by us
	Class      string         // of all its certificates
	Style      protect.Style
	Recipients []message.Address
	Certs      []keyring.Cert // one for each recipient
	Escrow     []keyring.Cert // of ours, who read along
	Sign       bool
	Encrypt    bool
	Opened     bool  // inbound: the opened mail, not the one that came
	PDF        bool  // a PDF with a password in place of the mail
	Floor      Level // of the way to the recipients, where the mail asks for more than their domains' own; "" where not
	// Archive is the domain whose archive gets this copy; "" where it is for
	// recipients of the mail. Of are those of them whose mail it holds.
	Archive string
	Of      []message.Address
}

// readAlong adds those of our own who must be able to read the copy; not ok
// where it is asked for, and none of them can.
func (p *Plan) readAlong(wanted bool, escrow [][]Sealable) (ok bool) {
	for _, entry := range escrow {
		i := slices.IndexFunc(entry, func(c Sealable) bool { return c.Format == p.Format && c.Class == p.Class })
		if i < 0 {
			continue
		}
		ok = true
		same := func(c keyring.Cert) bool { return c.Fingerprint == entry[i].Fingerprint }
		if !slices.ContainsFunc(p.Certs, same) && !slices.ContainsFunc(p.Escrow, same) {
			p.Escrow = append(p.Escrow, entry[i].Cert)
		}
	}
	return ok || !wanted
}

// plans are copies, one of each kind.
type plans []Plan

// add gives the recipient the copy of the kind.
func (list *plans) add(kind Plan, to message.Address, certs ...keyring.Cert) {
	i := slices.IndexFunc(*list, func(p Plan) bool {
		return p.Format == kind.Format && p.Class == kind.Class && p.Style == kind.Style && p.Sign == kind.Sign && p.PDF == kind.PDF && p.Floor == kind.Floor
	})
	if i < 0 {
		i = len(*list)
		*list = append(*list, kind)
	}
	(*list)[i].Recipients = append((*list)[i].Recipients, to)
	(*list)[i].Certs = append((*list)[i].Certs, certs...)
}

// sort orders copies by their kind, not by who happened to be named first.
func (list plans) sort() {
	flags := func(p Plan) (n int) {
		for i, set := range []bool{p.Style.OAEP, p.Style.PSS, p.Sign, p.PDF} {
			if set {
				n |= 1 << i
			}
		}
		return n
	}
	slices.SortStableFunc(list, func(a, b Plan) int {
		return cmp.Or(cmp.Compare(a.Format, b.Format), cmp.Compare(a.Class, b.Class), cmp.Compare(a.Style.Cipher, b.Style.Cipher), flags(a)-flags(b), cmp.Compare(a.Floor, b.Floor))
	})
}
