package transport

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"postern/filter/message"
)

// smuggling are the ends of a mail that somebody somewhere takes for one, and
// that are none (RFC 5321 §4.1.1.4; R23).
var smuggling = []string{
	"\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r.\r\n", "\r\n.\r", "\r.\n", "\n.\r",
	"\r\r\n.\r\n", "\r\n.\r\r\n", "\r\r\n.\r\r\n", "\n\n.\r\n", "\r\n\x00.\r\n", "\r\n.\x00\r\n", "\r\n\n.\r\n", "\n\r.\r\n",
	"\x00\r\n.\r\n", "\r\n.\r\x00\n",
}

const second = "MAIL FROM:<evil@from.example>\r\nRCPT TO:<victim@to.example>\r\nDATA\r\nsmuggled\r\n.\r\nQUIT\r\n"

// None of them ends a mail, with SMTP as with LMTP (R23).
func TestSmugglingIn(t *testing.T) {
	t.Run("SMTP", func(t *testing.T) { smuggleIn(t, false) })
	t.Run("LMTP", func(t *testing.T) { smuggleIn(t, true) })
}

func smuggleIn(t *testing.T, lmtp bool) {
	m := &mailbox{}
	addr := serve(t, &Server{Handler: m, LMTP: lmtp})
	for _, end := range smuggling {
		for _, before := range []string{"x", "x\r\n", ""} {
			c := call(t, addr)
			c.lmtp = lmtp
			c.upToData()
			c.say(before + end + second)
			c.want("554 5.6.0 line ends")
			c.closed()
			c.conn.Close()
		}
	}
	if got := m.bodies(); len(got) != 0 {
		t.Errorf("got %d mails, want none: %q", len(got), got)
	}
	for _, harmless := range []string{"\r\n..\r\n", "\r\n .\r\n", "\r\n. \r\n", "\r\n.\t\r\n", ".\r\n"} {
		c := call(t, addr)
		c.lmtp = lmtp
		c.upToData()
		c.say("x" + harmless + second[:strings.Index(second, "QUIT")])
		c.want("250 2.0.0 kept")
		c.ask("RCPT TO:<b@to.example>", "503 ")
	}
	if got := m.got(); len(got) != 5 {
		t.Errorf("got %d mails, want 5", len(got))
	}
	for _, x := range m.got() {
		if !strings.HasSuffix(x.body, "smuggled\r\n") || x.env.From.Local != "a" {
			t.Errorf("got %+v", x)
		}
	}
}

// In small pieces the same must come out (R23).
func TestScannerPieces(t *testing.T) {
	for _, end := range smuggling {
		for _, whole := range []string{"x" + end + second, end + second} {
			for cut := 1; cut <= 3; cut++ {
				s := &scanner{max: 1 << 20}
				var err error
				var read int
				for i := 0; i < len(whole) && err == nil; i += cut {
					var n int
					n, err = s.scan([]byte(whole[i:min(i+cut, len(whole))]))
					read += n
				}
				if !errors.Is(err, message.ErrLineEnds) || read > strings.Index(whole, "MAIL") {
					t.Errorf("%q: got %v after %d bytes", whole[:12], err, read)
				}
			}
		}
	}
}

// None of them is sent, and who is given one is hung up on (R23).
func TestSmugglingOut(t *testing.T) {
	f := playing(t, plain)
	h := &Hop{Address: f.addr, Name: "gw.example"}
	defer h.Close()
	for _, end := range smuggling {
		body := "From: a@from.example\r\n\r\nx" + end + second
		res := h.Deliver(t.Context(), envelope(t, "b@to.example"), int64(len(body)), text(body))
		if res.Err == nil || errors.As(res.Err, new(Reply)) || errors.Is(res.Err, message.ErrLineEnds) {
			t.Errorf("%q: got %v, want an error of our own", end, res.Err)
		}
	}
	heard := f.all()
	if strings.Contains(heard, "evil") || strings.Contains(heard, "\r\n.\r\n") || strings.Contains(heard, "\x00") {
		t.Errorf("next hop heard %q", heard)
	}
	if f.times() != len(smuggling) {
		t.Errorf("got %d connections, want a new one after each that was broken off", f.times())
	}
}

func FuzzDot(f *testing.F) {
	for _, s := range append(smuggling, "", ".", "..", ".\r\n", "x\r\n.x\r\n", "x", "\r\n") {
		f.Add([]byte(s), 3)
	}
	f.Fuzz(func(t *testing.T, body []byte, cut int) {
		if cut < 1 || cut > 1<<16 {
			cut = 1
		}
		var wire bytes.Buffer
		s := &stuffer{w: &wire}
		var err error
		for p := body; len(p) > 0 && err == nil; {
			n := min(cut, len(p))
			_, err = s.Write(p[:n])
			p = p[n:]
		}
		if err == nil {
			err = s.end()
		}
		bad := bytes.ContainsAny(bytes.ReplaceAll(body, []byte("\r\n"), nil), "\r\n\x00")
		if err != nil {
			if !bad {
				t.Fatalf("%q: got %v, although its line ends are right", body, err)
			}
			return
		}
		if bad {
			t.Fatalf("%q: sent as %q, although its line ends are wrong", body, wire.Bytes())
		}
		want := bytes.Clone(body)
		if len(want) > 0 && !bytes.HasSuffix(want, []byte("\r\n")) {
			want = append(want, "\r\n"...)
		}
		scan := &scanner{max: int64(len(want))}
		sent := append(wire.Bytes(), "NOOP\r\n"...)
		n, err := scan.scan(sent)
		if err != nil || scan.state != atEnd || n != wire.Len() || scan.size != int64(len(want)) {
			t.Fatalf("%q: got %d of %d bytes, size %d, state %d, %v", body, n, wire.Len(), scan.size, scan.state, err)
		}
		if got := unstuffed(sent[:n]); !bytes.Equal(got, want) {
			t.Fatalf("%q: came back as %q", body, got)
		}
	})
}

// FuzzTake holds that a mail which is taken in pieces is the one that scan saw.
func FuzzTake(f *testing.F) {
	for _, s := range append(smuggling, "", ".\r\n", "x\r\n..x\r\n.\r\nNOOP", "x\r\n.y\r\n.\r\n", "a\r\n\r\n..\r\n.\r\n", "long\x00", "too long a line\r\n.\r\n") {
		f.Add([]byte(s), 3, 2, int64(1000))
		f.Add([]byte(s), 1000, 1000, int64(5))
	}
	f.Fuzz(func(t *testing.T, wire []byte, in, out int, limit int64) {
		in, out = min(max(in, 1), 1<<12), min(max(out, 1), 1<<12)
		a, b := &scanner{max: limit}, &scanner{max: limit}
		want, wantErr := a.scan(wire)
		var got []byte
		read := 0
		var err error
		for err == nil && read < len(wire) && b.state != atEnd {
			piece := make([]byte, out)
			var n, m int
			n, m, err = b.take(piece, wire[read:min(len(wire), read+in)])
			if err == nil && m == 0 {
				t.Fatalf("%q: stands still at %d", wire, read)
			}
			got, read = append(got, piece[:n]...), read+m
		}
		if read != want || err != wantErr || err == nil && *a != *b {
			t.Fatalf("%q: got %d bytes, %v, %+v, want %d, %v, %+v", wire, read, err, *b, want, wantErr, *a)
		}
		if err == nil && b.state == atEnd && !bytes.Equal(got, unstuffed(wire[:read])) {
			t.Fatalf("%q: came out as %q", wire, got)
		}
		if int64(len(got)) > max(0, limit) {
			t.Fatalf("%q: got %d bytes, want %d at most", wire, len(got), limit)
		}
	})
}

// unstuffed undoes dot-stuffing the plain way.
func unstuffed(wire []byte) []byte {
	var out []byte
	for _, l := range bytes.SplitAfter(wire, []byte("\r\n")) {
		if string(l) == ".\r\n" {
			break
		}
		out = append(out, bytes.TrimPrefix(l, []byte("."))...)
	}
	return out
}
