// Package keyd is the process that holds the PIN: it keeps a token open,
// serves whole operations on its keys over two sockets, and guards each key
// by permission, budget and record. It parses no mail and speaks to no
// network; the module itself stands behind the interface Device. The states
// stand in states.go.
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
	// Clock is nil while the clock can be believed. Otherwise nothing is signed
	// but handshakes (keys labelled tls/…), which bear no time. No Clock: each is
	// believed.
	Clock func() error
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

	making chan struct{} // held by the one Generate, Destroy, Retire, Probe; a channel, so that others can stop waiting

	mu     sync.RWMutex
	state  hsm.State
	reason string
	// keys stay when the token goes: the state alone refuses, so that no
	// caller is told for good that a key does not exist because the token went
	// between two steps.
	keys     map[hsm.KeyID]hsm.Key
	findings []hsm.Finding
	info     hsm.Status

	patience time.Duration // of the sockets; shorter in a test

	telling sync.Mutex // OnState
	wake    chan struct{}
	failed  atomic.Int64 // operations that failed inside the module
	stale   atomic.Bool  // a key that is served turned out not to be usable: the keys are loaded anew
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
		keys: map[hsm.KeyID]hsm.Key{}, wake: make(chan struct{}, 1), done: make(chan struct{}), making: make(chan struct{}, 1),
		state: hsm.Failed, reason: "starting", patience: patience,
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
		err = errors.Join(k.device.Close(), k.guard.flush(true))
	})
	return err
}

// Run starts, serves both sockets until parent ends, and closes. The error is
// ErrPINRefused, ErrRecycle, that of a listener, or nil.
func (k *Keyd) Run(parent context.Context) error {
	ctx, cancel := context.WithCancelCause(parent)
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
		if parent.Err() == nil { // whatever the parent's cause is, it asked for the end
			err = context.Cause(ctx)
		}
	}
	cancel(nil)
	group.Wait()
	if cerr := k.Close(); cerr != nil {
		k.log.Error("close token", "error", cerr)
	}
	return err
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
