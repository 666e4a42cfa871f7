package dmarc

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"postern/filter/dkim"
	"postern/filter/message"
	"postern/filter/resolver"
)

var now = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

type text string

func (t text) WriteTo(w io.Writer) (int64, error) {
	n, err := io.WriteString(w, string(t))
	return int64(n), err
}

// zone answers from a table: "txt name", "a name", "mx name", "ptr address".
// "away" in place of an answer fails, and "stuck" waits for ever.
type zone map[string][]string

func (z zone) ask(ctx context.Context, what string) (resolver.Answer[string], error) {
	a := resolver.Answer[string]{Found: z[what], Exists: z[what] != nil}
	if len(a.Found) == 1 {
		switch a.Found[0] {
		case "away":
			return resolver.Answer[string]{}, resolver.ErrAway
		case "stuck":
			<-ctx.Done()
			return resolver.Answer[string]{}, fmt.Errorf("%w: %w", resolver.ErrAway, ctx.Err())
		}
	}
	return a, nil
}

func (z zone) TXT(ctx context.Context, name string) (resolver.Answer[string], error) {
	return z.ask(ctx, "txt "+strings.TrimSuffix(name, "."))
}

func (z zone) Hosts(ctx context.Context, a netip.Addr) (resolver.Answer[string], error) {
	return z.ask(ctx, "ptr "+a.String())
}

func (z zone) MX(ctx context.Context, name string) (m resolver.Answer[resolver.MX], err error) {
	a, err := z.ask(ctx, "mx "+strings.TrimSuffix(name, "."))
	for _, host := range a.Found {
		m.Found = append(m.Found, resolver.MX{Host: host})
	}
	m.Exists = a.Exists
	return m, err
}

func (z zone) Addresses(ctx context.Context, name string) (m resolver.Answer[netip.Addr], err error) {
	a, err := z.ask(ctx, "a "+strings.TrimSuffix(name, "."))
	for _, ip := range a.Found {
		m.Found = append(m.Found, netip.MustParseAddr(ip))
	}
	m.Exists = a.Exists
	return m, err
}

// with is z and more.
func (z zone) with(more zone) zone {
	all := zone{}
	for k, v := range z {
		all[k] = v
	}
	for k, v := range more {
		all[k] = v
	}
	return all
}

func chain(n int) zone {
	z := zone{}
	for i := range n {
		z[fmt.Sprintf("txt s%d.example", i)] = []string{fmt.Sprintf("v=spf1 include:s%d.example -all", i+1)}
	}
	z[fmt.Sprintf("txt s%d.example", n)] = []string{"v=spf1 +all"}
	return z
}

func TestSPF(t *testing.T) {
	z := zone{
		"txt a.example": {"v=spf1 ip4:192.0.2.0/24 ip6:2001:db8::/32 -all"}, "txt soft.example": {"v=spf1 ~all"}, "txt neutral.example": {"v=spf1 ?all"},
		"txt two.example": {"v=spf1 -all", "v=spf1 +all"}, "txt mx.example": {"v=spf1 mx -all"}, "mx mx.example": {"m.mx.example"}, "a m.mx.example": {"192.0.2.7"},
		"txt away.example": {"away"}, "txt inc.example": {"v=spf1 include:away.example -all"}, "txt void.example": {"v=spf1 a:x1.example a:x2.example a:x3.example +all"},
		"txt ptr.example": {"v=spf1 ptr -all"}, "ptr 192.0.2.7": {"m.ptr.example"}, "a m.ptr.example": {"192.0.2.7"}, "txt nonsense.example": {"v=spf1 hello:world"},
		"txt macro.example": {"v=spf1 exists:%{l}.%{d2} -all"}, "a bob.macro.example": {"127.0.0.2"}, "txt mail.a.example": {"v=spf1 a -all"}, "a mail.a.example": {"192.0.2.7"},
	}.with(chain(11))
	for _, c := range []struct {
		sender, hello, client string
		want                  dkim.Value
		domain                string
	}{
		{"bob@a.example", "x.example", "192.0.2.7", dkim.Pass, "a.example"},
		{"bob@A.Example", "x.example", "::ffff:192.0.2.7", dkim.Pass, "a.example"},
		{"bob@a.example", "x.example", "2001:db8::1", dkim.Pass, "a.example"},
		{"bob@a.example", "x.example", "198.51.100.1", dkim.Fail, "a.example"},
		{"bob@soft.example", "x.example", "192.0.2.7", "softfail", "soft.example"},
		{"bob@neutral.example", "x.example", "192.0.2.7", dkim.Neutral, "neutral.example"},
		{"bob@nothing.example", "x.example", "192.0.2.7", dkim.None, "nothing.example"},
		{"bob@two.example", "x.example", "192.0.2.7", dkim.PermError, "two.example"},
		{"bob@mx.example", "x.example", "192.0.2.7", dkim.Pass, "mx.example"},
		{"bob@mx.example", "x.example", "192.0.2.8", dkim.Fail, "mx.example"},
		{"bob@ptr.example", "x.example", "192.0.2.7", dkim.Pass, "ptr.example"},
		{"bob@away.example", "x.example", "192.0.2.7", dkim.TempError, "away.example"},
		{"bob@inc.example", "x.example", "192.0.2.7", dkim.TempError, "inc.example"},
		{"bob@nonsense.example", "x.example", "192.0.2.7", dkim.PermError, "nonsense.example"},
		{"bob@s1.example", "x.example", "192.0.2.7", dkim.Pass, "s1.example"},      // ten names after it
		{"bob@s0.example", "x.example", "192.0.2.7", dkim.PermError, "s0.example"}, // eleven
		{"bob@void.example", "x.example", "192.0.2.7", dkim.PermError, "void.example"},
		{"bob@macro.example", "x.example", "192.0.2.7", dkim.Pass, "macro.example"},
		{"eve@macro.example", "x.example", "192.0.2.7", dkim.Fail, "macro.example"},
		{"", "mail.a.example", "192.0.2.7", dkim.Pass, "mail.a.example"},
		{"", "mail.a.example", "192.0.2.8", dkim.Fail, "mail.a.example"},
		{"", "[192.0.2.7]", "192.0.2.7", dkim.None, ""},
		{"bob@[192.0.2.7]", "x.example", "192.0.2.7", dkim.None, ""},
		{"bob@a.example", "x.example", "", "", ""},
	} {
		q := Question{Hello: c.hello}
		if c.client != "" {
			q.Client = netip.MustParseAddr(c.client)
		}
		if c.sender != "" {
			var err error
			if q.Sender, err = message.ParseAddress(c.sender); err != nil {
				t.Fatal(err)
			}
		}
		if got := spfOf(t.Context(), &asker{names: z}, q); got.Value != c.want || got.Domain != c.domain || got.Hello != (c.sender == "" && c.client != "") {
			t.Errorf("%q, %q, %q: got %+v, want %s of %q", c.sender, c.hello, c.client, got, c.want, c.domain)
		}
	}
}

// signed is a mail of an author with a signature of a domain, and its key.
func signed(t *testing.T, author, domain string) (string, zone) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	m := "From: " + author + "\r\nSubject: x\r\n\r\nbody\r\n"
	if domain == "" {
		return m, nil
	}
	k, err := dkim.NewKey(domain, "s", key)
	if err != nil {
		t.Fatal(err)
	}
	top, err := dkim.Sign(text(m), []dkim.Key{k}, now)
	if err != nil {
		t.Fatal(err)
	}
	r, _ := dkim.Record(key.Public())
	return string(top) + m, zone{"txt s._domainkey." + domain: {r}}
}

func TestDMARC(t *testing.T) {
	z := zone{
		"txt _dmarc.a.example": {"v=DMARC1; p=reject"}, "txt a.example": {"v=spf1 ip4:192.0.2.7 -all"}, "txt b.example": {"v=spf1 ip4:192.0.2.7 -all"},
		"txt m.a.example":           {"v=spf1 ip4:192.0.2.7 -all"},
		"txt _dmarc.strict.example": {"v=DMARC1;p=Quarantine;adkim=s;aspf=s;sp=none"}, "txt m.strict.example": {"v=spf1 ip4:192.0.2.7 -all"},
		"txt _dmarc.away.example": {"away"}, "txt _dmarc.bad.example": {"v=DMARC1; rua"}, "txt _dmarc.odd.example": {"v=DMARC1; p=none; pct=900; fo=nonsense; ri=x"},
		"txt _dmarc.reports.example": {"v=DMARC1; rua=mailto:x@reports.example"}, "txt _dmarc.two.example": {"v=DMARC1; p=reject", "v=DMARC1; p=none"},
		"txt _dmarc.other.example": {"some text", "v=DMARC1 ; p=reject"}, "txt _dmarc.zero.example": {"v=DMARC1; p=reject; pct=0"},
		"txt _dmarc.noise.example": {"v=DMARC1; p=hello"}, "txt _dmarc.later.example": {"p=reject; v=DMARC1"},
	}
	for _, c := range []struct {
		name, author, sender, signer string
		more                         zone
		want                         dkim.Value
		policy, wants                string
	}{
		{"SPF", "x@a.example", "y@a.example", "", nil, dkim.Pass, "reject", ""},
		{"SPF of a name below", "x@a.example", "y@m.a.example", "", nil, dkim.Pass, "reject", ""},
		{"SPF of another", "x@a.example", "y@b.example", "", nil, dkim.Fail, "reject", "reject"},
		{"DKIM", "x@a.example", "y@b.example", "a.example", nil, dkim.Pass, "reject", ""},
		{"DKIM of a name below", "x@a.example", "y@b.example", "news.a.example", nil, dkim.Pass, "reject", ""},
		{"DKIM of the name above", "x@news.a.example", "y@b.example", "a.example", nil, dkim.Pass, "reject", ""},
		{"DKIM of another", "x@a.example", "y@b.example", "b.example", nil, dkim.Fail, "reject", "reject"},
		{"DKIM of one that ends alike", "x@a.example", "y@b.example", "evila.example", nil, dkim.Fail, "reject", "reject"},
		{"policy of the organisation", "x@deep.news.a.example", "y@b.example", "", nil, dkim.Fail, "reject", "reject"},
		{"strict, the same", "x@strict.example", "y@b.example", "strict.example", nil, dkim.Pass, "quarantine", ""},
		{"strict, DKIM below", "x@strict.example", "y@b.example", "m.strict.example", nil, dkim.Fail, "quarantine", "quarantine"},
		{"strict, SPF below", "x@strict.example", "y@m.strict.example", "", nil, dkim.Fail, "quarantine", "quarantine"},
		{"policy for names below", "x@m.strict.example", "y@b.example", "", nil, dkim.Fail, "none", "none"},
		{"no policy", "x@free.example", "y@b.example", "", nil, dkim.None, "", ""},
		{"policy away", "x@away.example", "y@b.example", "", nil, dkim.TempError, "", ""},
		{"policy malformed", "x@bad.example", "y@b.example", "", nil, dkim.PermError, "", ""},
		{"policy of another word", "x@noise.example", "y@b.example", "", nil, dkim.PermError, "", ""},
		{"policy with odd tags", "x@odd.example", "y@b.example", "", nil, dkim.Fail, "none", "none"},
		{"policy with reports only", "x@reports.example", "y@b.example", "", nil, dkim.Fail, "none", "none"},
		{"two policies are none", "x@two.example", "y@b.example", "", nil, dkim.None, "", ""},
		{"other texts beside", "x@other.example", "y@b.example", "", nil, dkim.Fail, "reject", "reject"},
		{"a version that is late", "x@later.example", "y@b.example", "", nil, dkim.None, "", ""},
		{"none of a hundred", "x@zero.example", "y@b.example", "", nil, dkim.Fail, "reject", "quarantine"},
		{"key away", "x@a.example", "y@b.example", "a.example", zone{"txt s._domainkey.a.example": {"away"}}, dkim.TempError, "reject", ""},
		{"key of another away", "x@a.example", "y@b.example", "c.example", zone{"txt s._domainkey.c.example": {"away"}}, dkim.Fail, "reject", "reject"},
		{"SPF away", "x@a.example", "y@a.example", "", zone{"txt a.example": {"away"}}, dkim.TempError, "reject", ""},
		{"two authors of one domain", "x@a.example, y@a.example", "y@a.example", "", nil, dkim.Pass, "reject", ""},
		{"two authors", "x@free.example, y@a.example", "y@b.example", "", nil, dkim.Fail, "reject", "reject"},
		{"two authors, both fine", "x@free.example, y@a.example", "y@a.example", "", nil, dkim.PermError, "", ""},
	} {
		m, keys := signed(t, c.author, c.signer)
		q := Question{Client: netip.MustParseAddr("192.0.2.7"), Hello: "h.example", Fields: 1, Mail: text(m), At: now, Trace: "T"}
		list, err := message.ParseFrom(c.author)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range list {
			q.Authors = append(q.Authors, a.Domain)
		}
		if q.Sender, err = message.ParseAddress(c.sender); err != nil {
			t.Fatal(err)
		}
		v, err := (&Checker{Names: z.with(keys).with(c.more), Budget: time.Minute}).Check(t.Context(), q)
		if got := v.DMARC; err != nil || got.Value != c.want || got.Wants != c.wants || got.Policy != c.policy && c.want != dkim.PermError {
			t.Errorf("%s: got %+v, %v, want %s, policy %q, wants %q\n%+v", c.name, v.DMARC, err, c.want, c.policy, c.wants, v)
		}
	}
}

// A From that is not one says nothing good of anybody.
func TestNoSingleAuthor(t *testing.T) {
	z := zone{"txt _dmarc.a.example": {"v=DMARC1; p=none"}, "txt a.example": {"v=spf1 +all"}}
	for name, q := range map[string]Question{
		"two fields": {Fields: 2, Authors: []string{"a.example", "a.example"}},
		"no field":   {},
		"unreadable": {Fields: 1},
	} {
		q.Client, q.Hello, q.Sender, q.Mail = netip.MustParseAddr("192.0.2.7"), "h.example", message.Address{Local: "x", Domain: "a.example"}, text("A: b\r\n\r\n")
		v, err := (&Checker{Names: z, Budget: time.Minute}).Check(t.Context(), q)
		if err != nil || v.DMARC.Value != dkim.PermError || v.DMARC.Reason != ReasonAuthor {
			t.Errorf("%s: got %+v, %v", name, v.DMARC, err)
		}
	}
}

// Whoever brought the mail is not known: nothing is said of him, and no policy counts.
func TestUnknownClient(t *testing.T) {
	z := zone{"txt _dmarc.a.example": {"v=DMARC1; p=reject"}}
	v, err := (&Checker{Names: z, Budget: time.Minute}).Check(t.Context(), Question{Fields: 1, Authors: []string{"a.example"}, Mail: text("From: x@a.example\r\n\r\n")})
	if err != nil || v.SPF.Value != "" || v.DMARC.Value != dkim.TempError || v.DMARC.Wants != "" {
		t.Errorf("got %+v, %v", v, err)
	}
}

// A resolver that says nothing costs the budget, and no more.
func TestBudget(t *testing.T) {
	m, keys := signed(t, "x@a.example", "a.example")
	for k := range keys {
		keys[k] = []string{"stuck"}
	}
	synctest.Test(t, func(t *testing.T) {
		z := zone{"txt _dmarc.a.example": {"v=DMARC1; p=reject"}, "txt a.example": {"stuck"}}.with(keys)
		began := time.Now()
		v, err := (&Checker{Names: z, Budget: 3 * time.Second}).Check(t.Context(), Question{Client: netip.MustParseAddr("192.0.2.7"), Hello: "h.example",
			Sender: message.Address{Local: "x", Domain: "a.example"}, Fields: 1, Authors: []string{"a.example"}, Mail: text(m), At: now})
		if err != nil || v.SPF.Value != dkim.TempError || v.DKIM[0].Value != dkim.TempError || v.DMARC.Value != dkim.TempError || v.DMARC.Wants != "" {
			t.Errorf("got %+v, %v", v, err)
		}
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("got %v, want the budget", took)
		}
	})
}

func TestQuestionsAreCounted(t *testing.T) {
	a := &asker{names: zone{}}
	var err error
	for range maxQuestions + 1 {
		_, err = a.TXT(t.Context(), "x.example")
	}
	if !errors.Is(err, ErrQuestions) {
		t.Errorf("got %v, want %v", err, ErrQuestions)
	}
}

// A policy is read as it is written or not at all, and asks for nothing that is
// not one of three words.
func FuzzRecord(f *testing.F) {
	f.Add("v=DMARC1; p=reject; sp=none; pct=50; adkim=s", "T")
	f.Add("v=DMARC1;;p=", "")
	f.Fuzz(func(t *testing.T, s, trace string) {
		r, ok := parse(s)
		if _, fine := word(r.wants(trace)); ok && !fine {
			t.Errorf("%q: got %+v", s, r)
		}
		isDMARC(s)
	})
}
