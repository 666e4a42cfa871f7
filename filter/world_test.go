package filter

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/openpgp"
	"postern/filter/policy"
	"postern/filter/protect"
	"postern/filter/record"
	"postern/filter/transport"
	"postern/hsm"
	"postern/hsm/hsmtest"
)

// The clock of the tests, and when the certificates were made.
var (
	noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	made = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
)

const (
	gatewayName = "gw.company1.example"
	traceID     = "TRACETRACETRACE1"
)

// world is a gateway between a token, a keyring and a next hop that the test
// holds in its hands. company1.example has a domain's identity, alice there
// one of her own; bob@partner.example and dave@freemail.example are known
// partners, mallory@evil.example is not known.
type world struct {
	t      testing.TB
	token  *token
	ring   *ring
	hop    *hop
	log    *bytes.Buffer
	guard  *hooked
	config Config
	people map[string]keyring.Identity // whoever has keys, by address or domain
	gate   *Gateway
}

func newWorld(t testing.TB) *world {
	t.Helper()
	return newWorldOn(t, hsmtest.Memory(t))
}

// newWorldOn is newWorld on a token of the test's own.
func newWorldOn(t testing.TB, keeper hsm.Keeper) *world {
	t.Helper()
	w := &world{t: t, token: &token{Keeper: keeper}, ring: &ring{}, hop: &hop{}, log: &bytes.Buffer{}, people: map[string]keyring.Identity{}}
	w.guard = &hooked{Protector: openpgp.New(openpgp.Config{Token: w.token})}
	for _, who := range []string{"company1.example", "alice@company1.example", "bob@partner.example", "dave@freemail.example", "mallory@evil.example"} {
		w.people[who] = w.person(who)
	}
	w.ring.ours = []keyring.Identity{w.people["alice@company1.example"], w.people["company1.example"]}
	w.ring.partners = []keyring.Cert{w.people["bob@partner.example"].Cert, w.people["dave@freemail.example"].Cert}
	w.config = Config{Name: gatewayName, KeyRing: w.ring, Protectors: []protect.Protector{w.guard},
		Policy: &policy.Policy{Domains: map[string]policy.Sign{"company1.example": policy.SignAlways}, Recipients: map[string]policy.Protect{},
			Partners: map[string]policy.Protect{"strict.example": policy.Require}, Default: policy.Optional, Undecryptable: policy.Mark},
		Hops:   map[policy.Direction]Hop{policy.Inbound: w.hop, policy.Outbound: w.hop},
		Spools: &message.Spools{Memory: 1 << 20, Max: 4 << 20, Dir: t.TempDir()},
		Log:    slog.New(slog.NewTextHandler(w.log, nil)), Now: func() time.Time { return noon }}
	w.record(record.Options{Now: w.config.Now})
	return w
}

// record gives the gateway a record of its own.
func (w *world) record(o record.Options) string {
	w.t.Helper()
	path := filepath.Join(w.t.TempDir(), "record.db")
	r, err := record.Open(path, o)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { r.Close() })
	w.config.Record = r
	w.gate = New(w.config)
	return path
}

// person makes keys in the token and a certificate for them.
func (w *world) person(who string) keyring.Identity {
	w.t.Helper()
	spec := openpgp.CertSpec{Name: "Test", Created: made, Lifetime: 2 * 365 * 24 * time.Hour, Domain: who}
	if strings.Contains(who, "@") {
		spec.Address, spec.Domain = address(w.t, who), ""
	}
	var err error
	if spec.Primary, err = w.token.Generate(w.t.Context(), hsm.KeySpec{Algorithm: hsm.P256, Usage: hsm.Sign, Label: "openpgp/" + who + "/sign"}); err != nil {
		w.t.Fatal(err)
	}
	if spec.Subkey, err = w.token.Generate(w.t.Context(), hsm.KeySpec{Algorithm: hsm.P256, Usage: hsm.Unwrap, Label: "openpgp/" + who + "/unwrap"}); err != nil {
		w.t.Fatal(err)
	}
	cert, err := openpgp.Create(w.t.Context(), w.token, spec)
	if err != nil {
		w.t.Fatalf("create certificate of %s: %v", who, err)
	}
	cert.Trust, cert.Source, cert.FirstSeen, cert.LastSeen = keyring.Trusted, "test", made, made
	return keyring.Identity{Cert: cert, Address: spec.Address, Domain: spec.Domain}
}

func address(t testing.TB, s string) message.Address {
	t.Helper()
	a, err := message.ParseAddress(s)
	if err != nil {
		t.Fatalf("address %q: %v", s, err)
	}
	return a
}

// crlf gives a mail written in Go source the line ends of SMTP.
func crlf(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }

// envelope is a client's, with a fixed trace id; from "" is the null sender.
func (w *world) envelope(from string, to ...string) *transport.Envelope {
	w.t.Helper()
	e := &transport.Envelope{Trace: traceID, Client: netip.MustParseAddrPort("192.0.2.7:40000"), Hello: "client.example", Null: from == ""}
	if from != "" {
		e.From = address(w.t, from)
	}
	for _, a := range to {
		e.Recipients = append(e.Recipients, transport.Recipient{Address: address(w.t, a)})
	}
	return e
}

// deliver is a whole SMTP transaction: RCPT for each recipient, then DATA for
// those that were taken.
func (w *world) deliver(d policy.Direction, e *transport.Envelope, mail io.Reader) transport.Reply {
	w.t.Helper()
	h := w.gate.Handler(Listener{Name: "test", Direction: d})
	all := e.Recipients
	e.Recipients = nil
	var refused transport.Reply
	for _, r := range all {
		if err := h.Recipient(w.t.Context(), e, r); err != nil {
			var ok bool
			if refused, ok = err.(transport.Reply); !ok {
				w.t.Fatalf("RCPT %v: got %T, want a Reply", r.Address, err)
			}
			continue
		}
		e.Recipients = append(e.Recipients, r)
	}
	if len(e.Recipients) == 0 {
		return refused
	}
	return h.Data(w.t.Context(), e, mail)[0]
}

func (w *world) send(d policy.Direction, mail, from string, to ...string) transport.Reply {
	w.t.Helper()
	return w.deliver(d, w.envelope(from, to...), strings.NewReader(mail))
}

// want compares code and enhanced code, and holds that the text is the fixed
// one with the trace id behind it.
func (w *world) want(what string, got transport.Reply, want string) {
	w.t.Helper()
	if s := got.String(); !strings.HasPrefix(s, want+" ") || !strings.HasSuffix(s, " "+traceID) {
		w.t.Errorf("%s: got reply %q, want %s … %s\n%s", what, s, want, traceID, w.log)
	}
}

// parsed reads a mail of which the test needs the structure.
func parsed(t testing.TB, mail []byte) *message.Message {
	t.Helper()
	m, err := message.Parse(bytes.NewReader(mail), message.Limits{})
	if err != nil {
		t.Fatalf("parse: %v\n%s", err, mail)
	}
	return m
}

// bytesOf is what WriteTo writes.
func bytesOf(t testing.TB, m *message.Message) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := m.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// sealed is the mail as a partner's program would send it: signed by the one
// (unless ""), encrypted to the others (unless there are none).
func (w *world) sealed(mail, signer string, to ...string) string {
	w.t.Helper()
	r := protect.SealRequest{Message: parsed(w.t, []byte(mail)), At: noon, NewSpool: w.spool}
	if signer != "" {
		id := w.people[signer]
		r.Signer = &id
	}
	for _, who := range to {
		r.Recipients = append(r.Recipients, w.people[who].Cert)
	}
	m, err := w.guard.Protector.Seal(w.t.Context(), r)
	if err != nil {
		w.t.Fatalf("seal: %v", err)
	}
	return string(bytesOf(w.t, m))
}

func (w *world) spool() *message.Spool {
	s := w.config.Spools.New()
	w.t.Cleanup(func() { s.Close() })
	return s
}

// opened reads a mail with the keys of who; certs are the author's.
func (w *world) opened(mail []byte, who string, author string) (string, protect.Finding, error) {
	w.t.Helper()
	r := protect.OpenRequest{Message: parsed(w.t, mail), At: noon, NewSpool: w.spool, Identities: []keyring.Identity{w.people[who]}}
	if author != "" {
		r.Certs = []keyring.Cert{w.people[author].Cert}
	}
	m, finding, err := w.guard.Protector.Open(w.t.Context(), r)
	if err != nil {
		return "", finding, err
	}
	return string(bytesOf(w.t, m)), finding, nil
}

// layer is what the mail looks like from outside.
func (w *world) layer(mail []byte) protect.Layer { return w.guard.Protector.Detect(parsed(w.t, mail)) }

// token is a token that can be unplugged, and counts.
type token struct {
	hsm.Keeper
	mutex          sync.Mutex
	err            error // of every use; nil: it works
	signs, unwraps int
	used           []hsm.KeyID // of Unwrap
}

func (k *token) unplug(err error) {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	k.err = err
}

func (k *token) use(count *int) error {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	*count++
	return k.err
}

func (k *token) Sign(ctx context.Context, id hsm.KeyID, alg hsm.SignAlg, digest []byte) ([]byte, error) {
	if err := k.use(&k.signs); err != nil {
		return nil, err
	}
	return k.Keeper.Sign(ctx, id, alg, digest)
}

func (k *token) Unwrap(ctx context.Context, id hsm.KeyID, wr hsm.Wrapped) (hsm.SessionKey, error) {
	if err := k.use(&k.unwraps); err != nil {
		return hsm.SessionKey{}, err
	}
	k.mutex.Lock()
	k.used = append(k.used, id)
	k.mutex.Unlock()
	return k.Keeper.Unwrap(ctx, id, wr)
}

// ring is a keyring that can break.
type ring struct {
	ours     []keyring.Identity
	partners []keyring.Cert
	err      error
}

func (r *ring) Identities(_ context.Context, a message.Address) (list []keyring.Identity, err error) {
	for _, i := range r.ours {
		if i.Domain == a.Domain || i.Domain == "" && i.Address.Key() == a.Key() {
			list = append(list, i)
		}
	}
	return list, r.err
}

func (r *ring) Certs(_ context.Context, a message.Address) (list []keyring.Cert, err error) {
	for _, c := range r.partners {
		for _, b := range c.Addresses {
			if b.Key() == a.Key() {
				list = append(list, c)
			}
		}
	}
	return list, r.err
}

func (r *ring) Ours(_ context.Context, fingerprint string) (list []keyring.Identity, err error) {
	for _, i := range r.ours {
		if i.Fingerprint == fingerprint {
			list = append(list, i)
		}
	}
	return list, r.err
}

// hop is a next hop that keeps what it got. answers are given in turn; where
// there is none left, everybody is taken.
type hop struct {
	mutex   sync.Mutex
	answers []func(*transport.Envelope) transport.Result
	got     []delivery
}

type delivery struct {
	env  transport.Envelope
	mail []byte
}

func (h *hop) Deliver(_ context.Context, e *transport.Envelope, size int64, mail io.WriterTo) transport.Result {
	var b bytes.Buffer
	if _, err := mail.WriteTo(&b); err != nil {
		return transport.Result{Err: err}
	}
	if size != int64(b.Len()) {
		return transport.Result{Err: fmt.Errorf("size %d announced, %d came", size, b.Len())}
	}
	h.mutex.Lock()
	answer := taken
	if len(h.answers) > 0 {
		answer, h.answers = h.answers[0], h.answers[1:]
	}
	h.mutex.Unlock()
	res := answer(e)
	if res.Err == nil {
		h.mutex.Lock()
		h.got = append(h.got, delivery{*e, b.Bytes()})
		h.mutex.Unlock()
	}
	return res
}

// taken is 250 for everybody.
func taken(e *transport.Envelope) transport.Result {
	return answer(make([]int, len(e.Recipients))...)(e)
}

// answer replies with the codes, 0 for 250.
func answer(codes ...int) func(*transport.Envelope) transport.Result {
	return func(*transport.Envelope) transport.Result {
		res := transport.Result{Carriage: transport.Carriage{TLS: "clear"}}
		for _, c := range codes {
			r := transport.Reply{Code: 250, Enhanced: [3]int{2, 0, 0}, Text: "taken"}
			if c != 0 {
				r = transport.Reply{Code: c, Enhanced: [3]int{c / 100, 1, 1}, Text: "said the next hop"}
			}
			res.Replies = append(res.Replies, r)
		}
		return res
	}
}

// recipients are the envelopes that the hop took, one line for each mail.
func (h *hop) recipients() (lines []string) {
	for _, d := range h.got {
		var to []string
		for _, r := range d.env.Recipients {
			to = append(to, r.Address.Key())
		}
		lines = append(lines, strings.Join(to, " "))
	}
	return lines
}

// hooked is a Protector whose steps a test can take over.
type hooked struct {
	protect.Protector
	detect func(*message.Message) protect.Layer
	open   func(protect.OpenRequest) (*message.Message, protect.Finding, error)
	seal   func(protect.SealRequest) (*message.Message, error)
	class  func(keyring.Cert) string
	signs  func(keyring.Identity) error
}

func (h *hooked) Class(c keyring.Cert) string {
	if h.class != nil {
		return h.class(c)
	}
	return h.Protector.Class(c)
}

func (h *hooked) Signs(i keyring.Identity, at time.Time) error {
	if h.signs != nil {
		return h.signs(i)
	}
	return h.Protector.Signs(i, at)
}

func (h *hooked) Detect(m *message.Message) protect.Layer {
	if h.detect != nil {
		return h.detect(m)
	}
	return h.Protector.Detect(m)
}

func (h *hooked) Open(ctx context.Context, r protect.OpenRequest) (*message.Message, protect.Finding, error) {
	if h.open != nil {
		return h.open(r)
	}
	return h.Protector.Open(ctx, r)
}

func (h *hooked) Seal(ctx context.Context, r protect.SealRequest) (*message.Message, error) {
	if h.seal != nil {
		return h.seal(r)
	}
	return h.Protector.Seal(ctx, r)
}
