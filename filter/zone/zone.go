// Package zone is what a domain of ours says of its mail in DNS: the records as
// lines of a zone file, and what the Internet sees of them. It knows what ought
// to stand there; who pastes it is a person.
package zone

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"postern/filter/dkim"
	"postern/hsm"
)

// Facts are what the records of a domain follow from. Names are in A-labels.
type Facts struct {
	Domain    string
	MX        []string        // the gateway's own names as a mail server
	Sends     bool            // the gateway brings mail to the Internet by itself, from those names
	Signs     bool            // outbound mail of the domain is signed with DKIM
	Selectors []dkim.Selector // all of the token
	TLS       []TLSKey
	Certs     []Cert
	STS       string   // record of the domain's MTA-STS policy; "": it has none
	Services  []string // lines of a zone file, for mail programs
	CAs       []string // domains of authorities that may certify names of the domain
	Reports   string   // address for reports
	At        time.Time
}

// TLSKey is a key that a server shows, or will show.
type TLSKey struct {
	Host string
	Key  hsm.KeyID
}

// Cert is a certificate of an address for its place in DNS.
type Cert struct {
	Name string // as directory.DANEName has it
	Type string // OPENPGPKEY or SMIMEA
	Raw  []byte
}

// Record is one line of a zone file.
type Record struct {
	Name string `json:"name"` // absolute, without its last dot
	Type string `json:"type"`
	Data string `json:"data"` // as in a zone file
	Note string `json:"note,omitempty"`
	// Signed is whether it counts in a zone that is signed only.
	Signed bool `json:"signed,omitempty"`
	gone   bool // it ought not to be there any more
}

// String is the line.
func (r Record) String() string { return r.Name + ". 3600 IN " + r.Type + " " + r.Data }

// Text is the data of a TXT record: in pieces of at most 255 bytes (RFC 1035 §3.3.14).
func Text(s string) string {
	var b strings.Builder
	for first := true; s != "" || first; first = false {
		n := min(len(s), 255)
		if !first {
			b.WriteByte(' ')
		}
		b.WriteString(`"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s[:n]) + `"`)
		s = s[n:]
	}
	return b.String()
}

// Records are all of them, in the order of a reader: who takes mail, who sends
// it, who signs it, and what protects the way.
func Records(f Facts) (list []Record, err error) {
	d := f.Domain
	add := func(name, kind, data, note string) {
		list = append(list, Record{Name: name, Type: kind, Data: data, Note: note, Signed: slices.Contains([]string{"TLSA", "OPENPGPKEY", "SMIMEA"}, kind)})
	}
	for i, host := range f.MX {
		add(d, "MX", fmt.Sprintf("%d %s.", 10*(i+1), host), "")
	}
	spf, note := "v=spf1 mx -all", ""
	if !f.Sends {
		note = "another server brings mail to the Internet: put it in before -all"
	}
	add(d, "TXT", Text(spf), note)
	for _, s := range f.Selectors {
		if s.Domain != d {
			continue
		}
		state := s.StateOf(f.Selectors, f.At)
		record, err := dkim.Record(s.Key.Public)
		if err != nil {
			return nil, err
		}
		notes := map[dkim.State]string{dkim.Signing: "signs", dkim.Coming: "signs from " + s.From.Format(time.DateOnly) + " on",
			dkim.Going: "signs no more; its mail is still on its way: retire the key when it has arrived"}
		if state == dkim.Retired {
			list = append(list, Record{Name: s.Name + "._domainkey." + d, Type: "TXT", Data: Text(record), gone: true})
			continue
		}
		add(s.Name+"._domainkey."+d, "TXT", Text(record), notes[state])
	}
	policy, note := "none", "reports only; quarantine or reject when they show nothing that is ours"
	if f.Signs {
		policy, note = "quarantine", "reject when the reports show nothing that is ours"
	}
	add("_dmarc."+d, "TXT", Text("v=DMARC1; p="+policy+"; rua=mailto:"+f.Reports), note)
	if f.STS != "" {
		add("_mta-sts."+d, "TXT", Text(f.STS), "with the policy at https://mta-sts."+d+"/.well-known/mta-sts.txt")
	}
	add("_smtp._tls."+d, "TXT", Text("v=TLSRPTv1; rua=mailto:"+f.Reports), "")
	for _, k := range f.TLS {
		add("_25._tcp."+k.Host, "TLSA", "3 1 1 "+k.Key.String(), "")
	}
	for _, c := range f.Certs {
		switch c.Type {
		case "OPENPGPKEY":
			add(c.Name, c.Type, base64.StdEncoding.EncodeToString(c.Raw), "")
		case "SMIMEA":
			add(c.Name, c.Type, "3 0 0 "+hex.EncodeToString(c.Raw), "")
		}
	}
	for _, line := range f.Services {
		r, err := readLine(line)
		if err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	for _, ca := range f.CAs {
		add(d, "CAA", `0 issue "`+ca+`"`, "")
	}
	return list, nil
}

// Standing are those that ought to stand in DNS.
func Standing(list []Record) []Record {
	return slices.DeleteFunc(slices.Clone(list), func(r Record) bool { return r.gone })
}
