package socketmap

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// table answers what the tests ask.
func table(_ context.Context, name, key string) (string, error) {
	switch key {
	case "known.example":
		return name + " is known", nil
	case "none.example":
		return "", fmt.Errorf("look it up: %w", ErrNotFound)
	case "empty.example":
		return "", nil
	case "long.example":
		return strings.Repeat("x", maxAnswer+1), nil
	case "lines.example":
		return "encrypt\nnone", nil
	case "panic.example":
		panic(key)
	}
	return "", errors.New("secret trouble")
}

// serve runs a server, and gives the path of its socket.
func serve(t *testing.T, s *Server) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: got %v", err)
		}
	})
	return path
}

func TestAnswers(t *testing.T) {
	path := serve(t, &Server{Lookup: table})
	for key, want := range map[string]struct {
		value string
		err   error
	}{
		"known.example": {value: "policy is known"}, "none.example": {err: ErrNotFound}, "empty.example": {err: ErrTrouble},
		"long.example": {err: ErrTrouble}, "lines.example": {err: ErrTrouble}, "panic.example": {err: ErrTrouble}, "other.example": {err: ErrTrouble},
		"control\x01.example": {err: ErrTrouble}, "": {err: ErrTrouble},
	} {
		got, err := Ask(t.Context(), path, "policy", key)
		if got != want.value || !errors.Is(err, want.err) {
			t.Errorf("%q: got %q, %v, want %q, %v", key, got, err, want.value, want.err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: got %v, want no word of the cause", key, err)
		}
	}
}

// Questions follow each other on one connection, and in one packet.
func TestManyQuestions(t *testing.T) {
	c, err := net.Dial("unix", serve(t, &Server{Lookup: table}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	one := netstring("policy known.example")
	if _, err := c.Write(bytes.Repeat(one, 100)); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	for i := range 100 {
		if got, err := readNetstring(r, maxAnswer); err != nil || got != "OK policy is known" {
			t.Fatalf("answer %d: got %q, %v", i, got, err)
		}
	}
}

// What is no question gets no answer, and ends the connection.
func TestGarbage(t *testing.T) {
	path := serve(t, &Server{Lookup: table})
	for _, s := range []string{"x", ":", "00:,", "03:a b,", "1:ab", "2:a,", "99999999999:", "1025:", "-1:,", "3: a b,", "GET / HTTP/1.1\r\n"} {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(time.Minute))
		io.WriteString(c, s)
		c.(*net.UnixConn).CloseWrite()
		if got, err := io.ReadAll(c); len(got) > 0 || err != nil && !errors.Is(err, net.ErrClosed) {
			t.Errorf("%q: got %q, %v, want an end", s, got, err)
		}
		c.Close()
	}
	if _, err := Ask(t.Context(), path, "policy", "known.example"); err != nil {
		t.Errorf("afterwards: got %v", err)
	}
}

// Beyond the limit a connection is closed, and those that are there go on.
func TestConnectionsAreBounded(t *testing.T) {
	path := serve(t, &Server{Lookup: table, MaxConns: 1})
	first, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	ask := func() string {
		first.SetDeadline(time.Now().Add(time.Minute))
		first.Write(netstring("policy known.example"))
		got, err := readNetstring(bufio.NewReader(first), maxAnswer)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	ask() // it is taken now
	if _, err := Ask(t.Context(), path, "policy", "known.example"); err == nil {
		t.Errorf("second connection: got an answer, want an end")
	}
	if got := ask(); got != "OK policy is known" {
		t.Errorf("first connection: got %q", got)
	}
}

// A question that takes too long, or outlives the server, ends.
func TestServeEnds(t *testing.T) {
	asked := make(chan struct{})
	s := &Server{Lookup: func(ctx context.Context, _, _ string) (string, error) {
		close(asked)
		<-ctx.Done()
		return "", ctx.Err()
	}}
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done, answer := make(chan error), make(chan error)
	go func() { done <- s.Serve(ctx, l) }()
	go func() { _, err := Ask(context.Background(), path, "policy", "known.example"); answer <- err }()
	<-asked
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Serve: got %v", err)
	}
	if err := <-answer; err == nil {
		t.Error("got an answer, want none")
	}
}

// A netstring that is read is written in the same bytes, and nothing is read
// behind it.
func FuzzNetstring(f *testing.F) {
	for _, s := range []string{"0:,", "3:a b,rest", "12:policy x.com,", "01:a,", "5:ab"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bufio.NewReader(bytes.NewReader(b))
		text, err := readNetstring(r, maxQuestion)
		if err != nil {
			return
		}
		if len(text) > maxQuestion {
			t.Fatalf("got %d bytes", len(text))
		}
		rest, _ := io.ReadAll(r)
		if again := append(netstring(text), rest...); !bytes.Equal(again, b) {
			t.Fatalf("got %q, want %q", again, b)
		}
	})
}
