// Package entity carries MIME entities into layers of protection and out of
// them: the header that stays outside, the entity that becomes the rest of a
// mail, and what both formats have to tell of bodies. It knows no format.
package entity

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"mime/quotedprintable"

	"postern/filter/message"
	"postern/filter/protect"
)

// Decoded is the body of a part without its transfer encoding (RFC 2045 §6).
func Decoded(src message.Source, p *message.Part) io.Reader {
	return Decode(p.Encoding, message.SectionReader(src, p.Body))
}

// Decode takes a transfer encoding off. One that is not known is read as it stands.
func Decode(encoding string, body io.Reader) io.Reader {
	switch encoding {
	case "base64":
		return base64.NewDecoder(base64.StdEncoding, blankless{body})
	case "quoted-printable":
		return quotedprintable.NewReader(body)
	}
	return body
}

// blankless leaves out the blanks that some programs add to lines of base64
// (RFC 2045 §6.8). Other characters that don't belong there are an error: text
// around the ciphertext would vanish with it.
type blankless struct{ r io.Reader }

func (b blankless) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if bytes.IndexByte(p[:n], ' ') < 0 && bytes.IndexByte(p[:n], '\t') < 0 {
		return n, err
	}
	kept := 0
	for _, c := range p[:n] {
		if c != ' ' && c != '\t' {
			p[kept] = c
			kept++
		}
	}
	return kept, err
}

// maxBlank bounds what is looked at to see whether it is nothing, in bytes.
const maxBlank = 1 << 10

// Blank reports whether a span holds white space only, and not much of it.
func Blank(src message.Source, s message.Span) bool {
	if s.Len() > maxBlank {
		return false
	}
	text, err := io.ReadAll(message.SectionReader(src, s))
	return err == nil && len(bytes.TrimSpace(text)) == 0
}

// maxPreamble is a line for readers without MIME, before the first part.
const maxPreamble = 256

// Pair reports whether a multipart has exactly two parts, and nothing readable
// around them but a line for old readers.
func Pair(src message.Source, p *message.Part) bool {
	return len(p.Parts) == 2 && p.Preamble.Len() <= maxPreamble && Blank(src, p.Epilogue)
}

// Boundary is one that no mail holds by chance or by design.
func Boundary() string {
	var b [18]byte
	rand.Read(b[:])
	return "=_" + hex.EncodeToString(b[:])
}

// Source is that of a mail being opened. It remembers the errors of the spool
// below, which are no property of the mail.
type Source struct {
	message.Source
	err error
}

// Watch gives a Source for src.
func Watch(src message.Source) *Source { return &Source{Source: src} }

// ReadAt reads, and remembers.
func (s *Source) ReadAt(p []byte, off int64) (int, error) {
	n, err := s.Source.ReadAt(p, off)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// Err is the error of the spool, or nil.
func (s *Source) Err() error {
	if s.err != nil {
		return fmt.Errorf("read mail: %w", s.err)
	}
	return nil
}

// Refusal is what to say of a mail that did not open, whatever was wrong with
// it: protect.ErrCannotOpen, bare, unless the spool is to blame.
func (s *Source) Refusal() error {
	if err := s.Err(); err != nil {
		return err
	}
	return protect.ErrCannotOpen
}

// Sink is where plaintext goes. It remembers the errors of the spool below,
// which say nothing of the ciphertext.
type Sink struct {
	Spool *message.Spool
	err   error
}

// Write writes, and remembers.
func (s *Sink) Write(p []byte) (int, error) {
	n, err := s.Spool.Write(p)
	if err != nil {
		s.err = err
	}
	return n, err
}

// Err is the error of the spool, or nil.
func (s *Sink) Err() error { return s.err }
