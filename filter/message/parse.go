package message

import (
	"errors"
	"io"
)

// Errors of Parse, Strict and WriteCanonical.
var (
	ErrLimit       = errors.New("MIME structure beyond limits")
	ErrHeaderLimit = errors.New("header beyond limits")
	ErrLineEnds    = errors.New("bare CR, LF or NUL")
	ErrSigned8Bit  = errors.New("signed part holds 8-bit data")
)

// Limits bound what Parse looks at. Zero fields mean the defaults.
type Limits struct {
	Depth       int // nested multiparts and messages
	Parts       int
	Fields      int   // header fields of one entity
	HeaderBytes int64 // header block of one entity
}

// Parse reads the structure of src.
func Parse(src Source, l Limits) (*Message, error) { return nil, ErrLimit }

// Strict passes r on, and ends with ErrLineEnds at a CR without LF, an LF without CR, or a NUL.
func Strict(r io.Reader) io.Reader { return r }

// SectionReader reads the bytes of s.
func SectionReader(src Source, s Span) *io.SectionReader {
	return io.NewSectionReader(src, s.Start, s.Len())
}

// Content says what a range of bytes asks of the way it travels.
type Content struct {
	EightBit bool // a byte above 127
	Longest  int  // of the lines, in bytes without CRLF
}

// Scan reads the bytes of s.
func Scan(src Source, s Span) (Content, error) { return Content{}, nil }

// All are the fields of the root header with the name, in order.
func (m *Message) All(name string) []Field { return nil }

// Count is len(All(name)).
func (m *Message) Count(name string) int { return 0 }

// Value is the unfolded value of a field, without outer white space.
func (m *Message) Value(f Field) (string, error) { return "", nil }

// Get is the value of the first field with the name, or "".
func (m *Message) Get(name string) string { return "" }

// Author is the one address of the one From field.
func (m *Message) Author() (Address, error) { return Address{}, ErrAddress }

// Len is how many bytes WriteTo writes.
func (m *Message) Len() int64 { return 0 }

// WriteTo writes Top, then the source without Drop.
func (m *Message) WriteTo(w io.Writer) (int64, error) { return 0, nil }

// WriteCanonical writes the entity p in the form that can be signed and
// survives every hop (RFC 3156 §3, RFC 8551 §3.1): CRLF, 7-bit, lines of at
// most 998 bytes, no trailing white space, no line that begins with "From ".
// fields are the header fields to write before the body besides those of MIME.
func WriteCanonical(w io.Writer, src Source, p *Part, fields []byte) error { return nil }

// FoldField prints a field, folded, with its CRLF.
func FoldField(name, value string) []byte { return nil }

// DecodeWords decodes the encoded words of s (RFC 2047).
func DecodeWords(s string) string { return s }
