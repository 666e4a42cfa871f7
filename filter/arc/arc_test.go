package arc

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/filter/dkim"
)

var now = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

type text string

func (t text) WriteTo(w io.Writer) (int64, error) {
	n, err := io.WriteString(w, string(t))
	return int64(n), err
}

var pair = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

// look knows the key of selector s of every domain, and fails under away.example.
func look(_ context.Context, name string) ([]string, error) {
	if strings.HasSuffix(name, "away.example") {
		return nil, errors.New("no answer")
	}
	if !strings.HasPrefix(name, "s._domainkey.") {
		return nil, nil
	}
	r, err := dkim.Record(pair().Public())
	return []string{r}, err
}

const mail = "Postern-Status: v=1\r\nFrom: a@a.example\r\nTo: b@b.example\r\nSubject: x\r\n\r\nbody\r\n"

// sealed adds one set by a domain to a mail.
func sealed(t *testing.T, m, domain string) string {
	t.Helper()
	k, err := dkim.NewKey(domain, "s", pair())
	if err != nil {
		t.Fatal(err)
	}
	c, err := Verify(t.Context(), text(m), look, now)
	if err != nil {
		t.Fatal(err)
	}
	top, err := Seal(text(m), c, k, "gw."+domain+"; spf=pass smtp.mailfrom=a.example; arc="+string(c.Value), now)
	if err != nil {
		t.Fatal(err)
	}
	return string(top) + m
}

// Chains of ours hold, and nothing in them can be changed, left out or put twice.
func TestChain(t *testing.T) {
	one := sealed(t, mail, "one.example")
	two := sealed(t, "Received: x\r\n"+one, "two.example")
	three := sealed(t, two, "three.example")
	changed := strings.Replace(two, "body", "other", 1)
	again := sealed(t, changed, "three.example") // says that it found the chain broken
	drop := func(m, field string) string {       // the topmost one
		h, _, _ := dkim.Scan(text(m), func(dkim.Header) []dkim.Form { return nil })
		for _, f := range h {
			if f.Name == field {
				return strings.Replace(m, f.Raw, "", 1)
			}
		}
		t.Fatalf("no field %s", field)
		return ""
	}
	for _, c := range []struct {
		name, mail string
		want       dkim.Value
		reason     string
		sets       int
	}{
		{"none", mail, dkim.None, "", 0},
		{"one", one, dkim.Pass, dkim.ReasonGood, 1},
		{"two", two, dkim.Pass, dkim.ReasonGood, 2},
		{"three", three, dkim.Pass, dkim.ReasonGood, 3},
		{"a body changed", changed, dkim.Fail, dkim.ReasonBody, 2},
		{"a subject changed", strings.Replace(two, "Subject: x", "Subject: y", 1), dkim.Fail, dkim.ReasonHeader, 2},
		{"a subject added", "Subject: y\r\n" + two, dkim.Fail, dkim.ReasonTwice, 2},
		{"marks changed", strings.Replace(two, "Status: v=1", "Status: v=2", 1), dkim.Fail, dkim.ReasonHeader, 2},
		{"old results changed", strings.Replace(two, "gw.one.example;", "gw.two.example;", 1), dkim.Fail, dkim.ReasonHeader, 2},
		{"a seal left out", drop(two, "arc-seal"), dkim.Fail, ReasonStructure, 2},
		{"a message signature left out", drop(two, "arc-message-signature"), dkim.Fail, ReasonStructure, 2},
		{"results left out", drop(two, "arc-authentication-results"), dkim.Fail, ReasonStructure, 2},
		{"the first set left out", strings.ReplaceAll(one, "i=1;", "i=2;"), dkim.Fail, ReasonStructure, 2},
		{"a field twice", "ARC-Authentication-Results: i=1; x\r\n" + one, dkim.Fail, ReasonStructure, 1},
		{"no number", "ARC-Seal: i=x; cv=none\r\n" + one, dkim.Fail, ReasonStructure, 1},
		{"no tags", "ARC-Seal: hello\r\n" + mail, dkim.Fail, ReasonStructure, 0},
		{"number beyond the end", "ARC-Seal: i=51\r\n" + one, dkim.Fail, ReasonStructure, MaxSets},
		{"huge number", "ARC-Seal: i=99999999999999999999\r\n" + one, dkim.Fail, ReasonStructure, MaxSets},
		{"verdict of the first", strings.Replace(one, "cv=none", "cv=pass", 1), dkim.Fail, ReasonVerdict, 1},
		{"verdict of the second", strings.Replace(two, "cv=pass", "cv=none", 1), dkim.Fail, ReasonVerdict, 2},
		{"no verdict", strings.Replace(one, "cv=none; ", "", 1), dkim.Fail, ReasonVerdict, 1},
		{"found broken before", again, dkim.Fail, ReasonSaid, 3},
		{"seal over fields", strings.Replace(one, "cv=none;", "cv=none; h=from;", 1), dkim.Fail, ReasonStructure, 1},
		{"a key away", sealed(t, two, "away.example"), dkim.TempError, dkim.ReasonAway, 3},
		{"no key", strings.ReplaceAll(one, "s=s;", "s=t;"), dkim.Fail, dkim.ReasonNoKey, 1},
	} {
		got, err := Verify(t.Context(), text(c.mail), look, now)
		if err != nil || got.Value != c.want || got.Reason != c.reason || got.Sets != c.sets {
			t.Errorf("%s: got %+v, %v, want %s (%s) of %d", c.name, got, err, c.want, c.reason, c.sets)
		}
	}
	if c, _ := Verify(t.Context(), text(three), look, now); c.Domain != "three.example" {
		t.Errorf("last sealer: got %q", c.Domain)
	}
}

// A chain that must not grow does not.
func TestEnded(t *testing.T) {
	k, err := dkim.NewKey("c.example", "s", pair())
	if err != nil {
		t.Fatal(err)
	}
	two := sealed(t, sealed(t, mail, "one.example"), "two.example")
	long := mail
	for range MaxSets {
		long = sealed(t, long, "one.example")
	}
	judged := func(m string) Chain {
		c, err := Verify(t.Context(), text(m), look, now)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if c := judged(long); c.Value != dkim.Pass || c.Sets != MaxSets {
		t.Errorf("%d sets: got %+v", MaxSets, c)
	}
	for name, c := range map[string]struct {
		came Chain
		mail string
	}{
		"as long as may be": {judged(long), long},
		"found broken":      {judged(sealed(t, strings.Replace(two, "body", "other", 1), "x.example")), two},
		"key away":          {judged(sealed(t, two, "away.example")), two},
		"never judged":      {Chain{}, mail},
		"another chain now": {judged(mail), two},
		"a chain lost":      {judged(two), mail},
	} {
		if got, err := Seal(text(c.mail), c.came, k, "gw; none", now); !errors.Is(err, ErrEnded) || got != nil {
			t.Errorf("%s: got %q, %v, want %v", name, got, err, ErrEnded)
		}
	}
	k.Signer = away{pair()}
	if got, err := Seal(text(mail), judged(mail), k, "gw; none", now); err == nil || got != nil {
		t.Errorf("token away: got %q, %v", got, err)
	}
}

type away struct{ crypto.Signer }

func (away) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("away")
}

// Whatever a header says: it is judged, no chain passes that no key of ours
// sealed, and a set is added to none that is not what was judged.
func FuzzVerify(f *testing.F) {
	f.Add("ARC-Seal: i=1; a=rsa-sha256; cv=none; d=a.example; s=s; b=AAAA\r\nARC-Message-Signature: i=1; a=rsa-sha256; d=a.example; s=s; h=from; bh=AAAA; b=AAAA\r\nARC-Authentication-Results: i=1; x\r\nFrom: a@a.example\r\n\r\nx")
	f.Add(mail)
	f.Add("ARC-Seal: i=50\r\nARC-Seal: i=0\r\nARC-Message-Signature: i=-1\r\n\r\n")
	f.Fuzz(func(t *testing.T, m string) {
		c, err := Verify(t.Context(), text(m), look, now)
		if err != nil {
			t.Skip()
		}
		if c.Value == dkim.Pass || c.Value == "" || c.Sets > MaxSets {
			t.Errorf("%q: got %+v", m, c)
		}
		h, _, _ := dkim.Scan(text(m), func(dkim.Header) []dkim.Form { return nil })
		if n := h.Count("arc-seal") + h.Count("arc-message-signature") + h.Count("arc-authentication-results"); (n == 0) != (c.Value == dkim.None) {
			t.Errorf("%q: got %+v with %d fields", m, c, n)
		}
	})
}

func ExampleVerify() {
	c, err := Verify(context.Background(), text("From: a@a.example\r\n\r\nhello\r\n"), look, now)
	fmt.Println(c.Value, c.Sets, err)
	// Output: none 0 <nil>
}
