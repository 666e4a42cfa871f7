package transport

import (
	"bytes"
	"errors"
	"io"

	"postern/filter/message"
)

// errDirty is mail of our own making that can't be said in SMTP.
var errDirty = errors.New("bare CR, LF or NUL in a mail to relay")

// scanner finds where a mail ends in DATA, and everything that another reader
// could take for its end (RFC 5321 §2.3.8, §4.1.1.4). It changes nothing.
type scanner struct {
	state byte
	size  int64 // without stuffed dots and the final line
	max   int64
}

const (
	atStart byte = iota // of a line; also of the mail
	atDot               // one dot at the start of a line
	atDotCR
	atCR
	inLine
	atEnd // behind the line with the single dot
)

// scan says how many bytes of p belong to the mail and its end. An error comes
// with the first byte that is wrong, which is not counted.
func (s *scanner) scan(p []byte) (n int, err error) {
	for n < len(p) && s.state != atEnd {
		c := p[n]
		counted := true
		switch {
		case c == 0:
			return n, message.ErrLineEnds
		case s.state == atCR || s.state == atDotCR:
			if c != '\n' {
				return n, message.ErrLineEnds
			}
			if s.state == atDotCR {
				s.size-- // the CR that was counted
				s.state, counted = atEnd, false
			} else {
				s.state = atStart
			}
		case c == '\n':
			return n, message.ErrLineEnds
		case c == '\r':
			if s.state == atDot {
				s.state = atDotCR
			} else {
				s.state = atCR
			}
		case s.state == atStart && c == '.':
			s.state, counted = atDot, false
		default:
			s.state = inLine
		}
		if counted {
			if s.size++; s.size > s.max && s.state != atDotCR {
				return n, message.ErrTooBig
			}
		}
		n++
	}
	return n, nil
}

// take is scan, and writes the mail without stuffed dots to out, which holds n
// bytes then. It reads no more of p than fits; what stands between line ends
// goes in one piece.
func (s *scanner) take(out, p []byte) (n, read int, err error) {
	for n < len(out) && read < len(p) && s.state != atEnd {
		if s.state == inLine || s.state == atStart && p[read] != '.' {
			run := p[read : read+int(min(int64(len(out)-n), int64(len(p)-read), max(0, s.max-s.size)))]
			for _, special := range []byte{'\r', '\n', 0} {
				if i := bytes.IndexByte(run, special); i >= 0 {
					run = run[:i]
				}
			}
			if len(run) > 0 {
				n, read, s.size, s.state = n+copy(out[n:], run), read+len(run), s.size+int64(len(run)), inLine
				continue
			}
		}
		before := s.size
		if _, err := s.scan(p[read : read+1]); err != nil {
			return n, read, err
		}
		if s.size > before && s.state != atDotCR {
			out[n] = p[read]
			n++
		}
		read++
	}
	return n, read, nil
}

// stuffer writes a mail as DATA wants it (RFC 5321 §4.5.2): dots doubled at the
// start of lines. What would not arrive as it is, is an error.
type stuffer struct {
	w    io.Writer
	last byte // 0: nothing written yet
}

func (s *stuffer) Write(p []byte) (n int, err error) {
	if bytes.IndexByte(p, 0) >= 0 {
		return 0, errDirty
	}
	for len(p) > 0 {
		if (s.last == 0 || s.last == '\n') && p[0] == '.' {
			if _, err := s.w.Write([]byte{'.'}); err != nil {
				return n, err
			}
		}
		if s.last == '\r' && p[0] != '\n' {
			return n, errDirty
		}
		line := p
		if i := bytes.IndexByte(p, '\n'); i >= 0 {
			line = p[:i+1]
			before := s.last
			if i > 0 {
				before = p[i-1]
			}
			if before != '\r' {
				return n, errDirty
			}
		}
		if i := bytes.IndexByte(line, '\r'); i >= 0 && i != len(line)-1 && (i != len(line)-2 || line[i+1] != '\n') {
			return n, errDirty
		}
		m, err := s.w.Write(line)
		n += m
		if err != nil {
			return n, err
		}
		s.last = line[len(line)-1]
		p = p[len(line):]
	}
	return n, nil
}

// end writes the line with the single dot.
func (s *stuffer) end() error {
	end := ".\r\n"
	switch s.last {
	case '\r':
		return errDirty
	case 0, '\n':
	default:
		end = "\r\n.\r\n"
	}
	_, err := io.WriteString(s.w, end)
	return err
}
