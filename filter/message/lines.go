package message

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
)

// ErrLineEnds is a CR without LF, an LF without CR, or a NUL: what programs on
// a mail's way read differently (RFC 5321 §2.3.8).
var ErrLineEnds = errors.New("bare CR, LF or NUL")

// Strict passes r on, and ends with ErrLineEnds at a CR without LF, an LF
// without CR, or a NUL. Lines may be of any length.
func Strict(r io.Reader) *StrictReader { return &StrictReader{r: r} }

// StrictReader is what Strict gives.
type StrictReader struct {
	r     io.Reader
	cr    bool // the last byte was CR
	eight bool
	err   error
}

// EightBit reports whether a byte above 127 has passed.
func (s *StrictReader) EightBit() bool { return s.eight }

// Read implements io.Reader.
func (s *StrictReader) Read(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.r.Read(p)
	s.eight = s.eight || !isASCII(p[:n])
	if !s.pass(p[:n]) {
		s.err = ErrLineEnds
		return 0, s.err
	}
	if err == io.EOF && s.cr {
		err = ErrLineEnds
	}
	s.err = err
	return n, err
}

// pass reports whether p may follow what was read.
func (s *StrictReader) pass(p []byte) bool {
	if bytes.IndexByte(p, 0) >= 0 {
		return false
	}
	for len(p) > 0 {
		if s.cr {
			if p[0] != '\n' {
				return false
			}
			s.cr, p = false, p[1:]
			continue
		}
		end := bytes.IndexByte(p, '\n')
		if end < 0 {
			end = len(p)
		}
		cr := bytes.IndexByte(p[:end], '\r')
		switch {
		case cr >= 0 && cr == end-1:
			s.cr = true
		case cr >= 0 || end < len(p):
			return false
		}
		p = p[end:]
	}
	return true
}

// Content says what a range of bytes asks of the way it travels.
type Content struct {
	EightBit bool // a byte above 127
	Longest  int  // of the lines, in bytes without CRLF
	Fragile  bool // what hops change: white space at the end of a line, a line that begins with "From ", a bare CR, LF or NUL
}

// Scan reads the bytes of s. A line ends at LF, and at the end of s.
func Scan(src Source, s Span) (Content, error) {
	var c Content
	r := sectionBuffer(src, s)
	var begin [5]byte
	length, last := 0, byte(0) // of the line so far
	for {
		piece, more, err := slice(r)
		if err != nil && err != io.EOF {
			return c, err
		}
		text := piece[:len(piece)-lineEnd(piece)]
		c.EightBit = c.EightBit || !isASCII(text)
		c.Fragile = c.Fragile || lineEnd(piece) == 1 || bytes.IndexByte(text, '\r') >= 0 || bytes.IndexByte(text, 0) >= 0
		if length < len(begin) {
			copy(begin[length:], text)
		}
		if length += len(text); len(text) > 0 {
			last = text[len(text)-1]
		}
		if more {
			continue
		}
		c.Longest = max(c.Longest, length)
		c.Fragile = c.Fragile || isBlank(last) || length >= 5 && string(begin[:]) == "From "
		if err == io.EOF {
			return c, nil
		}
		length, last = 0, 0
	}
}

// isASCII reports whether b has no byte above 127.
func isASCII(b []byte) bool {
	for ; len(b) >= 8; b = b[8:] {
		if binary.NativeEndian.Uint64(b)&0x8080808080808080 != 0 {
			return false
		}
	}
	for _, c := range b {
		if c >= 0x80 {
			return false
		}
	}
	return true
}

// sectionBuffer reads s through a buffer that is no bigger than it needs to be.
func sectionBuffer(src Source, s Span) *bufio.Reader {
	return bufio.NewReaderSize(SectionReader(src, s), int(min(chunk, s.Len()+1)))
}

// slice reads up to the next LF as bufio.Reader.ReadSlice does. Where the line
// is longer than the buffer, more is true; CR and LF are never apart. The
// error is io.EOF where the bytes ended before an LF.
func slice(r *bufio.Reader) (piece []byte, more bool, err error) {
	piece, err = r.ReadSlice('\n')
	if !errors.Is(err, bufio.ErrBufferFull) {
		return piece, false, err
	}
	if last := len(piece) - 1; piece[last] == '\r' {
		piece = piece[:last]
		err = r.UnreadByte()
		return piece, true, err
	}
	return piece, true, nil
}

// line is one line of a source: where it stands, with its line end, and what
// it begins with.
type line struct {
	Span
	text  []byte // without the line end; cut off where the caller wants no more
	cut   bool   // something but white space was cut off
	prior int    // bytes of the line end before it: 2, or 1 where it is a bare LF
}

// lineHead is how much of a body's line is looked at: a boundary has at most 70 characters.
const lineHead = 256

// scanner reads a source line by line, once, from the front.
type scanner struct {
	r    *bufio.Reader
	read int64  // bytes so far
	end  int    // bytes of the last line end
	long []byte // the line, where it is longer than the buffer
	back *line  // comes next
}

func newScanner(src Source) *scanner {
	return &scanner{r: sectionBuffer(src, Span{0, src.Size()})}
}

// pos is where the next line begins.
func (s *scanner) pos() int64 {
	if s.back != nil {
		return s.back.Start
	}
	return s.read
}

// unread makes the next call of next give l again.
func (s *scanner) unread(l line) {
	l.text = bytes.Clone(l.text)
	s.back = &l
}

// next gives the next line and up to head bytes of it; ok is false at the end.
// The text is valid until the next call.
func (s *scanner) next(head int) (l line, ok bool, err error) {
	if s.back != nil {
		l, s.back = *s.back, nil
		return l, true, nil
	}
	l.Start, l.prior = s.read, s.end
	s.long = s.long[:0]
	for more := true; more; {
		var piece []byte
		piece, more, err = slice(s.r)
		if err != nil && err != io.EOF {
			return l, false, err
		}
		s.read += int64(len(piece))
		s.end = lineEnd(piece)
		text := piece[:len(piece)-s.end]
		keep := min(len(text), head-len(s.long))
		l.cut = l.cut || len(bytes.TrimRight(text[keep:], " \t")) > 0
		if l.text = text[:keep]; more || len(s.long) > 0 {
			s.long = append(s.long, l.text...) // the buffer is about to be overwritten
			l.text = s.long
		}
	}
	l.End = s.read
	return l, l.Len() > 0, nil
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
