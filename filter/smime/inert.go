package smime

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"mime"
	"slices"
	"strings"

	"postern/filter/message"
	"postern/filter/protect/entity"
)

// What was encrypted with AES-CBC and is not signed may have been changed by
// anybody: he puts text of his own around what he can't read, so that the
// whole, when a program shows it as HTML, fetches an image by a name that holds
// the secret (R8). So nothing of such a mail may be shown as anything that
// fetches. It is not enough to look for text/html: what is a part, and of which
// type, is read differently by different programs. Either every entity of the
// mail is plainly one that does nothing, and the mail stays as it is to the
// byte; or it is built anew: the same bodies, between boundaries that nobody
// could foresee, under a Content-Type that is printed from what was understood.
// HTML is readable as its source then, and attachments are whole.

// inert gives the mail, harmless. The errors are those of its spools.
func (p *Protector) inert(m *message.Message, newSpool func() *message.Spool) (*message.Message, error) {
	plainly, err := harmless(m.Source, m.Root)
	if err != nil {
		return nil, fmt.Errorf("read payload: %w", err)
	}
	if plainly {
		return m, nil
	}
	out := &entity.Sink{Spool: newSpool()}
	if err := entity.WriteOuter(out, m); err != nil {
		return nil, fmt.Errorf("write inert mail: %w", err)
	}
	if err := (&builder{src: m.Source, w: out}).entity(m.Root); err != nil {
		return nil, fmt.Errorf("write inert mail: %w", err)
	}
	rebuilt, err := message.Parse(out.Spool, p.Limits)
	if err != nil {
		return nil, fmt.Errorf("read inert mail: %w", err)
	}
	return rebuilt, nil
}

// encodings are those under which a body is read in one way.
var encodings = []string{"7bit", "8bit", "binary", "base64", "quoted-printable"}

// passive are types of text that programs show as text, or as a table.
var passive = []string{"text/plain", "text/csv", "text/calendar", "text/vcard", "text/x-vcard", "text/markdown", "text/x-patch", "text/x-diff"}

// leafType is the type under which a part without parts is shown.
func leafType(p *message.Part) string {
	switch t := p.Type; {
	case !slices.Contains(encodings, p.Encoding):
		return "application/octet-stream"
	case strings.HasPrefix(t, "multipart/"),
		strings.HasPrefix(t, "text/") && !slices.Contains(passive, t),
		strings.Contains(t, "html"), strings.Contains(t, "xml"), strings.Contains(t, "svg"), strings.Contains(t, "script"):
		return "text/plain"
	case strings.HasPrefix(t, "message/") && t != "message/delivery-status" && t != "message/disposition-notification",
		t == "application/ms-tnef", t == "application/vnd.ms-tnef":
		return "application/octet-stream" // fetched from elsewhere, or mail in a wrapping that some programs show
	default:
		return t
	}
}

// maxPlain bounds the multiparts of a mail that is looked through line by line.
const maxPlain = 8

// harmless reports whether no program can find a part in the mail that is
// shown as something else than text. The errors are those of the source.
func harmless(src message.Source, root *message.Part) (bool, error) {
	boundaries := map[string]int{} // how often each stands there
	if ok, err := plainly(src, root, boundaries); !ok || err != nil {
		return false, err
	}
	switch n := len(boundaries); {
	case n == 0:
		return true, nil
	case n > maxPlain:
		return false, nil
	}
	// A line that begins as a boundary, and is none here, is one for others.
	in := bufio.NewReaderSize(message.SectionReader(src, root.Body), streamBuffer)
	for {
		line, err := in.ReadSlice('\n')
		whole := err == nil || err == io.EOF
		if text, is := bytes.CutPrefix(line, []byte("--")); is {
			for b := range boundaries {
				rest, is := bytes.CutPrefix(text, []byte(b))
				if !is {
					continue
				}
				if rest = bytes.TrimRight(rest, " \t\r\n"); !whole || len(rest) > 0 && string(rest) != "--" {
					return false, nil
				}
				if len(rest) == 0 {
					boundaries[b]--
				}
			}
		}
		for !whole { // the rest of a long line
			_, err = in.ReadSlice('\n')
			whole = err != bufio.ErrBufferFull
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return false, err
		}
	}
	for _, n := range boundaries {
		if n != 0 {
			return false, nil
		}
	}
	return true, nil
}

// plainly reports whether the header of an entity, and of those in it, can be
// read in one way, and says what does no harm.
func plainly(src message.Source, p *message.Part, boundaries map[string]int) (bool, error) {
	m := &message.Message{Source: src, Root: p}
	types, codes := m.All("Content-Type"), m.Count("Content-Transfer-Encoding")
	if len(types) > 1 || codes > 1 || !slices.Contains(encodings, p.Encoding) {
		return false, nil
	}
	if len(types) == 1 {
		value, err := m.Value(types[0])
		if err != nil {
			return false, err
		}
		t, params, err := mime.ParseMediaType(value) // a second opinion
		if err != nil || t != p.Type || params["boundary"] != p.Params["boundary"] {
			return false, nil
		}
	}
	if len(p.Parts) == 0 {
		return leafType(p) == p.Type, nil
	}
	if strings.HasPrefix(p.Type, "multipart/") {
		b := p.Params["boundary"]
		if _, twice := boundaries[b]; twice || !slices.Contains(compound, p.Type) {
			return false, nil
		}
		boundaries[b] = len(p.Parts)
	}
	for _, part := range p.Parts {
		if slices.ContainsFunc(part.Header, func(f message.Field) bool { return !isName(f.Name) }) {
			return false, nil
		}
		if ok, err := plainly(src, part, boundaries); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

// compound are the multiparts that stay what they are. Any other one is mixed.
var compound = []string{"multipart/mixed", "multipart/alternative", "multipart/related", "multipart/report", "multipart/digest", "multipart/encrypted", "multipart/signed"}

// kept are the parameters that do no harm.
var kept = []string{"charset", "name", "format", "delsp", "protocol", "micalg", "report-type", "method", "hp", "protected-headers"}

// builder writes a mail anew.
type builder struct {
	src message.Source
	w   io.Writer
}

// entity writes an entity of a mail whose other header fields are there already.
func (b *builder) entity(p *message.Part) error {
	t := leafType(p)
	params := map[string]string{}
	for _, name := range kept {
		if v := p.Params[name]; v != "" {
			params[name] = v
		}
	}
	multi := len(p.Parts) > 0 && strings.HasPrefix(p.Type, "multipart/")
	switch {
	case multi:
		t = p.Type
		if !slices.Contains(compound, t) || t == "multipart/alternative" && slices.ContainsFunc(p.Parts, changed) {
			t = "multipart/mixed" // the one that is readable would not be shown
		}
		params["boundary"] = entity.Boundary()
	case len(p.Parts) > 0:
		t = "message/rfc822"
	}
	value := mime.FormatMediaType(t, params)
	if value == "" {
		value = mime.FormatMediaType(t, map[string]string{"boundary": params["boundary"]})
	}
	head := message.FoldField("Content-Type", value)
	if p.Encoding != "7bit" && slices.Contains(encodings, p.Encoding) {
		head = append(head, message.FoldField("Content-Transfer-Encoding", p.Encoding)...)
	}
	for _, name := range []string{"Content-Disposition", "Content-ID", "Content-Description", "Content-Language"} {
		for _, f := range (&message.Message{Source: b.src, Root: p}).All(name) {
			if field, err := message.CanonicalField(b.src, f); err == nil {
				head = append(head, field...)
			}
		}
	}
	if _, err := b.w.Write(append(head, "\r\n"...)); err != nil {
		return err
	}
	if len(p.Parts) == 0 {
		_, err := message.Copy(b.w, message.SectionReader(b.src, p.Body))
		return err
	}
	if !multi {
		return b.part(p.Parts[0])
	}
	for i, part := range p.Parts {
		between := "\r\n"
		if i == 0 {
			between = ""
		}
		if _, err := io.WriteString(b.w, between+"--"+params["boundary"]+"\r\n"); err != nil {
			return err
		}
		if err := b.part(part); err != nil {
			return err
		}
	}
	_, err := io.WriteString(b.w, "\r\n--"+params["boundary"]+"--\r\n")
	return err
}

// part writes an entity with its other fields: those of a message, and those
// that a payload protects.
func (b *builder) part(p *message.Part) error {
	for _, f := range p.Header {
		if !isName(f.Name) || strings.HasPrefix(strings.ToLower(f.Name), "content-") {
			continue
		}
		field, err := message.CanonicalField(b.src, f)
		if err != nil {
			continue // it can't travel
		}
		if _, err := b.w.Write(field); err != nil {
			return err
		}
	}
	return b.entity(p)
}

// isName reports whether s may be the name of a field (RFC 5322 §2.2).
func isName(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

// changed reports whether something in a part is shown as another type.
func changed(p *message.Part) bool {
	if len(p.Parts) == 0 {
		return leafType(p) != p.Type
	}
	return slices.ContainsFunc(p.Parts, changed)
}
