package keyd_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"postern/hsm"
	"postern/hsm/client"
	"postern/hsm/hsmtest"
	"postern/hsm/keyd"
	"postern/hsm/wire"
)

// raw is a connection on which a test writes what it wants.
type raw struct {
	*net.UnixConn
	t *testing.T
	r *wire.Reader
}

func connect(t *testing.T, socket string) *raw {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	return &raw{conn.(*net.UnixConn), t, wire.NewReader(conn)}
}

func (c *raw) send(frames ...wire.Frame) {
	c.t.Helper()
	var b []byte
	for _, f := range frames {
		var err error
		if b, err = f.Append(b); err != nil {
			c.t.Fatal(err)
		}
	}
	if _, err := c.Write(b); err != nil {
		c.t.Fatal(err)
	}
}

// answer is the number and the error of the next reply.
func (c *raw) answer() (uint32, error) {
	c.t.Helper()
	f, err := c.r.Next()
	if err != nil || len(f.Body) == 0 || f.Op&wire.Reply == 0 {
		c.t.Fatalf("reply: got %+v, %v", f, err)
	}
	return f.ID, wire.ErrorOf(f.Body[0])
}

// ends checks that the daemon closes the connection.
func (c *raw) ends(what string) {
	c.t.Helper()
	if f, err := c.r.Next(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Errorf("%s: got %+v, %v, want the connection to end", what, f, err)
	}
}

func signFrame(t testing.TB, id uint32, key hsm.Key) wire.Frame {
	t.Helper()
	body, err := wire.Sign{ID: key.ID, Alg: hsm.ECDSA, Digest: digest[:]}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return wire.Frame{Op: wire.OpSign, ID: id, Body: body}
}

// TestPipeline: many requests in one write, each answered once, whatever the order.
func TestPipeline(t *testing.T) {
	d := start(t, hsmtest.NewSoft(), hsmtest.SoftPIN, hsm.Ready)
	key := generate(t, d.Keyd, hsm.P256, hsm.Sign, "test")
	c := connect(t, d.Use)
	open := map[uint32]bool{}
	var frames []wire.Frame
	for n := range uint32(90) {
		frames = append(frames, signFrame(t, n*7, key))
		open[n*7] = true
	}
	c.send(frames...)
	for range 90 {
		id, err := c.answer()
		if err != nil || !open[id] {
			t.Fatalf("request %d: got %v, waited for: %v", id, err, open[id])
		}
		delete(open, id)
	}
}

// blocker stops the signatures of a device until it is let go.
func blocker(soft *hsmtest.Soft) (reached, release chan struct{}) {
	reached, release = make(chan struct{}, 1000), make(chan struct{})
	soft.Fault = func(method string) error {
		if method == "Sign" {
			reached <- struct{}{}
			<-release
		}
		return nil
	}
	return reached, release
}

// TestOrder: a slow operation holds up no other one.
func TestOrder(t *testing.T) {
	soft := hsmtest.NewSoft()
	reached, release := blocker(soft)
	d := start(t, soft, hsmtest.SoftPIN, hsm.Ready)
	key := generate(t, d.Keyd, hsm.P256, hsm.Sign, "test")
	c := connect(t, d.Use)
	c.send(signFrame(t, 1, key))
	<-reached
	c.send(wire.Frame{Op: wire.OpKeys, ID: 2})
	if id, err := c.answer(); id != 2 || err != nil {
		t.Errorf("got answer %d, %v first, want 2", id, err)
	}
	close(release)
	if id, err := c.answer(); id != 1 || err != nil {
		t.Errorf("got answer %d, %v then, want 1", id, err)
	}
}

// TestBusy: a full line is told at once, and drains.
func TestBusy(t *testing.T) {
	soft := hsmtest.NewSoft()
	reached, release := blocker(soft)
	d := hsmtest.NewDaemon(t, soft, hsmtest.SoftPIN)
	d.Config.Workers = 2
	d.Start()
	d.Reach(hsm.Ready)
	key := generate(t, d.Keyd, hsm.P256, hsm.Sign, "test")
	c := connect(t, d.Use)
	c.send(signFrame(t, 0, key))
	<-reached // the one worker for curves
	const extra = 10
	for n := range uint32(keyd.Depth + extra) {
		c.send(signFrame(t, n+1, key))
	}
	for range extra {
		if id, err := c.answer(); !errors.Is(err, hsm.ErrBusy) {
			t.Fatalf("request %d: got %v, want %v", id, err, hsm.ErrBusy)
		}
	}
	close(release)
	for range keyd.Depth + 1 {
		if id, err := c.answer(); err != nil {
			t.Fatalf("request %d: %v", id, err)
		}
	}
}

// TestLeft: what a client no longer waits for is not begun.
func TestLeft(t *testing.T) {
	soft := hsmtest.NewSoft()
	reached, release := blocker(soft)
	d := hsmtest.NewDaemon(t, soft, hsmtest.SoftPIN)
	d.Config.Workers = 2
	d.Start()
	d.Reach(hsm.Ready)
	key := generate(t, d.Keyd, hsm.P256, hsm.Sign, "test")
	c := connect(t, d.Use)
	for n := range uint32(20) {
		c.send(signFrame(t, n, key))
	}
	<-reached
	hsmtest.Eventually(t, func() (bool, string) { // all are in the line when the next one is answered
		other := connect(t, d.Use)
		other.send(wire.Frame{Op: wire.OpKeys, ID: 1})
		_, err := other.answer()
		return err == nil, fmt.Sprint(err)
	})
	c.Close()
	hsmtest.Eventually(t, func() (bool, string) {
		away := 0
		for _, r := range d.Audit() {
			if r["op"] == "sign" && r["verdict"] == "away" {
				away++
			}
		}
		return away > 0, "no request was given up"
	})
	close(release)
	other := connect(t, d.Use)
	other.send(signFrame(t, 1, key))
	if _, err := other.answer(); err != nil {
		t.Error(err)
	}
	if n := len(reached); n > 10 {
		t.Errorf("%d signatures were made for nobody", n)
	}
}

// TestBadFrames: what breaks the protocol ends its connection, and no other.
func TestBadFrames(t *testing.T) {
	d := start(t, hsmtest.NewSoft(), hsmtest.SoftPIN, hsm.Ready)
	well := connect(t, d.Use)
	version := mustFrame(t, wire.Frame{Op: wire.OpKeys})
	version[4] = wire.Version + 1
	for name, b := range map[string][]byte{
		"length beyond the limit": binary.BigEndian.AppendUint32(nil, wire.MaxFrame+1),
		"length of 4 GiB":         {0xff, 0xff, 0xff, 0xff, 1},
		"no length":               make([]byte, 8),
		"text":                    []byte("EHLO mx.partner.example\r\n"),
		"other version":           version,
		"body of nothing":         mustFrame(t, wire.Frame{Op: wire.OpKeys, Body: []byte{1}}),
		"half a sign request":     mustFrame(t, wire.Frame{Op: wire.OpSign, Body: make([]byte, 12)}),
	} {
		c := connect(t, d.Use)
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
		c.ends(name)
	}
	well.send(wire.Frame{Op: 99, ID: 5})
	if id, err := well.answer(); id != 5 || !errors.Is(err, hsm.ErrInvalid) {
		t.Errorf("unknown operation: got %d, %v, want %v", id, err, hsm.ErrInvalid)
	}
	for op := wire.OpStatus; op.Known(); op++ {
		well.send(wire.Frame{Op: op, ID: 6})
		if _, err := well.answer(); !errors.Is(err, hsm.ErrRefused) {
			t.Errorf("%s on the use socket: got %v, want %v", op, err, hsm.ErrRefused)
		}
	}
	well.send(wire.Frame{Op: wire.OpKeys, ID: 7})
	if id, err := well.answer(); id != 7 || err != nil {
		t.Errorf("the other connection: got %d, %v", id, err)
	}
}

func mustFrame(t testing.TB, f wire.Frame) []byte {
	t.Helper()
	b, err := f.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestPatience: a frame that does not come to its end ends the connection.
func TestPatience(t *testing.T) {
	d := hsmtest.NewDaemon(t, hsmtest.NewSoft(), hsmtest.SoftPIN)
	cfg := d.Config
	var err error
	if cfg.UseListener, err = keyd.Listen(d.Use, 0o600, -1); err != nil {
		t.Fatal(err)
	}
	k, err := keyd.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	k.SetPatience(50 * time.Millisecond)
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := make(chan error)
	go func() { ended <- k.Run(ctx) }()
	c := connect(t, d.Use)
	if _, err := c.Write(mustFrame(t, wire.Frame{Op: wire.OpKeys})[:6]); err != nil {
		t.Fatal(err)
	}
	c.ends("half a frame")
	cancel(errors.New("terminated")) // a cause of the caller's own is no error of the daemon
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestConnections: one too many is closed at once; a place that becomes free
// is given on.
func TestConnections(t *testing.T) {
	d := start(t, hsmtest.NewSoft(), hsmtest.SoftPIN, hsm.Ready)
	var all []*raw
	for range keyd.MaxConns {
		c := connect(t, d.Use)
		c.send(wire.Frame{Op: wire.OpKeys, ID: 1})
		if _, err := c.answer(); err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	connect(t, d.Use).ends("one too many")
	connect(t, d.Keep).send(wire.Frame{Op: wire.OpKeys, ID: 1}) // the other socket has its own places
	all[0].Close()
	hsmtest.Eventually(t, func() (bool, string) {
		c := client.Dial(d.Use)
		defer c.Close()
		_, err := c.Keys(t.Context())
		return err == nil, fmt.Sprintf("after one left: %v", err)
	})
}

// TestListen: stale sockets are replaced, live ones and other files are not.
func TestListen(t *testing.T) {
	dir, err := os.MkdirTemp("", "listen")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := keyd.Listen(path, 0o660, -1)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o660 {
		t.Errorf("got mode %v, %v, want 0660", st.Mode(), err)
	}
	if _, err := keyd.Listen(path, 0o660, -1); !errors.Is(err, keyd.ErrInUse) || !strings.Contains(err.Error(), "hint: ") {
		t.Errorf("in use: got %v, want %v with a hint", err, keyd.ErrInUse)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if l, err = keyd.Listen(path, 0o600, os.Getgid()); err != nil {
		t.Fatalf("stale: %v", err)
	}
	l.Close()
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := keyd.Listen(path, 0o600, -1); err == nil {
		t.Error("a file was taken for a socket")
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "precious" {
		t.Errorf("the file: got %q, %v", b, err)
	}
}

// TestMain makes this program a stranger that calls the daemon when its
// environment says so.
func TestMain(m *testing.M) {
	if socket := os.Getenv("POSTERN_TEST_STRANGER"); socket != "" {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			_, err = conn.Write(frameOfKeys)
		}
		if err == nil {
			_, err = io.ReadFull(conn, make([]byte, 12))
		}
		if err != nil {
			fmt.Println("refused")
			os.Exit(0)
		}
		fmt.Println("answered")
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// frameOfKeys asks for the keys.
var frameOfKeys = []byte{0, 0, 0, 7, wire.Version, byte(wire.OpKeys), 0, 0, 0, 1, 0}

// TestStranger calls from another user: refused, unless the user or one of
// its groups was named. Only root can become another user; on machines where
// the tests run as somebody else, TestPeersAdmit has the rule and this has
// nothing to add.
func TestStranger(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root becomes another user")
	}
	dir, err := os.MkdirTemp("", "stranger")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	program := filepath.Join(dir, "stranger")
	b, err := os.ReadFile(os.Args[0])
	if err == nil {
		err = errors.Join(os.WriteFile(program, b, 0o755), os.Chmod(dir, 0o755))
	}
	if err != nil {
		t.Fatal(err)
	}
	const user, group, second = 61001, 61002, 61003
	for _, x := range []struct {
		name  string
		peers keyd.Peers
		want  string
	}{
		{"nobody named", keyd.Peers{}, "refused"},
		{"another named", keyd.Peers{UIDs: []uint32{group}, GIDs: []uint32{user}}, "refused"},
		{"user named", keyd.Peers{UIDs: []uint32{user}}, "answered"},
		{"group named", keyd.Peers{GIDs: []uint32{group}}, "answered"},
		{"second group named", keyd.Peers{GIDs: []uint32{second}}, "answered"},
	} {
		d := hsmtest.NewDaemon(t, hsmtest.NewSoft(), hsmtest.SoftPIN)
		d.Config.Use = x.peers
		d.Start()
		d.Reach(hsm.Ready)
		// The file's mode must not be what refuses.
		if err := errors.Join(os.Chmod(filepath.Dir(d.Use), 0o755), os.Chmod(d.Use, 0o666), os.Chmod(d.Keep, 0o666)); err != nil {
			t.Fatal(err)
		}
		call := func(socket string) string {
			cmd := exec.Command(program)
			cmd.Env = []string{"POSTERN_TEST_STRANGER=" + socket}
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: group, Groups: []uint32{second}}}
			cmd.Stderr = t.Output()
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("stranger: %v", err)
			}
			return strings.TrimSpace(string(out))
		}
		if got := call(d.Use); got != x.want {
			t.Errorf("%s: use socket %s, want %s", x.name, got, x.want)
		}
		if got := call(d.Keep); got != "refused" {
			t.Errorf("%s: keep socket %s, want refused", x.name, got)
		}
	}
}
