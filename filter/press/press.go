// Package press makes a PDF with a password out of a mail: pages that show who
// wrote to whom, when, about what, and the text of the mail; with the mail itself
// and what was attached to it as files inside. It runs in a process of its own,
// which gets one mail, has no files and no network, and ends with it: what a mail
// holds is hostile, and so a mail that takes the process over has nothing there
// but itself.
//
// HTML is never shown as such: of a mail that has nothing else its words are. No
// part of a mail becomes anything that a reader of PDFs would run or fetch.
package press

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"postern/filter/message"
	"postern/filter/paper"
	"postern/filter/pdf"
	"postern/filter/protect/entity"
)

// Serve takes one job from r and answers to w.
func Serve(r io.Reader, w io.Writer) error {
	_, password, mail, err := paper.ReadJob(bufio.NewReader(r), paper.MaxMail)
	answer := paper.NewAnswer(w)
	if err == nil {
		err = Print(mail, password, answer)
	}
	return errors.Join(err, answer.End(err))
}

// limits are wider than those that a site has for its mails by default.
var limits = message.Limits{Depth: 100, Parts: 20_000, Fields: 10_000, HeaderBytes: 4 << 20}

// maxFiles is how many parts of a mail are files of their own in its document;
// all of them are in the mail, which is the first.
const maxFiles = 500

// Print writes the document of a mail. A mail whose structure is beyond limits is
// one whose text is not shown: the mail itself is in the document all the same.
func Print(mail []byte, password string, to io.Writer) error {
	doc, err := pdf.New(to, password)
	if err != nil {
		return err
	}
	s := &sheet{doc: doc}
	s.top()
	m, err := message.Parse(bytes.NewReader(mail), limits)
	if err != nil {
		s.note("Der Text dieser Nachricht lässt sich hier nicht zeigen. Sie steht vollständig in der Datei nachricht.eml.",
			"The text of this message cannot be shown here. All of it is in the file nachricht.eml.")
		m = nil
	}
	var found content
	if m != nil {
		s.header(m)
		found = content{src: m.Source}
		found.read(m.Root)
		s.body(m, found)
	}
	if err := s.finish(); err != nil {
		return err
	}
	if err := doc.Embed(mailFile, "message/rfc822", mail); err != nil {
		return err
	}
	for _, p := range found.files {
		body, kind := bodyOf(m.Source, p)
		if err := doc.Embed(fileName(m.Source, p), kind, body); err != nil {
			return err
		}
	}
	return doc.Close()
}

// mailFile is the name of the mail itself among the files.
const mailFile = "nachricht.eml"

// content is what a mail holds for its reader.
type content struct {
	src   message.Source
	texts []*message.Part // to be shown, in order
	files []*message.Part
	more  bool // files that are left out
}

// read looks through a part and those below.
func (c *content) read(p *message.Part) {
	switch {
	case p.Type == "multipart/alternative":
		c.alternative(p)
	case p.Type == "multipart/signed" && len(p.Parts) > 0: // what signs it is in the mail
		c.read(p.Parts[0])
	case strings.HasPrefix(p.Type, "multipart/"):
		for _, part := range p.Parts {
			c.read(part)
		}
	case isText(p) && !isAttached(c.src, p):
		c.texts = append(c.texts, p)
	case len(c.files) == maxFiles:
		c.more = true
	default:
		c.files = append(c.files, p)
	}
}

// alternative takes the plainest of several forms of one text, and what is
// attached to any of them.
func (c *content) alternative(p *message.Part) {
	var best content
	for i, part := range p.Parts {
		one := content{src: c.src}
		one.read(part)
		if i == 0 || rank(one) < rank(best) {
			best.texts = one.texts
		}
		for _, f := range one.files {
			if len(c.files)+len(best.files) == maxFiles {
				c.more = true
				break
			}
			best.files = append(best.files, f)
		}
	}
	c.texts = append(c.texts, best.texts...)
	c.files = append(c.files, best.files...)
}

// rank is how far a text is from a plain one.
func rank(c content) int {
	switch {
	case len(c.texts) == 0:
		return 2
	case slices.ContainsFunc(c.texts, func(p *message.Part) bool { return p.Type != "text/plain" }):
		return 1
	}
	return 0
}

func isText(p *message.Part) bool { return p.Type == "text/plain" || p.Type == "text/html" }

// isAttached reports whether its sender wants a part to be a file.
func isAttached(src message.Source, p *message.Part) bool {
	kind, params := message.Disposition(src, p)
	return kind == "attachment" || params["filename"] != ""
}

// bodyOf is what a part holds, without its transfer encoding; with it where it
// can't be taken off, and then of no type.
func bodyOf(src message.Source, p *message.Part) (body []byte, kind string) {
	body, err := io.ReadAll(entity.Decoded(src, p))
	if err == nil {
		return body, p.Type
	}
	body, err = io.ReadAll(message.SectionReader(src, p.Body))
	if err != nil { // of memory
		return nil, "application/octet-stream"
	}
	return body, "application/octet-stream"
}

// maxText is how much of one text is shown, in bytes before they are decoded.
const maxText = 2 << 20

// textOf is the text of a part, and whether that is all.
func textOf(src message.Source, p *message.Part) (text string, whole bool) {
	raw, err := io.ReadAll(io.LimitReader(entity.Decoded(src, p), maxText+1))
	if err != nil {
		raw, err = io.ReadAll(io.LimitReader(message.SectionReader(src, p.Body), maxText+1))
	}
	whole = err == nil && len(raw) <= maxText
	text = decoded(p.Params["charset"], raw[:min(len(raw), maxText)])
	if p.Type == "text/html" {
		text = words(text)
	}
	return text, whole
}

// header shows the fields that people read.
func (s *sheet) header(m *message.Message) {
	for _, f := range []struct{ name, german string }{{"From", "Von / From"}, {"To", "An / To"}, {"Cc", "Kopie / Cc"}, {"Date", "Datum / Date"}, {"Subject", "Betreff / Subject"}} {
		if values := m.All(f.name); len(values) > 0 {
			value, err := m.Value(values[0])
			if err != nil || value == "" {
				continue
			}
			s.field(f.german, message.DecodeWords(value))
		}
	}
	s.rule()
}

// body shows the texts, and names the files.
func (s *sheet) body(m *message.Message, c content) {
	for i, p := range c.texts {
		if i > 0 {
			s.rule()
		}
		text, whole := textOf(m.Source, p)
		if s.text(text); !whole {
			s.full = true
		}
	}
	if len(c.texts) == 0 {
		s.note("Diese Nachricht hat keinen Text.", "This message has no text.")
	}
	if len(c.files) > 0 {
		s.rule()
		s.field("Dateien / files", fmt.Sprintf("%d, in den Anlagen dieses Dokuments / attached to this document", len(c.files)))
		for _, p := range c.files {
			s.text("    " + fileName(m.Source, p))
		}
	}
	if c.more {
		s.note("Weitere Dateien stehen nur in nachricht.eml.", "Further files are in nachricht.eml only.")
	}
}
