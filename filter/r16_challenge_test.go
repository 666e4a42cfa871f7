package filter

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-msgauth/dkim"

	"postern/filter/dmarc"
	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/policy"
	"postern/hsm"
)

// awaiting has orders.
type awaiting []keyring.Order

func (a awaiting) OrdersOf(_ context.Context, who message.Address) (list []keyring.Order, err error) {
	for _, o := range a {
		if o.Address.Key() == who.Key() {
			list = append(list, o)
		}
	}
	return list, nil
}

// lost is a keyring that can't be read.
type lost struct{}

func (lost) OrdersOf(context.Context, message.Address) ([]keyring.Order, error) {
	return nil, errors.New("no disk")
}

// TestChallenge (R16): a mail that proves an address to an authority is noted only
// where an operator awaits one for that very address, from the very sender, with
// his domain's own signature; it and everything like it passes as any mail does.
func TestChallenge(t *testing.T) {
	const token, alice, url = "LgYemJLy3F1LDkiJrdIGbEzyFJyOyf6vBdyZ1TG3sME", "alice@company1.example", "https://ca.example/order/1"
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	record := "v=DKIM1; p=" + base64.StdEncoding.EncodeToString(der)
	names := texts{"s._domainkey.ca.example": record, "s._domainkey.evil.example": record}
	all := []string{"From", "Sender", "Reply-To", "To", "CC", "Subject", "Date", "In-Reply-To", "References", "Message-ID", "Auto-Submitted", "Content-Type", "Content-Transfer-Encoding"}
	sign := func(mail, domain string, over []string) string {
		var b bytes.Buffer
		if err := dkim.Sign(&b, strings.NewReader(mail), &dkim.SignOptions{Domain: domain, Selector: "s", Signer: key, HeaderKeys: over}); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	letter := crlf("From: <acme@ca.example>\nTo: <" + alice + ">\nSubject: ACME: " + token + "\nDate: Tue, 24 Nov 2026 12:00:00 +0000\nMessage-ID: <1@ca.example>\n" +
		"Auto-Submitted: auto-generated; type=acme\nMIME-Version: 1.0\nContent-Type: text/plain\n\nwords\n")
	swap := func(from, to string) string { return strings.Replace(letter, from, to, 1) }
	order := keyring.Order{URL: url, Authority: "ca", Address: address(t, alice), Key: hsm.KeyID{1}, Sender: "acme@ca.example", Made: noon.Add(-time.Minute)}
	change := func(f func(*keyring.Order)) Awaiter {
		o := order
		f(&o)
		return awaiting{o}
	}
	good := sign(letter, "ca.example", all)
	for _, c := range []struct {
		name, mail string
		awaits     Awaiter
		to         string
		said       string // in the log; "": nothing about it
		noted      bool
	}{
		{"as it must be", good, awaiting{order}, alice, "msg=challenge trace", true},
		{"before the sender is known", good, change(func(o *keyring.Order) { o.Sender = "" }), alice, "msg=challenge trace", true},
		{"not awaited", good, awaiting{}, alice, "", false},
		{"nobody awaits", good, nil, alice, "", false},
		{"to somebody else as well", good, awaiting{order}, "carol@company1.example", "", false},
		{"answered already", good, change(func(o *keyring.Order) { o.Answered = noon }), alice, "", false},
		{"the keyring is away", good, lost{}, alice, "no disk", false},
		{"another sender", sign(swap("acme@ca", "acne@ca"), "ca.example", all), awaiting{order}, alice, "not from whom", false},
		{"for another address", sign(swap("<"+alice, "<bob@company1.example"), "ca.example", all), awaiting{order}, alice, "not to the address", false},
		{"not signed", letter, awaiting{order}, alice, "none of ca.example", false},
		{"signed by somebody else", sign(letter, "evil.example", all), awaiting{order}, alice, "none of ca.example", false},
		{"signed, and changed", strings.Replace(good, token, "A"+token[1:], 1), awaiting{order}, alice, "fail", false},
		{"not signed over Reply-To", sign(letter, "ca.example", all[:2]), awaiting{order}, alice, "not over reply-to", false},
		{"with a Reply-To of somebody else on top", "Reply-To: eve@evil.example\r\n" + good, awaiting{order}, alice, "fail", false},
		{"an old one, again", good, change(func(o *keyring.Order) { o.Made = noon.Add(time.Hour) }), alice, "not of this time", false},
		{"no token", sign(swap(token, "hello"), "ca.example", all), awaiting{order}, alice, "half of a token", false},
		{"an answer to it", sign(swap("ACME:", "Re: ACME:"), "ca.example", all), awaiting{order}, alice, "", false},
		{"a mail of the same people", sign(swap("ACME: "+token, "hello"), "ca.example", all), awaiting{order}, alice, "", false},
	} {
		w := newWorld(t)
		w.gate.Origins = &dmarc.Checker{Names: names, Budget: time.Minute}
		if c.awaits != nil {
			w.gate.Awaits = c.awaits
		}
		w.want(c.name, w.send(policy.Inbound, c.mail, "acme@ca.example", c.to), "250 2.0.0")
		if len(w.hop.got) != 1 || !bytes.HasSuffix(w.hop.got[0].mail, []byte("words\r\n")) {
			t.Errorf("%s: the mail did not pass", c.name)
		}
		p, ok, err := w.config.Record.Proved(t.Context(), url, "acme@ca.example")
		if err != nil || ok != c.noted || ok && (p.Token != token || p.MessageID != "<1@ca.example>" || p.ReplyTo != "") {
			t.Errorf("%s: noted %v, %+v, %v, want %v\n%s", c.name, ok, p, err, c.noted, w.log)
		}
		if said := w.log.String(); !strings.Contains(said, c.said) || c.said == "" && strings.Contains(said, "challenge") {
			t.Errorf("%s: the log says %s\nwant %q", c.name, said, c.said)
		}
		if !c.noted {
			continue
		}
		w.log.Reset()
		w.want(c.name+", again", w.send(policy.Inbound, c.mail, "acme@ca.example", c.to), "250 2.0.0")
		if !strings.Contains(w.log.String(), "seen before") {
			t.Errorf("%s, again: the log says %s", c.name, w.log)
		}
	}
}
