// Package p11 is the only code that speaks to a PKCS#11 module, and the only
// cgo of the house. It opens one token, logs in once, judges the keys it finds
// and runs whole operations on them. crypto11 generates RSA and EC keys and
// signs with them; everything it lacks, and everything on a module that
// crypto11 cannot initialise, goes through miekg/pkcs11 on sessions of our own.
//
// Every error carries a word of package hsm. hsm.ErrAway means that handles
// and sessions may be dead: Close, Open, Login and Load bring them back,
// nothing less does. A hsm.ErrOpaque of Decrypt or ECDH means that the input
// was at fault; how far it was, nobody outside the key daemon may learn.
//
// Raw RSA and raw ECDH leave this package only towards the key daemon, which
// removes the padding in constant time or runs the KDF. Do not offer them to
// anybody else: they are a decryption oracle.
//
// Departures from the standard (PKCS#11 v2.40) stand in profiles.go.
package p11

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/miekg/pkcs11"

	"postern/hsm"
	"postern/hsm/internal/shelf"
)

// Defaults and limits.
const (
	defaultWorkers = 4
	defaultOpen    = 8
	looks          = 3 // at an empty slot list, before it is believed
	lookAgain      = 100 * time.Millisecond
)

// Config says which token to use and how.
type Config struct {
	Module        string // absolute path of the library
	Token         string // label, at most 32 bytes, or serial number
	Reserved      string // parameters for C_Initialize; NSS softokn wants some
	AllowImported bool   // serve keys of which a copy may exist outside
	AllowWrapped  bool   // serve keys that are kept outside as ciphertext, and make them
	Shelf         string // folder of their ciphertexts; "": there are none
	Open          int    // of them open at a time; 0: 8, and at least one for each worker
	Workers       int    // operations at a time; 0: 4. The token sees at most twice as many sessions, and four
	Log           *slog.Logger
}

// Token is one token behind one module. Its methods may be called from many
// goroutines. A process opens a module once: two Tokens on one library would
// end each other's sessions.
type Token struct {
	c Config

	// life is held for reading by each operation and for writing by whatever
	// opens, closes or logs in; so Close waits for operations that run.
	life   sync.RWMutex
	m      *module // nil while closed
	serial string  // of the token that was open once

	making sync.Mutex // one key at a time is generated

	shelf  *shelf.Shelf // nil: there is none
	noting sync.Mutex
	notes  map[hsm.KeyID]note // keys on the shelf that could not be opened
}

// module is an open token. What is not under mu is written only while
// Token.life is held for writing.
type module struct {
	ctx      *pkcs11.Ctx
	path     string // of the library
	free     func() // the reserved words
	profile  *profile
	info     pkcs11.Info
	slot     uint
	token    pkcs11.TokenInfo
	mechs    map[uint]pkcs11.MechanismInfo
	keep     pkcs11.SessionHandle // holds the login while no other session is open
	pool     *pool
	vault    *vault
	house    *house // nil: everything goes through pool
	loggedIn bool
	log      *slog.Logger

	mu    sync.RWMutex
	keys  map[hsm.KeyID]*key
	taken map[name]int // label and usage of every private key, served or not
	wraps []wrapping
}

// New makes a token that is closed. It does no I/O.
func New(c Config) *Token {
	if c.Workers <= 0 {
		c.Workers = defaultWorkers
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Open <= 0 {
		c.Open = defaultOpen
	}
	t := &Token{c: c, notes: map[hsm.KeyID]note{}}
	if c.Shelf != "" {
		t.shelf = shelf.New(c.Shelf)
	}
	return t
}

// Check reports ErrModule where the configured library is no PKCS#11 module. It
// loads the library and calls nothing of it but C_GetFunctionList.
func (t *Token) Check() error { return check(t.c.Module) }

// Open initialises the module and finds the token by label or serial number.
// hsm.ErrEmpty: there is none, or it has no user PIN yet; ErrModule: the
// library is none; hsm.ErrInvalid: the configuration names no or several
// tokens; hsm.ErrAway: the token is not there now, also when it was there
// earlier in this process. A token that is open stays as it is.
func (t *Token) Open() error {
	t.life.Lock()
	defer t.life.Unlock()
	return t.open()
}

func (t *Token) open() error {
	if t.m != nil {
		return nil
	}
	if t.c.Token == "" {
		return fmt.Errorf("open token: %w: no label is configured", hsm.ErrInvalid)
	}
	m, err := t.initialise()
	if err != nil {
		return err
	}
	if err := m.find(t.c.Token); err != nil {
		m.finalize()
		if t.serial != "" && errors.Is(err, hsm.ErrEmpty) {
			return fmt.Errorf("open token: %w: it was here before: %v", hsm.ErrAway, err)
		}
		return fmt.Errorf("open token %q: %w", t.c.Token, err)
	}
	if err := m.start(t.c); err != nil {
		return fmt.Errorf("open token %q: %w", t.c.Token, err)
	}
	m.vault = newVault(t, m)
	t.m, t.serial = m, m.token.SerialNumber
	return nil
}

// initialise loads and initialises the module, and looks no further.
func (t *Token) initialise() (*module, error) {
	if err := check(t.c.Module); err != nil {
		return nil, err
	}
	ctx := pkcs11.New(t.c.Module)
	if ctx == nil {
		return nil, fmt.Errorf("load module %s: %w", t.c.Module, ErrModule)
	}
	options, free := reserved(t.c.Reserved)
	if err := ctx.Initialize(options...); err != nil {
		ctx.Destroy()
		free()
		return nil, fault("initialise module", err)
	}
	m := &module{ctx: ctx, path: t.c.Module, free: free, log: t.c.Log, keys: map[hsm.KeyID]*key{}, taken: map[name]int{}}
	info, err := ctx.GetInfo()
	if err != nil {
		m.finalize()
		return nil, fault("ask module for its name", err)
	}
	m.info, m.profile = info, profileOf(info)
	return m, nil
}

// finalize undoes initialise.
func (m *module) finalize() {
	if err := m.ctx.Finalize(); err != nil {
		m.log.Debug("module did not finalise", "error", err)
	}
	m.ctx.Destroy()
	m.free()
}

// find sets slot and token. Slot numbers change when a token is made, so only
// label and serial number count.
func (m *module) find(want string) error {
	slots, err := m.slots()
	if err != nil {
		return err
	}
	found, foreign := 0, 0
	for _, slot := range slots {
		info, err := m.ctx.GetTokenInfo(slot)
		if is(err, pkcs11.CKR_TOKEN_NOT_PRESENT, pkcs11.CKR_TOKEN_NOT_RECOGNIZED) {
			continue
		}
		if err != nil {
			return fault("look at token", err)
		}
		if info.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0 && !m.profile.officerFirst {
			continue
		}
		if info.Label != want && info.SerialNumber != want {
			foreign++
			continue
		}
		found++
		m.slot, m.token = slot, info
	}
	switch {
	case found > 1:
		return fmt.Errorf("%w: %d tokens are called so, give the serial number", hsm.ErrInvalid, found)
	case found == 0 && foreign > 0:
		return fmt.Errorf("%w: only tokens with other names are here", hsm.ErrEmpty)
	case found == 0:
		return fmt.Errorf("%w: no initialised token is here", hsm.ErrEmpty)
	case m.token.Flags&pkcs11.CKF_USER_PIN_INITIALIZED == 0:
		return fmt.Errorf("%w: it has no user PIN", hsm.ErrEmpty)
	}
	return nil
}

// slots lists the slots with a token. Processes that start at the same moment
// can see an empty list, so it is believed only the third time.
func (m *module) slots() (slots []uint, err error) {
	for look := 1; ; look++ {
		slots, err = m.ctx.GetSlotList(true)
		if err != nil {
			return nil, fault("list tokens", err)
		}
		if len(slots) > 0 || look == looks {
			return slots, nil
		}
		time.Sleep(lookAgain)
	}
}

// start opens the sessions. When it fails the module is finalised.
func (m *module) start(c Config) error {
	if m.profile.crypto11 && c.Reserved == "" {
		// crypto11 insists on being the one that initialises; afterwards it
		// is ours too.
		if err := m.ctx.Finalize(); err != nil {
			m.finalize()
			return fault("hand module over", err)
		}
		h, err := openHouse(c.Module, m.slot, c.Workers)
		if err != nil {
			m.ctx.Destroy()
			m.free()
			return fault("open crypto11", err)
		}
		if err := m.ctx.Initialize(); err != nil && !is(err, pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED) {
			h.close()
			m.ctx.Destroy()
			m.free()
			return fault("share module", err)
		}
		m.house = h
		if now, err := m.ctx.GetTokenInfo(m.slot); err != nil || now.SerialNumber != m.token.SerialNumber {
			m.stop()
			return fmt.Errorf("%w: the token left its slot: %v", hsm.ErrAway, err)
		}
	}
	var err error
	if m.mechs, err = m.mechanisms(); err != nil {
		m.stop()
		return fault("list mechanisms", err)
	}
	m.pool = newPool(m.ctx, m.slot, c.Workers)
	if m.keep, err = m.ctx.OpenSession(m.slot, sessionFlags); err != nil {
		m.stop()
		return fault("open session", err)
	}
	return nil
}

// stop ends everything that start and initialise began.
func (m *module) stop() {
	if m.vault != nil {
		m.vault.close()
	}
	if m.pool != nil {
		m.pool.close()
		m.ctx.CloseSession(m.keep)
	}
	if m.house == nil {
		m.finalize()
		return
	}
	m.house.close() // finalises
	m.ctx.Destroy()
	m.free()
}

func (m *module) mechanisms() (map[uint]pkcs11.MechanismInfo, error) {
	list, err := m.ctx.GetMechanismList(m.slot)
	if err != nil {
		return nil, err
	}
	all := make(map[uint]pkcs11.MechanismInfo, len(list))
	for _, mech := range list {
		info, err := m.ctx.GetMechanismInfo(m.slot, []*pkcs11.Mechanism{mech})
		if err != nil {
			continue // listed, but not offered
		}
		all[mech.Mechanism] = info
	}
	return all, nil
}

// offers reports whether the module names a mechanism for a purpose (CKF_SIGN …).
func (m *module) offers(mechanism, purpose uint) bool {
	info, ok := m.mechs[mechanism]
	return ok && info.Flags&purpose != 0
}

// Close ends sessions and module, once running operations are through. Open
// works again afterwards; keys have to be loaded anew.
func (t *Token) Close() error {
	t.life.Lock()
	defer t.life.Unlock()
	if t.m != nil {
		t.m.stop()
		t.m = nil
	}
	return nil
}

// enter gives the open module for one operation; leave must follow.
func (t *Token) enter() (m *module, leave func(), err error) {
	t.life.RLock()
	if t.m == nil {
		t.life.RUnlock()
		return nil, nil, fmt.Errorf("use token: %w: it is not open", hsm.ErrAway)
	}
	return t.m, t.life.RUnlock, nil
}

// unlocked is enter for what needs the PIN.
func (t *Token) unlocked() (m *module, leave func(), err error) {
	m, leave, err = t.enter()
	if err == nil && !m.loggedIn {
		leave()
		return nil, nil, fmt.Errorf("use token: %w", hsm.ErrLocked)
	}
	return m, leave, err
}

// Login gives the PIN to the token, exactly once. hsm.ErrPIN: it was refused,
// or the token is locked; do not try it again without an operator's word,
// since the token counts. hsm.ErrInvalid: the token is logged in, and a PIN
// would not be checked at all.
func (t *Token) Login(pin string) error {
	t.life.Lock()
	defer t.life.Unlock()
	m := t.m
	if m == nil {
		return fmt.Errorf("log in: %w: token is not open", hsm.ErrAway)
	}
	if m.loggedIn {
		return fmt.Errorf("log in: %w: logged in already", hsm.ErrInvalid)
	}
	if info, err := m.ctx.GetTokenInfo(m.slot); err != nil {
		return fault("look at token", err)
	} else if info.Flags&pkcs11.CKF_USER_PIN_LOCKED != 0 {
		return fmt.Errorf("log in: %w: the token is locked", hsm.ErrPIN)
	}
	if pin == "" { // would ask for a PIN pad
		return fmt.Errorf("log in: %w: empty", hsm.ErrPIN)
	}
	if err := m.ctx.Login(m.keep, pkcs11.CKU_USER, pin); err != nil {
		return fault("log in", err)
	}
	m.loggedIn = true
	return nil
}

// Info tells what is known of module and token: the state is hsm.Ready when
// logged in, hsm.Locked when not, hsm.Failed when the token does not answer.
// Without an open token it is the zero Status and hsm.ErrAway.
func (t *Token) Info() (hsm.Status, error) {
	m, leave, err := t.enter()
	if err != nil {
		return hsm.Status{}, err
	}
	defer leave()
	v := m.info.LibraryVersion
	s := hsm.Status{
		State:   hsm.Locked,
		Module:  fmt.Sprintf("%s %s %d.%d", m.info.ManufacturerID, m.info.LibraryDescription, v.Major, v.Minor),
		Token:   m.token.Label,
		Serial:  m.token.SerialNumber,
		Profile: m.profile.name,
	}
	if m.loggedIn {
		s.State = hsm.Ready
	}
	m.mu.RLock()
	s.Keys = len(m.keys)
	m.mu.RUnlock()
	now, err := m.ctx.GetTokenInfo(m.slot)
	if err != nil {
		s.State = hsm.Failed
		return s, fault("look at token", err)
	}
	s.PINCount = now.Flags&(pkcs11.CKF_USER_PIN_COUNT_LOW|pkcs11.CKF_USER_PIN_FINAL_TRY|pkcs11.CKF_USER_PIN_LOCKED) != 0
	return s, nil
}

// Health reports whether the token still answers: that it is the same token,
// that the login holds, and that a key is still under its handle. It costs
// three calls and no private-key operation.
func (t *Token) Health() error {
	m, leave, err := t.enter()
	if err != nil {
		return err
	}
	defer leave()
	return fault("check token", m.health())
}

func (m *module) health() error {
	now, err := m.ctx.GetTokenInfo(m.slot)
	if err != nil {
		return fmt.Errorf("%w: %w", hsm.ErrAway, err)
	}
	if now.SerialNumber != m.token.SerialNumber {
		return fmt.Errorf("%w: another token is in its place", hsm.ErrAway)
	}
	if !m.loggedIn {
		return nil
	}
	return m.pool.with(func(s pkcs11.SessionHandle) error {
		info, err := m.ctx.GetSessionInfo(s)
		if err != nil {
			return fmt.Errorf("%w: %w", hsm.ErrAway, err)
		}
		if info.State != pkcs11.CKS_RW_USER_FUNCTIONS {
			return fmt.Errorf("%w: the login is gone", hsm.ErrAway)
		}
		k := m.any()
		if k == nil {
			return nil
		}
		if _, err := m.ctx.GetAttributeValue(s, k.priv, ask(pkcs11.CKA_SIGN)); err != nil {
			return fmt.Errorf("%w: %w", hsm.ErrAway, err)
		}
		return nil
	})
}

// any is one of the keys in the token, or nil.
func (m *module) any() *key {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, k := range m.keys {
		if k.Class != hsm.OutsideWrapped {
			return k
		}
	}
	return nil
}
