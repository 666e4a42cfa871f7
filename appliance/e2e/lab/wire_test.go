package lab

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"postern/appliance/e2e/housetest"
	"postern/appliance/e2e/placetest"
)

// wire hears all that passes between the places, and puts what was said over
// TCP together again.
type wire struct {
	mu      sync.Mutex
	open    map[flow]*stream
	streams []*stream
	marks   map[string]chan struct{}
	at      *placetest.Place
}

// flow is one direction of one connection.
type flow struct{ from, to netip.AddrPort }

// stream is what one side said in one connection.
type stream struct {
	flow
	first    uint32
	segments map[uint32][]byte // by their distance from the first octet
}

// listen hears every device of a place until the test ends.
func listen(t testing.TB, p *placetest.Place) *wire {
	t.Helper()
	w := &wire{open: map[flow]*stream{}, marks: map[string]chan struct{}{}, at: p}
	var heard *os.File
	p.Do(t, func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		heard = os.NewFile(uintptr(fd), "wire")
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL})})
	})
	ended := make(chan error, 1)
	go func() {
		packet := make([]byte, 1<<17)
		for {
			n, err := heard.Read(packet)
			if err != nil {
				ended <- err
				return
			}
			w.take(packet[:n])
		}
	}()
	t.Cleanup(func() {
		heard.Close()
		if err := <-ended; !errors.Is(err, os.ErrClosed) {
			t.Errorf("listen on the wire: %v", err)
		}
	})
	return w
}

// take looks at one packet: IPv4 with TCP counts.
func (w *wire) take(packet []byte) {
	if len(packet) < 20 || packet[0]>>4 != 4 {
		return
	}
	if packet[9] != unix.IPPROTO_TCP {
		w.mark(packet)
		return
	}
	head, size := int(packet[0]&15)*4, int(binary.BigEndian.Uint16(packet[2:]))
	if size > len(packet) || head+20 > size {
		return
	}
	tcp := packet[head:size]
	port := func(i int) uint16 { return binary.BigEndian.Uint16(tcp[i:]) }
	f := flow{netip.AddrPortFrom(netip.AddrFrom4([4]byte(packet[12:])), port(0)), netip.AddrPortFrom(netip.AddrFrom4([4]byte(packet[16:])), port(2))}
	number, offset, begins := binary.BigEndian.Uint32(tcp[4:]), int(tcp[12]>>4)*4, tcp[13]&2 != 0
	if offset > len(tcp) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.open[f]
	if begins && (s == nil || s.first != number+1) {
		s = &stream{f, number + 1, map[uint32][]byte{}}
		w.open[f], w.streams = s, append(w.streams, s)
	}
	if s != nil && offset < len(tcp) && !begins {
		s.segments[number-s.first] = bytes.Clone(tcp[offset:])
	}
}

// mark looks for one of catchUp.
func (w *wire) mark(packet []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for mark, seen := range w.marks {
		if bytes.HasSuffix(packet, []byte(mark)) {
			close(seen)
			delete(w.marks, mark)
		}
	}
}

// catchUp waits until all was heard that has passed: it says something itself,
// and what is heard is heard in order.
func (w *wire) catchUp(t testing.TB) {
	t.Helper()
	mark, seen := rand.Text(), make(chan struct{})
	w.mu.Lock()
	w.marks[mark] = seen
	w.mu.Unlock()
	w.at.Do(t, func() error {
		c, err := net.Dial("udp", "127.0.0.1:9")
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte(mark))
		return err
	})
	select {
	case <-seen:
	case <-time.After(housetest.Patience):
		t.Fatal("the wire hears nothing")
	}
}

// said is the stream in order, each octet once. What was lost is missing.
func (s *stream) said() string {
	starts := make([]uint32, 0, len(s.segments))
	for at := range s.segments {
		starts = append(starts, at)
	}
	slices.SortFunc(starts, cmp.Compare)
	var all []byte
	for _, at := range starts {
		segment := s.segments[at]
		if old := len(all) - int(at); old < len(segment) {
			all = append(all, segment[max(0, old):]...)
		}
	}
	return string(all)
}

// smtp is what was said to and by port 25 since the wire was asked last.
func (w *wire) smtp(t testing.TB) (clients, servers []string) {
	t.Helper()
	w.catchUp(t)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.streams {
		switch said := s.said(); {
		case said == "":
		case s.to.Port() == 25:
			clients = append(clients, said)
		case s.from.Port() == 25:
			servers = append(servers, said)
		}
	}
	w.open, w.streams = map[flow]*stream{}, nil
	return clients, servers
}

// shows reports whether any of the texts has the secret, as it is or in base64
// at any of its three offsets.
func shows(texts []string, secret string) bool {
	forms := []string{secret}
	for i := range 3 {
		coded := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat("x", i) + secret))
		forms = append(forms, coded[(i*8+5)/6:len(coded)-2])
	}
	for _, text := range texts {
		text = strings.NewReplacer("\r", "", "\n", "").Replace(text)
		for _, f := range forms {
			if strings.Contains(text, f) {
				return true
			}
		}
	}
	return false
}
