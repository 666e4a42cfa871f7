package paper

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// press listens, and does with each connection what it is told.
func press(t *testing.T, serve func(c net.Conn)) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "p.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serve(c)
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return &Client{Socket: path, Timeout: time.Minute, MaxSize: 1 << 20}
}

func job(mail string) Job {
	return Job{Trace: "T1", Password: "word", Size: int64(len(mail)), Mail: strings.NewReader(mail)}
}

func TestPrint(t *testing.T) {
	long := strings.Repeat("document ", 50_000)
	c := press(t, func(c net.Conn) {
		trace, password, mail, err := ReadJob(c, MaxMail)
		a := NewAnswer(c)
		if err == nil && (trace != "T1" || password != "word" || string(mail) != "mail") {
			err = errors.New("another job")
		}
		if err == nil {
			_, err = io.WriteString(a, long)
		}
		a.End(err)
	})
	var got bytes.Buffer
	if err := c.Print(t.Context(), job("mail"), &got); err != nil || got.String() != long {
		t.Errorf("got %d bytes, %v, want the document", got.Len(), err)
	}
	if err := c.Print(t.Context(), job("another"), io.Discard); !errors.Is(err, ErrAway) {
		t.Errorf("press that fails: got %v, want away", err)
	}
	if err := c.Print(t.Context(), job(strings.Repeat("x", 1<<20+1)), io.Discard); !errors.Is(err, ErrTooBig) {
		t.Errorf("large mail: got %v, want too big", err)
	}
}

// broken fails to be read or written.
type broken struct{}

var errBreaks = errors.New("breaks")

func (broken) WriteTo(w io.Writer) (int64, error) {
	n, _ := w.Write([]byte("ma"))
	return int64(n), errBreaks
}
func (broken) Write([]byte) (int, error) { return 0, errBreaks }

// Whatever is wrong with the press is ErrAway; what is wrong with the mail, or
// with where the document goes, is not.
func TestPressThatIsNone(t *testing.T) {
	piece := func(n int, text string) string {
		return string(binary.BigEndian.AppendUint32(nil, uint32(n))) + text
	}
	end := func(how byte) string { return piece(0, string(how)) }
	for _, c := range []struct {
		name, answer string
		want         error
	}{
		{"nothing", "", ErrAway},
		{"half a length", "\x00\x00", ErrAway},
		{"half a piece", piece(8, "docu"), ErrAway},
		{"no end", piece(4, "docu"), ErrAway},
		{"an end without its word", piece(4, "docu") + piece(0, ""), ErrAway},
		{"an end that says no", piece(4, "docu") + end(endFailed), ErrAway},
		{"an end of another kind", piece(4, "docu") + end(9), ErrAway},
		{"a piece that is too long", piece(maxPiece+1, strings.Repeat("x", maxPiece+1)) + end(endWhole), ErrAway},
		{"more than a document", strings.Repeat(piece(maxPiece, strings.Repeat("x", maxPiece)), maxMore/maxPiece+1) + end(endWhole), ErrAway},
		{"too big", end(endTooBig), ErrTooBig},
		{"a document", piece(4, "docu") + end(endWhole), nil},
	} {
		client := press(t, func(conn net.Conn) {
			if _, _, _, err := ReadJob(conn, MaxMail); err != nil {
				t.Error(err)
			}
			io.WriteString(conn, c.answer)
		})
		if err := client.Print(t.Context(), job("mail"), io.Discard); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
	whole := press(t, func(conn net.Conn) {
		if _, _, _, err := ReadJob(conn, MaxMail); err == nil {
			io.WriteString(conn, piece(4, "docu")+end(endWhole))
		}
	})
	if err := whole.Print(t.Context(), job("mail"), broken{}); !errors.Is(err, errBreaks) || errors.Is(err, ErrAway) {
		t.Errorf("document that cannot be written: got %v", err)
	}
	if err := whole.Print(t.Context(), Job{Size: 4, Mail: broken{}}, io.Discard); !errors.Is(err, errBreaks) || errors.Is(err, ErrAway) {
		t.Errorf("mail that cannot be read: got %v", err)
	}
	if err := whole.Print(t.Context(), Job{Size: 9, Mail: strings.NewReader("mail")}, io.Discard); err == nil || errors.Is(err, ErrAway) {
		t.Errorf("mail that is shorter than it says: got %v", err)
	}
	if err := (&Client{Socket: filepath.Join(t.TempDir(), "none"), Timeout: time.Minute, MaxSize: 1 << 20}).Print(t.Context(), job("mail"), io.Discard); !errors.Is(err, ErrAway) {
		t.Errorf("no socket: got %v, want away", err)
	}
}

// A press that hangs is away when its time is over; a caller who leaves is told
// of that, and of no press.
func TestPressThatHangs(t *testing.T) {
	free := make(chan struct{})
	reached := make(chan struct{}, 10)
	c := press(t, func(net.Conn) { reached <- struct{}{}; <-free })
	defer close(free)
	c.Timeout = 50 * time.Millisecond
	if err := c.Print(t.Context(), job(strings.Repeat("mail", 200_000)), io.Discard); !errors.Is(err, ErrAway) {
		t.Errorf("got %v, want away", err)
	}
	c.Timeout = time.Minute
	ctx, leave := context.WithCancelCause(t.Context())
	gone := errors.New("gone")
	done := make(chan error)
	go func() { done <- c.Print(ctx, job(strings.Repeat("mail", 200_000)), io.Discard) }()
	<-reached
	leave(gone)
	if err := <-done; !errors.Is(err, gone) || errors.Is(err, ErrAway) {
		t.Errorf("got %v, want the caller's", err)
	}
}

// Whatever comes as a job is bounded, and one that is read is the one that was
// written.
func FuzzReadJob(f *testing.F) {
	var b bytes.Buffer
	if err := writeJob(&b, job("mail")); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte(hello + "\x01a\x00\xff\xff\xff\xff\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		const max = 1 << 10
		trace, password, mail, err := ReadJob(bytes.NewReader(data), max)
		if err != nil {
			return
		}
		if len(mail) > max {
			t.Fatalf("got %d bytes, want at most %d", len(mail), max)
		}
		var again bytes.Buffer
		if err := writeJob(&again, Job{Trace: trace, Password: password, Size: int64(len(mail)), Mail: bytes.NewReader(mail)}); err != nil || !bytes.HasPrefix(data, again.Bytes()) {
			t.Fatalf("got %q, %v, want the beginning of %q", again.Bytes(), err, data)
		}
	})
}

func FuzzReadAnswer(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x04docu\x00\x00\x00\x00\x00"))
	f.Add([]byte("\x00\x00\x00\x00\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		const max = 64
		var got bytes.Buffer
		if err := readAnswer(bytes.NewReader(data), &got, max); got.Len() > max {
			t.Fatalf("got %d bytes, %v, want at most %d", got.Len(), err, max)
		}
	})
}
