// Package keyd is the process that holds the PIN: it keeps a token open,
// serves whole operations on its keys over two sockets, and guards each key
// by permission, budget and record. It parses no mail and speaks to no
// network; the module itself stands behind the interface Device.
//
// # States
//
//	Unprovisioned  no token with our label     Init makes one
//	Locked         a token and no good PIN     Unlock, or Init's PIN
//	Ready
//	Failed         the token went away         reopened by itself, 250 ms to 5 s apart
//
// A token that comes back is opened again from the start (module, token,
// login, keys), because handles and sessions of before are dead on every
// module that was measured.
package keyd

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"postern/hsm"
)

// Run ends with one of these, or with nil when its context does.
var (
	// ErrPINRefused: the credential's PIN was refused at the start. The
	// program exits with status 78, which the unit names in
	// RestartPreventExitStatus=; a later start stays Locked and tries nothing.
	ErrPINRefused = errors.New("the token refused the PIN of the credential")
	// ErrRecycle: so many operations failed inside the module that its leaks
	// begin to count. The program exits with status 75 and is started again.
	ErrRecycle = errors.New("time for a fresh process")
	// ErrInUse: another daemon answers on the socket.
	ErrInUse = errors.New("socket in use")
)

// Peers names who may speak on a socket, by what the kernel says of the
// caller: its user id, or any of its group ids. The daemon's own user and root
// may always.
type Peers struct {
	UIDs []uint32
	GIDs []uint32
}

// Rule keeps keys for some callers: the first rule whose pattern matches a
// key's label (path.Match, with "/" as separator) decides. Keys without a rule
// are for everybody who may speak on the socket.
type Rule struct {
	Label string
	UIDs  []uint32
}

// Config is what a daemon needs. Device, Log and Audit are required.
type Config struct {
	Device Device

	PINFile  string // first line is the PIN; "" means that an operator unlocks
	StateDir string // retired keys, counters, PIN notes; "" keeps nothing (tests)

	UseListener, KeepListener net.Listener // from systemd or Listen; nil: not served
	Use, Keep                 Peers
	Rules                     []Rule

	Workers int // operations in the module at once, default 4; half of them RSA
	Budget  Budget

	Health     time.Duration // between signs of life, default 1 s
	MinBackoff time.Duration // first wait before reopening, default 250 ms
	MaxBackoff time.Duration // longest wait, default 5 s
	Recycle    int64         // failed operations before ErrRecycle, default 500,000: about 100 MB of leaks; below 0 never

	Log, Audit *slog.Logger
	// OnState is told each change of state, one at a time.
	OnState func(hsm.State, string)
	Version string
	Now     func() time.Time // default time.Now
}

// Keyd is the daemon. It is itself an hsm.Keeper for the process it is in,
// under that process's user id.
type Keyd struct {
	caller
	cfg    Config
	device Device
	log    *slog.Logger
	guard  *guard
	unwrap unwrapper
	rsa    *queue
	ec     *queue

	// dev is held for reading by every operation, for writing while the
	// token is opened, closed, initialised or loaded.
	dev sync.RWMutex
	pin secret // under dev
	// refused: the PIN in reach was refused in this process; under dev.
	refused bool
	seen    bool // a token with our label was there; under dev

	making sync.Mutex // one Generate, Destroy, Retire, Probe at a time

	mu     sync.RWMutex
	state  hsm.State
	reason string
	// keys stay when the token goes: the state alone refuses, so that no
	// caller is told for good that a key does not exist because the token went
	// between two steps.
	keys     map[hsm.KeyID]hsm.Key
	findings []hsm.Finding
	info     hsm.Status

	telling sync.Mutex // OnState
	wake    chan struct{}
	failed  atomic.Int64 // operations that failed inside the module
	beat    atomic.Int64 // the supervisor's last sign of life, in nanoseconds since 1970
	done    chan struct{}
	group   sync.WaitGroup
	stop    context.CancelFunc
	ended   sync.Once
}

// New checks cfg and reads the state directory. It does not touch the token.
func New(cfg Config) (*Keyd, error) {
	if cfg.Device == nil || cfg.Log == nil || cfg.Audit == nil {
		return nil, errors.New("make key daemon: device and both logs are required")
	}
	for _, r := range cfg.Rules {
		if _, err := path.Match(r.Label, ""); err != nil {
			return nil, fmt.Errorf("make key daemon: rule %q: %w", r.Label, err)
		}
	}
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&cfg.Health, time.Second)
	def(&cfg.MinBackoff, 250*time.Millisecond)
	def(&cfg.MaxBackoff, 5*time.Second)
	if cfg.Workers <= 0 {
		cfg.Workers = 4
	}
	if cfg.Recycle == 0 {
		cfg.Recycle = 500_000
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.StateDir != "" {
		if err := os.MkdirAll(cfg.StateDir, 0o700); err != nil {
			return nil, fmt.Errorf("make key daemon: %w", err)
		}
	}
	g, err := newGuard(cfg.Budget, cfg.StateDir, cfg.Now)
	if err != nil {
		return nil, fmt.Errorf("make key daemon: %w", err)
	}
	k := &Keyd{
		cfg: cfg, device: cfg.Device, log: cfg.Log, guard: g,
		keys: map[hsm.KeyID]hsm.Key{}, wake: make(chan struct{}, 1), done: make(chan struct{}),
		state: hsm.Failed, reason: "starting",
	}
	k.caller = caller{k: k, uid: uint32(os.Getuid())}
	k.unwrap = unwrapper{device: cfg.Device, secret: make([]byte, 32)}
	rand.Read(k.unwrap.secret)
	half := max(1, cfg.Workers/2)
	k.rsa, k.ec = newQueue(half, k.done, &k.group), newQueue(max(1, cfg.Workers-half), k.done, &k.group)
	return k, nil
}

// Start opens the token once and begins to look after it, until Close. A
// token that is away, empty or locked is no error, only a state; the error is
// ErrPINRefused.
func (k *Keyd) Start(ctx context.Context) error {
	k.beat.Store(k.cfg.Now().UnixNano())
	err := k.reopen(true)
	if errors.Is(err, hsm.ErrPIN) {
		return ErrPINRefused
	}
	ctx, k.stop = context.WithCancel(ctx)
	k.group.Go(func() { k.supervise(ctx) })
	return nil
}

// Close lets go of the token and forgets the PIN. It waits for the operations
// that are under way.
func (k *Keyd) Close() error {
	var err error
	k.ended.Do(func() {
		if k.stop != nil {
			k.stop()
		}
		close(k.done)
		k.group.Wait()
		k.dev.Lock()
		defer k.dev.Unlock()
		k.setState(hsm.Failed, "stopped")
		clear(k.pin)
		k.pin = nil
		err = errors.Join(k.device.Close(), k.guard.flush())
	})
	return err
}

// Run starts, serves both sockets until ctx ends, and closes. The error is
// ErrPINRefused, ErrRecycle, that of a listener, or nil.
func (k *Keyd) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var group sync.WaitGroup
	serve := func(l net.Listener, name string, peers Peers, keep bool) {
		if l == nil {
			return
		}
		context.AfterFunc(ctx, func() { l.Close() })
		group.Go(func() {
			if err := k.serve(ctx, l, name, peers, keep); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("serve %s socket: %w", name, err))
			}
		})
	}
	// The sockets answer before the token does, so that a slow token is seen
	// as a state and not as silence.
	serve(k.cfg.UseListener, "use", k.cfg.Use, false)
	serve(k.cfg.KeepListener, "keep", k.cfg.Keep, true)
	err := k.Start(ctx)
	if err == nil {
		group.Go(func() { // ends with ctx
			tick := time.NewTicker(k.cfg.Health)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				if k.cfg.Recycle > 0 && k.failed.Load() >= k.cfg.Recycle {
					cancel(ErrRecycle)
				}
			}
		})
		<-ctx.Done()
		if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) && !errors.Is(cause, context.DeadlineExceeded) {
			err = cause
		}
	}
	cancel(nil)
	group.Wait()
	if cerr := k.Close(); cerr != nil {
		k.log.Error("close token", "error", cerr)
	}
	return err
}

// State is the state now, and why it is not Ready.
func (k *Keyd) State() (hsm.State, string) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.state, k.reason
}

// SelfCheck is what a watchdog asks: does the supervisor still turn, or does
// a call into the module hang? A token that is away is no failure, because a
// fresh process would not have it either.
func (k *Keyd) SelfCheck(ctx context.Context) error {
	const limit = time.Minute
	if idle := k.cfg.Now().Sub(time.Unix(0, k.beat.Load())); idle > limit {
		return fmt.Errorf("check key daemon: the token module has not returned for %v", idle.Round(time.Second))
	}
	return ctx.Err()
}

func (k *Keyd) setState(s hsm.State, reason string) {
	k.telling.Lock()
	defer k.telling.Unlock()
	k.mu.Lock()
	same := k.state == s && k.reason == reason
	k.state, k.reason = s, reason
	k.mu.Unlock()
	if same {
		return
	}
	level := slog.LevelInfo
	if s == hsm.Failed || s == hsm.Locked {
		level = slog.LevelWarn
	}
	k.log.Log(context.Background(), level, "state", "state", s.String(), "reason", reason)
	if k.cfg.OnState != nil {
		k.cfg.OnState(s, reason)
	}
}

// away notes that the token is gone and wakes the supervisor.
func (k *Keyd) away(err error) {
	k.mu.RLock()
	ready := k.state == hsm.Ready || k.state == hsm.Locked
	k.mu.RUnlock()
	if !ready {
		return
	}
	k.setState(hsm.Failed, fmt.Sprintf("%v (tried again by itself)", err))
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

func (k *Keyd) supervise(ctx context.Context) {
	backoff := k.cfg.MinBackoff
	for {
		wait := k.cfg.Health
		switch s, _ := k.State(); s {
		case hsm.Failed, hsm.Unprovisioned:
			// Modules that start at the same moment as another one can show no
			// token at first: an empty one is looked at again, too.
			wait = backoff
			backoff = min(2*backoff, k.cfg.MaxBackoff)
		default:
			backoff = k.cfg.MinBackoff
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-k.wake:
			timer.Stop()
			continue // the state has changed, and with it the wait
		case <-timer.C:
		}
		k.beat.Store(k.cfg.Now().UnixNano())
		if err := k.guard.flush(); err != nil {
			k.log.Error("write counters", "error", err)
		}
		switch s, _ := k.State(); s {
		case hsm.Ready, hsm.Locked:
			k.health(s)
		default:
			if err := k.reopen(false); err != nil {
				k.log.Debug("reopen token", "error", err)
			}
		}
		k.beat.Store(k.cfg.Now().UnixNano())
	}
}

func (k *Keyd) health(s hsm.State) {
	k.dev.RLock()
	err := k.device.Health()
	var info hsm.Status
	if err == nil {
		info, err = k.device.Info()
	}
	k.dev.RUnlock()
	if err == nil {
		k.mu.Lock()
		k.info = info
		k.mu.Unlock()
		return
	}
	// A token that nobody logged in to may say so; only its absence counts.
	if s == hsm.Ready || errors.Is(err, hsm.ErrAway) {
		k.away(err)
	}
}

// reopen takes the token from whatever it is to the best state that can be
// reached without an operator. Its error is for the log; the state is set.
func (k *Keyd) reopen(first bool) error {
	k.dev.Lock()
	defer k.dev.Unlock()
	if s, _ := k.State(); !first && s != hsm.Failed && s != hsm.Unprovisioned {
		return nil // an operator was faster
	}
	if !first {
		if err := k.device.Close(); err != nil {
			k.log.Debug("close token", "error", err)
		}
	}
	if err := k.find(); err != nil {
		return err
	}
	pin := k.pin
	if pin == nil {
		var err error
		if pin, err = readPIN(k.cfg.PINFile); err != nil {
			k.setState(hsm.Locked, fmt.Sprintf("%v (hint: postern token unlock)", err))
			return err
		}
	}
	why, err := k.mayTry()
	if err != nil {
		k.setState(hsm.Failed, err.Error())
		return err
	}
	if why == "" && k.info.PINCount {
		why = "the token counts a wrong PIN already and is not asked again (hint: postern token unlock)"
	}
	if why != "" {
		k.setState(hsm.Locked, why)
		return hsm.ErrLocked
	}
	return k.enter(pin)
}

// find opens the module and our token. The caller holds k.dev.
func (k *Keyd) find() error {
	err := k.device.Open()
	var info hsm.Status
	if err == nil {
		info, err = k.device.Info()
	}
	switch {
	case errors.Is(err, hsm.ErrEmpty) && !k.seen:
		k.setState(hsm.Unprovisioned, "no token with our label (hint: postern token init)")
		return err
	case errors.Is(err, hsm.ErrEmpty):
		k.setState(hsm.Failed, "the token is gone (hint: put it back; to begin with another one, restart keyd)")
		return err
	case err != nil:
		k.setState(hsm.Failed, fmt.Sprintf("open token: %v", err))
		return err
	}
	k.seen = true
	k.mu.Lock()
	k.info = info
	k.mu.Unlock()
	return nil
}

// enter logs in once and loads the keys. The caller holds k.dev.
func (k *Keyd) enter(pin secret) error {
	err := k.login(pin)
	if errors.Is(err, hsm.ErrPIN) {
		clear(k.pin)
		k.pin = nil
		k.setState(hsm.Locked, "the PIN was refused (hint: correct the credential, then unlock)")
		return err
	}
	if err != nil {
		k.setState(hsm.Failed, err.Error())
		return err
	}
	k.pin, k.refused = pin, false
	return k.load()
}

// load reads and audits the keys. The caller holds k.dev and is logged in.
func (k *Keyd) load() error {
	keys, findings, err := k.device.Load()
	if err != nil {
		k.setState(hsm.Failed, fmt.Sprintf("load keys: %v", err))
		return err
	}
	m := make(map[hsm.KeyID]hsm.Key, len(keys))
	for _, key := range keys {
		m[key.ID] = key
	}
	for _, f := range findings {
		if !f.Served {
			k.log.Warn("key not served", "key", f.ID.String(), "label", clean(f.Label, hsm.MaxLabel), "faults", strings.Join(f.Faults, "; "))
		}
	}
	k.mu.Lock()
	k.keys, k.findings = m, findings
	k.mu.Unlock()
	k.setState(hsm.Ready, "") // after the keys: who sees Ready finds them
	return nil
}

// unlock is Keeper.Unlock.
func (k *Keyd) unlock(pin string) error {
	k.dev.Lock()
	defer k.dev.Unlock()
	switch s, _ := k.State(); s {
	case hsm.Ready:
		return nil
	case hsm.Locked:
	case hsm.Unprovisioned:
		return hsm.ErrEmpty
	default:
		return hsm.ErrAway
	}
	p := secret(pin)
	if pin == "" {
		var err error
		if p, err = readPIN(k.cfg.PINFile); err != nil {
			return fmt.Errorf("unlock: %w: %w", err, hsm.ErrInvalid)
		}
	}
	if err := k.pardon(); err != nil {
		return err
	}
	return k.enter(p)
}

// initialise is Keeper.Init. A token that has our label is never touched.
func (k *Keyd) initialise(soPIN, pin string) error {
	k.dev.Lock()
	defer k.dev.Unlock()
	switch s, _ := k.State(); s {
	case hsm.Unprovisioned:
	case hsm.Ready, hsm.Locked:
		return fmt.Errorf("init token: one with our label is there: %w", hsm.ErrExists)
	default:
		return hsm.ErrAway
	}
	p := secret(pin)
	if pin == "" {
		var err error
		if p, err = readPIN(k.cfg.PINFile); err != nil {
			return fmt.Errorf("init token: %w: %w", err, hsm.ErrInvalid)
		}
	}
	if soPIN == "" {
		soPIN = makePIN()
	}
	if err := k.pardon(); err != nil {
		return err
	}
	if err := k.device.Init(soPIN, string(p)); err != nil {
		return err
	}
	// Slot numbers change after C_InitToken: begin anew.
	if err := k.device.Close(); err != nil {
		k.log.Debug("close token", "error", err)
	}
	if err := k.find(); err != nil {
		return err
	}
	return k.enter(p)
}

// reload is Keeper.Audit: it reads the token again and serves what it finds.
func (k *Keyd) reload() ([]hsm.Finding, error) {
	k.dev.Lock()
	defer k.dev.Unlock()
	if err := k.usable(); err != nil {
		return nil, err
	}
	if err := k.load(); err != nil {
		k.poke()
		return nil, err
	}
	k.mu.RLock()
	defer k.mu.RUnlock()
	return slices.Clone(k.findings), nil
}

func (k *Keyd) poke() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// usable is nil in state Ready, else the refusal of the state.
func (k *Keyd) usable() error {
	switch s, _ := k.State(); s {
	case hsm.Ready:
		return nil
	case hsm.Locked:
		return hsm.ErrLocked
	case hsm.Unprovisioned:
		return hsm.ErrEmpty
	}
	return hsm.ErrAway
}

// key is a key that is served, with its retirement.
func (k *Keyd) key(id hsm.KeyID) (hsm.Key, bool) {
	k.mu.RLock()
	key, ok := k.keys[id]
	k.mu.RUnlock()
	key.Retired = ok && k.guard.isRetired(id)
	return key, ok
}

// list is every key that is served, by label and id.
func (k *Keyd) list() []hsm.Key {
	k.mu.RLock()
	keys := make([]hsm.Key, 0, len(k.keys))
	for _, key := range k.keys {
		keys = append(keys, key)
	}
	k.mu.RUnlock()
	for i := range keys {
		keys[i].Retired = k.guard.isRetired(keys[i].ID)
	}
	slices.SortFunc(keys, func(a, b hsm.Key) int {
		return cmp.Or(cmp.Compare(a.Label, b.Label), slices.Compare(a.ID[:], b.ID[:]))
	})
	return keys
}

// clean makes foreign text fit for a log: printable ASCII, at most n bytes.
func clean(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r > 0x7e {
			return '?'
		}
		return r
	}, s)
}
