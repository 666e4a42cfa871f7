package p11

import (
	linked "container/list"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/miekg/pkcs11"

	"postern/hsm"
	"postern/hsm/internal/shelf"
)

// vault holds the keys from the shelf that are open now: session objects, at
// most so many, since small tokens have little room for them. Who was not used
// for longest is destroyed first. All stand in one session that does nothing
// else: a session of the pool is closed after any error, and what was made in it
// would go with it. When that one goes, the module is opened anew, and the vault
// with it.
type vault struct {
	t    *Token
	m    *module
	most int

	mu      sync.Mutex // held while a key is opened: the token does one thing at a time anyway
	session pkcs11.SessionHandle
	begun   bool
	order   *linked.List // of *lent, the one to destroy first in front
	at      map[hsm.KeyID]*linked.Element
}

// lent is an open key.
type lent struct {
	id     hsm.KeyID
	handle pkcs11.ObjectHandle
	users  int // operations that use it now; it stays meanwhile
}

// newVault has more places than there are operations at a time, so that one is
// always free.
func newVault(t *Token, m *module) *vault {
	return &vault{t: t, m: m, most: max(t.c.Open, t.c.Workers), order: linked.New(), at: map[hsm.KeyID]*linked.Element{}}
}

// on runs do on a session with k and its handle, opened from the shelf where it
// is kept there.
func (m *module) on(k *key, do func(s pkcs11.SessionHandle, k *key) error) error {
	return m.pool.with(func(s pkcs11.SessionHandle) error {
		if k.Class != hsm.OutsideWrapped {
			return do(s, k)
		}
		return m.vault.with(k, func() (pkcs11.ObjectHandle, error) { return m.vault.take(s, k) }, func(open *key) error { return do(s, open) })
	})
}

// with runs do with k and its handle, opened by open unless it is open already.
func (v *vault) with(k *key, open func() (pkcs11.ObjectHandle, error), do func(*key) error) error {
	handle, back, err := v.lend(k.ID, open)
	if err != nil {
		return err
	}
	defer back()
	lent := *k
	lent.priv = handle
	return do(&lent)
}

// lend gives the handle of a key, for as long as back was not called.
func (v *vault) lend(id hsm.KeyID, open func() (pkcs11.ObjectHandle, error)) (handle pkcs11.ObjectHandle, back func(), err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	e := v.at[id]
	if e == nil {
		v.makeRoom(v.most - 1)
		h, err := open()
		if err != nil {
			return 0, nil, err
		}
		e = v.order.PushBack(&lent{id: id, handle: h})
		v.at[id] = e
	}
	v.order.MoveToBack(e)
	l := e.Value.(*lent)
	l.users++
	return l.handle, func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		l.users--
		if l.users == 0 && v.at[id] != e { // it was dropped meanwhile
			v.destroy(l)
		}
	}, nil
}

// makeRoom destroys keys that nobody uses until at most n are open.
func (v *vault) makeRoom(n int) {
	for e := v.order.Front(); e != nil && v.order.Len() > n; {
		next := e.Next()
		if l := e.Value.(*lent); l.users == 0 {
			v.order.Remove(e)
			delete(v.at, l.id)
			v.destroy(l)
		}
		e = next
	}
}

func (v *vault) destroy(l *lent) {
	if err := v.m.ctx.DestroyObject(v.session, l.handle); err != nil {
		v.m.log.Debug("an open key could not be destroyed; it goes with its session", "key", l.id.String(), "error", err)
	}
}

// drop forgets a key; it is destroyed at once, or when its last user is through.
func (v *vault) drop(id hsm.KeyID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	e := v.at[id]
	if e == nil {
		return
	}
	v.order.Remove(e)
	delete(v.at, id)
	if l := e.Value.(*lent); l.users == 0 {
		v.destroy(l)
	}
}

// clear destroys all keys that nobody uses.
func (v *vault) clear() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.makeRoom(0)
}

// holds tells the handles of open keys, which are no keys of the token.
func (v *vault) holds() map[pkcs11.ObjectHandle]bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	held := map[pkcs11.ObjectHandle]bool{}
	for e := v.order.Front(); e != nil; e = e.Next() {
		held[e.Value.(*lent).handle] = true
	}
	return held
}

// own is the session of the vault; v.mu is held.
func (v *vault) own() (pkcs11.SessionHandle, error) {
	if v.begun {
		return v.session, nil
	}
	s, err := v.m.ctx.OpenSession(v.m.slot, sessionFlags)
	if err != nil {
		return 0, err
	}
	v.session, v.begun = s, true
	return s, nil
}

// close ends the session, and every open key with it.
func (v *vault) close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.begun {
		v.m.ctx.CloseSession(v.session)
	}
	v.begun = false
	v.order.Init()
	clear(v.at)
}

// full are the codes of a token that has no room for another object.
var full = []uint{pkcs11.CKR_DEVICE_MEMORY, pkcs11.CKR_HOST_MEMORY}

// unfit is why a key cannot be opened: hsm.ErrBroken.
type unfit struct{ why string }

func (u unfit) Error() string { return hsm.ErrBroken.Error() + ": " + u.why }
func (u unfit) Unwrap() error { return hsm.ErrBroken }

// take opens a key from the shelf; v.mu is held, and s is for what may fail.
// hsm.ErrBroken: its file is not that of a key that this token opens, or it is
// that of another key, and stays so until the file changes.
func (v *vault) take(s pkcs11.SessionHandle, k *key) (pkcs11.ObjectHandle, error) {
	b := v.t.shelf.Get(k.ID)
	if b.Err != nil {
		return 0, v.t.complain(k.ID, b.Digest, unfit{notKey + b.Err.Error()})
	}
	h, err := v.open(s, k, b.Record)
	var u unfit
	if errors.As(err, &u) {
		return 0, v.t.complain(k.ID, b.Digest, u)
	}
	return h, err
}

// open opens a key from its record, audits it and sees that it is the one of the
// record. v.mu is held.
func (v *vault) open(s pkcs11.SessionHandle, k *key, r shelf.Record) (o pkcs11.ObjectHandle, err error) {
	m := v.m
	w := m.wrappingOf(r.Wrapping)
	if w == nil {
		return 0, unfit{strangeToken}
	}
	own, err := v.own()
	if err != nil {
		return 0, err
	}
	o, err = m.unwrapOn(own, w, r)
	if is(err, full...) {
		v.makeRoom(0)
		o, err = m.unwrapOn(own, w, r)
	}
	if err != nil {
		return 0, m.blame(own, w, fmt.Errorf("its ciphertext does not open: %w", err))
	}
	faults, err := m.auditOutside(own, o, w, r)
	switch {
	case err != nil:
	case len(faults) > 0 && !v.t.c.AllowImported:
		err = unfit{strings.Join(faults, ", ")}
	default:
		if err = m.belongs(s, o, k); err != nil {
			err = m.blame(own, w, fmt.Errorf("another key came out: %w", err))
		}
	}
	if err != nil {
		v.destroy(&lent{id: k.ID, handle: o})
		return 0, err
	}
	return o, nil
}

// blame decides who is at fault when a key does not open: its file (unfit) or
// the token. A module says the one by CKR_GENERAL_ERROR or the like, which may
// mean the other as well; so the token is asked whether it is well.
func (m *module) blame(s pkcs11.SessionHandle, w *wrapping, err error) error {
	if is(err, full...) {
		return fmt.Errorf("%w: the token has no room: %w", hsm.ErrBusy, err)
	}
	if is(err, gone...) {
		return err
	}
	if now, e := m.ctx.GetTokenInfo(m.slot); e != nil || now.SerialNumber != m.token.SerialNumber {
		return fmt.Errorf("%w: %w", hsm.ErrAway, errors.Join(err, e))
	}
	if _, e := m.ctx.GetAttributeValue(s, w.handle, ask(pkcs11.CKA_CLASS)); e != nil {
		return fmt.Errorf("%w: %w", hsm.ErrAway, errors.Join(err, e))
	}
	return unfit{err.Error()}
}

// Try opens a key that is kept outside, as its first use would: hsm.ErrBroken
// where that fails. Of other keys it says nothing. hsm.ErrNoKey: no such key is
// served.
func (t *Token) Try(id hsm.KeyID) error {
	m, leave, err := t.unlocked()
	if err != nil {
		return err
	}
	defer leave()
	m.mu.RLock()
	k := m.keys[id]
	m.mu.RUnlock()
	switch {
	case k == nil:
		return fmt.Errorf("try key: %w", t.missing(id))
	case k.Class != hsm.OutsideWrapped:
		return nil
	}
	m.vault.drop(id)
	return fault("try key", m.on(k, func(pkcs11.SessionHandle, *key) error { return nil }))
}
