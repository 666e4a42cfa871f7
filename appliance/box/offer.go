package box

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// ErrOffer is a file that claims nothing.
var ErrOffer = errors.New("no claim that anybody signed")

// offer is a claim in a file: a box.toml that its owner has signed, for a box
// that nobody types a code of. It holds no PIN; the owner gives that to the box
// himself, once he can reach it.
type offer struct {
	Version int    `json:"version"`
	Config  string `json:"config"`
	Key     []byte `json:"key"` // SubjectPublicKeyInfo of the owner
	Sig     []byte `json:"signature"`
}

// digest is what is signed.
func (o offer) digest() []byte {
	h := sha256.New()
	fmt.Fprintf(h, "postern claim file 1\x00%d\x00", len(o.Key))
	h.Write(o.Key)
	io.WriteString(h, o.Config)
	return h.Sum(nil)
}

// Offer makes the file.
func Offer(own tls.Certificate, config []byte) ([]byte, error) {
	key, ok := own.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, errors.New("sign claim: a key that does not sign")
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("sign claim: %w", err)
	}
	o := offer{Version: 1, Config: string(config), Key: spki}
	if o.Sig, err = key.Sign(rand.Reader, o.digest(), crypto.SHA256); err != nil {
		return nil, fmt.Errorf("sign claim: %w", err)
	}
	b, err := json.MarshalIndent(o, "", "  ")
	return append(b, '\n'), err
}

// readOffer gives what a file says, and the pin of who signed it.
func readOffer(b []byte) (config []byte, pin string, err error) {
	var o offer
	if len(b) > maxBody {
		return nil, "", ErrOffer
	}
	if err := json.Unmarshal(b, &o); err != nil || o.Version != 1 {
		return nil, "", ErrOffer
	}
	key, err := x509.ParsePKIXPublicKey(o.Key)
	public, ok := key.(*ecdsa.PublicKey)
	if err != nil || !ok || !ecdsa.VerifyASN1(public, o.digest(), o.Sig) {
		return nil, "", ErrOffer
	}
	return []byte(o.Config), pinOf(o.Key), nil
}

// Take takes a claim from a file, while the box belongs to nobody. owner is the
// pin of who must have signed it; "" where whoever brought the file stands
// before the box, and could as well read the code off its screen.
func (s *Server) Take(ctx context.Context, file []byte, owner string) error {
	config, pin, err := readOffer(file)
	if err != nil {
		return fmt.Errorf("take claim: %w", err)
	}
	if owner != "" && !strings.EqualFold(owner, pin) {
		return fmt.Errorf("take claim: signed by %s, and the box is for %s: %w", pin, owner, ErrOffer)
	}
	done, err := s.alone()
	if err != nil {
		return fmt.Errorf("take claim: %w", err)
	}
	defer done()
	s.mu.Lock()
	s.expire()
	owned, waits, wiped := s.owner != "", s.pending != nil, s.wiped
	s.mu.Unlock()
	if wiped {
		return fmt.Errorf("take claim: %w", ErrReset)
	}
	if owned {
		return fmt.Errorf("take claim: %w", ErrClaimed)
	}
	if waits {
		return fmt.Errorf("take claim: %w: a claim waits to be confirmed", ErrBusy)
	}
	rules, err := s.cfg.House.Check(config)
	if err != nil {
		return fmt.Errorf("take claim: %w", err)
	}
	if err := s.cfg.House.Apply(ctx, config, true); err != nil {
		return fmt.Errorf("take claim: %w", err)
	}
	if err := s.own(pin, rules, nil); err != nil {
		return fmt.Errorf("take claim: %w", err)
	}
	s.code.spend()
	s.cfg.Log.Info("claimed by a file", "key", pin)
	s.redraw()
	return nil
}

// PIN is the first one of a token, and how it is shared.
type PIN struct {
	PIN    []byte     `json:"pin"`
	Shares *SharedPIN `json:"shares,omitempty"`
}

// sound says what is wrong with it.
func (p PIN) sound() error {
	if len(p.PIN) < 4 || len(p.PIN) > maxPIN {
		return fmt.Errorf("%w: want a PIN of 4 to %d bytes", ErrRequest, maxPIN)
	}
	if p.Shares != nil {
		if err := p.Shares.sound(); err != nil {
			return fmt.Errorf("%w: %w", ErrRequest, err)
		}
	}
	return nil
}
