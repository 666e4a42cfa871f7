package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"postern/hsm"
	"postern/hsm/certtest"
	"postern/hsm/client"
	"postern/hsm/hsmtest"
	"postern/hsm/keyd"
)

// TestMain lets the test binary be keyd itself.
func TestMain(m *testing.M) {
	if os.Getenv("POSTERN_TEST_KEYD") != "" {
		main()
	}
	os.Exit(m.Run())
}

// limit is how long a real process may take to do anything.
const limit = 60 * time.Second

// box is a folder with what one keyd needs.
type box struct {
	t    *testing.T
	dir  string
	toml string
	env  []string
}

func newBox(t *testing.T, f *hsmtest.Fixture, more string) *box {
	t.Helper()
	dir := t.TempDir()
	b := &box{t: t, dir: dir, env: f.Env()}
	b.write("pin", f.PIN+"\n")
	b.toml = fmt.Sprintf("module = %q\ntoken = %q\npin-file = %q\nstate = %q\n%s\n[socket.use]\npath = %q\n[socket.keep]\npath = %q\n",
		f.Module, f.Label, b.path("pin"), b.path("state"), more, b.path("use.sock"), b.path("keep.sock"))
	b.write("keyd.toml", b.toml)
	return b
}

func (b *box) path(name string) string { return filepath.Join(b.dir, name) }

func (b *box) write(name, text string) {
	b.t.Helper()
	if err := os.WriteFile(b.path(name), []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// output can be read while a process writes to it.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// process is a keyd that runs.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	said   chan string // datagrams to systemd
	log    *output
	status chan int
}

// start runs keyd with these arguments, the way systemd does.
func (b *box) start(files []*os.File, names string, args ...string) *process {
	b.t.Helper()
	path := filepath.Join(b.t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		b.t.Fatal(err)
	}
	p := &process{t: b.t, said: make(chan string, 100), log: &output{}, status: make(chan int, 1)}
	go func() {
		defer close(p.said)
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			p.said <- string(buf[:n])
		}
	}()
	// LISTEN_PID must be the number of the process, which the shell knows.
	p.cmd = exec.Command("/bin/sh", append([]string{"-c", `LISTEN_PID=$$ exec "$0" "$@"`, os.Args[0]}, args...)...)
	p.cmd.Env = append(append(os.Environ(), b.env...), "POSTERN_TEST_KEYD=1", "NOTIFY_SOCKET="+path)
	if len(files) > 0 {
		p.cmd.ExtraFiles = files
		p.cmd.Env = append(p.cmd.Env, fmt.Sprintf("LISTEN_FDS=%d", len(files)), "LISTEN_FDNAMES="+names)
	}
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	if err := p.cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		p.cmd.Wait()
		p.status <- p.cmd.ProcessState.ExitCode()
		close(ended)
	}()
	b.t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-ended
		conn.Close()
	})
	return p
}

func (b *box) serve() *process { return b.start(nil, "", "--config", b.path("keyd.toml")) }

// hears waits for a datagram that begins and contains so.
func (p *process) hears(begin, word string) {
	p.t.Helper()
	deadline, ended := time.After(limit), p.status
	for {
		select {
		case got := <-p.said:
			if strings.HasPrefix(got, begin) && strings.Contains(got, word) {
				return
			}
		case s := <-ended: // what it said last may be on its way
			p.status <- s
			deadline, ended = time.After(5*time.Second), nil
		case <-deadline:
			p.t.Fatalf("did not say %q with %q, ended: %t:\n%s", begin, word, ended == nil, p.log)
		}
	}
}

// ends waits for the exit status.
func (p *process) ends() int {
	p.t.Helper()
	select {
	case s := <-p.status:
		return s
	case <-time.After(limit):
		p.t.Fatalf("did not end:\n%s", p.log)
		return -1
	}
}

func (p *process) stop() {
	p.t.Helper()
	p.cmd.Process.Signal(syscall.SIGTERM)
	if got := p.ends(); got != 0 {
		p.t.Errorf("ended with status %d want 0:\n%s", got, p.log)
	}
}

// status asks on the keep socket.
func (b *box) status() hsm.Status {
	b.t.Helper()
	c := client.Dial(b.path("keep.sock"))
	defer c.Close()
	st, err := c.Status(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	return st
}

func TestServe(t *testing.T) {
	b := newBox(t, hsmtest.SoftHSM(t), "")
	p := b.serve()
	p.hears("READY=1\nSTATUS=ready", "")
	if st := b.status(); st.State != hsm.Ready || st.Token != "postern-test" || st.Version != version {
		t.Errorf("got %+v want ready", st)
	}
	keep, use := client.Dial(b.path("keep.sock")), client.Dial(b.path("use.sock"))
	defer keep.Close()
	defer use.Close()
	key, err := keep.Generate(t.Context(), hsm.KeySpec{Algorithm: hsm.P256, Usage: hsm.Sign, Label: "dkim/a.example"})
	if err != nil {
		t.Fatal(err)
	}
	ctx := hsm.WithTrace(t.Context(), "t1")
	if _, err := use.Sign(ctx, key.ID, hsm.ECDSA, make([]byte, 32)); err != nil {
		t.Error(err)
	}
	if _, err := use.Status(t.Context()); !errors.Is(err, hsm.ErrRefused) {
		t.Errorf("keep operation on the use socket: got %v want %v", err, hsm.ErrRefused)
	}
	for _, name := range []string{"use.sock", "keep.sock"} {
		if st, err := os.Stat(b.path(name)); err != nil || st.Mode().Perm() != 0o660 {
			t.Errorf("%s: got %v, %v want mode 0660", name, st, err)
		}
	}

	second := b.serve()
	if got := second.ends(); got != exitError || !strings.Contains(second.log.String(), "keyd: open use socket: ") || !strings.Contains(second.log.String(), "\nhint: another keyd is running") {
		t.Errorf("second keyd: ended with status %d want %d and a hint:\n%s", got, exitError, second.log)
	}
	if st := b.status(); st.Keys != 1 {
		t.Errorf("after the second keyd: got %d keys want 1", st.Keys)
	}

	p.cmd.Process.Signal(syscall.SIGTERM)
	p.hears("STOPPING=1", "")
	if got := p.ends(); got != 0 {
		t.Errorf("ended with status %d want 0:\n%s", got, p.log)
	}
	if log := p.log.String(); !strings.Contains(log, "record=audit") || !strings.Contains(log, "trace=t1") || strings.Contains(log, "4711") {
		t.Errorf("want an audit record with the trace, and no PIN:\n%s", log)
	}
	for _, name := range []string{"use.sock", "keep.sock"} {
		if _, err := os.Stat(b.path(name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s stayed behind", name)
		}
	}
}

// Sockets of systemd are taken over by name and left in place at the end, and
// a record of what was done is written whatever the level of messages.
func TestHandedSockets(t *testing.T) {
	b := newBox(t, hsmtest.SoftHSM(t), "[log]\nlevel = \"error\"\nformat = \"json\"\n")
	var files []*os.File
	for _, name := range []string{"keep", "use"} {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: b.path(name + ".handed"), Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		f, err := l.File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files = append(files, f)
	}
	p := b.start(files, "keep:use", "--config", b.path("keyd.toml"))
	p.hears("READY=1\nSTATUS=ready", "")
	c := client.Dial(b.path("keep.handed"))
	defer c.Close()
	if st, err := c.Status(t.Context()); err != nil || st.State != hsm.Ready {
		t.Errorf("got %+v, %v want ready", st, err)
	}
	if _, err := os.Stat(b.path("keep.sock")); !errors.Is(err, os.ErrNotExist) {
		t.Error("a socket was made beside the one of systemd")
	}
	p.stop()
	if _, err := os.Stat(b.path("keep.handed")); err != nil {
		t.Errorf("the socket of systemd was removed: %v", err)
	}
	if log := p.log.String(); !strings.Contains(log, `"record":"audit"`) {
		t.Errorf("no audit record at level error:\n%s", log)
	}

	p = b.start(files, "keep:else", "--config", b.path("keyd.toml"))
	if got := p.ends(); got != exitError || !strings.Contains(p.log.String(), "\nhint: FileDescriptorName= is use or keep") {
		t.Errorf("unknown name: ended with status %d want %d:\n%s", got, exitError, p.log)
	}
}

// A wrong PIN costs one try: keyd ends with the status that the unit does not
// restart on, and a start by hand waits for an operator.
func TestWrongPIN(t *testing.T) {
	s := hsmtest.NewShim(t, hsmtest.SoftHSM(t))
	b := newBox(t, s.Fixture, "")
	b.write("pin", "wrong-pin\n")
	p := b.serve()
	if got := p.ends(); got != exitPIN || !strings.Contains(p.log.String(), "\nkeyd: the token refused the PIN of the credential\nhint: ") {
		t.Fatalf("ended with status %d want %d and a hint:\n%s", got, exitPIN, p.log)
	}
	p = b.serve()
	p.hears("READY=1\nSTATUS=locked: ", "hint: ")
	if got := s.Calls("C_Login"); got != 1 {
		t.Errorf("the PIN was tried %d times want 1", got)
	}
	c := client.Dial(b.path("keep.sock"))
	defer c.Close()
	if err := c.Unlock(t.Context(), s.PIN); err != nil {
		t.Fatal(err)
	}
	p.hears("STATUS=ready", "")
	p.stop()
	if strings.Contains(p.log.String(), s.PIN) || strings.Contains(p.log.String(), "wrong-pin") {
		t.Errorf("the log has the PIN:\n%s", p.log)
	}
}

// What a token lacks is a state with a hint, not an end.
func TestStates(t *testing.T) {
	const locked = "0x40000" // CKF_USER_PIN_LOCKED
	for _, c := range []struct {
		name    string
		empty   bool
		prepare func(*box, *hsmtest.Shim)
		state   hsm.State
		word    string
	}{
		{"no token", true, func(*box, *hsmtest.Shim) {}, hsm.Unprovisioned, "(hint: postern token init)"},
		{"no PIN file", false, func(b *box, _ *hsmtest.Shim) { os.Remove(b.path("pin")) }, hsm.Locked, "does not exist (hint: postern token unlock)"},
		{"PIN for all", false, func(b *box, _ *hsmtest.Shim) { os.Chmod(b.path("pin"), 0o644) }, hsm.Locked, "(hint: chmod 600)"},
		{"PIN locked", false, func(_ *box, s *hsmtest.Shim) { s.Set("C_GetTokenInfo flags " + locked) }, hsm.Locked, "(hint: postern token unlock)"},
		{"device ill", false, func(_ *box, s *hsmtest.Shim) { s.Set("C_FindObjectsInit 0x30") }, hsm.Failed, "load keys"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := hsmtest.EmptySoftHSM
			if !c.empty {
				f = hsmtest.SoftHSM
			}
			s := hsmtest.NewShim(t, f(t))
			b := newBox(t, s.Fixture, "")
			c.prepare(b, s)
			p := b.serve()
			p.hears("READY=1\nSTATUS="+c.state.String()+": ", c.word)
			if st := b.status(); st.State != c.state || !strings.Contains(st.Reason, c.word) {
				t.Errorf("got %s %q want %s %q", st.State, st.Reason, c.state, c.word)
			}
			p.stop()
			if got := s.Calls("C_Login"); c.state != hsm.Failed && got != 0 {
				t.Errorf("%d logins want none", got)
			}
		})
	}
}

// Keys that must not be served are named in the log with what is wrong, and
// the others are served.
func TestKeysNotServed(t *testing.T) {
	f := hsmtest.SoftHSM(t)
	importBadKeys(t, f)
	b := newBox(t, f, "allow-imported = false")
	p := b.serve()
	p.hears("READY=1\nSTATUS=ready", "")
	if st := b.status(); st.Keys != 0 {
		t.Errorf("got %d keys want 0", st.Keys)
	}
	p.stop()
	for _, want := range []string{
		`msg="key not served"`,
		`label=extractable faults="`, "CKA_EXTRACTABLE is true", "the key can be wrapped out by mechanism",
		"label=twin-1", "label=twin-2", "several private keys have this CKA_ID",
	} {
		if !strings.Contains(p.log.String(), want) {
			t.Errorf("the log has no %q:\n%s", want, p.log)
		}
	}
}

// Whatever is wrong before the daemon runs ends it with one line and a hint.
func TestBadStart(t *testing.T) {
	f := hsmtest.SoftHSM(t)
	b := newBox(t, f, "")
	b.write("text.so", strings.Repeat("no library\n", 100))
	edit := func(old, new string) func() {
		return func() { b.write("keyd.toml", strings.Replace(b.toml, old, new, 1)) }
	}
	for _, c := range []struct {
		name   string
		change func()
		args   []string
		status int
		want   string // of the whole output, with DIR for the folder
	}{
		{"version", nil, []string{"--version"}, 0, "keyd unknown\n"},
		{"check", nil, []string{"--check"}, 0, ""},
		{"unknown flag", nil, []string{"--nothing"}, exitUsage, ""},
		{"argument", nil, []string{"now"}, exitUsage, "keyd: unexpected argument \"now\"\nhint: keyd --help\n"},
		{"no configuration", nil, []string{"--config", b.path("none.toml")}, exitError, "keyd: DIR/none.toml: no such file or directory\n"},
		{"unknown field", edit("token =", "tokn ="), nil, exitError, "keyd: DIR/keyd.toml:2: unknown field tokn\n"},
		{"unknown field, checked", edit("token =", "tokn ="), []string{"--check"}, exitError, "keyd: DIR/keyd.toml:2: unknown field tokn\n"},
		{"no such module", edit(f.Module, b.path("none.so")), nil, exitError, "keyd: load module DIR/none.so: "},
		{"no library", edit(f.Module, b.path("text.so")), nil, exitError, "keyd: load module DIR/text.so: no usable PKCS#11 module: "},
		{"another library", edit(f.Module, libc(t)), nil, exitError, "keyd: load module " + libc(t) + ": no usable PKCS#11 module: it exports no C_GetFunctionList\nhint: set module in keyd.toml to the PKCS#11 library of the token\n"},
		{"no group", edit("[socket.use]", "[socket.use]\ngroup = \"no-such-group\""), nil, exitError, "keyd: open use socket: look up group \"no-such-group\": "},
		{"no folder", edit(b.path("use.sock"), b.path("none/use.sock")), nil, exitError, "keyd: open use socket: "},
		{"no socket", edit(b.path("use.sock"), b.path("pin")), nil, exitError, "keyd: open use socket: listen on DIR/pin: not a socket\n"},
	} {
		b.write("keyd.toml", b.toml)
		if c.change != nil {
			c.change()
		}
		args := append([]string{"--config", b.path("keyd.toml")}, c.args...)
		p := b.start(nil, "", args...)
		status := p.ends()
		got := strings.ReplaceAll(p.log.String(), b.dir, "DIR")
		if status != c.status || !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: ended with status %d want %d, got %q want %q", c.name, status, c.status, got, c.want)
		}
		if lines := strings.Count(got, "\n"); c.status == exitError && lines > 2 {
			t.Errorf("%s: %d lines want one, and a hint: %q", c.name, lines, got)
		}
		if strings.Contains(c.want, "module") || c.name == "no group" || c.name == "no folder" {
			if !strings.Contains(got, "\nhint: ") {
				t.Errorf("%s: no hint: %q", c.name, got)
			}
		}
	}
}

// The exit statuses are those that the unit names: restarted on 1 and 75,
// and never on 78.
func TestExitStatus(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, 0}, {errors.New("x"), 1}, {fmt.Errorf("x: %w", keyd.ErrInUse), 1},
		{fmt.Errorf("x: %w", keyd.ErrRecycle), 75}, {fmt.Errorf("x: %w", keyd.ErrPINRefused), 78},
	} {
		if got := exitOf(c.err); got != c.want {
			t.Errorf("%v: got %d want %d", c.err, got, c.want)
		}
	}
	unit, err := os.ReadFile("../../appliance/units/postern-keyd.service")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{fmt.Sprintf("\nRestartPreventExitStatus=%d\n", exitPIN), "\nRestart=on-failure\n", "\nType=notify\n"} {
		if !strings.Contains(string(unit), want) {
			t.Errorf("the unit has no %q", want)
		}
	}
}

// A token that is pulled and put back is taken up again by itself, and a
// daemon that was killed leaves nothing that keeps the next from starting.
// The watchdog is fed all the while.
func TestComesBack(t *testing.T) {
	f := hsmtest.SoftHSM(t)
	b := newBox(t, f, "")
	b.env = append(b.env, "WATCHDOG_USEC=2000000")
	p := b.serve()
	p.hears("READY=1\nSTATUS=ready", "")
	keep, use := client.Dial(b.path("keep.sock")), client.Dial(b.path("use.sock"))
	defer keep.Close()
	defer use.Close()
	key, err := keep.Generate(t.Context(), hsm.KeySpec{Algorithm: hsm.P256, Usage: hsm.Sign, Label: "dkim/a.example"})
	if err != nil {
		t.Fatal(err)
	}
	sign := func() error {
		_, err := use.Sign(t.Context(), key.ID, hsm.ECDSA, make([]byte, 32))
		return err
	}
	back := f.Hide()
	if err := sign(); !hsm.Temporary(err) {
		t.Errorf("sign without a token: got %v want one that passes", err)
	}
	p.hears("STATUS=failed: ", "tried again by itself")
	p.hears("WATCHDOG=1", "")
	back()
	p.hears("STATUS=ready", "")
	if err := sign(); err != nil {
		t.Errorf("sign after the token came back: %v", err)
	}
	p.cmd.Process.Kill()
	p.ends()
	p = b.serve()
	p.hears("READY=1\nSTATUS=ready", "")
	if err := sign(); err != nil {
		t.Errorf("sign after the daemon was killed: %v", err)
	}
	p.stop()
}

// A daemon that is killed while it makes a key outside the token, before it is
// wrapped, after, and while its file is written, leaves no half of one: the next
// serves what is whole, and makes the key anew under the same label.
func TestKilledWhileMaking(t *testing.T) {
	s := hsmtest.NewShim(t, hsmtest.SoftHSM(t))
	b := newBox(t, s.Fixture, "allow-wrapped = true")
	whole := 0
	for i, function := range []string{"C_GenerateKey", "C_GenerateKeyPair", "C_WrapKey", "C_UnwrapKey", "C_Sign"} {
		s.Set()
		p := b.serve()
		p.hears("READY=1\nSTATUS=ready", "")
		keep := client.Dial(b.path("keep.sock"))
		before := s.Calls(function)
		s.Set(function + " delay 600000")
		label := fmt.Sprintf("smime/user-%d@a.example/sign", i)
		made := make(chan error, 1)
		go func() {
			_, err := keep.Generate(t.Context(), hsm.KeySpec{Algorithm: hsm.P256, Usage: hsm.Sign, Label: label, Wrapped: true})
			made <- err
		}()
		for deadline := time.Now().Add(limit); s.Calls(function) == before; {
			if time.Now().After(deadline) {
				t.Fatalf("%s was not called:\n%s", function, p.log)
			}
			time.Sleep(time.Millisecond)
		}
		p.cmd.Process.Kill()
		p.ends()
		if err := <-made; !errors.Is(err, hsm.ErrAway) {
			t.Errorf("%s: got %v want %v", function, err, hsm.ErrAway)
		}
		keep.Close()
		// As a kill in the middle of a write would leave it.
		half := filepath.Join(b.path("state"), "wrapped", "."+strings.Repeat("ab", 32)+".wrapped.new")
		if err := os.MkdirAll(filepath.Dir(half), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(half, []byte("postern wrapped"), 0o600); err != nil {
			t.Fatal(err)
		}
		s.Set()
		p = b.serve()
		p.hears("READY=1\nSTATUS=ready", "")
		keep = client.Dial(b.path("keep.sock"))
		findings, err := keep.Audit(t.Context())
		if err != nil || len(findings) != whole {
			t.Errorf("%s: got %+v, %v want %d whole keys", function, findings, err, whole)
		}
		key, err := keep.Generate(t.Context(), hsm.KeySpec{Algorithm: hsm.P256, Usage: hsm.Sign, Label: label, Wrapped: true})
		if err != nil {
			t.Fatalf("%s: made anew: %v", function, err)
		}
		whole++
		if _, err := keep.Sign(t.Context(), key.ID, hsm.ECDSA, make([]byte, 32)); err != nil {
			t.Errorf("%s: %v", function, err)
		}
		if _, err := os.Lstat(half); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: half a file is left: %v", function, err)
		}
		keep.Close()
		p.stop()
	}
}

// A stop that comes while the token is slow is heeded.
func TestStopSlowToken(t *testing.T) {
	s := hsmtest.NewShim(t, hsmtest.SoftHSM(t))
	b := newBox(t, s.Fixture, "")
	s.Set("C_Login delay 1000")
	p := b.serve()
	for deadline := time.Now().Add(limit); s.Calls("C_Login") == 0; {
		if time.Now().After(deadline) {
			t.Fatalf("no login:\n%s", p.log)
		}
	}
	p.stop()
}

// importBadKeys writes an extractable key, and two under one CKA_ID.
func importBadKeys(t *testing.T, f *hsmtest.Fixture) {
	t.Helper()
	const ckaID, ckaExtractable = 0x102, 0x162
	f.Import("extractable", hsm.Sign, certtest.Key(t), hsmtest.Attr{Type: ckaExtractable, Value: true})
	for _, label := range []string{"twin-1", "twin-2"} {
		f.Import(label, hsm.Sign, certtest.Key(t), hsmtest.Attr{Type: ckaID, Value: []byte("one id")})
	}
}

// libc is a library that is loaded already, and no module.
func libc(t *testing.T) string {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(maps)) {
		if i := strings.Index(line, "/"); i >= 0 && strings.Contains(line, "libc.so") {
			return strings.TrimSpace(line[i:])
		}
	}
	t.Fatal("no libc is loaded")
	return ""
}
