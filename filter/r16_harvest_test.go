package filter

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/policy"
	"postern/filter/protect"
)

// school keeps what it is taught, where it can.
type school struct {
	mutex sync.Mutex
	got   []keyring.Cert
	err   error
	gate  chan struct{} // closed, or nil: open
	panic bool
}

func (s *school) Learn(_ context.Context, c keyring.Cert) error {
	if s.gate != nil {
		<-s.gate
	}
	if s.panic {
		panic("school is out")
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.got = append(s.got, c)
	return s.err
}

// brought makes the world's protector find, in a mail that opens well, the
// certificates beside its signature.
func (w *world) brought(certs ...keyring.Cert) {
	real := w.guard.Protector
	w.guard.open = func(r protect.OpenRequest) (*message.Message, protect.Finding, error) {
		m, f, err := real.Open(w.t.Context(), r)
		f.Brought = certs
		return m, f, err
	}
}

// foreign is a certificate that a mail could bring.
func foreign(t *testing.T, n int, addresses ...string) keyring.Cert {
	t.Helper()
	c := keyring.Cert{Format: keyring.SMIME, Fingerprint: fmt.Sprintf("%064X", n), Raw: []byte{byte(n)}, Trust: keyring.Trusted,
		Domains: []string{"partner.example"}, Source: "import", Created: made}
	for _, s := range addresses {
		c.Addresses = append(c.Addresses, address(t, s))
	}
	return c
}

// TestWhatIsLearned (R16): only what came with a signature that was verified,
// only for the addresses of its signer, and as seen.
func TestWhatIsLearned(t *testing.T) {
	bob := "bob@partner.example"
	for _, c := range []struct {
		name   string
		signer string
		change func(*world)
		want   string
	}{
		{"verified", bob, nil, "1 [bob@partner.example], 2 [bob@partner.example], 4 []"},
		{"not signed", "", nil, ""},
		{"signed by somebody else", "dave@freemail.example", nil, ""},
		{"signed by nobody known", bob, func(w *world) { w.ring.partners = nil }, ""},
		{"signed by one who was only seen", bob, func(w *world) { w.ring.partners[0].Trust = keyring.Seen }, ""},
		{"the next hop did not take the mail", bob, func(w *world) { w.hop.answers = append(w.hop.answers, answer(451)) }, ""},
		{"nothing is to be learned", bob, func(w *world) { w.gate.Learn = nil }, ""},
	} {
		w := newWorld(t)
		s := &school{}
		w.gate.Learn = s
		w.brought(foreign(t, 1, bob), foreign(t, 2, bob, "ceo@company1.example", "dave@freemail.example"), foreign(t, 3, "ceo@company1.example"),
			keyring.Cert{Format: keyring.SMIME, Fingerprint: fmt.Sprintf("%064X", 4), Role: keyring.Intermediate, Addresses: foreign(t, 0, bob).Addresses})
		if c.change != nil {
			c.change(w)
		}
		w.send(policy.Inbound, w.sealed(in, c.signer, "alice@company1.example"), bob, "alice@company1.example")
		w.gate.Idle()
		var got []string
		for _, k := range s.got {
			got = append(got, fmt.Sprint(strings.TrimLeft(k.Fingerprint, "0"), " ", k.Addresses))
			if k.Trust != keyring.Seen || k.Domains != nil || k.Source != "mail" || !k.LastSeen.Equal(noon) {
				t.Errorf("%s: got %+v, want it seen, now, by mail, for no domain", c.name, k)
			}
		}
		if strings.Join(got, ", ") != c.want {
			t.Errorf("%s: got %q, want %q\n%s", c.name, got, c.want, w.log)
		}
	}
}

// TestLearningHoldsUpNoMail: a store that hangs, fails or panics is told to the
// log and to nobody else, and what waits for it is bounded.
func TestLearningHoldsUpNoMail(t *testing.T) {
	for name, s := range map[string]*school{
		"hangs":  {gate: make(chan struct{})},
		"fails":  {err: errors.New("disk full")},
		"panics": {panic: true},
	} {
		w := newWorld(t)
		w.gate.Learn = s
		w.brought(foreign(t, 1, "bob@partner.example"))
		mail := w.sealed(in, "bob@partner.example", "alice@company1.example")
		for range 3 {
			w.want(name, w.send(policy.Inbound, mail, "bob@partner.example", "alice@company1.example"), "250 2.0.0 taken")
		}
		for range 2 * maxLessons {
			w.gate.lessons.put(w.gate, lesson{cert: foreign(t, 1)})
		}
		if n := len(w.gate.lessons.queue); n > maxLessons {
			t.Errorf("%s: %d wait, want %d at most", name, n, maxLessons)
		}
		if s.gate != nil {
			close(s.gate)
		}
		w.gate.Idle()
		if len(w.hop.got) != 3 {
			t.Errorf("%s: got %d mails, want 3", name, len(w.hop.got))
		}
		if name != "hangs" && !strings.Contains(w.log.String(), `msg=learn `) {
			t.Errorf("%s: the log says nothing:\n%s", name, w.log)
		}
	}
}

// TestPlantedCertificates (R16), from mail to file to the next mail: what a
// mail brought replaces nothing, promotes nothing, and is sealed to only where
// the rule of the site lets it, the address has nothing that is trusted, and
// the path is good.
func TestPlantedCertificates(t *testing.T) {
	const carol = "carol@other.example"
	fit := func(err error) func(context.Context, keyring.Cert, message.Address, time.Time) error {
		return func(context.Context, keyring.Cert, message.Address, time.Time) error { return err }
	}
	away := errors.New("nobody says whether it is revoked")
	for _, c := range []struct {
		name  string
		known func(keyring.Cert) *keyring.Cert // what operators have for carol, from what is seen
		judge func(context.Context, keyring.Cert, message.Address, time.Time) error
		want  string // reply to mail that must be sealed
	}{
		{"no rule", nil, nil, "550 5.7.3"},
		{"the rule, and a good path", nil, fit(nil), "250 2.0.0"},
		{"the rule, and no path", nil, fit(ErrUnfit), "550 5.7.3"},
		{"the rule, and nobody to ask", nil, fit(away), "451 4.3.0"},
		{"distrusted by an operator", func(c keyring.Cert) *keyring.Cert { c.Trust = keyring.Distrusted; return &c }, fit(nil), "550 5.7.3"},
		{"a trusted one, expired", func(c keyring.Cert) *keyring.Cert {
			c.Fingerprint, c.Trust = strings.Repeat("D", 40), keyring.Trusted
			c.Raw = []byte("of no use")
			return &c
		}, fit(nil), "550 5.7.3"},
		{"promoted by an operator", func(c keyring.Cert) *keyring.Cert { c.Trust, c.Domains = keyring.Trusted, nil; return &c }, nil, "250 2.0.0"},
	} {
		w := newWorld(t)
		w.people[carol] = w.person(carol)
		planted := w.people[carol].Cert
		planted.Trust, planted.Domains = keyring.Trusted, []string{"other.example", "partner.example"}
		dir := t.TempDir()
		store := func(name string) (*keyring.Store, *keyring.Store) {
			writer, err := keyring.Open(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			reader, err := keyring.OpenReadOnly(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { writer.Close(); reader.Close() })
			return writer, reader
		}
		operators, first := store("keyring.db")
		seen, second := store("seen.db")
		for _, id := range w.ring.ours {
			if err := operators.Bind(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
		if c.known != nil {
			if err := operators.Import(t.Context(), *c.known(planted)); err != nil {
				t.Fatal(err)
			}
		}
		if err := seen.Learn(t.Context(), planted); err != nil {
			t.Fatal(err)
		}
		w.gate.KeyRing, w.gate.Judge = keyring.Join(first, second), c.judge
		w.gate.Policy.Recipients[carol] = policy.Require
		got := w.send(policy.Outbound, out, "alice@company1.example", carol)
		if !strings.HasPrefix(got.String(), c.want) {
			t.Errorf("%s: got %v, want %s\n%s", c.name, got, c.want, w.log)
		}
		if strings.HasPrefix(c.want, "250") {
			if _, f, err := w.opened(w.hop.got[0].mail, carol, "alice@company1.example"); err != nil || !f.Opened {
				t.Errorf("%s: carol cannot open it: %v", c.name, err)
			}
		}
		if got := w.send(policy.Outbound, out, "alice@company1.example", "x@partner.example"); !strings.HasPrefix(got.String(), "250") || w.layer(w.hop.got[len(w.hop.got)-1].mail) == protect.Sealed {
			t.Errorf("%s: mail to a domain that the planted certificate claims: got %v, sealed", c.name, got)
		}
	}
}
