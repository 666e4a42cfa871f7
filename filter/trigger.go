package filter

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"postern/filter/message"
	"postern/filter/policy"
)

// Trigger is a way in which the sender of an outbound mail asks for something:
// a tag in the subject, which counts where it stands there whole and by itself;
// or a field of the header. Case does not matter.
type Trigger struct {
	Tag   string // "": it is a field
	Field string // its name
	Value string // "": any
	Asks  policy.Asks
}

// counts reports whether a field asks what t stands for.
func (t Trigger) counts(name, value string) bool {
	return t.Tag == "" && strings.EqualFold(name, t.Field) && (t.Value == "" || strings.EqualFold(strings.TrimSpace(value), t.Value))
}

// triggered finds what the sender asked for, and takes that out of the mail, which
// gets another header before the same body. What is inside of a signature
// stays as it is.
func (g *Gateway) triggered(p *passage) error {
	var head []byte
	changed := false
	for _, f := range p.msg.Root.Header {
		if slices.Contains(p.msg.Drop, f.Whole) {
			continue
		}
		raw := make([]byte, f.Whole.Len())
		if _, err := io.ReadFull(message.SectionReader(p.msg.Source, f.Whole), raw); err != nil {
			return fmt.Errorf("read header field: %w", err)
		}
		value, err := p.msg.Value(f)
		if err != nil {
			return err
		}
		left := raw
		for _, t := range g.Triggers {
			switch {
			case t.counts(f.Name, value):
				left = nil
			case t.Tag != "" && (strings.EqualFold(f.Name, "Subject") || strings.EqualFold(f.Name, "Thread-Topic")): // Outlook's copy of it
				without, found := untagged(left, t.Tag)
				if left = without; !found || strings.EqualFold(f.Name, "Thread-Topic") {
					continue
				}
			default:
				continue
			}
			p.asks.Encrypt, p.asks.Sign, p.asks.Plain = p.asks.Encrypt || t.Asks.Encrypt, p.asks.Sign || t.Asks.Sign, p.asks.Plain || t.Asks.Plain
		}
		changed = changed || !bytes.Equal(left, raw)
		head = append(head, left...)
	}
	if !changed {
		return nil
	}
	edited, err := message.Rehead(p.msg.Source, p.msg.Root, append(head, "\r\n"...), g.Limits)
	if err != nil {
		return fmt.Errorf("take triggers out: %w", err)
	}
	edited.Top, p.msg = p.msg.Top, edited
	return nil
}

// untagged is a field without a tag. One that stands there in plain is cut
// out, and all other bytes stay; where encoded words hide it, the value is
// encoded anew (RFC 2047).
func untagged(field []byte, tag string) (without []byte, found bool) {
	name, value, ok := bytes.Cut(field, []byte(":"))
	if !ok {
		return field, false
	}
	for {
		shorter, cut := cutWord(value, tag)
		if !cut {
			break
		}
		value, found = shorter, true
	}
	if found {
		field = append(append(bytes.Clone(name), ':'), value...)
		if !bytes.HasSuffix(field, []byte("\r\n")) {
			field = append(field, "\r\n"...)
		}
	}
	text := message.DecodeWords(strings.TrimSpace(strings.ReplaceAll(string(value), "\r\n", "")))
	var words []string
	hidden := false
	for _, w := range strings.FieldsFunc(text, unicode.IsSpace) {
		if strings.EqualFold(w, tag) {
			hidden = true
			continue
		}
		words = append(words, w)
	}
	if !hidden {
		return field, found
	}
	return message.FoldField(string(name), encoded(strings.Join(words, " "))), true
}

// encoded is text as encoded words, or as it is where every reader shows it so.
func encoded(text string) string {
	if !strings.Contains(text, "=?") && !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) {
		return text
	}
	var words []string
	for len(text) > 0 {
		n := min(len(text), 42) // 75 characters with what stands around, RFC 2047 §2
		for n < len(text) && n > 0 && !utf8.RuneStart(text[n]) {
			n--
		}
		if n == 0 {
			n = min(len(text), 42) // no UTF-8
		}
		words = append(words, "=?utf-8?b?"+base64.StdEncoding.EncodeToString([]byte(text[:n]))+"?=")
		text = text[n:]
	}
	return strings.Join(words, " ")
}

// cutWord takes the first word that is tag out of a value with its folds, and
// with it the gap on one side, rather one without a fold: no line becomes
// longer by what stood in another.
func cutWord(value []byte, tag string) ([]byte, bool) {
	blank := func(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }
	for i := 0; i < len(value); {
		if blank(value[i]) {
			i++
			continue
		}
		end := i
		for end < len(value) && !blank(value[end]) {
			end++
		}
		if !strings.EqualFold(string(value[i:end]), tag) {
			i = end
			continue
		}
		before, after := i, end
		for before > 0 && blank(value[before-1]) {
			before--
		}
		for after < len(value) && blank(value[after]) {
			after++
		}
		folded := bytes.Contains(value[before:i], []byte("\r\n"))
		switch {
		case after == len(value):
			return append(bytes.Clone(value[:before]), "\r\n"...), true
		case before == 0, folded && !bytes.Contains(value[end:after], []byte("\r\n")):
			return append(bytes.Clone(value[:i]), value[after:]...), true
		}
		return append(bytes.Clone(value[:before]), value[end:]...), true
	}
	return value, false
}
