package headers

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	netmail "net/mail"
	"slices"
	"strings"

	"postern/filter/message"
)

// Show gives an opened mail the header that its reader is to see: fields that
// the payload protects in place of those outside (RFC 9788 §4). opened has the
// outer header and the entity that was sealed; entity is the header that this
// entity had, as complete lines; signers are the addresses that a good
// signature over it speaks for. Where nothing is protected, opened comes back.
//
// A field is taken only if it is one that people read and stands inside as
// often as it may; a From only if it is one address, which is that outside or
// that of a signer (RFC 9788 §4.4). A recipient or a subject that stands
// outside only goes, where the sender says that he has protected all of them:
// it was put there so that an answer goes astray. Nothing of the inside reaches
// the header but whole fields of these names. Content-Type keeps its mark, which
// says nothing in a mail that is not protected.
//
// The errors are those of the source.
func Show(opened *message.Message, entity []byte, signers []message.Address, l message.Limits) (*message.Message, error) {
	p, err := payloadOf(opened, entity, l)
	if err != nil || p == nil {
		return opened, err
	}
	p.count = map[string]int{}
	for _, f := range p.Root.Header {
		p.count[strings.ToLower(f.Name)]++
	}
	taken, err := p.take(opened, signers)
	if err != nil {
		return nil, err
	}
	head, err := p.header(opened, taken)
	if err != nil {
		return nil, err
	}
	shown, err := message.Rehead(opened.Source, p.entity, head, l)
	if errors.Is(err, message.ErrHeaderLimit) || errors.Is(err, message.ErrRehead) { // as a Content-Type that could not be printed as it was
		return opened, nil
	}
	return shown, err
}

// payload is the root of what was protected.
type payload struct {
	message.Message                // its header
	count           map[string]int // of its fields, by their names in lower case
	stated          bool           // by the standard's own parameter, so that all fields are there
	entity          *message.Part  // of the opened mail, whose body is shown
	mime            bool           // its header describes that body, not the one of the opened mail
}

// payloadOf finds the payload of an opened mail, below a signature that stands
// around it; nil where it protects no header, or one beyond limits.
func payloadOf(opened *message.Message, entity []byte, l message.Limits) (*payload, error) {
	root, err := message.Parse(bytes.NewReader(slices.Concat(entity, []byte("\r\n"))), l)
	if err != nil {
		return nil, nil
	}
	p := &payload{Message: *root, entity: opened.Root}
	whole := opened.Root // the payload, with its parts
	if root.Root.Type == "multipart/signed" {
		if len(opened.Root.Parts) != 2 {
			return nil, nil
		}
		whole = opened.Root.Parts[0]
		p.Message = message.Message{Source: opened.Source, Root: whole}
	}
	if isLayer(p.Root.Type) {
		return nil, nil
	}
	params := p.Root.Params
	switch {
	case strings.EqualFold(params[parameter], inCipher), strings.EqualFold(params[parameter], inClear):
		p.stated = true
		return p, nil
	case strings.EqualFold(params[draft], draftOne):
		return p, nil
	case p.Root.Type == "message/rfc822" && strings.EqualFold(params["forwarded"], "no") && len(whole.Parts) == 1 && !isLayer(whole.Parts[0].Type) && whole.Parts[0].Params[parameter] == "":
		p.Message = message.Message{Source: opened.Source, Root: whole.Parts[0]}
		if whole == opened.Root { // else it was signed, and stays as it is
			p.mime, p.entity = true, whole.Parts[0]
		}
		return p, nil
	}
	return nil, nil
}

// fields are those to be shown, by their names in lower case.
type fields struct {
	names []string // in order, each once
	text  map[string][]byte
}

// take are the fields that may stand in the place of those outside.
func (p *payload) take(opened *message.Message, signers []message.Address) (fields, error) {
	taken := fields{text: map[string][]byte{}}
	for _, f := range p.Root.Header {
		name := strings.ToLower(f.Name)
		r, ok := read[name]
		if !ok || !r.many && p.count[name] != 1 || name == "from" && !p.mayShowFrom(opened, signers) {
			continue
		}
		value, err := p.Value(f)
		if err != nil {
			return fields{}, err
		}
		if _, err := netmail.ParseDate(value); name == "date" && err != nil {
			continue
		}
		text, err := shownField(&p.Message, f, value)
		if err != nil {
			return fields{}, err
		}
		if text != nil {
			if taken.text[name] == nil {
				taken.names = append(taken.names, name)
			}
			taken.text[name] = append(taken.text[name], text...)
		}
	}
	return taken, nil
}

// mayShowFrom is the rule of RFC 9788 §4.4: who nobody has signed as is shown
// only where he stands outside too.
func (p *payload) mayShowFrom(opened *message.Message, signers []message.Address) bool {
	inside, err := p.Author()
	if err != nil {
		return false
	}
	if outside, err := opened.Author(); err == nil && outside.Key() == inside.Key() {
		return true
	}
	return slices.ContainsFunc(signers, func(a message.Address) bool { return a.Key() == inside.Key() })
}

// shownField is a field in ASCII, its lines as they were where they can be told
// from others by every reader, and folded anew otherwise; nil where it can't be
// shown.
func shownField(m *message.Message, f message.Field, value string) ([]byte, error) {
	text, err := message.CanonicalField(m.Source, f)
	if err != nil && !errors.Is(err, message.ErrSigned8Bit) {
		return nil, fmt.Errorf("read header field: %w", err)
	}
	_, rest, ok := bytes.Cut(text, []byte(":"))
	text = slices.Concat([]byte(f.Name+":"), rest)
	plain := strings.ReplaceAll(string(text), "\r\n", "")
	if err != nil || !ok || !bytes.HasSuffix(text, []byte("\r\n")) || strings.ContainsFunc(plain, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
		text = message.FoldField(f.Name, value)
	}
	if !travels(text) {
		return nil, nil
	}
	return text, nil
}

// header is that of the mail as shown, with the blank line. A field that is
// taken stands where the first of its name stood outside, or else at the end.
func (p *payload) header(opened *message.Message, taken fields) ([]byte, error) {
	head := bytes.Clone(opened.Top)
	done := map[string]bool{}
	for _, f := range opened.Root.Header {
		name := strings.ToLower(f.Name)
		text, is := taken.text[name]
		switch {
		case slices.Contains(opened.Drop, f.Whole), done[name]:
			continue
		case is:
			head = append(head, text...)
			done[name] = true
			continue
		case p.stated && read[name].only && p.count[name] == 0:
			continue
		case p.mime && strings.HasPrefix(name, "content-"):
			continue
		}
		raw := make([]byte, f.Whole.Len())
		if _, err := io.ReadFull(message.SectionReader(opened.Source, f.Whole), raw); err != nil {
			return nil, fmt.Errorf("read header field: %w", err)
		}
		head = append(head, raw...)
	}
	for _, name := range taken.names {
		if !done[name] {
			head = append(head, taken.text[name]...)
		}
	}
	for _, f := range p.Root.Header {
		if !p.mime || !strings.HasPrefix(strings.ToLower(f.Name), "content-") {
			continue
		}
		value, err := p.Value(f)
		if err != nil {
			return nil, err
		}
		text, err := shownField(&p.Message, f, value)
		if err != nil {
			return nil, err
		}
		head = append(head, text...)
	}
	return append(head, "\r\n"...), nil
}
