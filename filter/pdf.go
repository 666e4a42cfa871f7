package filter

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"mime/quotedprintable"
	"slices"
	"strings"
	"sync"

	"postern/filter/message"
	"postern/filter/paper"
	"postern/filter/policy"
	"postern/filter/protect/entity"
	"postern/filter/record"
	"postern/filter/transport"
)

// PDF is how mail goes to people without a certificate, where no-key is "pdf": as
// a document with a password, in a mail that says nothing else. The password
// goes to the author alone, in a mail inside, which must have been taken before
// the document leaves (told below): there is no document whose password nobody
// knows. Neither is in the log or the record.
type PDF struct {
	Press   paper.Press // nil: nobody makes documents
	Subject string      // of the mail around a document; "": ours
	Cover   string      // what that mail says; "": ours, in German and English
	Advice  string      // what the author is told beside the password; "": ours
}

// codewords makes the passwords, and knows who was told. A password follows from
// the mail and a secret of this process: when a sender tries again, the document
// has the password that its author knows already.
type codewords struct {
	secret [32]byte
	mutex  sync.Mutex
	told   [2]map[record.Name]bool // the older ones are forgotten when the newer ones are many
}

// maxTold is how many copies it is remembered of that their author was told. One
// that is forgotten makes him hear the same password twice.
const maxTold = 20_000

func newCodewords() *codewords {
	c := &codewords{told: [2]map[record.Name]bool{{}, {}}}
	rand.Read(c.secret[:])
	return c
}

// letters are those of a password: none is taken for another by eye, and each is
// one word to say.
const letters = "abcdefghijkmnpqrstuvwxyz23456789"

// groups and perGroup make 100 bits.
const (
	groups   = 5
	perGroup = 4
)

// of is the password of a mail.
func (c *codewords) of(mail record.Name) string {
	h := hmac.New(sha256.New, c.secret[:])
	h.Write(mail[:])
	sum := h.Sum(nil)
	var words []string
	for i := range groups {
		var w [perGroup]byte
		for j := range w {
			w[j] = letters[sum[perGroup*i+j]%byte(len(letters))]
		}
		words = append(words, string(w[:]))
	}
	return strings.Join(words, "-")
}

func copyName(mail record.Name, a message.Address) record.Name {
	return sha256.Sum256(fmt.Appendf(nil, "%x %q %q", mail, a.Local, a.Domain))
}

// untold are those of whose copy the author has not heard.
func (c *codewords) untold(mail record.Name, to []transport.Recipient) (list []message.Address) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	for _, r := range to {
		if n := copyName(mail, r.Address); !c.told[0][n] && !c.told[1][n] {
			list = append(list, r.Address)
		}
	}
	return list
}

func (c *codewords) note(mail record.Name, to []message.Address) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	for _, a := range to {
		if len(c.told[0]) >= maxTold {
			c.told[0], c.told[1] = map[record.Name]bool{}, c.told[0]
		}
		c.told[0][copyName(mail, a)] = true
	}
}

// tells reports whether the author of a mail can be told a password: he is one of
// ours, and the mail is surely his. He has logged in, or he is who the envelope
// says as well.
func (g *Gateway) tells(p *passage) bool {
	return !p.author.IsZero() && g.Policy.Ours(p.author.Domain) && !p.env.Null && (p.env.User != "" || p.author.Key() == p.env.From.Key())
}

// printed is the mail that goes to those who get a document: from the author, to
// whom he wrote, with a document in which his mail is.
func (g *Gateway) printed(ctx context.Context, p *passage) (*message.Message, error) {
	if g.PDF.Press == nil {
		return nil, fmt.Errorf("make PDF: nobody makes any: %w", ErrConfig)
	}
	inside, err := g.cleaned(p.msg, p.listener.Direction)
	if err != nil {
		return nil, err
	}
	name, err := g.nameOf(p)
	if err != nil {
		return nil, err
	}
	s := g.spoolFor(p)
	top, err := coverHeader(p.msg)
	if err != nil {
		return nil, err
	}
	boundary := entity.Boundary()
	top = append(top, message.FoldField("Subject", mime.QEncoding.Encode("utf-8", cmp.Or(g.PDF.Subject, coverSubject)))...)
	top = fmt.Appendf(top, "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"%s\"\r\n\r\n--%[1]s\r\n"+
		"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n", boundary)
	file := fileName(p.env.Trace)
	text := strings.NewReplacer("{author}", p.author.Key(), "{file}", file).Replace(cmp.Or(g.PDF.Cover, coverText))
	top = append(top, quoted(text)...)
	top = fmt.Appendf(top, "\r\n--%s\r\nContent-Type: application/pdf; name=\"%s\"\r\nContent-Disposition: attachment; filename=\"%[2]s\"\r\nContent-Transfer-Encoding: base64\r\n\r\n", boundary, file)
	if _, err := s.Write(top); err != nil {
		return nil, fmt.Errorf("make PDF: %w", err)
	}
	enc := entity.NewEncoder(s, entity.Line)
	err = g.PDF.Press.Print(ctx, paper.Job{Trace: p.env.Trace, Password: g.codewords.of(name), Size: inside.Len(), Mail: inside}, enc)
	if err == nil {
		err = enc.Close()
	}
	if err == nil {
		_, err = fmt.Fprintf(s, "\r\n--%s--\r\n", boundary)
	}
	if err != nil {
		return nil, fmt.Errorf("make PDF: %w", err)
	}
	m, err := message.Parse(s, g.Limits)
	if err != nil {
		return nil, fmt.Errorf("read mail with PDF: %w", err)
	}
	return m, nil
}

// shownOutside are the fields that the mail around a document has of the one in
// it: who, to whom, when, and what answers need to find their place.
var shownOutside = []string{"from", "sender", "reply-to", "to", "cc", "date", "message-id", "in-reply-to", "references", "auto-submitted"}

func coverHeader(m *message.Message) ([]byte, error) {
	var top []byte
	for _, f := range m.Root.Header {
		if !slices.Contains(shownOutside, strings.ToLower(f.Name)) || slices.Contains(m.Drop, f.Whole) {
			continue
		}
		b := make([]byte, f.Whole.Len())
		if _, err := io.ReadFull(message.SectionReader(m.Source, f.Whole), b); err != nil {
			return nil, fmt.Errorf("read header: %w", err)
		}
		top = append(top, b...)
	}
	return top, nil
}

// fileName is what a document is called. It is how its author, whom he tells the
// password, and an operator speak of it.
func fileName(trace string) string { return "nachricht-" + trace + ".pdf" }

// quoted is a text in quoted-printable, with the line ends of mail.
func quoted(text string) []byte {
	var b bytes.Buffer
	w := quotedprintable.NewWriter(&b)
	io.WriteString(w, strings.TrimRight(text, "\n")+"\n") // to memory
	w.Close()
	return b.Bytes()
}

// tell tells the author the password of the copy that goes to these recipients,
// where he does not know it yet. Without that nobody gets the copy. The mail that
// tells him is remembered as one that came sealed, so that an answer to it, with
// the password, does not leave in clear.
func (g *Gateway) tell(ctx context.Context, p *passage, to []transport.Recipient) error {
	name, err := g.nameOf(p)
	if err != nil {
		return err
	}
	untold := g.codewords.untold(name, to)
	if len(untold) == 0 {
		return nil
	}
	hop := g.Hops[policy.Inbound]
	if hop == nil || !g.tells(p) { // never to anybody outside
		return fmt.Errorf("tell %s a password: %w", p.author.Key(), ErrConfig)
	}
	id := strings.ToLower(rand.Text()) + "@" + g.Name
	if err := g.Record.RememberOpened(ctx, id); err != nil {
		return fmt.Errorf("remember mail with password: %w", err)
	}
	mail := g.codewordMail(p, id, g.codewords.of(name), untold)
	_, plain := p.author.ASCII()
	env := &transport.Envelope{Trace: p.env.Trace, Null: true, UTF8: !plain, Size: int64(len(mail)), Recipients: []transport.Recipient{{Address: p.author}}}
	res := hop.Deliver(ctx, env, env.Size, bytes.NewReader(mail))
	if err = res.Err; err == nil && len(res.Replies) != 1 {
		err = fmt.Errorf("%d replies for one recipient", len(res.Replies))
	}
	if err == nil && res.Replies[0].Code/100 != 2 {
		err = res.Replies[0]
	}
	if err != nil {
		cause := ErrUntold
		if r := (transport.Reply{}); errors.As(err, &r) && r.Code/100 == 5 {
			cause = ErrUntellable
		}
		return fmt.Errorf("tell %s a password: %w: %w", p.author.Key(), cause, shown{err})
	}
	g.codewords.note(name, untold)
	g.Log.LogAttrs(ctx, slog.LevelInfo, "password told", slog.String("trace", p.env.Trace), slog.String("to", p.author.Key()), slog.Int("recipients", len(untold)))
	return nil
}

// codewordMail is the mail that tells a password. It names the mail by its
// recipients, its time and its document, and says nothing else of it.
func (g *Gateway) codewordMail(p *passage, id, password string, to []message.Address) []byte {
	var names []string
	for _, a := range to {
		names = append(names, "    "+a.Key())
	}
	fill := strings.NewReplacer("{recipients}", strings.Join(names, "\n"), "{time}", p.at.Format("2006-01-02 15:04 -07:00"), "{file}", fileName(p.env.Trace), "{password}", password)
	advice := func(ours string) string { return cmp.Or(g.PDF.Advice, ours) }
	german, english := fill.Replace(tellGerman)+"\n"+advice(adviceGerman), fill.Replace(tellEnglish)+"\n"+advice(adviceEnglish)
	subject, text := "Password of a mail that you sent", english
	switch g.Texts.Language {
	case "de":
		subject, text = "Passwort einer Mail von Ihnen", german
	case "both":
		subject, text = "Passwort einer Mail von Ihnen / "+subject, german+"\n\n"+english
	}
	at := message.Address{Local: "postmaster", Domain: p.author.Domain}
	var b []byte
	for _, f := range [][2]string{
		{"From", "Postern <" + at.Key() + ">"}, {"To", p.author.String()}, {"Subject", subject}, {"Date", p.at.UTC().Format("Mon, 2 Jan 2006 15:04:05 -0700")},
		{"Message-ID", "<" + id + ">"}, {"Auto-Submitted", "auto-generated"}, // RFC 3834 §5
		{"MIME-Version", "1.0"}, {"Content-Type", "text/plain; charset=utf-8"}, {"Content-Transfer-Encoding", "quoted-printable"},
	} {
		b = append(b, message.FoldField(f[0], f[1])...)
	}
	return append(append(b, "\r\n"...), quoted(text)...)
}
