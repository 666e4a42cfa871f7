package entity

import (
	"encoding/base64"
	"io"
	"iter"
)

// Pulled reads what a function writes. Both take turns in one goroutine's
// time: a panic of the function comes up in Read, where it is expected, and
// nothing runs on when the reader is done.
type Pulled struct {
	next func() ([]byte, bool)
	stop func()
	have []byte
	err  error // of the function, once it has ended
	done bool
}

// Pull gives a reader of what write writes. Its error stands in the place of
// io.EOF. Close in any case: write then ends with io.ErrClosedPipe, if it has not.
func Pull(write func(io.Writer) error) *Pulled {
	p := &Pulled{}
	p.next, p.stop = iter.Pull(func(yield func([]byte) bool) {
		w := &yielder{yield: yield}
		p.err = write(w)
		p.done = true
	})
	return p
}

// Read gives what was written next.
func (p *Pulled) Read(b []byte) (int, error) {
	for len(p.have) == 0 {
		chunk, ok := p.next()
		if !ok {
			if p.err == nil && p.done {
				return 0, io.EOF
			}
			if p.err == nil {
				return 0, io.ErrClosedPipe
			}
			return 0, p.err
		}
		p.have = chunk
	}
	n := copy(b, p.have)
	p.have = p.have[n:]
	return n, nil
}

// Close ends the function.
func (p *Pulled) Close() error {
	p.stop()
	p.have = nil
	return nil
}

// yielder hands what is written on. The bytes are the writer's own: it goes on
// only when they were read.
type yielder struct {
	yield func([]byte) bool
	ended bool
}

func (y *yielder) Write(b []byte) (int, error) {
	if y.ended = y.ended || len(b) > 0 && !y.yield(b); y.ended {
		return 0, io.ErrClosedPipe
	}
	return len(b), nil
}

// Line is how long lines of base64 are in mail, in characters (RFC 2045 §6.8).
const Line = 76

// Encoder writes base64 in lines with CRLF.
type Encoder struct {
	w     io.Writer
	size  int    // of what one line holds, in bytes
	have  []byte // input that does not fill a line yet
	lines []byte
}

// NewEncoder gives an Encoder that writes lines of so many characters, a
// multiple of 4, to w. Close writes what is left.
func NewEncoder(w io.Writer, line int) *Encoder {
	size := line / 4 * 3
	return &Encoder{w: w, size: size, have: make([]byte, 0, size)}
}

// Write takes more to encode.
func (e *Encoder) Write(p []byte) (int, error) {
	total := len(p)
	if len(e.have) > 0 {
		n := min(len(p), e.size-len(e.have))
		e.have = append(e.have, p[:n]...)
		p = p[n:]
		if len(e.have) < e.size {
			return total, nil
		}
		if err := e.flush(e.have); err != nil {
			return 0, err
		}
		e.have = e.have[:0]
	}
	whole := len(p) / e.size * e.size
	if err := e.flush(p[:whole]); err != nil {
		return 0, err
	}
	e.have = append(e.have, p[whole:]...)
	return total, nil
}

// flush writes p in lines; only the last may be short.
func (e *Encoder) flush(p []byte) error {
	for len(p) > 0 {
		part := p[:min(len(p), 256*e.size)]
		p = p[len(part):]
		e.lines = e.lines[:0]
		for len(part) > 0 {
			line := part[:min(len(part), e.size)]
			part = part[len(line):]
			e.lines = append(base64.StdEncoding.AppendEncode(e.lines, line), '\r', '\n')
		}
		if _, err := e.w.Write(e.lines); err != nil {
			return err
		}
	}
	return nil
}

// Close writes the last line.
func (e *Encoder) Close() error { return e.flush(e.have) }
