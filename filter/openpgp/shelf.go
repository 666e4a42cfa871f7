package openpgp

import (
	"crypto/sha256"
	"sync"

	"github.com/ProtonMail/go-crypto/openpgp/packet"
	pgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

// What a shelf holds at most.
const (
	maxShelved      = 256     // certificates
	maxShelvedBytes = 4 << 20 // of them as they were read
)

// certificate is one that was read, with what go-crypto and we found out about it.
type certificate struct {
	*pgp.Entity
	name     [sha256.Size]byte // of the bytes it was read from
	size     int
	material map[*packet.PublicKey]keyMaterial
}

// materialOf is the function of that name, which is asked once for each key.
func (c *certificate) materialOf(k *packet.PublicKey) (keyMaterial, bool) {
	m, known := c.material[k]
	if !known {
		var ok bool
		if m, ok = materialOf(k); !ok {
			m = keyMaterial{}
		}
		c.material[k] = m
	}
	return m, m.public != nil
}

// shelf keeps certificates between mails: reading one and verifying its own
// signatures costs more than the rest of a small mail. They are named by their
// bytes, so that nothing can go stale. Each is in one hand at a time, because
// go-crypto writes into an entity while it judges it.
type shelf struct {
	mutex sync.Mutex
	free  map[[sha256.Size]byte][]*certificate
	count int
	size  int
}

// take gives the certificate in raw, which splitCerts has bounded.
func (s *shelf) take(raw []byte) (*certificate, error) {
	name := sha256.Sum256(raw)
	if c := s.find(name); c != nil {
		return c, nil
	}
	e, err := entityOf(raw)
	if err != nil {
		return nil, err
	}
	return &certificate{Entity: e, name: name, size: len(raw), material: map[*packet.PublicKey]keyMaterial{}}, nil
}

func (s *shelf) find(name [sha256.Size]byte) *certificate {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	list := s.free[name]
	if len(list) == 0 {
		return nil
	}
	return s.remove(name, list)
}

// remove takes the last of a list down; s.mutex is held.
func (s *shelf) remove(name [sha256.Size]byte, list []*certificate) *certificate {
	last := len(list) - 1
	c := list[last]
	list[last] = nil
	if s.free[name] = list[:last]; last == 0 {
		delete(s.free, name)
	}
	s.count--
	s.size -= c.size
	return c
}

// give puts a certificate back, in place of others where there is no room.
func (s *shelf) give(c *certificate) {
	forget(c.Entity)
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if c.size > maxShelvedBytes {
		return
	}
	for name, list := range s.free { // in no order: nobody can tell which
		if s.count < maxShelved && s.size+c.size <= maxShelvedBytes {
			break
		}
		for len(list) > 0 {
			s.remove(name, list)
			list = s.free[name]
		}
	}
	if s.free == nil {
		s.free = map[[sha256.Size]byte][]*certificate{}
	}
	s.free[c.name] = append(s.free[c.name], c)
	s.count++
	s.size += c.size
}

// forget lets go-crypto judge again what it has found bad: it may only have
// been expired at that mail's time. What it has found good is so for ever, and
// asked each time whether it has ended.
func forget(e *pgp.Entity) {
	again := func(lists ...[]*packet.VerifiableSignature) {
		for _, list := range lists {
			for _, sig := range list {
				if sig.Valid != nil && !*sig.Valid {
					sig.Valid = nil
				}
			}
		}
	}
	again(e.DirectSignatures, e.Revocations)
	for _, id := range e.Identities {
		again(id.SelfCertifications, id.Revocations)
	}
	for i := range e.Subkeys {
		again(e.Subkeys[i].Bindings, e.Subkeys[i].Revocations)
	}
}

// desk is where the certificates lie that one mail is judged by.
type desk struct {
	shelf *shelf
	used  []*certificate
}

func (d *desk) read(raw []byte) (*certificate, error) {
	c, err := d.shelf.take(raw)
	if err == nil {
		d.used = append(d.used, c)
	}
	return c, err
}

// clear puts all of them back: nothing that came from the desk may be looked
// at any more.
func (d *desk) clear() {
	for _, c := range d.used {
		d.shelf.give(c)
	}
	d.used = nil
}
