package openpgp

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/message/messagetest"
	"postern/filter/protect"
	"postern/filter/protect/headers"
	"postern/hsm"
	"postern/hsm/hsmtest"
)

// What reads and shows mails.
var (
	crlf   = messagetest.CRLF
	spools = messagetest.Spools
	mail   = messagetest.Parse
	parse  = messagetest.Read
	print  = messagetest.Text
)

// plainMail is a mail from Alice to Bob that has a bit of everything that signing minds.
var plainMail = crlf(`Received: by a.example
From: Alice <alice@company1.example>
To: bob@partner.example
Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=
Message-ID: <1@company1.example>
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="b1"

--b1
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: 8bit

Grüße aus dem Büro.  
From here on with trailing space. 
.
--b1
Content-Type: application/octet-stream
Content-Transfer-Encoding: base64

AAECAwQFBgc=
--b1--
`)

// canonical is the MIME entity of a mail in its canonical form, without the mark
// of RFC 9788 §2.1.
func canonical(t testing.TB, m *message.Message) string {
	t.Helper()
	var b bytes.Buffer
	if err := message.WriteCanonical(&b, m.Source, m.Root, nil); err != nil {
		t.Fatal(err)
	}
	return strings.Replace(b.String(), ";\r\n hp=\"cipher\"; protected-headers=\"v1\"", "", 1)
}

// protectedEntity is the payload of a mail, sealed or only signed.
func protectedEntity(t testing.TB, m *message.Message, sealed bool) string {
	t.Helper()
	protected, err := headers.Protect(m, "", sealed)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := protected.WriteEntity(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// opening is what a test asks of Open.
type opening struct {
	token hsm.Token
	ids   []keyring.Identity
	certs []keyring.Cert
	at    time.Time // now where zero
}

func (o opening) open(t testing.TB, m *message.Message) (*message.Message, protect.Finding, error) {
	t.Helper()
	if o.at.IsZero() {
		o.at = now
	}
	p := New(Config{Token: o.token})
	return p.Open(t.Context(), protect.OpenRequest{Message: m, Identities: o.ids, Certs: o.certs, At: o.at, NewSpool: spools(t)})
}

func seal(t testing.TB, token hsm.Token, m *message.Message, by *keyring.Identity, to ...keyring.Cert) *message.Message {
	t.Helper()
	return sealAt(t, token, m, by, now, to...)
}

func sealAt(t testing.TB, token hsm.Token, m *message.Message, by *keyring.Identity, at time.Time, to ...keyring.Cert) *message.Message {
	t.Helper()
	sealed, err := New(Config{Token: token}).Seal(t.Context(), protect.SealRequest{Message: m, Signer: by, Recipients: to, At: at, NewSpool: spools(t)})
	if err != nil {
		t.Fatalf("seal: %v", err)
	}
	return sealed
}

// What is sealed opens again, for every suite, signed or not, with one token
// operation each way; the outer header stays, the entity comes back.
func TestRoundTrip(t *testing.T) {
	for _, s := range suites {
		t.Run(s.String(), func(t *testing.T) {
			token := soft(t)
			counted := hsmtest.Count(token)
			alice := newIdentity(t, token, s, "alice@company1.example")
			bob := newIdentity(t, token, s, "bob@partner.example")
			plain := mail(t, plainMail)
			for _, signed := range []bool{true, false} {
				by := &alice
				if !signed {
					by = nil
				}
				signs, unwraps := counted.Signs(), counted.Unwraps()
				sealed := seal(t, counted, plain, by, bob.Cert)
				if got := counted.Signs() - signs; got != map[bool]int{true: 1, false: 0}[signed] {
					t.Errorf("signed %v: %d signatures", signed, got)
				}
				sealed = mail(t, print(t, sealed))
				text := print(t, sealed)
				if strings.Contains(text, "dem B") || strings.Contains(text, "application/octet-stream\r\nContent-Transfer") {
					t.Fatalf("plaintext in\n%s", text)
				}
				if got := New(Config{}).Detect(sealed); got != protect.Sealed {
					t.Fatalf("detect: got %d, want sealed in\n%s", got, text)
				}
				opened, f, err := opening{token: counted, ids: []keyring.Identity{bob}, certs: []keyring.Cert{alice.Cert}}.open(t, sealed)
				if err != nil {
					t.Fatalf("open: %v", err)
				}
				if got := counted.Unwraps() - unwraps; got != 1 {
					t.Errorf("%d token operations, want 1", got)
				}
				if !f.Opened || f.Signed != signed || f.Good != signed || signed && f.Signer != alice.Fingerprint {
					t.Errorf("signed %v: got %+v", signed, f)
				}
				if got, want := canonical(t, opened), canonical(t, plain); got != want {
					t.Errorf("entity: got\n%s\nwant\n%s", got, want)
				}
				const subject = "Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n"
				for _, line := range []string{"Received: by a.example\r\n", subject, "Message-ID: <1@company1.example>\r\n"} {
					outside := strings.Replace(line, subject, "Subject: [...]\r\n", 1)
					if strings.Count(print(t, opened), line) != 1 || strings.Count(text, outside) != 1 {
						t.Errorf("%q is not there once in both", line)
					}
				}
				if n := opened.Count("MIME-Version"); n != 1 {
					t.Errorf("%d MIME-Version", n)
				}
			}
			// signed only
			signed := mail(t, print(t, seal(t, counted, plain, &alice)))
			if got := New(Config{}).Detect(signed); got != protect.Signed {
				t.Fatalf("detect: got %d, want signed in\n%s", got, print(t, signed))
			}
			same, f, err := opening{token: counted, certs: []keyring.Cert{alice.Cert}}.open(t, signed)
			if err != nil || same != signed || f.Opened || !f.Good || f.Reason != protect.ReasonGood {
				t.Errorf("verify: got %+v, %v", f, err)
			}
		})
	}
}

// Several recipients of different kinds read one copy; the cipher is the best that all read.
func TestSealSeveral(t *testing.T) {
	token := soft(t)
	alice := newIdentity(t, token, suites[3], "alice@company1.example")
	var all []keyring.Identity
	var certs []keyring.Cert
	for i, s := range []suiteUnderTest{suites[0], suites[3], suites[6], suites[8], suites[11]} {
		id := newIdentity(t, token, s, string(rune('a'+i))+"@partner.example")
		all = append(all, id)
		certs = append(certs, id.Cert, id.Cert) // each is sealed to once
	}
	sealed := seal(t, token, mail(t, plainMail), &alice, certs...)
	for _, id := range all {
		if _, f, err := (opening{token: token, ids: []keyring.Identity{id}, certs: []keyring.Cert{alice.Cert}}).open(t, sealed); err != nil || !f.Good {
			t.Errorf("%s: got %+v, %v", id.Address, f, err)
		}
	}
	if _, _, err := (opening{token: token, ids: []keyring.Identity{alice}}).open(t, sealed); err != protect.ErrCannotOpen {
		t.Errorf("somebody else: got %v, want %v", err, protect.ErrCannotOpen)
	}
	for _, c := range []struct {
		to   []keyring.Cert
		aead bool
	}{{certs, false}, {[]keyring.Cert{all[3].Cert, all[4].Cert}, false}, {[]keyring.Cert{all[4].Cert}, true}} {
		list, err := recipientsOf(c.to, now)
		if err != nil {
			t.Fatal(err)
		}
		if got := suiteOf(list); got.aead != (c.aead || !slicesHasV4(c.to)) || got.cipher != 9 {
			t.Errorf("suite: got %+v", got)
		}
	}
}

func slicesHasV4(certs []keyring.Cert) bool {
	for _, c := range certs {
		if len(c.Fingerprint) == 40 {
			return true
		}
	}
	return false
}

// A token that is away is told as that, in both directions, and never as a
// mail that does not open (trap: go-crypto calls it an incorrect key).
func TestTokenTrouble(t *testing.T) {
	token := soft(t)
	for _, s := range []suiteUnderTest{suites[0], suites[3], suites[6], suites[11]} {
		alice := newIdentity(t, token, s, "alice@company1.example")
		sealed := seal(t, token, mail(t, plainMail), &alice, alice.Cert)
		for _, want := range []error{hsm.ErrAway, hsm.ErrLocked, hsm.ErrBusy, hsm.ErrBudget, hsm.ErrOpaque, hsm.ErrRefused, hsm.ErrNoKey} {
			broken := failing{Token: token, err: want}
			_, _, err := opening{token: broken, ids: []keyring.Identity{alice}}.open(t, sealed)
			if !errors.Is(err, want) || errors.Is(err, protect.ErrCannotOpen) {
				t.Errorf("%s open: got %v, want %v", s, err, want)
			}
			for _, to := range [][]keyring.Cert{nil, {alice.Cert}} {
				m, err := New(Config{Token: broken}).Seal(t.Context(), protect.SealRequest{Message: mail(t, plainMail), Signer: &alice, Recipients: to, At: now, NewSpool: spools(t)})
				if !errors.Is(err, want) || m != nil {
					t.Errorf("%s seal: got %v, want %v", s, err, want)
				}
			}
		}
		m, err := New(Config{Token: failing{Token: token}}).Seal(t.Context(), protect.SealRequest{Message: mail(t, plainMail), Signer: &alice, At: now, NewSpool: spools(t)})
		if !errors.Is(err, hsm.ErrOpaque) || m != nil {
			t.Errorf("%s: token that signs something else: got %v, want %v", s, err, hsm.ErrOpaque)
		}
	}
}

// Nothing goes out where protection is impossible (R26).
func TestSealImpossible(t *testing.T) {
	token := soft(t)
	alice := newIdentity(t, token, suites[3], "alice@company1.example")
	expired := alice
	broken := alice.Cert
	broken.Raw = broken.Raw[:20]
	p := New(Config{Token: token})
	for what, r := range map[string]protect.SealRequest{
		"nobody":               {At: now},
		"expired recipient":    {At: now.AddDate(2, 0, 0), Recipients: []keyring.Cert{alice.Cert}},
		"expired signer":       {At: now.AddDate(2, 0, 0), Signer: &expired},
		"broken recipient":     {At: now, Recipients: []keyring.Cert{broken}},
		"one of two is broken": {At: now, Recipients: []keyring.Cert{alice.Cert, {Format: keyring.OpenPGP, Fingerprint: "00"}}},
	} {
		r.Message, r.NewSpool = mail(t, plainMail), spools(t)
		if m, err := p.Seal(t.Context(), r); err == nil || m != nil {
			t.Errorf("%s: got %v, %v", what, m, err)
		}
	}
}
