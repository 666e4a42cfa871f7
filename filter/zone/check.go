package zone

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"postern/filter/dkim"
	"postern/filter/resolver"
)

// Names is the resolver. resolver.Client is the real one.
type Names interface {
	TXT(ctx context.Context, name string) (resolver.Answer[string], error)
	// Data are the records of a type, as they stand in a zone file.
	Data(ctx context.Context, name, kind string) (resolver.Answer[string], error)
}

// Difference is one thing that is not as it ought to be.
type Difference struct {
	Name    string `json:"name"`
	Type    string `json:"type"`
	Problem string `json:"problem"`
	Hint    string `json:"hint"`
}

// ErrLine is what is no record.
var ErrLine = errors.New("not a line of a zone file")

// readLine reads a record.
func readLine(line string) (Record, error) {
	rr, err := dns.NewRR(line)
	if err != nil || rr == nil {
		return Record{}, fmt.Errorf("%.200q: %w", line, ErrLine)
	}
	h := rr.Header()
	return Record{Name: strings.TrimSuffix(h.Name, "."), Type: dns.TypeToString[h.Rrtype], Data: strings.TrimPrefix(rr.String(), h.String())}, nil
}

// Check asks for every name of the records and tells each difference. The error
// is that of a resolver that does not answer: then nothing is known.
func Check(ctx context.Context, names Names, list []Record) (found []Difference, err error) {
	type set struct{ name, kind string }
	var order []set
	wanted := map[set][]Record{}
	for _, r := range list {
		s := set{r.Name, r.Type}
		if wanted[s] == nil {
			order = append(order, s)
		}
		wanted[s] = append(wanted[s], r)
	}
	for _, s := range order {
		say := func(hint, format string, args ...any) {
			found = append(found, Difference{s.name, s.kind, fmt.Sprintf(format, args...), hint})
		}
		if s.kind == "TXT" {
			a, err := names.TXT(ctx, s.name)
			if err != nil {
				return nil, fmt.Errorf("check %s: %w", s.name, err)
			}
			for _, r := range wanted[s] {
				checkText(r, a.Found, say)
			}
			continue
		}
		a, err := names.Data(ctx, s.name, s.kind)
		if err != nil {
			return nil, fmt.Errorf("check %s: %w", s.name, err)
		}
		var want []string
		for _, r := range wanted[s] {
			line, err := readLine(r.String())
			if err != nil {
				return nil, err
			}
			want = append(want, plainData(s.kind, line.Data))
		}
		var got []string
		for _, data := range a.Found {
			got = append(got, plainData(s.kind, data))
		}
		checkSet(s.kind, wanted[s], want, got, say)
		if len(got) > 0 && wanted[s][0].Signed && !a.Secure {
			say("sign the zone with DNSSEC, and the domains above it; or the resolver does not validate", "the answer is not validated, and counts for nobody")
		}
	}
	return found, nil
}

// plainData is data to compare: names and hexadecimal digits in small letters,
// base64 as it is. Of MX only the server counts.
func plainData(kind, data string) string {
	if kind == "OPENPGPKEY" {
		return strings.ReplaceAll(data, " ", "")
	}
	data = strings.ToLower(data)
	if kind == "MX" {
		_, data, _ = strings.Cut(data, " ")
	}
	return data
}

// checkSet compares all records of a type under a name.
func checkSet(kind string, records []Record, want, got []string, say func(hint, format string, args ...any)) {
	for i, w := range want {
		if !slices.Contains(got, w) {
			say("add: "+short(records[i].String()), "missing: %s", short(w))
		}
	}
	for _, g := range got {
		if slices.Contains(want, g) {
			continue
		}
		switch kind {
		case "MX":
			say("mail that goes there comes past the gateway; take it out, unless it is a gateway too", "another server: %s", short(g))
		case "TLSA":
			say("take it out when no server shows that key any more; a name with nothing but such records gets no mail", "no key of ours: %s", short(g))
		case "SRV":
			say("take it out, or mail programs try it", "another server: %s", short(g))
		case "OPENPGPKEY", "SMIMEA":
			say("take it out, or mail is sealed to what the gateway cannot open", "another certificate: %s", short(g))
		}
	}
}

// checkText compares a text with what stands under its name.
func checkText(r Record, texts []string, say func(hint, format string, args ...any)) {
	line, err := readLine(r.String())
	if err != nil {
		return
	}
	want := joined(line.Data)
	if strings.Contains(r.Name, "._domainkey.") {
		checkSelector(r, want, texts, say)
		return
	}
	version, _, _ := strings.Cut(want, ";")
	if strings.HasPrefix(want, "v=spf1") {
		version = "v=spf1"
	}
	var same []string
	for _, t := range texts {
		if rest, ok := strings.CutPrefix(t, version); ok && (rest == "" || strings.ContainsAny(rest[:1], "; ")) {
			same = append(same, t)
		}
	}
	switch {
	case len(same) == 0:
		say("add: "+short(r.String()), "missing: %s", short(want))
	case len(same) > 1:
		say("leave one: with several, none counts", "%d records of %s", len(same), version)
	case version == "v=spf1":
		if words := strings.Fields(same[0]); !slices.Contains(words, "mx") && !slices.Contains(words, "+mx") && strings.Contains(want, " mx") {
			say("put mx in, unless an address or another name stands for the gateway", "does not name the gateway: %s", short(same[0]))
		} else if slices.Contains(words, "+all") || slices.Contains(words, "all") {
			say("end it in -all or ~all", "everybody may send: %s", short(same[0]))
		}
	case version == "v=STSv1" && !strings.Contains(same[0], strings.TrimSuffix(strings.TrimPrefix(want, "v=STSv1; "), ";")):
		say("add: "+short(r.String())+" in its place, with the policy", "another policy: %s", short(same[0]))
	case version == "v=DMARC1":
		t, err := dkim.ParseTags(same[0])
		if p := strings.ToLower(t["p"]); err != nil || p != "none" && p != "quarantine" && p != "reject" {
			say("write p=none, p=quarantine or p=reject", "no policy: %s", short(same[0]))
		}
	}
}

// checkSelector compares a key of DKIM.
func checkSelector(r Record, want string, texts []string, say func(hint, format string, args ...any)) {
	key := func(s string) string {
		t, err := dkim.ParseTags(s)
		if err != nil {
			return ""
		}
		return strings.Join(strings.Fields(t["p"]), "")
	}
	there := slices.ContainsFunc(texts, func(t string) bool { return key(t) == key(want) })
	switch {
	case r.gone && there:
		say("take it out: nothing is signed with it any more", "the key is retired")
	case r.gone:
	case len(texts) == 0:
		say("add: "+short(r.String()), "missing: mail that this key signs does not hold")
	case !there:
		say("put in its place: "+short(r.String()), "another key: %s", short(texts[0]))
	case len(texts) > 1:
		say("leave one: which of several counts is nowhere said", "%d records", len(texts))
	}
}

// joined are the pieces of a TXT record together.
func joined(data string) string {
	rr, err := dns.NewRR(". 0 IN TXT " + data)
	if err != nil {
		return ""
	}
	t, ok := rr.(*dns.TXT)
	if !ok {
		return ""
	}
	return strings.Join(t.Txt, "")
}

// short is enough of a record to know it by, and to paste where it is not long.
func short(s string) string {
	if len(s) > 160 {
		return s[:150] + "…"
	}
	return s
}
