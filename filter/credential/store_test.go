package credential

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"postern/hsm"
	"postern/hsm/hsmtest"
)

// box is a token with a key of each kind, and a store of their certificates.
type box struct {
	t     *testing.T
	token *away
	keys  map[string]hsm.Key
	dir   string
	log   bytes.Buffer
	store *Store
}

// away is a token that can go away, and counts who signs at once.
type away struct {
	hsm.Keeper
	gone    atomic.Bool
	signing chan struct{} // nil: nobody is held up
	inside  atomic.Int32
	most    atomic.Int32
}

func (a *away) Keys(ctx context.Context) ([]hsm.Key, error) {
	if a.gone.Load() {
		return nil, hsm.ErrAway
	}
	return a.Keeper.Keys(ctx)
}

func (a *away) Sign(ctx context.Context, id hsm.KeyID, alg hsm.SignAlg, digest []byte) ([]byte, error) {
	if a.gone.Load() {
		return nil, hsm.ErrAway
	}
	if a.signing != nil {
		n := a.inside.Add(1)
		for most := a.most.Load(); n > most && !a.most.CompareAndSwap(most, n); most = a.most.Load() {
		}
		<-a.signing
		a.inside.Add(-1)
	}
	return a.Keeper.Sign(ctx, id, alg, digest)
}

func newBox(t *testing.T) *box {
	t.Helper()
	b := &box{t: t, token: &away{Keeper: hsmtest.Memory(t)}, keys: map[string]hsm.Key{}, dir: t.TempDir()}
	b.keys[ECDSA] = generate(t, b.token, hsm.P256, hsm.Sign, "tls/"+mx+"/sign")
	b.keys[RSA] = generate(t, b.token, hsm.RSA3072, hsm.Sign, "tls/"+mx+"/sign-rsa")
	b.store = New(Config{Name: mx, Files: Places(b.dir, mx), Some: true, Token: b.token, Log: slog.New(slog.NewTextHandler(&b.log, nil))})
	return b
}

func (b *box) put(kind string, text []byte) {
	b.t.Helper()
	tmp := filepath.Join(b.dir, "new")
	if err := os.WriteFile(tmp, text, 0o644); err != nil {
		b.t.Fatal(err)
	}
	if err := os.Rename(tmp, Place(b.dir, mx, kind)); err != nil {
		b.t.Fatal(err)
	}
}

// shake is a handshake with client, and the certificate that was shown.
func (b *box) shake(client *tls.Config) (*x509.Certificate, error) {
	here, there := net.Pipe()
	defer here.Close()
	done := make(chan error, 1)
	go func() {
		s := tls.Server(there, &tls.Config{GetCertificate: b.store.Get, SessionTicketsDisabled: true})
		done <- s.Handshake()
		there.Close()
	}()
	client.InsecureSkipVerify = true
	c := tls.Client(here, client)
	err := c.Handshake()
	if err == nil {
		_, err = c.Read(make([]byte, 1)) // what the server has against it
		if errors.Is(err, io.EOF) {
			err = nil
		}
	}
	here.Close()
	if serr := <-done; err == nil && serr != nil {
		err = serr
	}
	if err != nil {
		return nil, err
	}
	return c.ConnectionState().PeerCertificates[0], nil
}

func only(version uint16, suites ...uint16) *tls.Config {
	return &tls.Config{MinVersion: version, MaxVersion: version, CipherSuites: suites, ServerName: "another.name.example"}
}

var (
	anything  = func() *tls.Config { return &tls.Config{ServerName: mx} }
	onlyRSA   = func() *tls.Config { return only(tls.VersionTLS12, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256) }
	onlyECDSA = func() *tls.Config { return only(tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256) }
)

// Both kinds stand side by side, and each client gets what it can check.
func TestBothKinds(t *testing.T) {
	b := newBox(t)
	kind := func(client *tls.Config) string {
		cert, err := b.shake(client)
		if err != nil {
			return err.Error()
		}
		return KindOf(cert.PublicKey)
	}
	b.put(RSA, selfSigned(t, b.token, b.keys[RSA], mx))
	if err := b.store.Check(); err != nil {
		t.Errorf("one of two: got %v", err)
	}
	if got := kind(anything()); got != RSA {
		t.Errorf("RSA alone: got %s", got)
	}
	if got := kind(only(tls.VersionTLS13)); got != RSA {
		t.Errorf("RSA in TLS 1.3, by PSS: got %s", got)
	}
	b.put(ECDSA, selfSigned(t, b.token, b.keys[ECDSA], mx))
	for _, c := range []struct {
		name   string
		client *tls.Config
		want   string
	}{
		{"anything", anything(), ECDSA},
		{"only RSA", onlyRSA(), RSA},
		{"only ECDSA", onlyECDSA(), ECDSA},
		{"TLS 1.3", only(tls.VersionTLS13), ECDSA},
		{"TLS 1.2", only(tls.VersionTLS12), ECDSA},
	} {
		if got := kind(c.client); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

// A certificate that changes is shown from the next handshake on; one that is
// no good is not, and the former stays.
func TestChangeAtRunTime(t *testing.T) {
	b := newBox(t)
	if err := b.store.Check(); !errors.Is(err, ErrChain) {
		t.Errorf("no file: got %v, want %v", err, ErrChain)
	}
	if _, err := b.shake(anything()); err == nil {
		t.Error("no file: got a handshake")
	}
	shown := func(when string, want []byte) {
		t.Helper()
		cert, err := b.shake(anything())
		if err != nil {
			t.Errorf("%s: %v", when, err)
		} else if !bytes.Equal(pemOf("CERTIFICATE", cert.Raw), want) {
			t.Errorf("%s: got another certificate", when)
		}
	}
	first, second := selfSigned(t, b.token, b.keys[ECDSA], mx), selfSigned(t, b.token, b.keys[ECDSA], mx)
	b.put(ECDSA, first)
	shown("first", first)
	b.put(ECDSA, second)
	shown("second", second)
	mail := generate(t, b.token, hsm.P256, hsm.Sign, "smime/company1.example/sign")
	for name, bad := range map[string][]byte{
		"half of it": second[:len(second)/2], "another name": selfSigned(t, b.token, b.keys[ECDSA], "mx.other.example"), "nothing": nil,
	} {
		b.log.Reset()
		b.put(ECDSA, bad)
		shown(name, second)
		shown(name+", again", second)
		if n := strings.Count(b.log.String(), "level=WARN"); n != 1 {
			t.Errorf("%s: got %d warnings, want 1: %s", name, n, &b.log)
		}
	}
	if err := os.Remove(Place(b.dir, mx, ECDSA)); err != nil {
		t.Fatal(err)
	}
	shown("removed", second)
	b.put(ECDSA, first)
	shown("back", first)
	mine := selfSigned(t, b.token, mail, mx)
	b.put(ECDSA, mine)
	shown("one whose key is for mail", first)
	b.store = New(b.store.Config)
	if err := b.store.Check(); !errors.Is(err, ErrKey) {
		t.Errorf("a key for mail: got %v, want %v", err, ErrKey)
	}
	if _, err := b.shake(anything()); err == nil {
		t.Error("a key for mail signed a handshake")
	}
	b.token.gone.Store(true)
	b.store = New(b.store.Config)
	if err := b.store.Check(); err != nil {
		t.Errorf("a key for mail, token away: got %v", err)
	}
	b.token.gone.Store(false)
	if _, err := b.shake(anything()); err == nil {
		t.Error("a key for mail signed a handshake when the token was back")
	}
	b.put(ECDSA, first)
	shown("its own again", first)
}

// A listener starts while the token is away; its handshakes fail until it is back.
func TestTokenAway(t *testing.T) {
	b := newBox(t)
	b.put(ECDSA, selfSigned(t, b.token, b.keys[ECDSA], mx))
	b.token.gone.Store(true)
	if err := b.store.Check(); err != nil {
		t.Errorf("at start: got %v, want nothing against it", err)
	}
	if _, err := b.shake(anything()); err == nil {
		t.Error("away: got a handshake")
	}
	b.token.gone.Store(false)
	if _, err := b.shake(anything()); err != nil {
		t.Errorf("back: got %v", err)
	}
	b.token.gone.Store(true)
	if _, err := b.shake(anything()); err == nil {
		t.Error("away again: got a handshake")
	}
	if err := b.token.Retire(t.Context(), b.keys[ECDSA].ID); err != nil {
		t.Fatal(err)
	}
	b.token.gone.Store(false)
	if _, err := b.shake(anything()); err == nil {
		t.Error("retired: got a handshake")
	}
}

// Named files have to be there, all of them.
func TestNamedFiles(t *testing.T) {
	b := newBox(t)
	b.put(ECDSA, selfSigned(t, b.token, b.keys[ECDSA], mx))
	s := New(Config{Name: mx, Files: Places(b.dir, mx), Token: b.token, Log: slog.New(slog.DiscardHandler)})
	if err := s.Check(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("one of two: got %v, want %v", err, os.ErrNotExist)
	}
	b.put(RSA, selfSigned(t, b.token, b.keys[RSA], mx))
	if err := s.Check(); err != nil {
		t.Errorf("both: got %v", err)
	}
}

// R48: however many shake hands at once, the token is asked for a few.
func TestHandshakesAtOnce(t *testing.T) {
	b := newBox(t)
	b.put(ECDSA, selfSigned(t, b.token, b.keys[ECDSA], mx))
	b.token.signing = make(chan struct{})
	const all = 3 * maxSigning
	var group sync.WaitGroup
	var good atomic.Int32
	for range all {
		group.Go(func() {
			if _, err := b.shake(anything()); err == nil {
				good.Add(1)
			}
		})
	}
	hsmtest.Eventually(t, func() (bool, string) {
		return b.token.inside.Load() >= maxSigning, "not as many at the token as may be"
	})
	for range all {
		b.token.signing <- struct{}{}
	}
	group.Wait()
	if good.Load() != all || b.token.most.Load() != maxSigning {
		t.Errorf("got %d handshakes, %d at the token at once, want %d, %d", good.Load(), b.token.most.Load(), all, maxSigning)
	}
}
