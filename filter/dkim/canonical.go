package dkim

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"strings"
)

// Relaxed is a field in relaxed form (RFC 6376 §3.4.2).
func Relaxed(raw string) string {
	name, value, _ := strings.Cut(raw, ":")
	var b strings.Builder
	b.Grow(len(raw))
	b.WriteString(strings.ToLower(strings.TrimRight(name, " \t\r\n")))
	b.WriteByte(':')
	space, began := false, false
	for i := range len(value) {
		switch c := value[i]; c {
		case '\r', '\n':
		case ' ', '\t':
			space = began
		default:
			if space {
				b.WriteByte(' ')
				space = false
			}
			b.WriteByte(c)
			began = true
		}
	}
	b.WriteString("\r\n")
	return b.String()
}

// Sum is the hash that a signature is over: of each name the field that is left
// from the bottom (RFC 6376 §5.4.2), and at the end own without the value of its
// b= and without its CRLF. own itself is never taken for one of the others.
func (h Header) Sum(names []string, relaxed bool, own Field, at int) [sha256.Size]byte {
	form := func(raw string) string { return raw }
	if relaxed {
		form = Relaxed
	}
	left := map[string]int{} // where the search for the next one begins
	sum := sha256.New()
	for _, name := range names {
		name = strings.ToLower(name)
		from, seen := left[name]
		if !seen {
			from = len(h)
		}
		from--
		for from >= 0 && (h[from].Name != name || from == at) {
			from--
		}
		left[name] = max(from, 0)
		if from >= 0 {
			io.WriteString(sum, form(h[from].Raw))
		}
	}
	io.WriteString(sum, strings.TrimSuffix(form(Unsigned(own.Raw)), "\r\n"))
	return [sha256.Size]byte(sum.Sum(nil))
}

// Form is how a body is hashed.
type Form struct {
	Relaxed bool
	Limit   int64 // bytes of l=, or -1
}

// BodySum is the hash of a body in one form, and how long it is without limit.
type BodySum struct {
	Hash [sha256.Size]byte
	Len  int64
}

// body takes a body in pieces and hashes it in one form.
type body struct {
	form  Form
	sum   hash.Hash
	len   int64
	lines int  // CRLF that nothing has followed yet
	space bool // relaxed: white space that nothing has followed yet
	cr    bool // a CR at the end of a piece
	out   []byte
}

func newBody(f Form) *body { return &body{form: f, sum: sha256.New()} }

func (b *body) emit(p ...byte) { b.out = append(b.out, p...) }

func (b *body) flush() {
	p := b.out
	if b.form.Limit >= 0 {
		p = p[:max(0, min(int64(len(p)), b.form.Limit-b.len))]
	}
	b.sum.Write(p)
	b.len += int64(len(b.out))
	b.out = b.out[:0]
}

// pending writes what something follows after all.
func (b *body) pending() {
	for ; b.lines > 0; b.lines-- {
		b.emit('\r', '\n')
		if len(b.out) >= 32<<10 {
			b.flush()
		}
	}
	if b.space {
		b.emit(' ')
		b.space = false
	}
}

func (b *body) write(p []byte) {
	for len(p) > 0 {
		if b.cr {
			b.cr = false
			if p[0] == '\n' {
				b.lines++
				b.space = false
				p = p[1:]
				continue
			}
			b.pending()
			b.emit('\r')
		}
		c := p[0]
		switch {
		case c == '\r':
			b.cr = true
			p = p[1:]
		case b.form.Relaxed && (c == ' ' || c == '\t'):
			b.space = true
			p = p[1:]
		default:
			b.pending()
			stop := "\r"
			if b.form.Relaxed {
				stop = "\r \t"
			}
			n := bytes.IndexAny(p, stop)
			if n < 0 {
				n = len(p)
			}
			b.emit(p[:n]...)
			p = p[n:]
		}
		if len(b.out) >= 32<<10 {
			b.flush()
		}
	}
	b.flush()
}

// end gives the sum: without empty lines at the end, with a CRLF behind the
// last line, and for an empty body CRLF in simple form and nothing in relaxed
// form (RFC 6376 §3.4.3, §3.4.4).
func (b *body) end() BodySum {
	if b.cr {
		b.cr = false
		b.pending()
		b.emit('\r')
	}
	if b.len+int64(len(b.out)) > 0 || !b.form.Relaxed {
		b.emit('\r', '\n')
	}
	b.flush()
	return BodySum{[sha256.Size]byte(b.sum.Sum(nil)), b.len}
}

// Scan reads a mail once. As soon as its header is there, want says in which
// forms the body is to be hashed; where in none, it is not read.
func Scan(mail io.WriterTo, want func(Header) []Form) (Header, []BodySum, error) {
	s := scan{want: want}
	if _, err := mail.WriteTo(&s); err != nil && !errors.Is(err, errEnough) {
		return nil, nil, err
	}
	if !s.inBody {
		s.begin(len(s.head))
	}
	sums := make([]BodySum, len(s.bodies))
	for i, b := range s.bodies {
		sums[i] = b.end()
	}
	return s.header, sums, nil
}

// errEnough ends the reading of a mail whose body nobody wants.
var errEnough = errors.New("header read")

type scan struct {
	want   func(Header) []Form
	head   []byte
	inBody bool
	header Header
	bodies []*body
}

func (s *scan) begin(end int) {
	s.inBody = true
	s.header = split(string(s.head[:end]))
	for _, f := range s.want(s.header) {
		s.bodies = append(s.bodies, newBody(f))
	}
}

func (s *scan) Write(p []byte) (int, error) {
	n := len(p)
	if !s.inBody {
		from := max(0, len(s.head)-3)
		s.head = append(s.head, p...)
		p = nil
		end := bytes.Index(s.head[from:], []byte("\r\n\r\n"))
		switch {
		case len(s.head) >= 2 && s.head[0] == '\r' && s.head[1] == '\n': // no header
			p = s.head[2:]
			s.begin(0)
		case end >= 0:
			end += from + 2
			p = s.head[end+2:]
			s.begin(end)
		case len(s.head) > MaxHeader:
			return 0, ErrHeader
		default:
			return n, nil
		}
	}
	if len(s.bodies) == 0 {
		return 0, errEnough
	}
	for _, b := range s.bodies {
		b.write(p)
	}
	return n, nil
}
