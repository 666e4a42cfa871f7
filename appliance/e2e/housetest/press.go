package housetest

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// Press makes documents for filterd: behind its socket, systemd starts `postern
// pdf make` for each connection, as postern-pdf.socket has it.
type Press struct {
	Socket string

	t     testing.TB
	mutex sync.Mutex
	cmd   *exec.Cmd
}

// OpenPress starts one, until the end of the test.
func OpenPress(t testing.TB) *Press {
	t.Helper()
	p := &Press{Socket: filepath.Join(Folder(t), "pdf.sock"), t: t}
	p.Start()
	t.Cleanup(p.Stop)
	return p
}

// Start starts it, and waits until it listens.
func (p *Press) Start() {
	p.t.Helper()
	p.mutex.Lock()
	defer p.mutex.Unlock()
	os.Remove(p.Socket)
	p.cmd = exec.Command("systemd-socket-activate", "--listen="+p.Socket, "--accept", "--inetd", filepath.Join(Programs(p.t), "postern"), "pdf", "make")
	log, err := os.CreateTemp(filepath.Dir(p.Socket), "log")
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	p.cmd.Stderr = log
	if err := p.cmd.Start(); err != nil {
		p.t.Fatalf("%v (make deps installs it)", err)
	}
	Eventually(p.t, Patience, func() (bool, string) {
		c, err := net.Dial("unix", p.Socket)
		if err != nil {
			return false, err.Error()
		}
		c.Close()
		return true, ""
	})
}

// Stop ends it; nobody listens at its socket then.
func (p *Press) Stop() {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if p.cmd == nil {
		return
	}
	p.cmd.Process.Kill()
	p.cmd.Wait()
	p.cmd = nil
}
