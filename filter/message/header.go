package message

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ErrHeaderLimit is a header beyond Limits.
var ErrHeaderLimit = errors.New("header beyond limits")

// header reads the fields of one entity up to and with the blank line, or up
// to a line that stop recognises, which is left unread. body is where the
// entity's body begins.
func (p *parser) header(stop func(line) bool) (fields []Field, body int64, err error) {
	start := p.lines.pos()
	for {
		// One byte more than allowed, so that a longer line is noticed.
		l, ok, err := p.lines.next(int(p.limits.HeaderBytes) + 1)
		switch {
		case err != nil:
			return nil, 0, err
		case !ok:
			return fields, p.lines.pos(), nil
		case l.End-start > p.limits.HeaderBytes:
			return nil, 0, fmt.Errorf("header of more than %d bytes: %w", p.limits.HeaderBytes, ErrHeaderLimit)
		case len(l.text) == 0:
			return fields, l.End, nil
		case stop(l):
			p.lines.unread(l)
			return fields, l.Start, nil
		}
		if (l.text[0] == ' ' || l.text[0] == '\t') && len(fields) > 0 {
			f := &fields[len(fields)-1]
			f.Whole.End = l.End
			f.Value.End = l.Start + int64(len(l.text))
			continue
		}
		if p.fields++; len(fields) == p.limits.Fields || p.fields > 10*p.limits.Fields {
			return nil, 0, fmt.Errorf("more than %d header fields: %w", p.limits.Fields, ErrHeaderLimit)
		}
		f := Field{Whole: l.Span, Value: Span{l.Start, l.Start + int64(len(l.text))}}
		if i := bytes.IndexByte(l.text, ':'); i >= 0 && i <= maxLine {
			f.Name = string(bytes.TrimRight(l.text[:i], " \t"))
			f.Value.Start += int64(i) + 1
		}
		fields = append(fields, f)
	}
}

// All are the fields of the root header with the name, in order. Case does not matter.
func (m *Message) All(name string) []Field { return all(m.Root.Header, name) }

func all(header []Field, name string) (found []Field) {
	for _, f := range header {
		if strings.EqualFold(f.Name, name) {
			found = append(found, f)
		}
	}
	return found
}

// Count is how many fields have the name.
func (m *Message) Count(name string) int { return len(m.All(name)) }

// unfolder takes line ends away. A CR or NUL of its own is a blank, as
// WriteCanonical has it.
var unfolder = strings.NewReplacer("\r\n", "", "\n", "", "\r", " ", "\x00", " ")

// Value is the unfolded value of a field (RFC 5322 §2.2.3), without outer white space.
func (m *Message) Value(f Field) (string, error) { return value(m.Source, f) }

func value(src Source, f Field) (string, error) {
	b := make([]byte, f.Value.Len())
	if _, err := io.ReadFull(SectionReader(src, f.Value), b); err != nil {
		return "", fmt.Errorf("read header field: %w", err)
	}
	return strings.TrimSpace(unfolder.Replace(string(b))), nil
}

// Get is the value of the first field with the name, or "" when there is none
// or it can't be read.
func (m *Message) Get(name string) string {
	fields := m.All(name)
	if len(fields) == 0 {
		return ""
	}
	v, err := m.Value(fields[0])
	if err != nil {
		return ""
	}
	return v
}

// Author is the one address of the one From field. The error is ErrAddress
// where there are more, or none, or a group (RFC 6854), which readers show by
// its name alone.
func (m *Message) Author() (Address, error) {
	fields := m.All("From")
	if len(fields) != 1 {
		return Address{}, fmt.Errorf("%d From fields: %w", len(fields), ErrAddress)
	}
	v, err := m.Value(fields[0])
	if err != nil {
		return Address{}, err
	}
	list, groups, err := parseList(v)
	if err != nil {
		return Address{}, fmt.Errorf("read From: %w", err)
	}
	if len(list) != 1 || groups > 0 {
		return Address{}, fmt.Errorf("%d addresses and %d groups in From: %w", len(list), groups, ErrAddress)
	}
	return list[0], nil
}

// FoldField prints a field with its CRLF. Its lines are folded at spaces to at
// most 78 bytes where there are some, and at any character before they are
// longer than 998 (RFC 5322 §2.1.1). Control characters and line separators
// become spaces, so that no value can begin a field of its own; bytes that
// are no UTF-8 become U+FFFD.
func FoldField(name, value string) []byte {
	value = strings.Trim(strings.Map(func(r rune) rune {
		if unicode.In(r, unicode.Cc, unicode.Zl, unicode.Zp) {
			return ' '
		}
		return r
	}, value), " ")
	b := append([]byte(name), ':')
	width := len(b)
	for value != "" {
		blanks := len(value) - len(strings.TrimLeft(value, " "))
		word, _, _ := strings.Cut(value[blanks:], " ")
		value = value[blanks+len(word):]
		if blanks == 0 || blanks > 78 { // the first word; or a gap that nobody meant
			blanks = 1
		}
		if width+blanks+len(word) > 78 && width > len(name)+1 {
			b = append(b, '\r', '\n')
			width = 0
		}
		b = append(b, strings.Repeat(" ", blanks)...)
		for width += blanks; width+len(word) > maxLine; width = 1 {
			n := maxLine - width
			for !utf8.RuneStart(word[n]) {
				n--
			}
			b = append(append(b, word[:n]...), '\r', '\n', ' ')
			word = word[n:]
		}
		b = append(b, word...)
		width += len(word)
	}
	return append(b, '\r', '\n')
}
