package e2e

import (
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"postern/appliance/trial"
)

// slowClients is how many there are at once, as far as they get in.
const slowClients = 5000

// slow is one of many clients that never come to an end: it goes as far as its
// patience has it, and then says one octet at a time. When it is thrown out it
// comes back.
type slow struct {
	from, server string
	begin        string // what it says at once
	conn         net.Conn
}

// nudge says an octet more, or comes (back).
func (s *slow) nudge(thrown *atomic.Int64) {
	if s.conn != nil {
		s.conn.SetWriteDeadline(time.Now().Add(patience))
		if _, err := io.WriteString(s.conn, "x"); err == nil && !ended(s.conn) {
			return
		}
		thrown.Add(1)
		s.conn.Close()
		s.conn = nil
	}
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(s.from)}, Timeout: patience}
	c, err := d.Dial("tcp", s.server)
	if err != nil {
		return
	}
	io.WriteString(c, s.begin)
	s.conn = c
}

// ended reports whether the other side has closed, without waiting.
func ended(c net.Conn) bool {
	c.SetReadDeadline(time.Now().Add(time.Millisecond))
	buf := make([]byte, 4096)
	for {
		if _, err := c.Read(buf); err != nil {
			return !os.IsTimeout(err)
		}
	}
}

// Five thousand clients that say an octet now and then, from a hundred
// addresses, take all places that there are, and come back when they lose one
// (R48). A mail of somebody else passes all the same, and soon; connections and
// memory have their bounds.
func TestSlowClients(t *testing.T) {
	b := open(t, trial.Config{})
	c := correspond(t, b)
	idle := memory(t, b.Filterd.PID())
	crowd := make([]*slow, slowClients)
	begins := []string{"", "EHLO ", "EHLO slow.example\r\nMAIL FROM:<", "EHLO slow.example\r\nMAIL FROM:<bob@partner.example>\r\nRCPT TO:<" + alice + ">\r\nDATA\r\nSubject: "}
	for i := range crowd {
		crowd[i] = &slow{from: fmt.Sprintf("127.0.1.%d", 1+i%100), server: b.Outside, begin: begins[i%len(begins)]}
	}
	var thrown atomic.Int64
	rounds := make(chan struct{})
	quit := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		defer close(rounds)
		for {
			var hands sync.WaitGroup
			for part := range slices.Chunk(crowd, slowClients/50) {
				hands.Go(func() {
					for _, s := range part {
						s.nudge(&thrown)
					}
				})
			}
			hands.Wait()
			select {
			case rounds <- struct{}{}:
			case <-quit:
				return
			}
		}
	})
	defer func() {
		close(quit)
		group.Wait()
		for _, s := range crowd {
			if s.conn != nil {
				s.conn.Close()
			}
		}
	}()
	<-rounds // all have come
	var took []time.Duration
	for i := range 10 {
		<-rounds
		id := fmt.Sprintf("normal.%d@slow.example", i)
		began := time.Now()
		a := send(b.Outside, bob, alice, c.sealedMail(id, "Content-Type: text/plain\r\n\r\nnormal\r\n"))
		if a.code != 250 {
			t.Errorf("got %s, want 250", a)
		}
		took = append(took, time.Since(began))
		if n := sockets(t, b.Filterd.PID()); n > 2000 {
			t.Errorf("got %d descriptors of filterd, want 1000 connections, and those that are just leaving", n)
		}
	}
	slices.Sort(took)
	peak := memory(t, b.Filterd.PID())
	t.Logf("mails took %v to %v, median %v; %d clients lost their place; memory %d MiB, %d MiB when idle", took[0], took[9], took[5], thrown.Load(), peak>>20, idle>>20)
	if took[5] > 5*time.Second {
		t.Errorf("got %v for a mail in the middle, want 5 s at most", took[5])
	}
	if peak > idle+128<<20 {
		t.Errorf("got %d MiB of memory, want 128 MiB above %d MiB at most", peak>>20, idle>>20)
	}
}

// memory is the most that a process has had, in bytes.
func memory(t testing.TB, pid int) int64 {
	t.Helper()
	for line := range strings.Lines(contents(t, fmt.Sprintf("/proc/%d/status", pid))) {
		var kib int64
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kib); err == nil {
			return kib << 10
		}
	}
	t.Fatalf("process %d has no memory", pid)
	return 0
}

// sockets is how many descriptors a process has open.
func sockets(t testing.TB, pid int) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
