package message

import (
	"bufio"
	"io"
)

// quoted writes quoted-printable (RFC 2045 §6.7) that survives every hop: no
// line of it has white space at its end, begins with "From " or could be
// taken for a boundary.
type quoted struct {
	w     *bufio.Writer
	r     *bufio.Reader
	width int // of the line so far
}

// token writes what stands for one byte.
func (q *quoted) token(s string) {
	q.room(len(s))
	q.w.WriteString(s)
	q.width += len(s)
}

// room breaks the line softly when n bytes and "=" would not fit in 76.
func (q *quoted) room(n int) {
	if q.width+n > 75 {
		q.w.WriteString("=\r\n")
		q.width = 0
	}
}

func (q *quoted) hex(b byte) {
	const digits = "0123456789ABCDEF"
	q.token(string([]byte{'=', digits[b>>4], digits[b&15]}))
}

func (q *quoted) newline() {
	q.w.WriteString("\r\n")
	q.width = 0
}

// text writes a byte that is not white space, after which q.r stands.
func (q *quoted) text(b byte) {
	q.room(1)
	if q.width == 0 && (b == 'F' && q.follows("rom ") || b == '-' && q.follows("-")) || b < ' ' || b >= 0x7f {
		q.hex(b)
		return
	}
	q.w.WriteByte(b)
	q.width++
	q.run()
}

// run writes what is next and stays as it is, up to the end of the line.
func (q *quoted) run() {
	next, _ := q.r.Peek(min(q.r.Buffered(), 75-q.width))
	n := 0
	for n < len(next) && (isVisible(next[n]) || next[n] == ' ' && n+1 < len(next) && isVisible(next[n+1])) {
		n++
	}
	q.w.Write(next[:n])
	q.r.Discard(n)
	q.width += n
}

// isVisible reports whether c stands for itself wherever it is.
func isVisible(c byte) bool { return c > ' ' && c < 0x7f && c != '=' }

func (q *quoted) follows(s string) bool {
	next, _ := q.r.Peek(len(s))
	return string(next) == s
}

// lineEnds reports whether nothing, or a line end, is next.
func (q *quoted) lineEnds() bool {
	next, _ := q.r.Peek(2)
	return len(next) == 0 || next[0] == '\n' || string(next) == "\r\n"
}

// encodeQP encodes the text in r. An LF alone is a line end, too.
func encodeQP(w *bufio.Writer, r *bufio.Reader) error {
	q := &quoted{w: w, r: r}
	for {
		b, err := q.r.ReadByte()
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		case b == '\n':
			q.newline()
		case b == '\r' && q.follows("\n"):
		case b == '=' || isBlank(b) && q.lineEnds():
			q.hex(b)
		case isBlank(b):
			q.token(string(b))
		default:
			q.text(b)
		}
	}
}

// mendQuoted writes the quoted-printable in r so that it survives: white
// space at the ends of lines is not part of the text (RFC 2045 §6.7) and
// goes; bytes above 127 and stray equal signs are encoded; what is longer
// than 76 is broken softly.
func mendQuoted(w *bufio.Writer, r *bufio.Reader) error {
	q := &quoted{w: w, r: r}
	var blanks []byte // white space that may turn out to be at a line's end
	for {
		b, err := q.r.ReadByte()
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		case isBlank(b):
			if len(blanks) == maxLine { // nobody's text: kept, but never at a line's end
				for _, c := range blanks {
					q.hex(c)
				}
				blanks = blanks[:0]
			}
			blanks = append(blanks, b)
			continue
		case b == '\r' && q.follows("\n"):
			continue
		case b == '\n':
			blanks = blanks[:0]
			q.newline()
			continue
		}
		for _, c := range blanks {
			q.token(string(c))
		}
		blanks = blanks[:0]
		if b != '=' {
			q.text(b)
			continue
		}
		switch next, _ := q.r.Peek(2); {
		case len(next) == 2 && isHex(next[0]) && isHex(next[1]):
			q.token("=" + string(next))
			_, err = q.r.Discard(2)
		case q.softEnd():
			q.w.WriteByte('=')
			q.width++
		default:
			q.hex(b)
		}
		if err != nil {
			return err
		}
	}
}

// softEnd reports whether only white space stands before the end of the line.
func (q *quoted) softEnd() bool {
	for n := 1; ; n++ {
		next, err := q.r.Peek(n)
		if err != nil {
			return err == io.EOF
		}
		if c := next[n-1]; !isBlank(c) {
			return c == '\r' || c == '\n'
		}
	}
}

func isHex(b byte) bool {
	return b >= '0' && b <= '9' || b >= 'A' && b <= 'F' || b >= 'a' && b <= 'f'
}
