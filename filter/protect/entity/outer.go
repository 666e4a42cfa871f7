package entity

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"postern/filter/message"
)

// ErrNUL is a NUL in an entity, which can't travel.
var ErrNUL = errors.New("NUL in the entity")

// MaxHeader bounds the header of an entity that was sealed, in bytes.
const MaxHeader = 256 << 10

// ofMIME reports whether a header field describes the body (RFC 2045 §3).
func ofMIME(name string) bool {
	name = strings.ToLower(name)
	return name == "mime-version" || strings.HasPrefix(name, "content-")
}

// WriteOuter writes the header of m but for the fields that describe its
// body, and announces those of another.
func WriteOuter(w io.Writer, m *message.Message) error {
	if _, err := w.Write(m.Top); err != nil {
		return err
	}
	for _, f := range m.Root.Header {
		if ofMIME(f.Name) || slices.Contains(m.Drop, f.Whole) {
			continue
		}
		if _, err := message.Copy(w, message.SectionReader(m.Source, f.Whole)); err != nil {
			return err
		}
	}
	_, err := io.WriteString(w, "MIME-Version: 1.0\r\n")
	return err
}

// Writer takes the MIME entity that was sealed, and writes it as the rest of a
// mail whose outer header is written already. Of the entity's header
// it writes what describes the body: another From or Subject in there would
// make a mail with two, and no reader knows which one counts. All of it is kept
// for headers.Show. What is no entity is text. Line ends become CRLF; NUL is
// ErrNUL.
type Writer struct {
	w      io.Writer
	header []byte
	entity []byte // the header as it came, once it is known to be one
	body   bool
	cr     bool // the last byte was a CR
	out    []byte
}

// NewWriter gives a Writer that writes to w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Header is the header of the entity as it came, complete lines without the
// blank one; nil where there was no entity. It is known once Close has given no error.
func (e *Writer) Header() []byte { return e.entity }

// PlainText says that no entity follows, but text in the charset that its
// armour named.
func (e *Writer) PlainText(charset string) error {
	if charset == "" || len(charset) > 40 || strings.ContainsFunc(charset, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_' || r == '.')
	}) {
		charset = "utf-8"
	}
	e.body = true
	_, err := fmt.Fprintf(e.w, "Content-Type: text/plain; charset=%s\r\nContent-Transfer-Encoding: 8bit\r\n\r\n", charset)
	return err
}

// Write takes more of the entity.
func (e *Writer) Write(p []byte) (int, error) {
	if bytes.IndexByte(p, 0) >= 0 {
		return 0, ErrNUL
	}
	e.out = e.out[:0]
	for rest := p; len(rest) > 0; {
		if e.cr {
			e.cr = false
			if rest[0] == '\n' {
				rest = rest[1:]
			}
			continue
		}
		end := bytes.IndexAny(rest, "\r\n")
		if end < 0 {
			e.out = append(e.out, rest...)
			break
		}
		e.out = append(append(e.out, rest[:end]...), '\r', '\n')
		e.cr = rest[end] == '\r'
		rest = rest[end+1:]
	}
	if err := e.pass(e.out); err != nil {
		return 0, err
	}
	return len(p), nil
}

// pass writes what has CRLF already, and holds back what may be a header until it is whole.
func (e *Writer) pass(p []byte) error {
	if e.body {
		_, err := e.w.Write(p)
		return err
	}
	from := max(0, len(e.header)-3)
	e.header = append(e.header, p...)
	if bytes.HasPrefix(e.header, []byte("\r\n")) {
		return e.begin(nil, e.header[2:])
	}
	end := bytes.Index(e.header[from:], []byte("\r\n\r\n"))
	if end < 0 && len(e.header) <= MaxHeader {
		return nil
	}
	if end < 0 {
		return e.text()
	}
	end += from + 2
	if kept, ok := mimeFields(e.header[:end]); ok {
		e.entity = bytes.Clone(e.header[:end])
		return e.begin(kept, e.header[end+2:])
	}
	return e.text()
}

// begin writes the header, and what is there of the body.
func (e *Writer) begin(header, body []byte) error {
	e.body = true
	e.header = nil
	if _, err := e.w.Write(append(header, "\r\n"...)); err != nil {
		return err
	}
	_, err := e.w.Write(body)
	return err
}

// text takes what does not begin as an entity for text: not every program
// makes an entity of what it encrypts, and nothing of it may be lost.
func (e *Writer) text() error {
	held := e.header
	e.header = nil
	if err := e.PlainText(""); err != nil {
		return err
	}
	_, err := e.w.Write(held)
	return err
}

// Close ends the entity; one without a body is a header alone.
func (e *Writer) Close() error {
	if e.body {
		return nil
	}
	header := e.header
	if !bytes.HasSuffix(header, []byte("\r\n")) {
		header = append(header, "\r\n"...)
	}
	if kept, ok := mimeFields(header); ok {
		e.entity = header
		return e.begin(kept, nil)
	}
	return e.text()
}

// mimeFields are the fields of a header that describe a body, as they stand;
// false where it is no header, or one that describes nothing.
func mimeFields(header []byte) (kept []byte, ok bool) {
	keep := false
	for line := range bytes.Lines(header) {
		if line[0] == ' ' || line[0] == '\t' {
			if keep {
				kept = append(kept, line...)
			}
			continue
		}
		name, _, found := bytes.Cut(line, []byte(":"))
		name = bytes.TrimRight(name, " \t")
		if !found || len(name) == 0 || bytes.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return nil, false
		}
		if keep = ofMIME(string(name)); keep {
			ok = true
			if keep = !strings.EqualFold(string(name), "MIME-Version"); keep {
				kept = append(kept, line...)
			}
		}
	}
	return kept, ok
}
