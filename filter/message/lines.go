package message

import (
	"bufio"
	"errors"
	"io"
)

// ErrLineEnds is a CR without LF, an LF without CR, or a NUL: what programs on
// a mail's way read differently (RFC 5321 §2.3.8).
var ErrLineEnds = errors.New("bare CR, LF or NUL")

// Strict passes r on, and ends with ErrLineEnds at a CR without LF, an LF
// without CR, or a NUL. Lines may be of any length.
func Strict(r io.Reader) io.Reader { return &strict{r: r} }

type strict struct {
	r   io.Reader
	cr  bool // the last byte was CR
	err error
}

func (s *strict) Read(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.r.Read(p)
	for _, c := range p[:n] {
		if c == 0 || s.cr != (c == '\n') {
			s.err = ErrLineEnds
			return 0, s.err
		}
		s.cr = c == '\r'
	}
	if err == io.EOF && s.cr {
		err = ErrLineEnds
	}
	s.err = err
	return n, err
}

// Content says what a range of bytes asks of the way it travels.
type Content struct {
	EightBit bool // a byte above 127
	Longest  int  // of the lines, in bytes without CRLF
	Fragile  bool // white space at the end of a line, or a line that begins with "From ": hops change these
}

// Scan reads the bytes of s.
func Scan(src Source, s Span) (Content, error) {
	var c Content
	r := bufio.NewReaderSize(SectionReader(src, s), chunk)
	var length int
	var last byte
	var begin [5]byte
	end := func() {
		c.Longest = max(c.Longest, length)
		c.Fragile = c.Fragile || last == ' ' || last == '\t' || length >= 5 && string(begin[:]) == "From "
		length, last = 0, 0
	}
	for {
		line, err := r.ReadSlice('\n')
		for _, b := range line {
			if b == '\n' || b == '\r' {
				continue
			}
			if length < len(begin) {
				begin[length] = b
			}
			c.EightBit = c.EightBit || b >= 0x80
			length++
			last = b
		}
		switch {
		case err == nil:
			end()
		case errors.Is(err, bufio.ErrBufferFull):
		case err == io.EOF:
			end()
			return c, nil
		default:
			return c, err
		}
	}
}

// line is one line of a source: where it stands, with its line end, and what
// it begins with.
type line struct {
	Span
	text  []byte // without the line end; cut off where the caller wants no more
	prior int    // bytes of the line end before it: 2, or 1 where it is a bare LF
}

// lineHead is how much of a body's line is looked at: a boundary has at most 70 characters.
const lineHead = 256

// scanner reads a source line by line, once, from the front.
type scanner struct {
	r    *bufio.Reader
	pos  int64
	end  int // bytes of the last line end
	back *line
}

func newScanner(src Source) *scanner {
	return &scanner{r: bufio.NewReaderSize(SectionReader(src, Span{0, src.Size()}), chunk)}
}

// unread makes the next call of next give l again.
func (s *scanner) unread(l line) { s.back = &l }

// next gives the next line and up to head bytes of it; ok is false at the end.
// The text is valid until the next call.
func (s *scanner) next(head int) (l line, ok bool, err error) {
	if s.back != nil {
		l, s.back = *s.back, nil
		return l, true, nil
	}
	l.Start, l.prior = s.pos, s.end
	var text []byte
	whole := true // text is still the buffer of r
	for {
		piece, err := s.r.ReadSlice('\n')
		s.pos += int64(len(piece))
		if text == nil {
			text = piece
		} else {
			if whole {
				text, whole = append([]byte(nil), text...), false
			}
			if room := head + 2 - len(text); room > 0 {
				text = append(text, piece[:min(room, len(piece))]...)
			}
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			if len(text) > head+2 {
				text = text[:head+2]
			}
			if whole { // the buffer is about to be overwritten
				text, whole = append([]byte(nil), text...), false
			}
			continue
		}
		if err != nil && err != io.EOF {
			return l, false, err
		}
		l.End = s.pos
		if l.Len() == 0 {
			return l, false, nil
		}
		s.end = lineEnd(piece)
		if !whole && len(piece) == 1 && s.end == 1 && len(text) > 1 && text[len(text)-2] == '\r' {
			s.end = 2
		}
		text = text[:len(text)-lineEnd(text)]
		l.text = text[:min(head, len(text))]
		return l, true, nil
	}
}

// lineEnd is how many bytes of b are its line end.
func lineEnd(b []byte) int {
	switch n := len(b); {
	case n == 0 || b[n-1] != '\n':
		return 0
	case n > 1 && b[n-2] == '\r':
		return 2
	}
	return 1
}
