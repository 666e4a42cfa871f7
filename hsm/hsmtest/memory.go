package hsmtest

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"postern/hsm"
	"postern/hsm/keyd"
)

// Memory is a token in memory behind the logic of the key daemon, in this
// process: every algorithm, every scheme, no budget, no module and no daemon.
// It goes with the test.
func Memory(t testing.TB) hsm.Keeper {
	t.Helper()
	pin := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(pin, []byte(SoftPIN+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	k, err := keyd.New(keyd.Config{
		Device: NewSoft(), PINFile: pin, Log: quiet, Audit: quiet,
		Budget: keyd.Budget{Failures: -1, OriginFailures: -1, Rate: -1}, Version: "test",
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Errorf("close token in memory: %v", err)
		}
	})
	if state, reason := k.State(); state != hsm.Ready {
		t.Fatalf("token in memory: got %s (%s), want ready", state, reason)
	}
	return k
}

// SoftPIN is the PIN of a new Soft.
const SoftPIN = "4711-soft"

// Soft is a keyd.Device with its keys in memory. What it holds outlives Close,
// as the flash of a token does.
type Soft struct {
	// Fault is asked before each call, with the name of the method: an error
	// is the answer. It may block. nil means that nothing is wrong.
	Fault func(method string) error
	// Strip makes it a module that removes the padding of PKCS#1 v1.5 by itself.
	Strip bool

	mu     sync.Mutex
	pin    string // "" before Init
	open   bool
	inside bool
	keys   []softKey
	used   map[int]int // RSA keys taken from the stock, by size
}

type softKey struct {
	hsm.Key
	private crypto.PrivateKey
}

var _ keyd.Device = (*Soft)(nil)

// NewSoft is a token that was initialised with SoftPIN and holds no key.
func NewSoft() *Soft { return &Soft{pin: SoftPIN, used: map[int]int{}} }

// EmptySoft is one that was never initialised.
func EmptySoft() *Soft { return &Soft{used: map[int]int{}} }

func (s *Soft) fault(method string) error {
	if s.Fault == nil {
		return nil
	}
	return s.Fault(method)
}

// Open implements keyd.Device.
func (s *Soft) Open() error {
	if err := s.fault("Open"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = true
	if s.pin == "" {
		return hsm.ErrEmpty
	}
	return nil
}

// Init implements keyd.Device.
func (s *Soft) Init(_, pin string) error {
	if err := s.fault("Init"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pin, s.inside, s.keys = pin, false, nil
	return nil
}

// Login implements keyd.Device.
func (s *Soft) Login(pin string) error {
	if err := s.fault("Login"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.open {
		return hsm.ErrAway
	}
	if pin != s.pin {
		return hsm.ErrPIN
	}
	s.inside = true
	return nil
}

// Load implements keyd.Device.
func (s *Soft) Load() ([]hsm.Key, []hsm.Finding, error) {
	if err := s.fault("Load"); err != nil {
		return nil, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.inside {
		return nil, nil, hsm.ErrLocked
	}
	var keys []hsm.Key
	var findings []hsm.Finding
	for _, k := range s.keys {
		keys = append(keys, k.Key)
		findings = append(findings, hsm.Finding{ID: k.ID, Label: k.Label, Class: k.Class, Served: true})
	}
	return keys, findings, nil
}

// find is the private half of a key.
func (s *Soft) find(method string, id hsm.KeyID) (crypto.PrivateKey, error) {
	if err := s.fault(method); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.inside {
		return nil, hsm.ErrLocked
	}
	for _, k := range s.keys {
		if k.ID == id {
			return k.private, nil
		}
	}
	return nil, hsm.ErrNoKey
}

// Sign implements keyd.Device.
func (s *Soft) Sign(id hsm.KeyID, alg hsm.SignAlg, digest []byte) ([]byte, error) {
	private, err := s.find("Sign", id)
	if err != nil {
		return nil, err
	}
	switch k := private.(type) {
	case *rsa.PrivateKey:
		switch alg {
		case hsm.PKCS1SHA256, hsm.PKCS1SHA384, hsm.PKCS1SHA512:
			return rsa.SignPKCS1v15(nil, k, alg.Hash(), digest)
		}
		return rsa.SignPSS(rand.Reader, k, alg.Hash(), digest, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
	case *ecdsa.PrivateKey:
		return ecdsa.SignASN1(rand.Reader, k, digest)
	case ed25519.PrivateKey:
		return ed25519.Sign(k, digest), nil
	}
	return nil, fmt.Errorf("sign with %T: %w", private, hsm.ErrInvalid)
}

// Decrypt implements keyd.Device.
func (s *Soft) Decrypt(id hsm.KeyID, ciphertext []byte) (block []byte, raw bool, err error) {
	private, err := s.find("Decrypt", id)
	if err != nil {
		return nil, false, err
	}
	k, ok := private.(*rsa.PrivateKey)
	if !ok {
		return nil, false, fmt.Errorf("decrypt with %T: %w", private, hsm.ErrInvalid)
	}
	if s.Strip {
		//lint:ignore SA1019 it is what such modules do
		block, err = rsa.DecryptPKCS1v15(nil, k, ciphertext)
		if err != nil {
			return nil, false, hsm.ErrOpaque
		}
		return block, false, nil
	}
	// RFC 8017 §5.1.2, by the Chinese remainder theorem. It takes no constant
	// time: this is for tests.
	c := new(big.Int).SetBytes(ciphertext)
	if c.Cmp(k.N) >= 0 {
		return nil, false, hsm.ErrOpaque
	}
	p, q := k.Primes[0], k.Primes[1]
	m1 := new(big.Int).Exp(c, k.Precomputed.Dp, p)
	m2 := new(big.Int).Exp(c, k.Precomputed.Dq, q)
	m1.Sub(m1, m2).Mul(m1, k.Precomputed.Qinv).Mod(m1, p)
	m2.Add(m2, m1.Mul(m1, q))
	return m2.FillBytes(make([]byte, k.Size())), true, nil
}

// ECDH implements keyd.Device.
func (s *Soft) ECDH(id hsm.KeyID, point []byte) ([]byte, error) {
	private, err := s.find("ECDH", id)
	if err != nil {
		return nil, err
	}
	k, ok := private.(*ecdh.PrivateKey)
	if e, is := private.(*ecdsa.PrivateKey); is {
		k, err = e.ECDH()
		ok = err == nil
	}
	if !ok {
		return nil, fmt.Errorf("agree with %T: %w", private, hsm.ErrInvalid)
	}
	peer, err := k.Curve().NewPublicKey(point)
	if err != nil {
		return nil, hsm.ErrOpaque
	}
	shared, err := k.ECDH(peer)
	if err != nil {
		return nil, hsm.ErrOpaque
	}
	return shared, nil
}

// Generate implements keyd.Device.
func (s *Soft) Generate(spec hsm.KeySpec) (hsm.Key, error) {
	if err := s.fault("Generate"); err != nil {
		return hsm.Key{}, err
	}
	private, err := s.make(spec.Algorithm)
	if err != nil {
		return hsm.Key{}, fmt.Errorf("generate key: %w", err)
	}
	class := hsm.Resident
	if spec.Wrapped {
		class = hsm.OutsideWrapped
	}
	return s.Put(spec.Label, spec.Usage, class, private)
}

// Try implements keyd.Device.
func (s *Soft) Try(id hsm.KeyID) error {
	_, err := s.find("Try", id)
	return err
}

// Put writes a key that was made outside.
func (s *Soft) Put(label string, usage hsm.Usage, class hsm.Class, private crypto.PrivateKey) (hsm.Key, error) {
	holder, ok := private.(interface{ Public() crypto.PublicKey })
	if !ok {
		return hsm.Key{}, fmt.Errorf("put key of type %T: %w", private, hsm.ErrInvalid)
	}
	key := hsm.Key{Public: holder.Public(), Usage: usage, Label: label, Class: class}
	var err error
	if key.ID, err = hsm.IDOf(key.Public); err != nil {
		return hsm.Key{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys = append(s.keys, softKey{key, private})
	return key, nil
}

// Destroy implements keyd.Device.
func (s *Soft) Destroy(id hsm.KeyID) error {
	if _, err := s.find("Destroy", id); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, k := range s.keys {
		if k.ID == id {
			s.keys = append(s.keys[:i:i], s.keys[i+1:]...)
			break
		}
	}
	return nil
}

// Probe implements keyd.Device.
func (s *Soft) Probe() ([]hsm.Probe, error) {
	if err := s.fault("Probe"); err != nil {
		return nil, err
	}
	var probes []hsm.Probe
	for _, name := range []string{"RSA-2048", "RSA-3072", "RSA-4096"} {
		probes = append(probes, hsm.Probe{Name: name + " sign PKCS1-SHA256", OK: true}, hsm.Probe{Name: name + " sign PSS-SHA256", OK: true}, hsm.Probe{Name: name + " decrypt", OK: true})
	}
	for _, name := range []string{"P-256", "P-384", "P-521"} {
		probes = append(probes, hsm.Probe{Name: name + " sign", OK: true}, hsm.Probe{Name: name + " ECDH", OK: true})
	}
	return append(probes, hsm.Probe{Name: "Ed25519 sign", OK: true}, hsm.Probe{Name: "X25519 ECDH", OK: true}, hsm.Probe{Name: "RSA-3072 wrapped", OK: true}), nil
}

// Info implements keyd.Device.
func (s *Soft) Info() (hsm.Status, error) {
	if err := s.fault("Info"); err != nil {
		return hsm.Status{}, err
	}
	return hsm.Status{Module: "software 1.0", Token: "memory", Serial: "1", Profile: "soft"}, nil
}

// Health implements keyd.Device.
func (s *Soft) Health() error { return s.fault("Health") }

// Close implements keyd.Device.
func (s *Soft) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open, s.inside = false, false
	return s.fault("Close")
}

func (s *Soft) make(a hsm.Algorithm) (crypto.PrivateKey, error) {
	switch a {
	case hsm.RSA2048:
		return s.rsa(2048)
	case hsm.RSA3072:
		return s.rsa(3072)
	case hsm.RSA4096:
		return s.rsa(4096)
	case hsm.P256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case hsm.P384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case hsm.P521:
		return ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case hsm.Ed25519:
		_, k, err := ed25519.GenerateKey(rand.Reader)
		return k, err
	case hsm.X25519:
		return ecdh.X25519().GenerateKey(rand.Reader)
	}
	return nil, fmt.Errorf("algorithm %q: %w", a, hsm.ErrInvalid)
}

// rsa is the next key of the stock: no two of one token are the same.
func (s *Soft) rsa(bits int) (*rsa.PrivateKey, error) {
	s.mu.Lock()
	n := s.used[bits]
	s.used[bits]++
	s.mu.Unlock()
	return RSA(bits, n)
}

// stock holds the RSA keys of this process, by size: making one takes
// seconds, and every test wants some.
var stock struct {
	sync.Mutex
	keys map[int][]*rsa.PrivateKey
}

// RSA is the n-th RSA key of so many bits in this process, counted from 0:
// always the same one.
func RSA(bits, n int) (*rsa.PrivateKey, error) {
	stock.Lock()
	defer stock.Unlock()
	if stock.keys == nil {
		stock.keys = map[int][]*rsa.PrivateKey{}
	}
	for len(stock.keys[bits]) <= n {
		k, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			return nil, err
		}
		stock.keys[bits] = append(stock.keys[bits], k)
	}
	return stock.keys[bits][n], nil
}
