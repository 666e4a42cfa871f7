// Package esttest is an authority for tests that is asked by EST: a server of
// somebody else's making, as a process of its own.
package esttest

import (
	"bufio"
	"crypto/x509"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// Who may ask.
const (
	User     = "postern"
	Password = "a password of many words"
)

// Server is a running one.
type Server struct {
	URL  string
	Root string // file of the root that its certificates end at

	mu     sync.Mutex
	issued []string
}

// Open runs one until the test ends.
func Open(t testing.TB) *Server {
	t.Helper()
	dir := t.TempDir()
	peer, err := peer()
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "est")
	build := exec.Command("go", "build", "-o", bin, ".")
	build.Dir, build.Env = peer, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the EST server: %v: %s", err, out)
	}
	cmd := exec.Command(bin, "-dir", dir, "-user", User, "-password", Password)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Root: filepath.Join(dir, "root.pem")}
	lines := bufio.NewScanner(out)
	ended := make(chan struct{})
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-ended
		cmd.Wait()
	})
	if !lines.Scan() || !strings.HasPrefix(lines.Text(), "ready ") {
		close(ended)
		t.Fatalf("start the EST server: got %q, %v", lines.Text(), lines.Err())
	}
	s.URL = strings.TrimPrefix(lines.Text(), "ready ")
	go func() {
		defer close(ended)
		for lines.Scan() {
			s.mu.Lock()
			s.issued = append(s.issued, lines.Text())
			s.mu.Unlock()
		}
	}()
	return s
}

// peer is the folder of the server's source, below the module's.
func peer() (string, error) {
	dir, err := os.Getwd()
	for err == nil {
		at := filepath.Join(dir, "appliance", "e2e", "peers", "est")
		if _, err := os.Stat(filepath.Join(at, "go.mod")); err == nil {
			return at, nil
		}
		above := filepath.Dir(dir)
		if above == dir {
			return "", errors.New("find the EST server: no source above")
		}
		dir = above
	}
	return "", err
}

// Roots is the pool of its root.
func (s *Server) Roots(t testing.TB) *x509.CertPool {
	t.Helper()
	b, err := os.ReadFile(s.Root)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		t.Fatal("the EST server has no root")
	}
	return pool
}

// Issued is one line for each certificate that it has made: how it was asked
// (enrol or reenrol), for whom, and its serial number.
func (s *Server) Issued() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.issued...)
}
