// Package protecttest holds what every protection format must do, whatever its
// bytes look like: one suite for all of them.
package protecttest

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/message/messagetest"
	"postern/filter/protect"
	"postern/hsm"
	"postern/hsm/hsmtest"
)

// Format is one protection format under test.
type Format struct {
	New func(token hsm.Token) protect.Protector
	// Identity makes keys in the token and a certificate for the address,
	// valid for at least a day around at.
	Identity func(t testing.TB, token hsm.Keeper, a message.Address, at time.Time) keyring.Identity
	// Reader is the same for who is only sealed to, where that is another
	// certificate than the one that signs; nil: Identity.
	Reader func(t testing.TB, token hsm.Keeper, a message.Address, at time.Time) keyring.Identity
	// Malleable says that some of its encryption lets text through that was
	// changed on the way: such a mail may open, and is never good.
	Malleable bool
	// Wrapped says that a signature around encryption is looked through, so
	// that what is inside opens, and claims what it claims by itself.
	Wrapped bool
}

// at is the time of judgement.
var at = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// secret stands in the body of every mail of the suite, and nowhere else.
const secret = "the launch code is 0000"

// suite is a format with everybody's keys.
type suite struct {
	protect.Protector
	format     Format
	token      hsm.Keeper
	counted    *hsmtest.Counter
	alice, bob keyring.Identity
	carol      keyring.Identity
}

// Run runs the suite.
func Run(t *testing.T, f Format) {
	token := hsmtest.Memory(t)
	s := &suite{format: f, token: token, counted: hsmtest.Count(token)}
	s.Protector = f.New(s.counted)
	if f.Reader == nil {
		f.Reader = f.Identity
	}
	identity := func(made func(testing.TB, hsm.Keeper, message.Address, time.Time) keyring.Identity, local string) keyring.Identity {
		id := made(t, token, message.Address{Local: local, Domain: "company1.example"}, at)
		id.Trust = keyring.Trusted
		if id.Format != s.Format() {
			t.Fatalf("identity is in %q, the protector in %q", id.Format, s.Format())
		}
		return id
	}
	s.alice, s.bob, s.carol = identity(f.Identity, "alice"), identity(f.Reader, "bob"), identity(f.Reader, "carol")
	for _, c := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"round trip", s.roundTrip},
		{"signed only", s.signedOnly},
		{"header", s.header},
		{"wrong recipient", s.wrongRecipient},
		{"tampered", s.tampered},
		{"truncated", s.truncated},
		{"foreign parts", s.foreign},
		{"nested", s.nested},
		{"changed after signing", s.changed},
		{"trust", s.trust},
		{"token away", s.away},
		{"impossible", s.impossible},
		{"at once", s.atOnce},
	} {
		t.Run(c.name, c.run)
	}
}

// parse reads text as a mail; nil where its structure is hopeless.
func parse(t testing.TB, text string) *message.Message {
	t.Helper()
	s := messagetest.Spools(t)()
	if _, err := s.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	m, err := message.Parse(s, message.Limits{})
	if err != nil {
		return nil
	}
	return m
}

// plain is a mail from Alice to Bob.
func plain(t testing.TB) *message.Message {
	return parse(t, strings.ReplaceAll("From: Alice <alice@company1.example>\nTo: bob@company1.example\nSubject: codes\nX-Folded: a\n b\nMIME-Version: 1.0\n"+
		"Content-Type: multipart/mixed; boundary=x\n\n--x\nContent-Type: text/plain; charset=utf-8\n\n"+secret+"\n--x\nContent-Type: application/octet-stream\nContent-Transfer-Encoding: base64\n\nAAEC\n--x--\n", "\n", "\r\n"))
}

func (s *suite) seal(t testing.TB, m *message.Message, by *keyring.Identity, to ...keyring.Cert) *message.Message {
	t.Helper()
	sealed, err := s.Seal(t.Context(), protect.SealRequest{Message: m, Signer: by, Recipients: to, At: at, NewSpool: messagetest.Spools(t)})
	if err != nil {
		t.Fatalf("seal: %v", err)
	}
	return parse(t, messagetest.Text(t, sealed))
}

func (s *suite) request(t testing.TB, m *message.Message, by ...keyring.Identity) protect.OpenRequest {
	return protect.OpenRequest{Message: m, Identities: by, Certs: []keyring.Cert{s.alice.Cert}, At: at, NewSpool: messagetest.Spools(t)}
}

// canonical is the entity of a mail in the form that is signed, without the
// mark of RFC 9788 §2.1.
func canonical(t testing.TB, m *message.Message) string {
	t.Helper()
	var b bytes.Buffer
	if err := message.WriteCanonical(&b, m.Source, m.Root, nil); err != nil {
		t.Fatal(err)
	}
	return strings.Replace(b.String(), ";\r\n hp=\"cipher\"; protected-headers=\"v1\"", "", 1)
}

func (s *suite) roundTrip(t *testing.T) {
	for _, signed := range []bool{true, false} {
		var by *keyring.Identity
		if signed {
			by = &s.alice
		}
		signs := s.counted.Signs()
		sealed := s.seal(t, plain(t), by, s.bob.Cert, s.carol.Cert)
		if got := s.counted.Signs() - signs; signed && got != 1 || !signed && got != 0 {
			t.Errorf("signed %v: %d signatures", signed, got)
		}
		if strings.Contains(messagetest.Text(t, sealed), secret) {
			t.Fatalf("plaintext in\n%s", messagetest.Text(t, sealed))
		}
		if got := s.Detect(sealed); got != protect.Sealed {
			t.Fatalf("detect: got %d, want %d", got, protect.Sealed)
		}
		for _, reader := range []keyring.Identity{s.bob, s.carol} {
			unwraps := s.counted.Unwraps()
			m, f, err := s.Open(t.Context(), s.request(t, sealed, reader))
			if err != nil {
				t.Fatalf("open: %v", err)
			}
			if got := s.counted.Unwraps() - unwraps; got != 1 {
				t.Errorf("%d token operations, want 1", got)
			}
			if !f.Opened || f.Signed != signed || f.Good != signed || f.Format != s.Format() {
				t.Errorf("signed %v: got %+v", signed, f)
			}
			if signed && (f.Signer != s.alice.Fingerprint || len(f.Signers) != 1 || f.Signers[0] != s.alice.Address) {
				t.Errorf("signer: got %+v", f)
			}
			if got, want := canonical(t, m), canonical(t, plain(t)); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			head, _, _ := strings.Cut(messagetest.Text(t, m), "\r\n\r\n")
			for _, line := range []string{"From: Alice <alice@company1.example>\r\n", "To: bob@company1.example\r\n", "Subject: codes\r\n", "X-Folded: a\r\n b\r\n"} {
				if name, _, _ := strings.Cut(line, ":"); strings.Count(head, line) != 1 || m.Count(name) != 1 {
					t.Errorf("%q is not there once in\n%s", line, head)
				}
			}
		}
	}
}

func (s *suite) signedOnly(t *testing.T) {
	signed := s.seal(t, plain(t), &s.alice)
	if got := s.Detect(signed); got != protect.Signed {
		t.Fatalf("detect: got %d, want %d", got, protect.Signed)
	}
	if !strings.Contains(messagetest.Text(t, signed), secret) {
		t.Error("signed text can't be read")
	}
	m, f, err := s.Open(t.Context(), s.request(t, signed))
	if err != nil || m != signed || f.Opened || !f.Good || f.Reason != protect.ReasonGood {
		t.Errorf("got %+v, %v", f, err)
	}
}

// header: what is outside stays as it is, once, but for the subject of a sealed
// mail, and what describes the body is that of the new body.
func (s *suite) header(t *testing.T) {
	for name, m := range map[string]*message.Message{
		"signed": s.seal(t, plain(t), &s.alice),
		"sealed": s.seal(t, plain(t), &s.alice, s.bob.Cert),
	} {
		subject := "Subject: codes\r\n"
		if name == "sealed" {
			subject = "Subject: [...]\r\n"
		}
		head, _, _ := strings.Cut(messagetest.Text(t, m), "\r\n\r\n")
		for _, line := range []string{"From: Alice <alice@company1.example>\r\n", subject, "X-Folded: a\r\n b\r\n"} {
			if strings.Count(head, line) != 1 {
				t.Errorf("%s: %q is not there once in\n%s", name, line, head)
			}
		}
		if strings.Count(head, "Subject:") != 1 {
			t.Errorf("%s: got\n%s\nwant one subject", name, head)
		}
		for _, field := range []string{"MIME-Version", "Content-Type"} {
			if n := m.Count(field); n != 1 {
				t.Errorf("%s: %d times %s", name, n, field)
			}
		}
		for line := range strings.SplitSeq(messagetest.Text(t, m), "\r\n") {
			if len(line) > 998 || strings.ContainsAny(line, "\r\n\x00") || strings.ContainsFunc(line, func(r rune) bool { return r > 127 }) {
				t.Errorf("%s: line can't travel: %q", name, line)
			}
		}
	}
}

// refused wants the one error, bare, and nothing with it.
func (s *suite) refused(t *testing.T, what string, r protect.OpenRequest) {
	t.Helper()
	m, f, err := s.Open(t.Context(), r)
	if err != protect.ErrCannotOpen || m != nil || f.Opened || f.Good {
		t.Errorf("%s: got %v, %+v, %v, want %v", what, m, f, err, protect.ErrCannotOpen)
	}
}

func (s *suite) wrongRecipient(t *testing.T) {
	sealed := s.seal(t, plain(t), &s.alice, s.bob.Cert)
	unwraps := s.counted.Unwraps()
	s.refused(t, "another's identity", s.request(t, sealed, s.carol))
	s.refused(t, "no identity", s.request(t, sealed))
	if got := s.counted.Unwraps() - unwraps; got != 0 {
		t.Errorf("%d token operations for mail to somebody else, want 0", got)
	}
}

// tampered changes each byte of the body in turn. The mail comes as it came,
// does not open, or opens to the very same: never to anything else.
func (s *suite) tampered(t *testing.T) {
	sealed := s.seal(t, plain(t), &s.alice, s.bob.Cert)
	whole := messagetest.Text(t, sealed)
	want, _, err := s.Open(t.Context(), s.request(t, sealed, s.bob))
	if err != nil {
		t.Fatal(err)
	}
	entity := canonical(t, want)
	for i := int(sealed.Root.Body.Start); i < len(whole); i++ {
		changed := []byte(whole)
		if changed[i] ^= 1; changed[i] == 0 || changed[i] == '\r' || changed[i] == '\n' || whole[i] == '\r' || whole[i] == '\n' {
			continue // the door refuses such lines
		}
		m := parse(t, string(changed))
		if m == nil || s.Detect(m) != protect.Sealed {
			continue
		}
		opened, f, err := s.Open(t.Context(), s.request(t, m, s.bob))
		switch {
		case err == nil && f.Opened && canonical(t, opened) == entity:
		case err == protect.ErrCannotOpen && opened == nil && !f.Good && !f.Opened:
		case err == nil && s.format.Malleable && !f.Good:
		default:
			t.Errorf("byte %d %q: got %v, %+v, %v", i, whole[i], opened, f, err)
		}
	}
}

func (s *suite) truncated(t *testing.T) {
	whole := messagetest.Text(t, s.seal(t, plain(t), &s.alice, s.bob.Cert))
	for n := len(whole) - 1; n > 0; n -= 37 {
		m := parse(t, whole[:n])
		if m == nil || s.Detect(m) != protect.Sealed {
			continue
		}
		opened, f, err := s.Open(t.Context(), s.request(t, m, s.bob))
		if err == nil && !strings.Contains(messagetest.Text(t, opened), secret) || err != nil && (err != protect.ErrCannotOpen || opened != nil || f.Opened) {
			t.Errorf("cut at %d of %d: got %v, %+v, %v", n, len(whole), opened, f, err)
		}
	}
}

// foreign: a mail that holds something beside the protected part is not that
// format's mail (R7, R10).
func (s *suite) foreign(t *testing.T) {
	for name, protected := range map[string]*message.Message{
		"signed": s.seal(t, plain(t), &s.alice),
		"sealed": s.seal(t, plain(t), &s.alice, s.bob.Cert),
	} {
		whole := messagetest.Text(t, protected)
		from := strings.Index(whole, "Content-Type:")
		mixed := parse(t, "From: Alice <alice@company1.example>\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=outer\r\n\r\n--outer\r\nContent-Type: text/plain\r\n\r\npay me\r\n--outer\r\n"+whole[from:]+"\r\n--outer--\r\n")
		if got := s.Detect(mixed); got != protect.None {
			t.Errorf("%s beside text: got layer %d, want none", name, got)
		}
		if _, f, err := s.Open(t.Context(), s.request(t, mixed, s.bob)); err == nil && (f.Good || f.Opened) {
			t.Errorf("%s beside text: got %+v", name, f)
		}
	}
}

// nested: one layer is taken off, and the one below stays shut and unclaimed (R4, R13).
func (s *suite) nested(t *testing.T) {
	once := s.seal(t, plain(t), &s.alice, s.bob.Cert)
	twice := s.seal(t, once, nil, s.bob.Cert)
	unwraps := s.counted.Unwraps()
	m, f, err := s.Open(t.Context(), s.request(t, twice, s.bob))
	if err != nil || !f.Opened || f.Good || strings.Contains(messagetest.Text(t, m), secret) {
		t.Errorf("got %+v, %v", f, err)
	}
	if got := s.counted.Unwraps() - unwraps; got != 1 {
		t.Errorf("%d token operations, want 1", got)
	}
	around := s.seal(t, once, &s.alice)
	if _, f, err := s.Open(t.Context(), s.request(t, around, s.bob)); err != nil || f.Good != s.format.Wrapped || f.Opened != s.format.Wrapped {
		t.Errorf("signed around sealed: got %+v, %v", f, err)
	}
	unsigned := s.seal(t, plain(t), nil, s.bob.Cert)
	if _, f, err := s.Open(t.Context(), s.request(t, s.seal(t, unsigned, &s.alice), s.bob)); err != nil || f.Good || f.Opened != s.format.Wrapped {
		t.Errorf("signed around what is sealed and not signed: got %+v, %v", f, err)
	}
}

func (s *suite) changed(t *testing.T) {
	whole := messagetest.Text(t, s.seal(t, plain(t), &s.alice))
	m := parse(t, strings.Replace(whole, secret, strings.ToUpper(secret), 1))
	_, f, err := s.Open(t.Context(), s.request(t, m))
	if err != nil || f.Good || f.Reason != protect.ReasonBad || !f.Signed {
		t.Errorf("got %+v, %v, want %s", f, err, protect.ReasonBad)
	}
}

func (s *suite) trust(t *testing.T) {
	signed := s.seal(t, plain(t), &s.alice)
	seen, distrusted := s.alice.Cert, s.alice.Cert
	seen.Trust, distrusted.Trust = keyring.Seen, keyring.Distrusted
	for _, c := range []struct {
		name  string
		certs []keyring.Cert
		want  string
	}{
		{"nobody", nil, protect.ReasonUnknownCert},
		{"somebody else", []keyring.Cert{s.carol.Cert}, protect.ReasonUnknownCert},
		{"seen", []keyring.Cert{seen}, protect.ReasonUntrusted},
		{"distrusted", []keyring.Cert{distrusted}, protect.ReasonUntrusted},
	} {
		r := s.request(t, signed)
		r.Certs = c.certs
		if _, f, err := s.Open(t.Context(), r); err != nil || f.Good || f.Reason != c.want {
			t.Errorf("%s: got %+v, %v, want %s", c.name, f, err, c.want)
		}
	}
}

// broken is a token that answers nothing but err.
type broken struct {
	hsm.Token
	err error
}

func (b broken) Sign(context.Context, hsm.KeyID, hsm.SignAlg, []byte) ([]byte, error) {
	return nil, b.err
}

func (b broken) Unwrap(context.Context, hsm.KeyID, hsm.Wrapped) (hsm.SessionKey, error) {
	return hsm.SessionKey{}, b.err
}

// away: a token's trouble is told as it is, and is never a mail that does not open.
func (s *suite) away(t *testing.T) {
	sealed := s.seal(t, plain(t), &s.alice, s.bob.Cert)
	for _, want := range []error{hsm.ErrAway, hsm.ErrLocked, hsm.ErrEmpty, hsm.ErrNoKey, hsm.ErrRefused, hsm.ErrBudget, hsm.ErrBusy, hsm.ErrOpaque, hsm.ErrClock} {
		p := s.format.New(broken{s.token, want})
		m, _, err := p.Open(t.Context(), s.request(t, sealed, s.bob))
		if !errors.Is(err, want) || errors.Is(err, protect.ErrCannotOpen) || m != nil {
			t.Errorf("open: got %v, %v, want %v", m, err, want)
		}
		for _, to := range [][]keyring.Cert{nil, {s.bob.Cert}} {
			m, err := p.Seal(t.Context(), protect.SealRequest{Message: plain(t), Signer: &s.alice, Recipients: to, At: at, NewSpool: messagetest.Spools(t)})
			if !errors.Is(err, want) || m != nil {
				t.Errorf("seal: got %v, %v, want %v", m, err, want)
			}
		}
	}
}

// impossible: what can't be protected is an error, never clear text (R26).
func (s *suite) impossible(t *testing.T) {
	cut := s.carol.Cert
	cut.Raw = cut.Raw[:len(cut.Raw)/2]
	late := s.bob.Expires.Add(time.Hour)
	for _, c := range []struct {
		name string
		r    protect.SealRequest
	}{
		{"nobody", protect.SealRequest{At: at}},
		{"half a certificate", protect.SealRequest{Recipients: []keyring.Cert{cut}, At: at}},
		{"one of two", protect.SealRequest{Signer: &s.alice, Recipients: []keyring.Cert{s.bob.Cert, cut}, At: at}},
		{"expired", protect.SealRequest{Recipients: []keyring.Cert{s.bob.Cert}, At: late}},
	} {
		c.r.Message, c.r.NewSpool = plain(t), messagetest.Spools(t)
		if m, err := s.Seal(t.Context(), c.r); err == nil || m != nil {
			t.Errorf("%s: got %v, %v", c.name, m, err)
		}
	}
	if err := s.Usable(s.bob.Cert, at); err != nil {
		t.Errorf("usable: %v", err)
	}
	if err := s.Usable(s.bob.Cert, late); !errors.Is(err, protect.ErrNoCert) {
		t.Errorf("usable when expired: got %v, want %v", err, protect.ErrNoCert)
	}
	if err := s.Usable(cut, at); !errors.Is(err, protect.ErrNoCert) {
		t.Errorf("half a certificate: got %v, want %v", err, protect.ErrNoCert)
	}
}

// atOnce: one protector serves many mails at a time.
func (s *suite) atOnce(t *testing.T) {
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			sealed, err := s.Seal(t.Context(), protect.SealRequest{Message: plain(t), Signer: &s.alice, Recipients: []keyring.Cert{s.bob.Cert}, At: at, NewSpool: messagetest.Spools(t)})
			if err != nil {
				t.Errorf("seal: %v", err)
				return
			}
			if _, f, err := s.Open(t.Context(), s.request(t, sealed, s.bob)); err != nil || !f.Good {
				t.Errorf("open: got %+v, %v", f, err)
			}
		})
	}
	wg.Wait()
}
