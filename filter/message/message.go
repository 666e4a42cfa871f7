// Package message holds mail as it was received: an immutable spool of bytes,
// and spans into it. Nothing is printed again that came from outside; what the
// gateway adds stands on top, what it removes is left out by span.
package message

import (
	"io"
)

// Span is a half-open range of a Source: bytes Start up to, not including, End.
type Span struct{ Start, End int64 }

// Len is the length of the span in bytes.
func (s Span) Len() int64 { return s.End - s.Start }

// Source is where the bytes of a mail lie. It never changes once it is read from.
type Source interface {
	io.ReaderAt
	Size() int64
}

// Field is one header field as received. Whole covers name, colon, folded
// value and the last CRLF; Value what stands between the colon and that CRLF.
type Field struct {
	Name         string // as received, without trailing white space; "" for a line without colon, or with more than 998 bytes before it
	Whole, Value Span
}

// Part is one MIME entity (RFC 2045 §2.4). Whole covers header, blank line and
// body, without the CRLF that belongs to the boundary after it (RFC 2046 §5.1.1).
type Part struct {
	Type     string            // lower case, "text/plain" where none is given or it can't be read
	Params   map[string]string // of Content-Type, names in lower case, RFC 2231 decoded
	Encoding string            // Content-Transfer-Encoding, lower case, "7bit" by default
	Header   []Field
	Whole    Span
	Body     Span
	Preamble Span // multipart only: between the blank line and the first boundary
	Epilogue Span // multipart only: behind the last boundary
	Parts    []*Part
}

// Message is a mail: where its bytes lie, how they are built, and what is
// added and left out when it is written.
type Message struct {
	Source Source
	Root   *Part  // Root.Whole covers the whole source
	Top    []byte // complete header fields, CRLF ended, written first
	Drop   []Span // header fields of Source that are not written, in order
}
