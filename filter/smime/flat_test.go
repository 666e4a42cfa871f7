package smime

import (
	"io"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"postern/filter/message"
	"postern/filter/protect"
)

// long is a mail of many lines that are made up as they are read.
type long struct {
	head string
	line string
	size int64
}

func (l *long) Size() int64 { return l.size }

func (l *long) ReadAt(p []byte, off int64) (n int, err error) {
	for n < len(p) && off < l.size {
		from := l.head
		at := off
		if off >= int64(len(l.head)) {
			from, at = l.line, (off-int64(len(l.head)))%int64(len(l.line))
		}
		c := copy(p[n:min(int64(len(p)), int64(n)+l.size-off)], from[at:])
		n, off = n+c, off+int64(c)
	}
	if n < len(p) {
		err = io.EOF
	}
	return n, err
}

// peak is a source that looks at the heap while it is read.
type peak struct {
	message.Source
	reads int
	most  uint64
}

func (p *peak) ReadAt(b []byte, off int64) (int, error) {
	if p.reads++; p.reads%64 == 0 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		p.most = max(p.most, m.HeapAlloc)
	}
	return p.Source.ReadAt(b, off)
}

// Memory does not grow with a mail, neither when it is sealed nor opened.
func TestFlat(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(20))
	w := newWorld(t, ecPair)
	made := &message.Spools{Memory: 256 << 10, Max: 256 << 20, Dir: t.TempDir()}
	room := func() *message.Spool {
		s := made.New()
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
	const size, most = 64 << 20, 24 << 20
	source := &long{head: "From: alice@company1.example\r\nTo: bob@partner.example\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\r\n",
		line: strings.Repeat("A", 76) + "\r\n", size: size}
	for _, style := range []protect.Style{{}, {Cipher: "aes-256-gcm"}} {
		var before runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		watched := &peak{Source: source}
		m, err := message.Parse(watched, message.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		sealed, err := New(w.config).Seal(t.Context(), protect.SealRequest{Message: m, Signer: &w.alice.signs, Recipients: w.known[:0:0], Own: w.alice.both(), Style: style, At: now, NewSpool: room})
		if err != nil {
			t.Fatal(err)
		}
		if _, f, err := w.opened(sealed, watched, room); err != nil || !f.Good || f.Opened {
			t.Errorf("signed: got %+v, %v", f, err)
		}
		r := protect.SealRequest{Message: m, Signer: &w.alice.signs, Style: style, At: now, NewSpool: room}
		r.Recipients = append(r.Recipients, w.bob.opens.Cert)
		if sealed, err = New(w.config).Seal(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		opened, f, err := w.opened(sealed, watched, room)
		if err != nil || !f.Good || !f.Opened || opened.Root.Body.Len() < size-1000 {
			t.Errorf("sealed: got %+v, %v", f, err)
		}
		if got := int64(watched.most) - int64(before.HeapAlloc); got > most {
			t.Errorf("%+v: %d MiB above what was there, want at most %d", style, got>>20, most>>20)
		} else {
			t.Logf("%+v: %.1f MiB above what was there", style, float64(got)/(1<<20))
		}
	}
}

// opened opens a mail that is watched.
func (w *world) opened(m *message.Message, by *peak, room func() *message.Spool) (*message.Message, protect.Finding, error) {
	from := *by
	from.Source = m.Source
	watched := *m
	watched.Source = &from
	r := w.request(&watched)
	r.NewSpool = room
	opened, f, err := New(w.config).Open(w.Context(), r)
	by.most = max(by.most, from.most)
	return opened, f, err
}
