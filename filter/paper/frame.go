package paper

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A job is the line hello, then the trace and the password, each behind its
// length of one byte, then the mail behind its length of eight (big endian).
//
// An answer is pieces of the document, each behind its length of four bytes, none
// of them empty; then a length of zero and one byte that says how it ended. An
// answer without that byte is none.
const hello = "postern pdf 1\n"

// How an answer ends.
const (
	endWhole = iota
	endTooBig
	endFailed
)

// maxPiece is the largest piece of a document, in bytes.
const maxPiece = 64 << 10

func writeJob(w io.Writer, j Job) error {
	if len(j.Trace) > 255 || len(j.Password) > 255 {
		return errBroken
	}
	b := []byte(hello)
	for _, s := range []string{j.Trace, j.Password} {
		b = append(append(b, byte(len(s))), s...)
	}
	buffered := bufio.NewWriterSize(w, maxPiece)
	buffered.Write(binary.BigEndian.AppendUint64(b, uint64(j.Size)))
	g := &guard{to: buffered}
	n, err := j.Mail.WriteTo(g)
	switch {
	case g.err != nil:
		return g.err
	case err != nil:
		return fmt.Errorf("%w: %w", errSource, err)
	case n != j.Size:
		return fmt.Errorf("%w: %d bytes announced, %d came", errSource, j.Size, n)
	}
	return buffered.Flush()
}

// guard tells trouble of a writer from that of who writes to it.
type guard struct {
	to  io.Writer
	err error
}

func (g *guard) Write(p []byte) (int, error) {
	n, err := g.to.Write(p)
	if err != nil {
		g.err = err
	}
	return n, err
}

// ReadJob is how the press takes a job: the mail is in memory, and max bytes at
// most, or the error is ErrTooBig.
func ReadJob(r io.Reader, max int64) (trace, password string, mail []byte, err error) {
	first := make([]byte, len(hello))
	if _, err = io.ReadFull(r, first); err != nil {
		return "", "", nil, fmt.Errorf("read job: %w", err)
	}
	if string(first) != hello {
		return "", "", nil, fmt.Errorf("read job: %w", errBroken)
	}
	for _, s := range []*string{&trace, &password} {
		var n [1]byte
		if _, err = io.ReadFull(r, n[:]); err != nil {
			return "", "", nil, fmt.Errorf("read job: %w", err)
		}
		b := make([]byte, n[0])
		if _, err = io.ReadFull(r, b); err != nil {
			return "", "", nil, fmt.Errorf("read job: %w", err)
		}
		*s = string(b)
	}
	var size [8]byte
	if _, err = io.ReadFull(r, size[:]); err != nil {
		return "", "", nil, fmt.Errorf("read job: %w", err)
	}
	n := binary.BigEndian.Uint64(size[:])
	if n > uint64(max) {
		return "", "", nil, fmt.Errorf("read job: %d bytes: %w", n, ErrTooBig)
	}
	mail = make([]byte, n)
	if _, err = io.ReadFull(r, mail); err != nil {
		return "", "", nil, fmt.Errorf("read job: %w", err)
	}
	return trace, password, mail, nil
}

// Answer is what the press writes its document to.
type Answer struct {
	to io.Writer
	w  *bufio.Writer
}

// NewAnswer begins one.
func NewAnswer(w io.Writer) *Answer { return &Answer{w, bufio.NewWriterSize(pieces{w}, maxPiece)} }

// pieces gives each piece its length before it.
type pieces struct{ to io.Writer }

func (p pieces) Write(b []byte) (n int, err error) {
	for len(b) > 0 { // an empty one would end the answer
		piece := b[:min(len(b), maxPiece)]
		if _, err := p.to.Write(binary.BigEndian.AppendUint32(nil, uint32(len(piece)))); err != nil {
			return n, err
		}
		if _, err := p.to.Write(piece); err != nil {
			return n, err
		}
		n, b = n+len(piece), b[len(piece):]
	}
	return n, nil
}

// Write adds to the document.
func (a *Answer) Write(b []byte) (int, error) { return a.w.Write(b) }

// End ends the answer: the document is whole where err is nil.
func (a *Answer) End(err error) error {
	how := byte(endWhole)
	switch {
	case errors.Is(err, ErrTooBig):
		how = endTooBig
	case err != nil:
		how = endFailed
	default:
		if err := a.w.Flush(); err != nil {
			return err
		}
	}
	_, err = a.to.Write([]byte{0, 0, 0, 0, how})
	return err
}

// readAnswer copies the document, max bytes at most.
func readAnswer(r io.Reader, document io.Writer, max int64) error {
	in := bufio.NewReaderSize(r, maxPiece)
	piece := make([]byte, maxPiece)
	for {
		var length [4]byte
		if _, err := io.ReadFull(in, length[:]); err != nil {
			return fmt.Errorf("read answer: %w", err)
		}
		n := int64(binary.BigEndian.Uint32(length[:]))
		if n == 0 {
			break
		}
		if max -= n; n > maxPiece || max < 0 {
			return fmt.Errorf("read answer: %w", errBroken)
		}
		if _, err := io.ReadFull(in, piece[:n]); err != nil {
			return fmt.Errorf("read answer: %w", err)
		}
		if _, err := document.Write(piece[:n]); err != nil {
			return fmt.Errorf("%w: %w", errSink, err)
		}
	}
	switch how, err := in.ReadByte(); {
	case err != nil:
		return fmt.Errorf("read answer: %w", err)
	case how == endTooBig:
		return ErrTooBig
	case how != endWhole:
		return errors.New("press could not make it")
	}
	return nil
}
