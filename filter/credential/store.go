package credential

import (
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"postern/hsm"
	"postern/hsm/client"
)

// What handshakes may ask of the token.
const (
	maxSigning = 16               // signatures at once, for all clients of a store; further ones wait
	signFor    = 20 * time.Second // for a signature, its wait included
	askFor     = 5 * time.Second  // for the keys of certificates that have changed
)

// Config says what a listener shows.
type Config struct {
	Name  string   // of the server
	Files []string // one chain each
	Some  bool     // it will do when one of the files is there
	Token hsm.Token
	Log   *slog.Logger
}

// Store holds the chains of one server name. Before each handshake it looks
// whether a file has changed, and takes the new content in where all of it is
// good. What is not good is logged once, and the chains of before stay.
type Store struct {
	Config
	signing chan struct{}

	mutex  sync.Mutex
	seen   []stamp
	chains []*tls.Certificate
	why    error // there are none
}

// stamp tells one content of a file from another.
type stamp struct {
	size  int64
	when  time.Time
	inode any
	gone  bool
}

// New gives a store. It reads nothing yet.
func New(c Config) *Store { return &Store{Config: c, signing: make(chan struct{}, maxSigning)} }

// Check reads the files and looks for their keys in the token. A token that is
// away is no error: they are looked for again when they are to sign.
func (s *Store) Check() error {
	_, err := s.current()
	return err
}

// Get is GetCertificate of a tls.Config: the first chain that the client can
// check, whatever name it asked for; ECDSA goes before RSA.
func (s *Store) Get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	chains, err := s.current()
	if err != nil {
		return nil, err
	}
	asked := *hello
	asked.ServerName = ""
	for _, c := range chains {
		if asked.SupportsCertificate(c) == nil {
			return c, nil
		}
	}
	return chains[0], nil
}

// current are the chains as the files have them now.
func (s *Store) current() ([]*tls.Certificate, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	seen := make([]stamp, len(s.Files))
	for i, path := range s.Files {
		seen[i] = look(path)
	}
	if slices.Equal(seen, s.seen) {
		return s.chains, s.why
	}
	chains, err := s.load()
	first := s.seen == nil
	s.seen = seen
	if err != nil && s.chains != nil {
		s.Log.Warn("certificate not taken, the former stays", "name", s.Name, "error", err)
		return s.chains, nil
	}
	if s.chains, s.why = chains, err; err == nil && !first {
		s.Log.Info("certificate changed", "name", s.Name, "chains", len(chains), "expires", chains[0].Leaf.NotAfter)
	}
	return s.chains, s.why
}

func look(path string) stamp {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{gone: true}
	}
	return stamp{size: info.Size(), when: info.ModTime(), inode: inode(info)}
}

// load reads every file.
func (s *Store) load() (chains []*tls.Certificate, err error) {
	var list []Chain
	for _, path := range s.Files {
		c, err := Read(path)
		if s.Some && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = c.Names(s.Name)
		}
		if err != nil {
			return nil, fmt.Errorf("certificate %s: %w", path, err)
		}
		list = append(list, c)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("certificate for %s: none of %v is there: %w", s.Name, s.Files, ErrChain)
	}
	slices.SortStableFunc(list, func(a, b Chain) int { return slices.Index(Kinds, a.Kind) - slices.Index(Kinds, b.Kind) })
	ctx, cancel := context.WithTimeout(context.Background(), askFor)
	defer cancel()
	for _, c := range list {
		k := &key{store: s, chain: c}
		if _, err := k.find(ctx); errors.Is(err, ErrKey) {
			return nil, fmt.Errorf("certificate for %s: %w", s.Name, err)
		}
		chains = append(chains, &tls.Certificate{Certificate: c.DER, Leaf: c.Leaf, PrivateKey: k})
	}
	return chains, nil
}

// key signs handshakes for crypto/tls.
type key struct {
	store *Store
	chain Chain

	mutex sync.Mutex
	found hsm.Key
}

// Public implements crypto.Signer.
func (k *key) Public() crypto.PublicKey { return k.chain.Leaf.PublicKey }

// Sign implements crypto.Signer. Handshakes wait for each other here, where
// they cost the token something, and not earlier: a client that is slow holds
// up nobody else.
func (k *key) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), signFor)
	defer cancel()
	select {
	case k.store.signing <- struct{}{}:
		defer func() { <-k.store.signing }()
	case <-ctx.Done():
		return nil, fmt.Errorf("sign handshake: %w", hsm.ErrBusy)
	}
	found, err := k.find(ctx)
	if err != nil {
		return nil, fmt.Errorf("sign handshake: %w", err)
	}
	signer, err := client.Signer(ctx, k.store.Token, found)
	if err != nil {
		return nil, fmt.Errorf("sign handshake: %w", err)
	}
	return signer.Sign(random, digest, opts)
}

// find makes sure that the key is one for TLS before it signs.
func (k *key) find(ctx context.Context) (hsm.Key, error) {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	if k.found.Public != nil {
		return k.found, nil
	}
	keys, err := k.store.Token.Keys(ctx)
	if err != nil {
		return hsm.Key{}, fmt.Errorf("list keys: %w", err)
	}
	if k.found, err = k.chain.Holds(keys); err != nil {
		return hsm.Key{}, err
	}
	return k.found, nil
}
