package dkim

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/big"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	theirs "github.com/emersion/go-msgauth/dkim"
)

var now = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// text is a mail.
type text string

func (t text) WriteTo(w io.Writer) (int64, error) {
	n, err := io.WriteString(w, string(t))
	return int64(n), err
}

// slow writes a mail byte by byte, so that pieces end everywhere.
type slow string

func (s slow) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, iotest.OneByteReader(strings.NewReader(string(s))))
}

var pairs = sync.OnceValue(func() (k struct {
	rsa  *rsa.PrivateKey
	weak *rsa.PrivateKey
	ed   ed25519.PrivateKey
}) {
	var err error
	if k.rsa, err = rsa.GenerateKey(rand.Reader, 2048); err == nil {
		if k.weak, err = rsa.GenerateKey(rand.Reader, 1024); err == nil {
			_, k.ed, err = ed25519.GenerateKey(rand.Reader)
		}
	}
	if err != nil {
		panic(err)
	}
	return k
})

// zone answers from a table; a name with the text "away" fails.
type zone map[string][]string

func (z zone) look(_ context.Context, name string) ([]string, error) {
	if len(z[name]) == 1 && z[name][0] == "away" {
		return nil, errors.New("no answer")
	}
	return z[name], nil
}

func keys(t *testing.T) ([]Key, zone) {
	t.Helper()
	z := zone{}
	var list []Key
	for name, s := range map[string]crypto.Signer{"r": pairs().rsa, "e": pairs().ed} {
		k, err := NewKey("company1.example", name, s)
		if err != nil {
			t.Fatal(err)
		}
		record, err := Record(s.Public())
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, k)
		z[name+"._domainkey.company1.example"] = []string{record}
	}
	return list, z
}

const mail = "From: Alice <alice@company1.example>\r\nTo: bob@partner.example\r\nSubject: hello\r\n\tthere\r\nDate: Wed, 25 Nov 2026 12:00:00 +0000\r\nMessage-ID: <1@company1.example>\r\n\r\nGood  day, \r\n\r\nBob.\r\n\r\n\r\n"

// What we sign holds for us and for go-msgauth, in whatever pieces it comes.
func TestSignAndVerify(t *testing.T) {
	list, z := keys(t)
	for _, body := range []string{"", "x", "x\r\n", "\r\n\r\n", " \t", "a \t b\r\n \r\n", "a\r\nb\r\n\r\n\r\n", strings.Repeat("line of text\r\n", 10000), strings.Repeat("\r\n", 50000) + "x"} {
		m := strings.SplitAfter(mail, "\r\n\r\n")[0] + body
		fields, err := Sign(text(m), list, now)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range []io.WriterTo{text(string(fields) + m), slow(string(fields) + m)} {
			results, err := Verify(t.Context(), w, z.look, now)
			if err != nil || len(results) != 2 || results[0].Value != Pass || results[1].Value != Pass {
				t.Fatalf("body %.20q: got %+v, %v, want two that pass", body, results, err)
			}
		}
		other, err := theirs.VerifyWithOptions(strings.NewReader(string(fields)+m), &theirs.VerifyOptions{LookupTXT: func(n string) ([]string, error) { return z[n], nil }})
		if err != nil || len(other) != 2 || other[0].Err != nil || other[1].Err != nil {
			t.Errorf("body %.20q: go-msgauth does not take our signatures: %v", body, err)
		}
		for _, line := range strings.Split(string(fields), "\r\n") {
			if len(line) > 78 {
				t.Errorf("got a line of %d bytes: %q", len(line), line)
			}
		}
	}
}

// made signs a mail with tags of one's own, by hand.
func made(t *testing.T, m string, tags string, signer crypto.Signer) string {
	t.Helper()
	list, err := ParseTags(tags)
	if err != nil {
		t.Fatal(err)
	}
	head, tail, _ := strings.Cut(bare(list["c"]), "/")
	limit, _ := list.Number("l")
	h, sums, err := Scan(text(m), func(Header) []Form { return []Form{{Relaxed: tail == "relaxed", Limit: limit}} })
	if err != nil {
		t.Fatal(err)
	}
	raw := "DKIM-Signature: " + tags + "; bh=" + base64.StdEncoding.EncodeToString(sums[0].Hash[:]) + "; b="
	sum := h.Sum(list.Words("h"), head == "relaxed", Field{"dkim-signature", raw + "\r\n"}, -1)
	opts, text := crypto.SignerOpts(crypto.SHA256), sum[:]
	if _, ok := signer.(ed25519.PrivateKey); ok {
		opts = crypto.Hash(0)
	}
	sig, err := signer.Sign(rand.Reader, text, opts)
	if err != nil {
		t.Fatal(err)
	}
	return raw + base64.StdEncoding.EncodeToString(sig) + "\r\n" + m
}

func TestVerify(t *testing.T) {
	k := pairs()
	_, z := keys(t)
	short := new(big.Int).Add(new(big.Int).Lsh(big.NewInt(1), 1022), big.NewInt(1))
	der, _ := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: short, E: 65537})
	p := base64.StdEncoding.EncodeToString(der)
	rsaRecord, edRecord := z["r._domainkey.company1.example"][0], z["e._domainkey.company1.example"][0]
	_, rsaP, _ := strings.Cut(rsaRecord, "p=")
	for name, v := range map[string][]string{
		"weak": {"v=DKIM1; p=" + p}, "away": {"away"}, "revoked": {"v=DKIM1; k=rsa; p="},
		"two": {edRecord, rsaRecord}, "sha1": {"v=DKIM1; h=sha1; p=" + rsaP}, "tls": {"v=DKIM1; s=tlsrpt; p=" + rsaP},
		"strict": {"v=DKIM1; t=s; p=" + rsaP}, "testing": {"v=DKIM1; t=y:s; p=" + rsaP}, "v2": {"v=DKIM2; p=" + rsaP}, "junk": {"hello"}, "late": {"p=" + rsaP + "; v=DKIM1"},
		"bare": {"p=" + base64.StdEncoding.EncodeToString(x509.MarshalPKCS1PublicKey(&k.rsa.PublicKey))},
	} {
		z[name+"._domainkey.company1.example"] = v
	}
	const tags = "v=1; a=rsa-sha256; c=relaxed/simple; d=company1.example; s=%s; h=from:to:subject:from%s"
	of := func(selector, more string) string {
		return made(t, mail, fmt.Sprintf(tags, selector, more), k.rsa)
	}
	good := of("r", "")
	for _, c := range []struct {
		name, mail string
		want       Value
		reason     string
	}{
		{"sound", good, Pass, ReasonGood},
		{"simple header", made(t, mail, "v=1; a=rsa-sha256; d=company1.example; s=r; h=From : To", k.rsa), Pass, ReasonGood},
		{"ed25519", made(t, mail, "v=1; a=ed25519-sha256; d=company1.example; s=e; h=from", k.ed), Pass, ReasonGood},
		{"subdomain in i", of("r", "; i=a@mail.company1.example"), Pass, ReasonGood},
		{"body changed", strings.Replace(good, "Bob.", "Rob.", 1), Fail, ReasonBody},
		{"subject changed", strings.Replace(good, "Subject: hello", "Subject: hullo", 1), Fail, ReasonHeader},
		{"body replaced by simple form", strings.Replace(good, "Good  day", "Good day", 1), Fail, ReasonBody},
		{"signature changed", strings.Replace(good, "; b=", "; b=AAAA", 1), Fail, ReasonHeader},
		{"from added on top", "From: eve@evil.example\r\n" + good, Policy, ReasonTwice},
		{"from added below", strings.Replace(good, "Date:", "From: eve@evil.example\r\nDate:", 1), Policy, ReasonTwice},
		{"subject added", "Subject: other\r\n" + good, Policy, ReasonTwice},
		{"expired", of("r", "; t=1; x=2"), PermError, ReasonExpired},
		{"expires before it is made", of("r", fmt.Sprintf("; t=%d; x=%d", now.Unix()+100, now.Unix()+50)), PermError, ReasonExpired},
		{"not yet expired", of("r", fmt.Sprintf("; t=%d; x=%d", now.Unix()-10, now.Unix()+50)), Pass, ReasonGood},
		{"whole body by l", of("r", "; l=21"), Pass, ReasonGood},
		{"part of the body", of("r", "; l=10"), Policy, ReasonPartial},
		{"nothing of the body", of("r", "; l=0"), Policy, ReasonPartial},
		{"text behind l", of("r", "; l=21") + "more\r\n", Policy, ReasonPartial},
		{"l beyond the body", of("r", "; l=22"), PermError, ReasonSyntax},
		{"from not signed", made(t, mail, "v=1; a=rsa-sha256; d=company1.example; s=r; h=to", k.rsa), PermError, ReasonFrom},
		{"i elsewhere", of("r", "; i=a@other.example"), PermError, ReasonIdentity},
		{"i ends alike", of("r", "; i=a@evilcompany1.example"), PermError, ReasonIdentity},
		{"strict and a subdomain", of("strict", "; i=a@mail.company1.example"), PermError, ReasonIdentity},
		{"strict", of("strict", "; i=a@company1.example"), Pass, ReasonGood},
		{"testing", of("testing", ""), Pass, ReasonGood},
		{"version", strings.Replace(good, "v=1", "v=2", 1), PermError, ReasonVersion},
		{"no version", strings.Replace(good, "v=1; ", "", 1), PermError, ReasonVersion},
		{"sha1", strings.Replace(good, "rsa-sha256", "rsa-sha1", 1), PermError, ReasonWeak},
		{"another hash", strings.Replace(good, "rsa-sha256", "rsa-sha512", 1), PermError, ReasonAlgorithm},
		{"a tag twice", strings.Replace(good, "v=1;", "v=1; v=1;", 1), PermError, ReasonSyntax},
		{"no tags", "DKIM-Signature: hello\r\n" + mail, PermError, ReasonSyntax},
		{"no domain", strings.Replace(good, "d=company1.example", "d=a b;c", 1), PermError, ReasonSyntax},
		{"top-level domain", strings.Replace(good, "d=company1.example", "d=example", 1), PermError, ReasonSyntax},
		{"selector of slashes", strings.Replace(good, "s=r;", "s=../x;", 1), PermError, ReasonSyntax},
		{"form", strings.Replace(good, "c=relaxed", "c=nowsp", 1), PermError, ReasonSyntax},
		{"query", strings.Replace(good, "h=from", "q=http; h=from", 1), PermError, ReasonSyntax},
		{"no key", of("nobody", ""), PermError, ReasonNoKey},
		{"key away", of("away", ""), TempError, ReasonAway},
		{"weak key", of("weak", ""), PermError, ReasonWeak},
		{"revoked", of("revoked", ""), PermError, ReasonRevoked},
		{"two records", of("two", ""), Pass, ReasonGood},
		{"key without the tags around", of("bare", ""), Pass, ReasonGood},
		{"key for another hash", of("sha1", ""), PermError, ReasonAlgorithm},
		{"key for another service", of("tls", ""), PermError, ReasonBadKey},
		{"key of another version", of("v2", ""), PermError, ReasonBadKey},
		{"version of the key late", of("late", ""), PermError, ReasonBadKey},
		{"no key record", of("junk", ""), PermError, ReasonBadKey},
		{"key of another algorithm", of("e", ""), PermError, ReasonAlgorithm},
	} {
		got, err := Verify(t.Context(), text(c.mail), z.look, now)
		if err != nil || len(got) != 1 || got[0].Value != c.want || got[0].Reason != c.reason {
			t.Errorf("%s: got %+v, %v, want %s (%s)", c.name, got, err, c.want, c.reason)
		}
	}
}

// No bit of what was signed can be turned.
func TestNoBitTurns(t *testing.T) {
	list, z := keys(t)
	fields, err := Sign(text(mail), list[:1], now)
	if err != nil {
		t.Fatal(err)
	}
	whole := string(fields) + mail
	for i := len(fields); i < len(whole)-6; i++ { // not the empty lines at the end
		b := []byte(whole)
		if strings.ContainsRune(" \t\r\n", rune(b[i])) || b[i] == ':' {
			continue
		}
		if b[i] ^= 0x01; strings.ContainsRune(" \t\r\n", rune(b[i])) {
			continue
		}
		got, err := Verify(t.Context(), text(b), z.look, now)
		if err != nil || len(got) != 1 || got[0].Value == Pass {
			t.Errorf("byte %d %q: got %+v, %v", i, whole[i], got, err)
		}
	}
}

func TestOnlySomeSignaturesAreLookedAt(t *testing.T) {
	list, z := keys(t)
	fields, err := Sign(text(mail), list[:1], now)
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	var mu sync.Mutex
	got, err := Verify(t.Context(), text(strings.Repeat(string(fields), 9)+mail), func(ctx context.Context, n string) ([]string, error) {
		mu.Lock()
		asked++
		mu.Unlock()
		return z.look(ctx, n)
	}, now)
	if err != nil || len(got) != MaxSignatures || asked != MaxSignatures {
		t.Errorf("got %d results, %d questions, %v, want %d", len(got), asked, err, MaxSignatures)
	}
	if _, err := Verify(t.Context(), text(strings.Repeat("A: b\r\n", MaxHeader/6+1)), z.look, now); !errors.Is(err, ErrHeader) {
		t.Errorf("endless header: got %v, want %v", err, ErrHeader)
	}
}

// A token that fails leaves no signature at all, and one that makes another
// signature than it should is found out.
func TestSignFails(t *testing.T) {
	list, _ := keys(t)
	for name, s := range map[string]crypto.Signer{"away": broken{pairs().rsa, errors.New("away")}, "other bytes": broken{pairs().rsa, nil}} {
		k, err := NewKey("company1.example", "x", s)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Sign(text(mail), append(list, k), now); err == nil || got != nil {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
	if _, err := NewKey("company1.example", "x", pairs().weak); !errors.Is(err, ErrKey) {
		t.Errorf("RSA of 1024 bits: got %v, want %v", err, ErrKey)
	}
}

type broken struct {
	crypto.Signer
	err error
}

func (b broken) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return bytes.Repeat([]byte{1}, 256), b.err
}

// Forms of RFC 6376 §3.4.5, and the edges beside them.
func TestCanonicalForms(t *testing.T) {
	for _, c := range []struct{ body, simple, relaxed string }{
		{" C \r\nD \t E\r\n\r\n\r\n", " C \r\nD \t E\r\n", " C\r\nD E\r\n"},
		{"", "\r\n", ""}, {"\r\n", "\r\n", ""}, {" \r\n", " \r\n", ""}, {"a", "a\r\n", "a\r\n"}, {"a \t", "a \t\r\n", "a\r\n"},
		{"\r\n\r\na\r\n \r\n", "\r\n\r\na\r\n \r\n", "\r\n\r\na\r\n"}, {"a\rb\n c\r", "a\rb\n c\r\r\n", "a\rb\n c\r\r\n"},
	} {
		for _, f := range []Form{{false, -1}, {true, -1}} {
			want := c.simple
			if f.Relaxed {
				want = c.relaxed
			}
			_, sums, err := Scan(slow("\r\n"+c.body), func(Header) []Form { return []Form{f} })
			if err != nil || sums[0].Hash != sha256.Sum256([]byte(want)) || sums[0].Len != int64(len(want)) {
				t.Errorf("body %q relaxed=%v: got length %d, %v, want the hash of %q", c.body, f.Relaxed, sums[0].Len, err, want)
			}
		}
	}
	for raw, want := range map[string]string{"A: X\r\n": "a:X\r\n", "B : Y\t\r\n\tZ  \r\n": "b:Y Z\r\n", "C:\r\n": "c:\r\n"} {
		if got := Relaxed(raw); got != want {
			t.Errorf("%q: got %q, want %q", raw, got, want)
		}
	}
}

// No field that people read can be added to what we signed, whoever judges.
func TestOversigned(t *testing.T) {
	list, z := keys(t)
	fields, err := Sign(text(mail), list[:1], now)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"From", "Sender", "Reply-To", "To", "Cc", "Subject", "Date", "Message-ID", "In-Reply-To", "References", "MIME-Version", "Content-Type", "Content-Transfer-Encoding", "List-Unsubscribe", "Autocrypt"} {
		m := name + ": eve@evil.example\r\n" + string(fields) + mail
		if got, err := Verify(t.Context(), text(m), z.look, now); err != nil || len(got) != 1 || got[0].Value == Pass {
			t.Errorf("%s added: got %+v, %v", name, got, err)
		}
		other, err := theirs.VerifyWithOptions(strings.NewReader(m), &theirs.VerifyOptions{LookupTXT: func(n string) ([]string, error) { return z[n], nil }})
		if err != nil || len(other) != 1 || other[0].Err == nil {
			t.Errorf("%s added: go-msgauth takes it", name)
		}
	}
}
