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

	"postern/appliance/box/share"
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
	at     *clock
}

type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
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
	r := &running{house: h, t: t, log: new(bytes.Buffer), listen: l, done: make(chan error, 1), at: &clock{now: time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)}}
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

func TestClaim(t *testing.T) {
	dir := t.TempDir()
	h := &house{token: token{state: hsm.Unprovisioned}}
	r := start(t, dir, h)
	c, _ := r.operator("owner")
	if st, err := c.Status(t.Context()); err != nil || st.Claimed || st.Version != "" {
		t.Errorf("before: got %+v, %v, want unclaimed and no more", st, err)
	}
	code, _, _ := r.code.show()
	got, err := c.Claim(t.Context(), strings.ToLower(strings.ReplaceAll(code, "-", " ")), Claim{Config: "name=gw\ntpm", PIN: PIN{PIN: []byte(secretPIN)}})
	if err != nil {
		t.Fatal(err)
	}
	if h.applied != 0 || h.state != hsm.Unprovisioned {
		t.Error("something was done before the recovery key was typed back")
	}
	if again, _, _ := r.code.show(); again == code {
		t.Error("the code serves twice")
	}
	other, _ := r.operator("other")
	if _, err := other.Confirm(t.Context(), got.Recovery); says(err) != 409 {
		t.Errorf("confirmed by another key: got %v, want 409", err)
	}
	if _, err := c.Confirm(t.Context(), "cccc-dddd-eeee-0009"); says(err) != 403 {
		t.Errorf("another recovery key: got %v, want 403", err)
	}
	st, err := c.Confirm(t.Context(), " CCCC DDDD eeee0001\n")
	if err != nil || !st.Claimed || st.Name != "gw" || st.Token != "ready" {
		t.Fatalf("got %+v, %v, want a claimed box with its token", st, err)
	}
	if h.pin != secretPIN || string(h.sealed) != secretPIN {
		t.Errorf("got PIN %q, sealed %q, want the one of the claim", h.pin, h.sealed)
	}
	if _, err := other.Claim(t.Context(), code, Claim{Config: "name=gw", PIN: PIN{PIN: []byte("1234")}}); says(err) != 409 {
		t.Errorf("claimed again: got %v, want 409", err)
	}
	if strings.Contains(r.log.String(), secretPIN) || strings.Contains(r.log.String(), plain(code)) || strings.Contains(r.log.String(), code) || strings.Contains(r.log.String(), got.Recovery) {
		t.Error("the log holds a secret")
	}
	// It survives a restart, with the same key.
	again := start(t, dir, h)
	if again.Pin() != r.Pin() {
		t.Errorf("after a restart: got %s, want %s", again.Pin(), r.Pin())
	}
	if st := again.status(t.Context()); !st.Claimed || st.Name != "gw" {
		t.Errorf("after a restart: got %+v, want claimed", st)
	}
}

// Whoever does not see the screen claims nothing; after a few tries, and after
// an hour, there is another code.
func TestCodes(t *testing.T) {
	r := start(t, t.TempDir(), &house{token: token{state: hsm.Unprovisioned}})
	c, _ := r.operator("owner")
	claim := Claim{Config: "name=gw", PIN: PIN{PIN: []byte(secretPIN)}}
	first, _, _ := r.code.show()
	for i := range tries {
		if now, _, left := r.code.show(); now != first || left != tries-i {
			t.Fatalf("try %d: got code %s, %d left, want %s", i, now, left, first)
		}
		if _, err := c.Claim(t.Context(), "AAAA-BBBB-CCCC-DDDD", claim); says(err) != 403 {
			t.Fatalf("try %d: got %v, want 403", i, err)
		}
	}
	if _, err := c.Claim(t.Context(), first, claim); says(err) != 403 {
		t.Errorf("the first code after %d wrong ones: got %v, want 403", tries, err)
	}
	second, _, _ := r.code.show()
	r.at.pass(codeLife)
	if _, err := c.Claim(t.Context(), second, claim); says(err) != 403 {
		t.Errorf("a code after its hour: got %v, want 403", err)
	}
	third, _, _ := r.code.show()
	if first == second || second == third {
		t.Errorf("got codes %s, %s, %s, want three", first, second, third)
	}
	got, err := c.Claim(t.Context(), third, claim)
	if err != nil {
		t.Fatal(err)
	}
	for range tries {
		if _, err := c.Confirm(t.Context(), "wrong"); says(err) != 403 {
			t.Errorf("a wrong recovery key: got %v, want 403", err)
		}
	}
	if _, err := c.Confirm(t.Context(), got.Recovery); says(err) != 409 {
		t.Errorf("the right one after %d wrong ones: got %v, want 409", tries, err)
	}
	code, _, _ := r.code.show()
	if got, err = c.Claim(t.Context(), code, claim); err != nil {
		t.Fatal(err)
	}
	r.at.pass(pendingLife)
	if _, err := c.Confirm(t.Context(), got.Recovery); says(err) != 409 {
		t.Errorf("after half an hour: got %v, want 409", err)
	}
	if r.applied != 0 {
		t.Error("something was done for a claim that was not confirmed")
	}
}

// Nothing is said to a box with another key, and a box that does not know the
// code is found out.
func TestAnotherBox(t *testing.T) {
	r := start(t, t.TempDir(), &house{})
	own, err := Operator(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c, err := Dial(r.listen.Addr().String(), strings.Repeat("ab", 32), own)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Claim(t.Context(), "AAAA-BBBB-CCCC-DDDD", Claim{PIN: PIN{PIN: []byte(secretPIN)}}); !errors.Is(err, ErrPeer) {
		t.Errorf("got %v, want %v", err, ErrPeer)
	}
	if strings.Contains(r.log.String(), "claim") {
		t.Errorf("the box heard of a claim: %s", r.log)
	}
	for _, bad := range []string{"", "abcd", r.Pin()[:38], r.Pin() + "00", strings.Repeat("zz", 32)} {
		if _, err := Dial("127.0.0.1:1", bad, own); err == nil {
			t.Errorf("fingerprint %q: got no error, want one", bad)
		}
	}
	if _, err := Dial("127.0.0.1:1", " "+strings.ToUpper(Fingerprint(r.Pin())), own); err != nil {
		t.Errorf("a fingerprint as the screen shows it: got %v", err)
	}
	// The proof of one connection is none on another, nor for another request.
	one, two := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	base := prove("AAAA", "claim", one, []byte("body"))
	for name, other := range map[string][]byte{
		"connection": prove("AAAA", "claim", two, []byte("body")), "request": prove("AAAA", "claim", one, []byte("b0dy")),
		"side": prove("AAAA", "box", one, []byte("body")), "code": prove("AAAB", "claim", one, []byte("body")),
	} {
		if bytes.Equal(base, other) {
			t.Errorf("another %s gives the same proof", name)
		}
	}
}

// A claim that cannot be carried out leaves a box that belongs to nobody.
func TestClaimFails(t *testing.T) {
	h := &house{token: token{state: hsm.Unprovisioned}, fail: errors.New("no network device fits")}
	dir := t.TempDir()
	r := start(t, dir, h)
	c, _ := r.operator("owner")
	code, _, _ := r.code.show()
	if _, err := c.Claim(t.Context(), code, Claim{Config: "no", PIN: PIN{PIN: []byte(secretPIN)}}); err == nil || !strings.Contains(err.Error(), "box.name is missing") {
		t.Errorf("a bad box.toml: got %v, want its line", err)
	}
	code, _, _ = r.code.show()
	got, err := c.Claim(t.Context(), code, Claim{Config: "name=gw", PIN: PIN{PIN: []byte(secretPIN)}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Confirm(t.Context(), got.Recovery); err == nil || !strings.Contains(err.Error(), "no network device fits") {
		t.Errorf("got %v, want the cause", err)
	}
	if again := start(t, dir, h); again.status(t.Context()).Claimed {
		t.Error("the box belongs to somebody")
	}
	h.fail = nil
	if st, err := c.Confirm(t.Context(), got.Recovery); err != nil || !st.Claimed {
		t.Errorf("once the cause is away: got %+v, %v, want claimed", st, err)
	}
}

// A claim that is confirmed at the last moment is carried out with its PIN,
// however often the screen is drawn meanwhile.
func TestConfirmedAtTheLastMoment(t *testing.T) {
	h := &house{token: token{state: hsm.Unprovisioned}}
	r := start(t, t.TempDir(), h)
	h.during = func() {
		r.at.pass(settleLife)
		r.asks()
	}
	c, _ := r.operator("owner")
	code, _, _ := r.code.show()
	got, err := c.Claim(t.Context(), code, Claim{Config: "name=gw", PIN: PIN{PIN: []byte(secretPIN)}})
	if err != nil {
		t.Fatal(err)
	}
	r.at.pass(pendingLife - time.Second)
	if st, err := c.Confirm(t.Context(), got.Recovery); err != nil || !st.Claimed || h.pin != secretPIN {
		t.Errorf("got %+v, %v, PIN %q, want claimed with %q", st, err, h.pin, secretPIN)
	}
}

// What each key may do, request by request.
func TestRoles(t *testing.T) {
	keys := map[string]tls.Certificate{}
	config := "name=gw\nto=age1x\n"
	for _, name := range []string{"admin", "backup", "stranger"} {
		key, err := Operator(filepath.Join(t.TempDir(), name))
		if err != nil {
			t.Fatal(err)
		}
		pin, err := PinOf(key)
		if err != nil {
			t.Fatal(err)
		}
		keys[name] = key
		config += name + "=" + strings.ToUpper(pin[:7]) + pin[7:] + "\n"
	}
	config = strings.ReplaceAll(config, "SHA256:", "sha256:")
	r, owner := claimed(t, config, nil)
	clients := map[string]*Client{"owner": owner}
	for name, key := range keys {
		clients[name], _ = r.with(key)
	}
	for _, c := range []struct {
		what string
		do   func(c *Client) error
		may  string
	}{
		{"status", func(c *Client) error { _, err := c.Status(t.Context()); return err }, "owner admin backup stranger"},
		{"backup", func(c *Client) error { return c.Backup(t.Context(), io.Discard) }, "owner admin backup"},
		{"config", func(c *Client) error { _, err := c.Config(t.Context()); return err }, "owner admin"},
		{"configure", func(c *Client) error { _, err := c.Configure(t.Context(), []byte(config)); return err }, "owner admin"},
		{"unlock", func(c *Client) error { _, err := c.Unlock(t.Context(), Unlock{PIN: []byte(secretPIN)}); return err }, "owner admin"},
		{"call", func(c *Client) error { _, err := c.Call(t.Context(), Call{Args: []string{"status"}}); return err }, "owner admin"},
		{"restore", func(c *Client) error { _, err := c.Restore(t.Context(), strings.NewReader("x"), "y"); return err }, "owner admin"},
		{"recovery", func(c *Client) error { _, err := c.Recovery(t.Context()); return err }, "owner admin"},
	} {
		for name, client := range clients {
			err := c.do(client)
			if may := strings.Contains(c.may, name); may && err != nil || !may && says(err) != 403 {
				t.Errorf("%s by %s: got %v, want it allowed: %v", c.what, name, err, may)
			}
		}
	}
	for name, want := range map[string]string{"owner": "admin", "admin": "admin", "backup": "backup", "stranger": "none"} {
		st, err := clients[name].Status(t.Context())
		if err != nil || st.Role != want || (st.Name != "") != (want != "none") {
			t.Errorf("%s: got %+v, %v, want role %s", name, st, err, want)
		}
	}
	if err := clients["stranger"].Reset(t.Context(), "gw"); says(err) != 403 || r.house.wiped {
		t.Errorf("reset by a stranger: got %v, want 403", err)
	}
	var out bytes.Buffer
	if err := clients["backup"].Backup(t.Context(), &out); err != nil || out.String() != "sealed for [age1x]" {
		t.Errorf("got %q, %v, want the backup", out.String(), err)
	}
	if got, err := owner.Call(t.Context(), Call{Args: []string{"cert", "import", "-"}, Stdin: []byte("cert")}); err != nil || got.Status != 75 || string(got.Stdout) != `["cert" "import" "-"] "cert"` || string(got.Stderr) != "hint: none\n" || string(got.Files["a.csr"]) != "request" {
		t.Errorf("got %+v, %v, want what the command said", got, err)
	}
	if r.restored != "y x" {
		t.Errorf("restored %q, want %q", r.restored, "y x")
	}
	if text, err := owner.Config(t.Context()); err != nil || string(text) != config {
		t.Errorf("got %q, %v, want box.toml", text, err)
	}
	if _, err := owner.Configure(t.Context(), []byte("name=gw\ntpm")); err == nil || !strings.Contains(err.Error(), "unlock cannot be changed") {
		t.Errorf("another unlock: got %v, want a refusal", err)
	}
	if _, err := owner.Configure(t.Context(), []byte("name=gw\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := clients["admin"].Config(t.Context()); says(err) != 403 {
		t.Errorf("an admin that box.toml names no more: got %v, want 403", err)
	}
}

// R31. Locked: people come one after the other with their shares. A wrong share,
// one of another set, or too few cost the token no try.
func TestUnlockByShares(t *testing.T) {
	set, texts, err := share.Split([]byte(secretPIN), 2, 3)
	if err != nil {
		t.Fatal(err)
	}
	_, foreign, err := share.Split([]byte("another pin"), 2, 3)
	if err != nil {
		t.Fatal(err)
	}
	r, c := claimed(t, "name=gw", &SharedPIN{*set})
	dir := r.cfg.Dir
	r.token.lock()
	give := func(text string) (Status, error) { return c.Unlock(t.Context(), Unlock{Share: text}) }
	mistyped := []byte(texts[0])
	mistyped[0] ^= 1
	for name, text := range map[string]string{"mistyped": string(mistyped), "of another set": foreign[0], "nothing": "-"} {
		if _, err := give(text); says(err) != 422 {
			t.Errorf("%s: got %v, want 422", name, err)
		}
	}
	for range 3 { // one share three times is one
		st, err := give(texts[0])
		if err != nil || st.Token != "locked" || len(st.Have) != 1 || st.Need != 2 {
			t.Fatalf("one share: got %+v, %v, want it locked and one of two", st, err)
		}
	}
	r.at.pass(shareLife + time.Second)
	if st, err := give(texts[1]); err != nil || st.Token != "locked" || len(st.Have) != 1 || st.Have[0] != 2 {
		t.Errorf("the second much later: got %+v, %v, want it alone", st, err)
	}
	if st, err := give(texts[2]); err != nil || st.Token != "ready" || len(st.Have) != 0 {
		t.Errorf("two shares: got %+v, %v, want it ready", st, err)
	}
	if r.wrong != 0 {
		t.Errorf("the token counted %d wrong PINs, want none", r.wrong)
	}
	// The PIN itself is tried as it is typed, once.
	r.token.lock()
	if _, err := c.Unlock(t.Context(), Unlock{PIN: []byte("nonsense")}); says(err) != 403 || r.wrong != 1 {
		t.Errorf("a wrong PIN: got %v and %d tries, want 403 and 1", err, r.wrong)
	}
	if st, err := c.Unlock(t.Context(), Unlock{PIN: []byte(secretPIN)}); err != nil || st.Token != "ready" {
		t.Errorf("the PIN: got %+v, %v, want it ready", st, err)
	}
	// The set survives a restart, and the folder holds no PIN.
	r.token.lock()
	again := start(t, dir, r.house)
	for _, text := range texts[:2] {
		if _, err := again.shares.add(text); err != nil {
			t.Error(err)
		}
	}
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if bytes.Contains(b, []byte(secretPIN)) {
			t.Errorf("%s holds the PIN", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	for _, text := range append(texts, secretPIN) {
		if strings.Contains(r.log.String(), text) {
			t.Errorf("the log holds a share or the PIN")
		}
	}
}

// A TPM that does not open the PIN any more, as after a change of firmware: people
// unlock the box, and it finds the PIN by itself from then on.
func TestUnsealed(t *testing.T) {
	r, c := claimed(t, "name=gw\ntpm", nil)
	r.token.lock()
	r.away, r.sealed = true, nil
	if st, err := c.Status(t.Context()); err != nil || st.Token != "away" {
		t.Errorf("got %+v, %v, want it away", st, err)
	}
	if _, err := c.Unlock(t.Context(), Unlock{PIN: []byte("nonsense")}); says(err) != 403 || r.sealed != nil {
		t.Errorf("a wrong PIN: got %v, sealed %q, want 403 and nothing sealed", err, r.sealed)
	}
	if st, err := c.Unlock(t.Context(), Unlock{PIN: []byte(secretPIN)}); err != nil || st.Token != "ready" || string(r.sealed) != secretPIN {
		t.Errorf("got %+v, %v, sealed %q, want it ready and sealed again", st, err, r.sealed)
	}
}

func TestReset(t *testing.T) {
	r, c := claimed(t, "name=gw", nil)
	if err := c.Reset(t.Context(), "wg"); says(err) != 403 || r.house.wiped {
		t.Errorf("another name: got %v, want 403", err)
	}
	if err := c.Reset(t.Context(), "gw"); err != nil || !r.house.wiped {
		t.Fatalf("got %v, want it wiped", err)
	}
	select {
	case err := <-r.done:
		if !errors.Is(err, ErrReset) {
			t.Errorf("got %v, want %v", err, ErrReset)
		}
		r.done <- nil
	case <-time.After(time.Minute):
		t.Error("the box goes on after a reset")
	}
	// Until the machine starts anew nobody is invited to claim what goes.
	if s := r.screen(t.Context()); !strings.Contains(s, "was wiped") || strings.Contains(s, "code") || strings.Contains(s, "claim") {
		t.Errorf("got screen %q, want no code on it", s)
	}
	own, err := Operator(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	file, err := Offer(own, []byte("name=gw"))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Take(t.Context(), file, ""); !errors.Is(err, ErrReset) || r.Claimed() {
		t.Errorf("a claim by a file: got %v, want %v", err, ErrReset)
	}
}

// The screen tells what to type, and says nothing secret once that is done.
func TestScreen(t *testing.T) {
	r := start(t, t.TempDir(), &house{token: token{state: hsm.Unprovisioned}})
	read, write := io.Pipe()
	ctx, stop := context.WithCancel(t.Context())
	drawn := make(chan error, 1)
	go func() {
		err := r.Screen(ctx, write)
		write.Close()
		drawn <- err
	}()
	next := func() string {
		b := make([]byte, 8192)
		n, err := read.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	code, _, _ := r.code.show()
	for _, want := range []string{"belongs to nobody", code, Fingerprint(r.Pin()), "192.0.2.25", "postern box claim 192.0.2.25:" + r.port()} {
		if got := r.screen(ctx); !strings.Contains(got, want) {
			t.Errorf("got %q, want %q in it", got, want)
		}
	}
	first := next()
	c, _ := r.operator("owner")
	got, err := c.Claim(t.Context(), code, Claim{Config: "name=gw", PIN: PIN{PIN: []byte(secretPIN)}})
	if err != nil {
		t.Fatal(err)
	}
	second := next()
	if first == second || strings.Contains(second, code) || !strings.Contains(second, "typed back") {
		t.Errorf("got %q after the claim", second)
	}
	if _, err := c.Confirm(t.Context(), got.Recovery); err != nil {
		t.Fatal(err)
	}
	third := next()
	if !strings.Contains(third, "gw") || strings.Contains(third, got.Recovery) || strings.Contains(third, "code") {
		t.Errorf("got %q once it is claimed", third)
	}
	stop()
	read.Close()
	<-drawn
}

// A file that its owner signed claims a box while that belongs to nobody; the
// PIN comes from the owner himself.
func TestClaimByFile(t *testing.T) {
	own, err := Operator(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	pin, err := PinOf(own)
	if err != nil {
		t.Fatal(err)
	}
	file, err := Offer(own, []byte("name=gw\ntpm"))
	if err != nil {
		t.Fatal(err)
	}
	r := start(t, t.TempDir(), &house{token: token{state: hsm.Unprovisioned}})
	for name, c := range map[string]struct {
		file  []byte
		owner string
	}{
		"nothing": {nil, ""}, "no JSON": {[]byte("name=gw"), ""}, "another name": {bytes.Replace(file, []byte("name=gw"), []byte("name=wg"), 1), ""},
		"another version": {bytes.Replace(file, []byte(`"version": 1`), []byte(`"version": 2`), 1), ""},
		"another owner":   {file, "sha256:" + strings.Repeat("ab", 32)}, "too big": {append(bytes.Clone(file), bytes.Repeat([]byte{' '}, maxBody)...), pin},
	} {
		if err := r.Take(t.Context(), c.file, c.owner); !errors.Is(err, ErrOffer) {
			t.Errorf("%s: got %v, want %v", name, err, ErrOffer)
		}
	}
	if r.applied != 0 {
		t.Fatal("something was done for a file that claims nothing")
	}
	code, _, _ := r.code.show()
	if err := r.Take(t.Context(), file, pin); err != nil {
		t.Fatal(err)
	}
	c, _ := r.with(own)
	st, err := c.Status(t.Context())
	if err != nil || !st.Claimed || st.Role != "admin" || st.Token != "unprovisioned" {
		t.Fatalf("got %+v, %v, want a box of its owner without a PIN", st, err)
	}
	other, _ := r.operator("other")
	if _, err := other.Claim(t.Context(), code, Claim{Config: "name=gw", PIN: PIN{PIN: []byte(secretPIN)}}); says(err) != 409 {
		t.Errorf("claimed with the code afterwards: got %v, want 409", err)
	}
	if err := r.Take(t.Context(), file, ""); !errors.Is(err, ErrClaimed) {
		t.Errorf("the same file again: got %v, want %v", err, ErrClaimed)
	}
	set, texts, err := share.Split([]byte(secretPIN), 2, 2)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.GivePIN(t.Context(), PIN{PIN: []byte("other-pin")}); says(err) != 403 {
		t.Errorf("a PIN from a stranger: got %v, want 403", err)
	}
	if st, err := c.GivePIN(t.Context(), PIN{[]byte(secretPIN), &SharedPIN{*set}}); err != nil || st.Token != "ready" || st.Need != 2 || string(r.sealed) != secretPIN {
		t.Errorf("got %+v, %v, want it ready, and the PIN sealed", st, err)
	}
	if _, err := c.GivePIN(t.Context(), PIN{PIN: []byte("other-pin")}); says(err) != 409 {
		t.Errorf("another PIN: got %v, want 409", err)
	}
	r.token.lock()
	for _, text := range texts {
		st, err = c.Unlock(t.Context(), Unlock{Share: text})
	}
	if err != nil || st.Token != "ready" {
		t.Errorf("unlocked by shares: got %+v, %v", st, err)
	}
}

// Whatever stands in a file, only what somebody signed is taken from it.
func FuzzOffer(f *testing.F) {
	own, err := Operator(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	file, err := Offer(own, []byte("name=gw"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(file)
	f.Add([]byte(`{"version":1,"key":"AA==","signature":"AA=="}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		config, pin, err := readOffer(b)
		if err == nil && (string(config) != "name=gw" || !strings.HasPrefix(pin, "sha256:")) {
			t.Errorf("got %q of %s, which nobody signed", config, pin)
		}
	})
}
