package challenge

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"postern/filter/dkim"
	"postern/filter/message"
)

const (
	half   = "LgYemJLy3F1LDkiJrdIGbEzyFJyOyf6vBdyZ1TG3sME" // 32 bytes
	letter = `From: ACME <acme+1@ca.example>
To: <alice@company1.example>
Reply-To: answers@ca.example
Subject: ACME: ` + half + `
Date: Wed, 25 Nov 2026 12:00:00 +0000
Message-ID: <1@ca.example>
Auto-Submitted: auto-generated; type=acme
MIME-Version: 1.0

words
`
)

func parse(t testing.TB, text string) *message.Message {
	t.Helper()
	m, err := message.Parse(strings.NewReader(strings.ReplaceAll(text, "\n", "\r\n")), message.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestRead: a challenge mail is what RFC 8823 §3.1 says, and nothing near it.
func TestRead(t *testing.T) {
	swap := func(from, to string) string {
		if !strings.Contains(letter, from) {
			t.Fatalf("no %q in the mail", from)
		}
		return strings.Replace(letter, from, to, 1)
	}
	for _, c := range []struct {
		name, mail, token string
		want              error
	}{
		{"as it must be", letter, half, nil},
		{"without type=acme", swap("; type=acme", ""), half, nil},
		{"folded", swap(half, half[:20]+"\n "+half[20:]), half, nil},
		{"padded", swap(half, half+"="), half + "=", nil},
		{"an encoded word", swap("ACME: "+half, "=?us-ascii?q?ACME:_"+half[:20]+"?=\n =?us-ascii?q?"+half[20:]+"?="), half, nil},
		{"no space", swap("ACME: ", "ACME:"), half, nil},
		{"without Reply-To", swap("Reply-To: answers@ca.example\n", ""), half, nil},
		{"an answer", swap("Subject: ", "Subject: Re: "), "", ErrOther},
		{"an answer by its header", swap("Message-ID:", "In-Reply-To: <0@x.example>\nMessage-ID:"), "", ErrOther},
		{"of a person", swap("Auto-Submitted: auto-generated; type=acme\n", ""), "", ErrOther},
		{"not submitted by a program", swap("auto-generated", "no"), "", ErrOther},
		{"an automatic answer", swap("auto-generated", "auto-replied"), "", ErrOther},
		{"another subject", swap("ACME:", "ACNE:"), "", ErrOther},
		{"short", swap(half, half[:20]), "", ErrForm},
		{"long", swap(half, strings.Repeat("A", maxToken+4)), "", ErrForm},
		{"very long", swap(half, strings.Repeat("A", maxSubject)), "", ErrOther},
		{"no base64url", swap(half, half[:42]+"+"), "", ErrForm},
		{"something behind", swap(half, half+"; rm"), "", ErrForm},
		{"control characters", swap("ACME: "+half, "=?utf-8?q?ACME:_"+half+"=0D=0ABcc:_x?="), "", ErrForm},
		{"two senders", swap("<acme+1@ca.example>", "<acme+1@ca.example>, x@y.example"), "", ErrForm},
		{"two From", swap("To:", "From: x@y.example\nTo:"), "", ErrForm},
		{"two To", swap("<alice@company1.example>", "alice@company1.example, bob@company1.example"), "", ErrForm},
		{"two Subject", swap("Date:", "Subject: ACME: "+half+"\nDate:"), "", ErrForm},
		{"two Auto-Submitted", swap("Date:", "Auto-Submitted: no\nDate:"), "", ErrOther},
		{"no Message-ID", swap("Message-ID: <1@ca.example>\n", ""), "", ErrForm},
		{"no such Message-ID", swap("<1@ca.example>", "1"), "", ErrForm},
		{"two in a Message-ID", swap("<1@ca.example>", "<1@ca.example> <2@ca.example>"), "", ErrForm},
		{"a long Message-ID", swap("<1@", "<"+strings.Repeat("1", maxID)+"@"), "", ErrForm},
		{"no date", swap("Wed, 25 Nov 2026", "Some day"), "", ErrForm},
	} {
		got, err := Read(parse(t, c.mail))
		if !errors.Is(err, c.want) || err == nil && got.Token != c.token {
			t.Errorf("%s: got %q, %v, want %q, %v", c.name, got.Token, err, c.token, c.want)
		}
		if err == nil && (got.From.Key() != "acme+1@ca.example" || got.To.Key() != "alice@company1.example" || got.MessageID != "<1@ca.example>" || got.Date.Hour() != 12) {
			t.Errorf("%s: got %+v", c.name, got)
		}
	}
}

// TestGenuine (R16): only a signature of exactly the sender's domain, over all that it
// has to be over, is a proof.
func TestGenuine(t *testing.T) {
	c, err := Read(parse(t, letter))
	if err != nil {
		t.Fatal(err)
	}
	good := dkim.Result{Value: dkim.Pass, Domain: "ca.example", Signed: slices.Clone(signed)}
	change := func(f func(*dkim.Result)) []dkim.Result {
		r := good
		r.Signed = slices.Clone(signed)
		f(&r)
		return []dkim.Result{r}
	}
	for name, x := range map[string]struct {
		results []dkim.Result
		fine    bool
	}{
		"good":              {[]dkim.Result{good}, true},
		"good, behind bad":  {append(change(func(r *dkim.Result) { r.Value = dkim.Fail }), good), true},
		"other letters":     {change(func(r *dkim.Result) { r.Domain = "CA.example" }), true},
		"none":              {nil, false},
		"failed":            {change(func(r *dkim.Result) { r.Value = dkim.Fail }), false},
		"key away":          {change(func(r *dkim.Result) { r.Value = dkim.TempError }), false},
		"of a stranger":     {change(func(r *dkim.Result) { r.Domain = "evil.example" }), false},
		"of a domain below": {change(func(r *dkim.Result) { r.Domain = "mail.ca.example" }), false},
		"of a domain above": {change(func(r *dkim.Result) { r.Domain = "example" }), false},
	} {
		if err := c.Genuine(x.results); (err == nil) != x.fine || err != nil && !errors.Is(err, ErrSigned) {
			t.Errorf("%s: got %v, want fine %v", name, err, x.fine)
		}
	}
	for i, name := range signed {
		if err := c.Genuine(change(func(r *dkim.Result) { r.Signed = slices.Delete(r.Signed, i, i+1) })); !errors.Is(err, ErrSigned) || !strings.Contains(err.Error(), name) {
			t.Errorf("not over %s: got %v, want %v", name, err, ErrSigned)
		}
	}
}

func TestTimely(t *testing.T) {
	c, err := Read(parse(t, letter))
	if err != nil {
		t.Fatal(err)
	}
	noon := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	for _, x := range []struct {
		made, now time.Duration
		fine      bool
	}{{0, 0, true}, {10 * time.Minute, 0, true}, {-time.Hour, 48 * time.Hour, true}, {0, -10 * time.Minute, true}, {time.Hour, 2 * time.Hour, false}, {-2 * time.Hour, -time.Hour, false}} {
		if err := c.Timely(noon.Add(x.made), noon.Add(x.now)); (err == nil) != x.fine || err != nil && !errors.Is(err, ErrTime) {
			t.Errorf("made %v and now %v from its date: got %v, want fine %v", x.made, x.now, err, x.fine)
		}
	}
}

// TestDigest: as bytes the vector is that of acmez; as text it was computed with
// coreutils.
func TestDigest(t *testing.T) {
	const first, second, print = "V4nE8NhYh6edBpfQTg5qqQ", "x6I65YvEk6xC4KV0QMvdJw", "hC4xyXNn8ZDH4yrcp93Zj3qgQs7LyT_GUL45YD7IVMQ"
	for join, want := range map[Join]string{Bytes: "Fjt2SD7KoqSt3I6jwgg8ljjkP9Er7h1w0wF0UihvQIU", Text: "gtzugYfQ1gO_Pi-ripWZTUtKP_xzPoQe-brDkSOvX5c"} {
		if got, err := Digest(join, first, second, print); err != nil || got != want {
			t.Errorf("%s: got %q, %v, want %q", join, got, err, want)
		}
	}
	a, _ := Digest(Text, half[:40], second, print) // 30 bytes, a multiple of three
	b, _ := Digest(Bytes, half[:40], second, print)
	if a != b || a == "" {
		t.Errorf("got %q and %q, want one and the same", a, b)
	}
	for _, bad := range [][2]string{{"*", second}, {first, "a b"}} {
		if _, err := Digest(Text, bad[0], bad[1], print); !errors.Is(err, ErrForm) {
			t.Errorf("%q: got %v, want %v", bad, err, ErrForm)
		}
	}
}

// FuzzRead: what is read can be answered, and the answer says nothing but that.
func FuzzRead(f *testing.F) {
	f.Add([]byte(strings.ReplaceAll(letter, "\n", "\r\n")))
	f.Add([]byte("Subject: =?utf-8?b?QUNNRTo=?= x\r\nAuto-Submitted: auto-generated\r\n\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := message.Parse(bytes.NewReader(data), message.Limits{})
		if err != nil {
			return
		}
		c, err := Read(m)
		if err != nil {
			if !errors.Is(err, ErrOther) && !errors.Is(err, ErrForm) {
				t.Errorf("got %v", err)
			}
			return
		}
		digest, err := Digest(Bytes, c.Token, c.Token, "t")
		if err != nil {
			t.Fatalf("token %q: %v", c.Token, err)
		}
		to := c.ReplyTo
		if to.IsZero() {
			to = c.From
		}
		a := Answer{From: c.To, To: to, Token: c.Token, InReplyTo: c.MessageID, Digest: digest, Host: "h.example", At: c.Date}
		back, err := message.Parse(bytes.NewReader(a.Mail()), message.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if n := len(back.Root.Header); n != 11 || strings.Join(strings.Fields(back.Get("Subject")), " ") != "Re: ACME: "+c.Token || back.Get("In-Reply-To") != c.MessageID {
			t.Errorf("got %d fields\n%s", n, a.Mail())
		}
		if from, err := back.Author(); err != nil || from.Key() != c.To.Key() {
			t.Errorf("got author %v, %v, want %v", from, err, c.To)
		}
	})
}
