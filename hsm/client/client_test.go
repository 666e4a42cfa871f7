package client_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"postern/hsm"
	"postern/hsm/certtest"
	"postern/hsm/client"
	"postern/hsm/hsmtest"
	"postern/hsm/wire"
)

var digest = sha256.Sum256([]byte("mail"))

// serve runs a daemon with software keys and gives a client of its keep socket.
func serve(t *testing.T) (*hsmtest.Daemon, *hsmtest.Soft, *client.Client) {
	t.Helper()
	soft := hsmtest.NewSoft()
	d := hsmtest.NewDaemon(t, soft, hsmtest.SoftPIN)
	d.Start()
	d.Reach(hsm.Ready)
	return d, soft, dial(t, d.Keep)
}

func dial(t *testing.T, socket string) *client.Client {
	c := client.Dial(socket)
	t.Cleanup(func() { c.Close() })
	return c
}

func generate(t testing.TB, k hsm.Keeper, a hsm.Algorithm, u hsm.Usage) hsm.Key {
	t.Helper()
	key, err := k.Generate(t.Context(), hsm.KeySpec{Algorithm: a, Usage: u, Label: fmt.Sprintf("test/%s/%s", a, u)})
	if err != nil {
		t.Fatalf("generate %s: %v", a, err)
	}
	return key
}

// TestOperations asks everything once, over the socket.
func TestOperations(t *testing.T) {
	d, _, c := serve(t)
	ctx := t.Context()
	signer, opener := generate(t, c, hsm.P256, hsm.Sign), generate(t, c, hsm.X25519, hsm.Unwrap)
	keys, err := c.Keys(ctx)
	if err != nil || len(keys) != 2 || keys[0].ID != signer.ID || keys[1].ID != opener.ID {
		t.Errorf("keys: got %v, %v", keys, err)
	}
	if sig, err := c.Sign(ctx, signer.ID, hsm.ECDSA, digest[:]); err != nil || len(sig) < 60 {
		t.Errorf("sign: got %x, %v", sig, err)
	}
	want := hsm.SessionKey{Cipher: 9, Key: bytes.Repeat([]byte{7}, 32)}
	w := hsmtest.Wrap(t, opener.Public, hsm.Wrapped{Scheme: hsm.OpenPGPX25519}, want)
	if got, err := c.Unwrap(ctx, opener.ID, w); err != nil || got.Cipher != 9 || !bytes.Equal(got.Key, want.Key) {
		t.Errorf("unwrap: got %+v, %v", got, err)
	}
	old := generate(t, c, hsm.RSA2048, hsm.Unwrap)
	if _, err := request(old, func(info []byte) ([]byte, error) { return c.Prove(ctx, old.ID, info) }); err != nil {
		t.Errorf("prove: %v", err)
	}
	if err := c.Destroy(ctx, old.ID); err != nil {
		t.Errorf("destroy: %v", err)
	}
	if st, err := c.Status(ctx); err != nil || st.State != hsm.Ready || st.Keys != 2 || st.Version != "test" || st.Token != "memory" {
		t.Errorf("status: got %+v, %v", st, err)
	}
	if probes, err := c.Probe(ctx); err != nil || len(probes) < 8 {
		t.Errorf("probe: got %v, %v", probes, err)
	}
	if findings, err := c.Audit(ctx); err != nil || len(findings) != 2 || !findings[0].Served {
		t.Errorf("audit: got %v, %v", findings, err)
	}
	if err := c.Retire(ctx, signer.ID); err != nil {
		t.Errorf("retire: %v", err)
	}
	if err := c.Destroy(ctx, opener.ID); err != nil {
		t.Errorf("destroy: %v", err)
	}
	for _, refusal := range []struct {
		what string
		err  error
		want error
	}{
		{"sign with a retired key", second(c.Sign(ctx, signer.ID, hsm.ECDSA, digest[:])), hsm.ErrRefused},
		{"unwrap with a destroyed key", second(c.Unwrap(ctx, opener.ID, w)), hsm.ErrNoKey},
		{"label that is taken", second(c.Generate(ctx, hsm.KeySpec{Algorithm: hsm.P256, Usage: hsm.Sign, Label: signer.Label})), hsm.ErrExists},
		{"no label", second(c.Generate(ctx, hsm.KeySpec{Algorithm: hsm.P256, Usage: hsm.Sign})), hsm.ErrInvalid},
		{"init", c.Init(ctx, "", "1234"), hsm.ErrExists},
		{"unlock", c.Unlock(ctx, ""), nil},
		{"digest beyond the limit", second(c.Sign(ctx, signer.ID, hsm.ECDSA, make([]byte, hsm.MaxMessage+1))), hsm.ErrInvalid},
		{"keep operation on the use socket", dial(t, d.Use).Retire(ctx, signer.ID), hsm.ErrRefused},
		{"proof on the use socket", second(dial(t, d.Use).Prove(ctx, signer.ID, nil)), hsm.ErrRefused},
		{"request beyond the limit", second(c.Prove(ctx, signer.ID, make([]byte, hsm.MaxInfo+1))), hsm.ErrInvalid},
	} {
		if !errors.Is(refusal.err, refusal.want) {
			t.Errorf("%s: got %v, want %v", refusal.what, refusal.err, refusal.want)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func request(key hsm.Key, prove func(info []byte) ([]byte, error)) ([]byte, error) {
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{SignatureAlgorithm: x509.SHA256WithRSA}, certtest.Requester{Key: key.Public, Prove: prove})
}

// TestList brings more keys than one frame holds.
func TestList(t *testing.T) {
	_, _, c := serve(t)
	for i := range 200 {
		if _, err := c.Generate(t.Context(), hsm.KeySpec{Algorithm: hsm.P521, Usage: hsm.Sign, Label: fmt.Sprintf("%0100d", i)}); err != nil {
			t.Fatal(err)
		}
	}
	keys, err := c.Keys(t.Context())
	if err != nil || len(keys) != 200 {
		t.Errorf("got %d keys, %v, want 200", len(keys), err)
	}
}

// TestTrace: the label of the mail reaches the record; one that no frame holds
// is bent, and never a reason to refuse.
func TestTrace(t *testing.T) {
	d, _, c := serve(t)
	for _, trace := range [][2]string{{"mail-1", "mail-1"}, {"a b\n", "a?b?"}, {strings.Repeat("x", 99), strings.Repeat("x", 64)}} {
		if _, err := c.Keys(hsm.WithTrace(t.Context(), trace[0])); err != nil {
			t.Fatal(err)
		}
		records := d.Audit()
		if got := records[len(records)-1]["trace"]; got != trace[1] {
			t.Errorf("trace %q: got %q, want %q", trace[0], got, trace[1])
		}
	}
}

// TestManyCallers: each gets its own answer, over one connection.
func TestManyCallers(t *testing.T) {
	_, _, c := serve(t)
	opener, signer := generate(t, c, hsm.X25519, hsm.Unwrap), generate(t, c, hsm.P256, hsm.Sign)
	var group sync.WaitGroup
	for n := range 32 {
		want := hsm.SessionKey{Cipher: 7, Key: bytes.Repeat([]byte{byte(n)}, 16)}
		w := hsmtest.Wrap(t, opener.Public, hsm.Wrapped{Scheme: hsm.OpenPGPX25519}, want)
		group.Go(func() {
			for range 50 {
				if got, err := c.Unwrap(t.Context(), opener.ID, w); err != nil || !bytes.Equal(got.Key, want.Key) {
					t.Errorf("caller %d: got %x, %v", n, got.Key, err)
				}
				if _, err := c.Sign(t.Context(), signer.ID, hsm.ECDSA, digest[:]); err != nil {
					t.Errorf("caller %d: %v", n, err)
				}
			}
		})
	}
	group.Wait()
}

// TestRestart: away while the daemon is, and well again by itself.
func TestRestart(t *testing.T) {
	d, _, c := serve(t)
	key := generate(t, c, hsm.P256, hsm.Sign)
	for range 3 {
		d.Stop()
		if _, err := c.Sign(t.Context(), key.ID, hsm.ECDSA, digest[:]); !errors.Is(err, hsm.ErrAway) || !hsm.Temporary(err) {
			t.Errorf("stopped: got %v, want %v", err, hsm.ErrAway)
		}
		d.Start()
		d.Reach(hsm.Ready)
		if _, err := c.Sign(t.Context(), key.ID, hsm.ECDSA, digest[:]); err != nil {
			t.Errorf("started again: %v", err)
		}
	}
}

// TestContext: who stops waiting leaves the others, and the connection, alone.
func TestContext(t *testing.T) {
	_, soft, c := serve(t)
	signer, opener := generate(t, c, hsm.P256, hsm.Sign), generate(t, c, hsm.X25519, hsm.Unwrap)
	w := hsmtest.Wrap(t, opener.Public, hsm.Wrapped{Scheme: hsm.OpenPGPX25519}, hsm.SessionKey{Cipher: 7, Key: make([]byte, 16)})
	reached, release := make(chan struct{}), make(chan struct{})
	soft.Fault = func(method string) error {
		if method == "Sign" {
			reached <- struct{}{}
			<-release
		}
		return nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	left, stayed := make(chan error, 1), make(chan error, 1)
	go func() { left <- second(c.Sign(ctx, signer.ID, hsm.ECDSA, digest[:])) }()
	<-reached
	go func() { stayed <- second(c.Sign(t.Context(), signer.ID, hsm.ECDSA, digest[:])) }()
	<-reached
	cancel()
	if err := <-left; !errors.Is(err, hsm.ErrAway) || !errors.Is(err, context.Canceled) {
		t.Errorf("who left: got %v", err)
	}
	close(release)
	if err := <-stayed; err != nil {
		t.Errorf("who stayed: %v", err)
	}
	if _, err := c.Unwrap(t.Context(), opener.ID, w); err != nil {
		t.Errorf("who came later: %v", err)
	}
	if err := second(c.Sign(ctx, signer.ID, hsm.ECDSA, digest[:])); !errors.Is(err, context.Canceled) {
		t.Errorf("ended before it began: got %v", err)
	}
}

// fake is a daemon that says what a test wants it to. answer gets each
// request; what it returns is written, and nil ends the connection.
func fake(t *testing.T, answer func(wire.Frame) []byte) (socket string, asked *atomic.Int64) {
	t.Helper()
	dir, err := os.MkdirTemp("", "fake")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket, asked = filepath.Join(dir, "s"), new(atomic.Int64)
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				defer conn.Close()
				for r := wire.NewReader(conn); ; {
					f, err := r.Next()
					if err != nil {
						return
					}
					asked.Add(1)
					out := answer(f)
					if out == nil {
						return
					}
					conn.Write(out)
				}
			})
		}
	})
	t.Cleanup(func() { l.Close(); group.Wait() })
	return socket, asked
}

func frame(t *testing.T, op wire.Op, id uint32, body ...byte) []byte {
	b, err := wire.Frame{Op: op, ID: id, Body: body}.Append(nil)
	if err != nil {
		t.Error(err)
	}
	return b
}

// TestGarbage: whatever a daemon answers against the protocol is an absent
// daemon, and the connection is given up.
func TestGarbage(t *testing.T) {
	for name, answer := range map[string]func(f wire.Frame) []byte{
		"text":                  func(wire.Frame) []byte { return []byte("HTTP/1.1 400 Bad Request\r\n\r\n") },
		"length beyond limit":   func(wire.Frame) []byte { return []byte{0, 1, 0, 0, 1} },
		"no length":             func(wire.Frame) []byte { return make([]byte, 4) },
		"other version":         func(f wire.Frame) []byte { b := frame(t, f.Op|wire.Reply, f.ID, 0); b[4] = 9; return b },
		"a request":             func(f wire.Frame) []byte { return frame(t, f.Op, f.ID, 0) },
		"another operation":     func(f wire.Frame) []byte { return frame(t, wire.OpStatus|wire.Reply, f.ID, 0) },
		"an answer to nobody":   func(f wire.Frame) []byte { return frame(t, f.Op|wire.Reply, f.ID+1, 0) },
		"no error byte":         func(f wire.Frame) []byte { return frame(t, f.Op|wire.Reply, f.ID) },
		"no body":               func(f wire.Frame) []byte { return frame(t, f.Op|wire.Reply, f.ID, 0) },
		"body behind an error":  func(f wire.Frame) []byte { return frame(t, f.Op|wire.Reply, f.ID, 4, 0) },
		"entry that is no key":  func(f wire.Frame) []byte { return frame(t, f.Op|wire.Reply, f.ID, 0, 0, 0, 1, 7) },
		"something left over":   func(f wire.Frame) []byte { return frame(t, f.Op|wire.Reply, f.ID, 0, 0, 0) },
		"a list without an end": func(f wire.Frame) []byte { return bytes.Repeat(frame(t, f.Op|wire.Reply, f.ID, 0, 1), wire.MaxParts+1) },
		"a trace": func(f wire.Frame) []byte {
			b, err := wire.Frame{Op: f.Op | wire.Reply, ID: f.ID, Trace: "x", Body: []byte{0, 0}}.Append(nil)
			if err != nil {
				t.Error(err)
			}
			return b
		},
		"nothing": func(wire.Frame) []byte { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			socket, asked := fake(t, answer)
			c := dial(t, socket)
			for n := range int64(2) {
				if _, err := c.Keys(t.Context()); !errors.Is(err, hsm.ErrAway) {
					t.Errorf("got %v, want %v", err, hsm.ErrAway)
				}
				if got := asked.Load(); got != n+1 {
					t.Errorf("got %d requests, want %d", got, n+1)
				}
			}
		})
	}
}

// TestRepeat: after an answer was lost on a connection that had worked, a
// signature is asked once more on a fresh one, and a new key is not.
func TestRepeat(t *testing.T) {
	var mute atomic.Bool
	socket, asked := fake(t, func(f wire.Frame) []byte {
		if mute.Swap(false) {
			return nil
		}
		if f.Op == wire.OpSign {
			return frame(t, f.Op|wire.Reply, f.ID, 0, 0, 1, 42)
		}
		return frame(t, f.Op|wire.Reply, f.ID, 0, 0)
	})
	c := dial(t, socket)
	if _, err := c.Keys(t.Context()); err != nil {
		t.Fatal(err)
	}
	mute.Store(true)
	if sig, err := c.Sign(t.Context(), hsm.KeyID{}, hsm.ECDSA, digest[:]); err != nil || sig[0] != 42 || asked.Load() != 3 {
		t.Errorf("sign: got %x, %v after %d requests, want 3", sig, err, asked.Load())
	}
	mute.Store(true)
	if _, err := c.Generate(t.Context(), hsm.KeySpec{Algorithm: hsm.P256, Usage: hsm.Sign, Label: "x"}); !errors.Is(err, hsm.ErrAway) || asked.Load() != 4 {
		t.Errorf("generate: got %v after %d requests, want %v after 4", err, asked.Load(), hsm.ErrAway)
	}
}

// TestSilence: a daemon that takes requests and never answers costs a caller
// its own deadline only, also when more ask than the connection carries.
func TestSilence(t *testing.T) {
	socket, _ := fake(t, func(wire.Frame) []byte { return []byte{} })
	c := dial(t, socket)
	var group sync.WaitGroup
	for range 300 {
		group.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			if _, err := c.Keys(ctx); !errors.Is(err, hsm.ErrAway) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
			}
		})
	}
	group.Wait()
}

// TestDeaf: the same for one that does not even read.
func TestDeaf(t *testing.T) {
	release := make(chan struct{})
	socket, _ := fake(t, func(wire.Frame) []byte { <-release; return nil })
	t.Cleanup(func() { close(release) })
	c := dial(t, socket)
	var group sync.WaitGroup
	for range 100 { // 800 kB: more than a socket holds
		group.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			if _, err := c.Sign(ctx, hsm.KeyID{}, hsm.PureEdDSA, make([]byte, hsm.MaxMessage)); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
			}
		})
	}
	group.Wait()
}

// TestClose ends calls and goroutines, and stays closed.
func TestClose(t *testing.T) {
	before := runtime.NumGoroutine()
	reached := make(chan struct{})
	socket, _ := fake(t, func(wire.Frame) []byte { close(reached); return []byte{} })
	c := client.Dial(socket)
	got := make(chan error)
	go func() { got <- second(c.Keys(context.Background())) }()
	<-reached
	c.Close()
	if err := <-got; !errors.Is(err, hsm.ErrAway) {
		t.Errorf("call under way: got %v, want %v", err, hsm.ErrAway)
	}
	if _, err := c.Keys(t.Context()); !errors.Is(err, hsm.ErrAway) {
		t.Errorf("later call: got %v, want %v", err, hsm.ErrAway)
	}
	if err := c.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	hsmtest.Eventually(t, func() (bool, string) { // the listener of the fake is still there
		n := runtime.NumGoroutine()
		return n <= before+1, fmt.Sprintf("got %d goroutines, want at most %d", n, before+1)
	})
}

// TestHalfFrame: an answer that never ends costs a caller its own deadline only.
func TestHalfFrame(t *testing.T) {
	socket, _ := fake(t, func(f wire.Frame) []byte {
		b := frame(t, f.Op|wire.Reply, f.ID, 0, 0)
		return b[:len(b)-1]
	})
	c := dial(t, socket)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Keys(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
	}
}

// FuzzClientReply: whatever bytes come back, a call ends, and gives only what
// can be written back as the same bytes.
func FuzzClientReply(f *testing.F) {
	soft := hsmtest.NewSoft()
	key, err := soft.Generate(hsm.KeySpec{Algorithm: hsm.P256, Usage: hsm.Sign, Label: "x"})
	if err != nil {
		f.Fatal(err)
	}
	entry, err := wire.EncodeKey(key)
	if err != nil {
		f.Fatal(err)
	}
	parts, err := wire.EncodeList([][]byte{entry})
	if err != nil {
		f.Fatal(err)
	}
	good, err := wire.Frame{Op: wire.OpKeys | wire.Reply, ID: 1, Body: append([]byte{0}, parts[0]...)}.Append(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add([]byte{0, 0, 0, 8, 1, 0x81, 0, 0, 0, 1, 0, 4})
	f.Add(binary.BigEndian.AppendUint32(nil, wire.MaxFrame+1))
	f.Fuzz(func(t *testing.T, reply []byte) {
		c := dial(t, fakeOnce(t, reply))
		keys, err := c.Keys(t.Context())
		if err != nil {
			return
		}
		for _, k := range keys {
			if _, err := wire.EncodeKey(k); err != nil {
				t.Errorf("key that cannot be written: %v", err)
			}
		}
	})
}

// fakeOnce takes one connection, answers the first bytes with reply, and
// closes.
func fakeOnce(t *testing.T, reply []byte) (socket string) {
	dir, err := os.MkdirTemp("", "fuzz")
	if err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		if _, err := io.ReadFull(bufio.NewReader(conn), make([]byte, 11)); err == nil {
			conn.Write(reply)
		}
	}()
	t.Cleanup(func() { l.Close(); <-done; os.RemoveAll(dir) })
	return socket
}
