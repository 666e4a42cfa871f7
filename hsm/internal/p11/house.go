package p11

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"sync"

	"github.com/ThalesGroup/crypto11"
	"github.com/miekg/pkcs11"

	"postern/hsm"
)

// house is crypto11, which signs with RSA and ECDSA keys and generates them.
// Three of its habits are held off here:
//
//   - it takes any PIN while somebody is logged in, so it never gets one:
//     the token is logged in beside it;
//   - a session returns to its pool whatever happened to it, so after any
//     error the whole context is replaced;
//   - closing the last context finalises the module under everybody's feet,
//     so a second one, the anchor, lives as long as the module does.
type house struct {
	config crypto11.Config
	anchor *crypto11.Context

	mu      sync.RWMutex // held for reading by each operation, for writing by the replacement
	context *crypto11.Context
	bound   *binding
}

// binding holds the keys that one context has found.
type binding struct {
	mu   sync.Mutex
	keys map[hsm.KeyID]crypto.Signer
}

// openHouse initialises the module and opens crypto11 on a slot. Sessions: one
// for the anchor, one for the context, and one for each worker at most.
func openHouse(path string, slot uint, workers int) (*house, error) {
	number := int(slot)
	h := &house{config: crypto11.Config{
		Path: path, SlotNumber: &number, LoginNotSupported: true,
		MaxSessions: workers + 1, PoolWaitTimeout: patience,
	}}
	anchor := h.config
	anchor.MaxSessions = 2
	var err error
	if h.anchor, err = crypto11.Configure(&anchor); err != nil {
		return nil, err
	}
	if err := h.renew(); err != nil {
		h.anchor.Close()
		return nil, err
	}
	return h, nil
}

// renew makes a context; h.mu is held, or nobody else knows h.
func (h *house) renew() error {
	config := h.config
	c, err := crypto11.Configure(&config)
	if err != nil {
		return err
	}
	h.context, h.bound = c, &binding{keys: map[hsm.KeyID]crypto.Signer{}}
	return nil
}

// with runs do on the context, and replaces the context when do fails. As in
// pool.with, a poisoned session earns one more try.
func (h *house) with(do func(c *crypto11.Context, b *binding) error) error {
	err := h.once(do)
	if is(err, pkcs11.CKR_OPERATION_ACTIVE) {
		err = h.once(do)
	}
	return err
}

func (h *house) once(do func(c *crypto11.Context, b *binding) error) error {
	h.mu.RLock()
	c, b := h.context, h.bound
	if c == nil {
		h.mu.RUnlock()
		return hsm.ErrAway
	}
	err := do(c, b)
	h.mu.RUnlock()
	if err == nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.context == c {
		h.context = nil
		c.Close()
		if e := h.renew(); e != nil {
			return errors.Join(err, fmt.Errorf("replace sessions: %w", e))
		}
	}
	return err
}

// sign makes a signature with k.
func (h *house) sign(k *key, digest []byte, opts crypto.SignerOpts) (sig []byte, err error) {
	err = h.with(func(c *crypto11.Context, b *binding) error {
		s, err := b.signer(c, k)
		if err != nil {
			return err
		}
		sig, err = s.Sign(nil, digest, opts)
		return err
	})
	return sig, err
}

// signer finds k once for each context: a find is several scans of the token.
func (b *binding) signer(c *crypto11.Context, k *key) (crypto.Signer, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s, ok := b.keys[k.ID]; ok {
		return s, nil
	}
	s, err := c.FindKeyPair(k.cka, nil)
	if err != nil {
		var code pkcs11.Error
		if errors.As(err, &code) {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %w", hsm.ErrAway, err) // it was there when the keys were loaded
	}
	if id, err := hsm.IDOf(s.Public()); err != nil || id != k.ID {
		return nil, fmt.Errorf("%w: CKA_ID %x names another key now", hsm.ErrAway, k.cka)
	}
	b.keys[k.ID] = s
	return s, nil
}

// forget drops a key that is destroyed.
func (h *house) forget(id hsm.KeyID) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if h.bound == nil {
		return
	}
	h.bound.mu.Lock()
	delete(h.bound.keys, id)
	h.bound.mu.Unlock()
}

// close ends crypto11, and with the anchor the module itself.
func (h *house) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.context != nil {
		h.context.Close()
		h.context = nil
	}
	h.anchor.Close()
}

// set turns a template into crypto11's form. crypto11 adds what it misses, and
// what it adds is too wide, so a template here spells out everything.
func set(template []*pkcs11.Attribute) crypto11.AttributeSet {
	s := crypto11.NewAttributeSet()
	for _, a := range template {
		s[a.Type] = &pkcs11.Attribute{Type: a.Type, Value: bytes.Clone(a.Value)}
	}
	return s
}
