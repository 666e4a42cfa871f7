package gateway

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"postern/filter"
	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/policy"
	"postern/filter/protect"
	"postern/filter/smime"
	"postern/filter/transport"
	"postern/hsm"
	"postern/hsm/certtest"
	"postern/hsm/hsmtest"
)

// sink takes every mail and keeps it.
type sink struct{ mails [][]byte }

func (s *sink) Deliver(_ context.Context, e *transport.Envelope, _ int64, mail io.WriterTo) transport.Result {
	var b bytes.Buffer
	if _, err := mail.WriteTo(&b); err != nil {
		return transport.Result{Err: err}
	}
	s.mails = append(s.mails, b.Bytes())
	r := transport.Result{Carriage: transport.Carriage{TLS: "clear"}}
	for range e.Recipients {
		r.Replies = append(r.Replies, transport.Reply{Code: 250, Enhanced: [3]int{2, 0, 0}, Text: "taken"})
	}
	return r
}

// certified is an identity with a key of a token.
func certified(t *testing.T, by *certtest.Authority, key hsm.Key, usage x509.KeyUsage, address string) keyring.Identity {
	t.Helper()
	list, err := smime.Read(by.Sign(t, certtest.Mail(address, usage), key.Public).Raw)
	must(t, err)
	at, err := message.ParseAddress(address)
	must(t, err)
	return keyring.Identity{Cert: list[0], Address: at}
}

// TestHarvest (R16), from a signed mail to the answer: what it brought is kept, and
// the answer is sealed to it where the site lets a good path be enough. An
// operator's word ends that.
func TestHarvest(t *testing.T) {
	root := certtest.New(t, ca)
	sub := root.Below(t, certtest.CA("sub"))
	token := hsmtest.Memory(t)
	ours := map[hsm.Usage]keyring.Identity{}
	for u, usage := range map[hsm.Usage]x509.KeyUsage{hsm.Sign: x509.KeyUsageDigitalSignature, hsm.Unwrap: x509.KeyUsageKeyAgreement} {
		key, err := token.Generate(t.Context(), hsm.KeySpec{Algorithm: hsm.P256, Usage: u, Label: "bob/" + u.String()})
		must(t, err)
		ours[u] = certified(t, sub, key, usage, "bob@partner.example")
	}
	signer := ours[hsm.Sign]
	partner := smime.New(smime.Config{Token: token, Chain: func(*x509.Certificate) []*x509.Certificate { return []*x509.Certificate{sub.Cert} }})

	for _, test := range []struct {
		learn  string
		known  keyring.Trust // what an operator said before
		seen   int
		sealed bool
	}{
		{learn: "chain", seen: 2, sealed: true},
		{learn: "seen", seen: 2},
		{learn: "off"},
		{learn: "chain", known: keyring.Distrusted, seen: 2},
	} {
		t.Run(fmt.Sprint(test.learn, " ", test.known), func(t *testing.T) {
			c := load(t, domain+"sign = \"never\"\n[smime]\nroots = \"own\"\nrevocation = \"off\"\n[default]\nlearn = \""+test.learn+"\"\n")
			operators, err := keyring.Open(c.Keyring)
			must(t, err)
			defer operators.Close()
			must(t, operators.Import(t.Context(), entry(t, root.Cert, keyring.Trusted, keyring.Anchor)))
			if test.known != "" {
				said := ours[hsm.Unwrap].Cert
				said.Trust, said.Source = test.known, "import"
				must(t, operators.Import(t.Context(), said))
			}
			ring, err := OpenRing(c, true)
			must(t, err)
			defer ring.Close()
			var log bytes.Buffer
			g, err := New(c, token, ring, nil, nil, slog.New(slog.NewTextHandler(&log, nil)))
			must(t, err)
			out := &sink{}
			g.Now, g.Hops = func() time.Time { return noon }, map[policy.Direction]filter.Hop{policy.Inbound: out, policy.Outbound: out}
			spool := func() *message.Spool {
				s := g.Spools.New()
				t.Cleanup(func() { s.Close() })
				return s
			}
			parse := func(mail []byte) *message.Message {
				m, err := message.Parse(bytes.NewReader(mail), message.Limits{})
				must(t, err)
				return m
			}
			send := func(d policy.Direction, mail []byte, from, to string) {
				t.Helper()
				e := &transport.Envelope{Trace: "TRACETRACETRACE1"}
				var err error
				e.From, err = message.ParseAddress(from)
				must(t, err)
				a, err := message.ParseAddress(to)
				must(t, err)
				e.Recipients = []transport.Recipient{{Address: a}}
				if r := g.Handler(filter.Listener{Name: "test", Direction: d}).Data(t.Context(), e, bytes.NewReader(mail))[0]; r.Code != 250 {
					t.Fatalf("got %v\n%s", r, &log)
				}
				g.Idle()
			}

			letter := "From: bob@partner.example\r\nTo: alice@company1.example\r\nSubject: in\r\nDate: Tue, 24 Nov 2026 11:59:00 +0000\r\nMIME-Version: 1.0\r\n\r\nhello\r\n"
			signed, err := partner.Seal(t.Context(), protect.SealRequest{Message: parse([]byte(letter)), Signer: &signer,
				Own: []keyring.Identity{signer, ours[hsm.Unwrap]}, At: noon, NewSpool: spool})
			must(t, err)
			var wire bytes.Buffer
			_, err = signed.WriteTo(&wire)
			must(t, err)
			send(policy.Inbound, wire.Bytes(), "bob@partner.example", "alice@company1.example")
			if !strings.Contains(string(out.mails[0]), "verified=yes") {
				t.Fatalf("the mail is not verified:\n%s", out.mails[0])
			}

			certs, err := ring.Certs(t.Context(), bob)
			must(t, err)
			seen := 0
			for _, c := range certs {
				switch c.Trust {
				case keyring.Trusted:
					t.Errorf("mail brought trust: %+v", c)
				case keyring.Seen:
					seen++
				}
			}
			if want := test.seen - map[bool]int{true: 1}[test.known != ""]; seen != want {
				t.Errorf("got %d that were seen, want %d", seen, want)
			}

			send(policy.Outbound, []byte("From: alice@company1.example\r\nTo: bob@partner.example\r\nSubject: Re: in\r\n\r\nMarker-Text-7f3a\r\n"), "alice@company1.example", "bob@partner.example")
			answer := parse(out.mails[1])
			if got := partner.Detect(answer) == protect.Sealed; got != test.sealed {
				t.Fatalf("got sealed %v, want %v:\n%s", got, test.sealed, out.mails[1])
			}
			if test.sealed {
				m, _, err := partner.Open(t.Context(), protect.OpenRequest{Message: answer, Identities: []keyring.Identity{ours[hsm.Unwrap]}, At: noon, NewSpool: spool})
				must(t, err)
				var text bytes.Buffer
				_, err = m.WriteTo(&text)
				must(t, err)
				if !strings.Contains(text.String(), "Marker-Text-7f3a") || strings.Contains(string(out.mails[1]), "Marker-Text") {
					t.Errorf("bob reads\n%s", &text)
				}
			}
		})
	}
}
