package box

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/appliance/clock/clocktest"
	"postern/hsm"
)

// token is a key daemon with one token that counts wrong PINs.
type token struct {
	hsm.Keeper
	mu    sync.Mutex
	state hsm.State
	pin   string
	wrong int
	away  bool // the TPM keeps it down
}

func (k *token) Status(context.Context) (hsm.Status, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.away {
		return hsm.Status{}, hsm.ErrAway
	}
	return hsm.Status{State: k.state}, nil
}

func (k *token) Init(_ context.Context, _, pin string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.state, k.pin = hsm.Ready, pin
	return nil
}

func (k *token) Unlock(_ context.Context, pin string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if pin != k.pin {
		k.wrong++
		return hsm.ErrPIN
	}
	k.state = hsm.Ready
	return nil
}

func (k *token) lock() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.state = hsm.Locked
}

// house is a machine of paper. A box.toml is a name and a line for each rule.
type house struct {
	token
	mu       sync.Mutex
	config   []byte
	applied  int
	sealed   []byte
	recovery int
	restored string
	wiped    bool
	fail     error  // of Apply
	during   func() // while Apply works
}

func (h *house) Check(config []byte) (r Rules, err error) {
	for line := range strings.Lines(string(config)) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch k {
		case "name":
			r.Name = v
		case "tpm":
			r.TPM = true
		case "admin":
			r.Admins = append(r.Admins, v)
		case "backup":
			r.BackupBy = append(r.BackupBy, v)
		case "to":
			r.BackupTo = append(r.BackupTo, v)
		}
	}
	if r.Name == "" {
		err = errors.New("box.toml:1: box.name is missing")
	}
	return r, err
}

func (h *house) Config() ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.config == nil {
		return nil, os.ErrNotExist
	}
	return h.config, nil
}

func (h *house) Apply(_ context.Context, config []byte, _ bool) error {
	if h.during != nil {
		h.during()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fail != nil {
		return h.fail
	}
	h.config, h.applied = config, h.applied+1
	return nil
}
func (h *house) Token() hsm.Keeper { return &h.token }
func (h *house) Seal(_ context.Context, pin []byte) error {
	h.sealed = bytes.Clone(pin)
	return nil
}
func (h *house) Unsealed(context.Context) (bool, error) {
	h.token.mu.Lock()
	defer h.token.mu.Unlock()
	began := h.away
	h.away = false
	return began, nil
}
func (h *house) Recovery(context.Context) (string, error) {
	h.recovery++
	return fmt.Sprintf("cccc-dddd-eeee-%04d", h.recovery), nil
}
func (h *house) Backup(_ context.Context, w io.Writer, to []string) error {
	_, err := fmt.Fprintf(w, "sealed for %s", to)
	return err
}
func (h *house) Restore(_ context.Context, r io.Reader, from string) error {
	b, err := io.ReadAll(r)
	h.restored = from + " " + string(b)
	return err
}
func (h *house) Run(_ context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) (int, map[string][]byte, error) {
	in, err := io.ReadAll(stdin)
	fmt.Fprintf(stdout, "%q %q", args, in)
	io.WriteString(stderr, "hint: none\n")
	return 75, map[string][]byte{"a.csr": []byte("request")}, err
}
func (h *house) Wipe(context.Context) error { h.wiped = true; return nil }
func (h *house) Addresses() []string        { return []string{"192.0.2.25"} }
func (h *house) Usage() (Usage, error) {
	return Usage{Memory: 200, MemoryOf: 1000, Disk: 50, DiskOf: 3000}, nil
}

// running is a box on loopback, and who speaks to it.
type running struct {
	*Server
	*house
	t      *testing.T
	log    *bytes.Buffer
	listen net.Listener
	done   chan error
	at     *clocktest.Clock
}

// locked is a buffer that several write to.
type locked struct {
	mu sync.Mutex
	b  *bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func start(t *testing.T, dir string, h *house) *running {
	t.Helper()
	id, err := Identity(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &running{house: h, t: t, log: new(bytes.Buffer), listen: l, done: make(chan error, 1), at: clocktest.At(time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC))}
	r.Server, err = NewServer(ServerConfig{Dir: dir, Identity: id, Listener: l, House: h, Log: slog.New(slog.NewTextHandler(&locked{b: r.log}, nil)), Version: "1", Now: r.at.Now})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	go func() { r.done <- r.Serve(ctx) }()
	t.Cleanup(func() {
		stop()
		<-r.done
		r.done <- nil
	})
	return r
}

// operator is a client with a key of its own, and its pin.
func (r *running) operator(name string) (*Client, string) {
	r.t.Helper()
	key, err := Operator(filepath.Join(r.t.TempDir(), name))
	if err != nil {
		r.t.Fatal(err)
	}
	return r.with(key)
}

func (r *running) with(key tls.Certificate) (*Client, string) {
	r.t.Helper()
	c, err := Dial(r.listen.Addr().String(), r.Pin(), key)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(c.Close)
	leaf, err := PinOf(key)
	if err != nil {
		r.t.Fatal(err)
	}
	return c, leaf
}

const secretPIN = "secret-4711-pin"

// claimed is a box with its owner.
func claimed(t *testing.T, config string, shares *SharedPIN) (*running, *Client) {
	t.Helper()
	r := start(t, t.TempDir(), &house{token: token{state: hsm.Unprovisioned}})
	c, _ := r.operator("owner")
	text, _, _ := r.code.show()
	got, err := c.Claim(t.Context(), text, Claim{Config: config, PIN: PIN{[]byte(secretPIN), shares}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Confirm(t.Context(), strings.ToUpper(got.Recovery)); err != nil {
		t.Fatal(err)
	}
	return r, c
}

// says is the status of HTTP that the box refused with; 0 for another error.
func says(err error) int {
	if r, ok := errors.AsType[*Refused](err); ok {
		return r.Status
	}
	return 0
}
