package headers

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	netmail "net/mail"
	"slices"
	"strings"

	"postern/filter/message"
)

// Mail is a mail on its way out, its header divided into what stands outside
// and what its payload holds.
type Mail struct {
	message *message.Message
	outer   []byte
	inner   []byte
	hp      string // "": the payload stays as it is
}

// Protect divides the header of m by the policy; of a mail that is not sealed
// everything stands outside. Where the root of m is a layer of its own, its
// payload can't be changed: nothing is hidden then. The error is
// message.ErrSigned8Bit for a line that can't travel, or one of the source.
func Protect(m *message.Message, p Policy, sealed bool) (*Mail, error) {
	out := &Mail{message: m, outer: bytes.Clone(m.Top)}
	if !isLayer(m.Root.Type) {
		out.hp = inClear
		if sealed {
			out.hp = inCipher
		}
	}
	var records []byte
	for _, f := range m.Root.Header {
		name := strings.ToLower(f.Name)
		if structural(name) || slices.Contains(m.Drop, f.Whole) {
			continue
		}
		raw := make([]byte, f.Whole.Len())
		if _, err := io.ReadFull(message.SectionReader(m.Source, f.Whole), raw); err != nil {
			return nil, fmt.Errorf("read header field: %w", err)
		}
		if out.hp == "" || !protects(name) {
			out.outer = append(out.outer, raw...)
			continue
		}
		value, err := m.Value(f)
		if err != nil {
			return nil, err
		}
		inside, err := message.CanonicalField(m.Source, f)
		if err != nil { // long lines are folded anew, if they can be
			inside = message.FoldField(f.Name, value)
			if !travels(inside) {
				return nil, fmt.Errorf("protect %.40q: %w", f.Name, err)
			}
		}
		out.inner = append(out.inner, inside...)
		if !sealed {
			out.outer = append(out.outer, raw...)
			continue
		}
		outside, changed := p.outside(name, value)
		switch {
		case !changed:
			out.outer = append(out.outer, raw...)
			records = append(records, recorded(inside)...)
		case outside != "":
			field := message.FoldField(f.Name, outside)
			out.outer = append(out.outer, field...)
			records = append(records, recorded(field)...)
		}
	}
	out.inner = append(out.inner, records...)
	return out, nil
}

// outside is the value that stands outside in place of the one given; "" where
// none does.
func (p Policy) outside(name, value string) (replaced string, changed bool) {
	if p == None {
		return "", false
	}
	switch name {
	case "subject":
		return obscured, true
	case "comments", "keywords", "thread-topic": // the last one is Outlook's copy of the subject
		return "", true
	}
	if p != Shy {
		return "", false
	}
	switch name {
	case "from", "to", "cc":
		list, err := message.ParseFrom(value)
		if err != nil {
			return "", false
		}
		var bare []string
		for _, a := range list {
			printed, ok := a.ASCII()
			if !ok {
				printed = a.String()
			}
			bare = append(bare, printed)
		}
		return strings.Join(bare, ", "), true
	case "date":
		if t, err := netmail.ParseDate(value); err == nil {
			return t.UTC().Format("Mon, 2 Jan 2006 15:04:05 -0700"), true
		}
	}
	return "", false
}

// recorded is the HP-Outer of a field. One that is too long is left out: a
// reader then takes the field for hidden, which errs on the safe side.
func recorded(field []byte) []byte {
	for _, between := range []string{": ", ":\r\n "} {
		if r := append([]byte(record+between), field...); travels(r) {
			return r
		}
	}
	return nil
}

// travels reports whether complete lines are ASCII, of at most 998 bytes each (RFC 5322 §2.1.1).
func travels(field []byte) bool {
	for line := range bytes.Lines(field) {
		if len(line) > 998+len("\r\n") {
			return false
		}
	}
	return !bytes.ContainsFunc(field, func(r rune) bool { return r >= 0x80 })
}

// Wrap makes the mail that goes out: the header that stands outside, and below
// it what write writes, from the Content-Type on. It is read back for its parts.
func (m *Mail) Wrap(spool *message.Spool, write func(io.Writer) error) (*message.Message, error) {
	out := bufio.NewWriterSize(spool, 64<<10)
	out.Write(m.outer) // its errors stick until Flush
	out.WriteString("MIME-Version: 1.0\r\n")
	err := write(out)
	if err == nil {
		err = out.Flush()
	}
	if err != nil {
		return nil, err
	}
	wrapped, err := message.Parse(spool, message.Limits{})
	if err != nil {
		return nil, fmt.Errorf("read it back: %w", err)
	}
	return wrapped, nil
}

// WriteEntity writes the payload in its canonical form, with the header that
// it protects. See message.WriteCanonical.
func (m *Mail) WriteEntity(w io.Writer) error {
	if m.hp == "" {
		return message.WriteCanonical(w, m.message.Source, m.message.Root, nil)
	}
	return message.WriteCanonical(&marker{w: w, mail: m}, m.message.Source, m.message.Root, nil)
}

// marker marks the header of the entity that it passes on.
type marker struct {
	w    io.Writer
	mail *Mail
	held []byte // of the header
	body bool
}

func (k *marker) Write(p []byte) (int, error) {
	if k.body {
		return k.w.Write(p)
	}
	from := max(0, len(k.held)-3)
	k.held = append(k.held, p...)
	end := bytes.Index(k.held[from:], []byte("\r\n\r\n")) + from + 2
	if bytes.HasPrefix(k.held, []byte("\r\n")) {
		end = 0
	} else if end < from+2 {
		return len(p), nil
	}
	marked, err := mark(k.held[:end], k.mail.hp)
	if err != nil {
		return 0, err
	}
	for _, piece := range [][]byte{k.mail.inner, marked, k.held[end:]} {
		if _, err := k.w.Write(piece); err != nil {
			return 0, err
		}
	}
	k.body, k.held = true, nil
	return len(p), nil
}
