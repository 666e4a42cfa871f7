package openpgp

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	netmail "net/mail"
	"strings"

	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"postern/filter/message"
	"postern/filter/protect"
	"postern/filter/protect/entity"
	"postern/filter/protect/headers"
	"postern/hsm"
)

// form is how a mail carries OpenPGP at its root.
type form uint8

const (
	none form = iota
	mimeSealed
	mimeSigned
	inlineSealed // text
	inlineSigned
	entitySealed // like inlineSealed, around a MIME entity
)

// maxVersion is what is looked at of the version part, in bytes.
const maxVersion = 1 << 10

// Detect tells by structure whether the root of a mail is OpenPGP's, and
// nothing but it: PGP/MIME (RFC 3156 §4, §5), or one part of plain text that
// begins as armour. What else a mail holds beside the ciphertext would change
// its meaning unseen, so such a mail is none (R7, R10).
func (p *Protector) Detect(m *message.Message) protect.Layer {
	switch formOf(m) {
	case mimeSealed, inlineSealed, entitySealed:
		return protect.Sealed
	case mimeSigned, inlineSigned:
		return protect.Signed
	}
	return protect.None
}

func formOf(m *message.Message) form {
	root := m.Root
	protocol := strings.ToLower(root.Params["protocol"])
	switch root.Type {
	case "multipart/encrypted":
		if protocol == "application/pgp-encrypted" && pair(m, root, "application/pgp-encrypted", "application/octet-stream") && versionOne(m, root.Parts[0]) {
			return mimeSealed
		}
	case "multipart/signed":
		if protocol == "application/pgp-signature" && pair(m, root, "", "application/pgp-signature") {
			return mimeSigned
		}
	case "multipart/mixed":
		if mangled(m, root) {
			return mimeSealed
		}
	case "text/plain", "application/pgp": // the second is what mutt and pine wrote before RFC 3156
		switch {
		case armoured(m, root) && root.Params["format"] == "mime" && root.Type == "application/pgp":
			return entitySealed
		case armoured(m, root):
			return inlineSealed
		case strings.HasPrefix(entity.FirstLine(m.Source, root), "-----BEGIN "+labelClear+"-----"):
			return inlineSigned
		}
	}
	return none
}

// pair reports whether a multipart has exactly two parts of these types, and
// nothing readable around them.
func pair(m *message.Message, p *message.Part, first, second string) bool {
	return entity.Pair(m.Source, p) && (first == "" || p.Parts[0].Type == first) && p.Parts[1].Type == second
}

// versionOne reports whether the first part says "Version: 1" (RFC 3156 §4).
func versionOne(m *message.Message, p *message.Part) bool {
	text, err := io.ReadAll(io.LimitReader(entity.Decoded(m.Source, p), maxVersion))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.EqualFold(strings.TrimSpace(name), "version") {
			return strings.TrimSpace(value) == "1"
		}
	}
	return false
}

// Open takes off the layer that Detect saw. See protect.Protector.
func (p *Protector) Open(ctx context.Context, r protect.OpenRequest) (*message.Message, protect.Finding, error) {
	on := &desk{shelf: &p.shelf}
	defer on.clear()
	v := newVerifier(on, r.Certs, r.At)
	if sent, err := netmail.ParseDate(r.Message.Get("Date")); err == nil {
		v.sent = sent
	}
	author, _ := r.Message.Author() // none: then no certificate of a domain speaks for it
	switch form := formOf(r.Message); form {
	case mimeSealed, inlineSealed, entitySealed:
		t := &tries{on: on, newSpool: r.NewSpool}
		r.NewSpool = t.spool
		m, f, err := p.openSealed(ctx, r, v, author, form, t)
		for err == protect.ErrCannotOpen && t.another() {
			m, f, err = p.openSealed(ctx, r, v, author, form, t)
		}
		return m, f, err
	case mimeSigned:
		f, err := v.signed(r.Message, author)
		if f.Good && headers.Denied(r.Message, &message.Message{Source: r.Message.Source, Root: r.Message.Root.Parts[0]}) {
			f = partial()
		}
		return r.Message, f, err
	case inlineSigned:
		f, err := v.clear(r.Message, author)
		return r.Message, f, err
	}
	return r.Message, finding(nil, author), nil
}

// openSealed decrypts into a new spool. What is wrong with the ciphertext is
// protect.ErrCannotOpen, bare; what is wrong with the token, a spool or the
// disk is told as it is, since it says nothing of the ciphertext.
func (p *Protector) openSealed(ctx context.Context, r protect.OpenRequest, v *verifier, author message.Address, form form, t *tries) (*message.Message, protect.Finding, error) {
	root := r.Message.Root
	part := root
	if form == mimeSealed {
		part = root.Parts[len(root.Parts)-1]
	}
	source := entity.Watch(r.Message.Source)
	fail := func() (*message.Message, protect.Finding, error) {
		return nil, protect.Finding{}, source.Refusal()
	}
	ciphertext, charset, err := sealedBody(bodyOf(source, part))
	if err != nil {
		return fail()
	}
	d, err := readData(ciphertext, p.Legacy)
	if err != nil {
		return fail()
	}
	key, by, err := t.unwrap(ctx, p.Token, d.attempts(t.on, r.Identities))
	if err != nil {
		return nil, protect.Finding{}, err
	}
	defer clear(key.Key)
	v.recipient = by.entity.PrimaryKey.Fingerprint

	out := &entity.Sink{Spool: r.NewSpool()}
	if err := entity.WriteOuter(out, r.Message); err != nil {
		return nil, protect.Finding{}, fmt.Errorf("write header: %w", err)
	}
	inside := entity.NewWriter(out)
	if form == inlineSealed {
		if err := inside.PlainText(charset); err != nil {
			return nil, protect.Finding{}, fmt.Errorf("write header: %w", err)
		}
	}
	content := &payload{out: inside, ratio: p.MaxRatio, verifier: v}
	err = d.decrypt(key, content.read)
	if err == nil {
		err = inside.Close()
	}
	if out.Err() != nil && !errors.Is(out.Err(), message.ErrTooBig) {
		return nil, protect.Finding{}, fmt.Errorf("write plaintext: %w", out.Err())
	}
	if err != nil {
		return fail()
	}
	opened, err := message.Parse(out.Spool, p.Limits)
	if err != nil {
		return fail()
	}
	f := finding(content.claims, author)
	if !f.Signed && formOf(opened) == mimeSigned {
		if f, err = v.signed(opened, author); err != nil {
			return nil, protect.Finding{}, err
		}
	}
	if d.old && f.Good { // what anybody could have changed is nobody's word
		f = protect.Finding{Format: f.Format, Signed: true, Reason: protect.ReasonWeak}
	}
	f.Opened = true
	var signers []message.Address
	if f.Good {
		signers = f.Signers
	}
	shown, err := headers.Show(opened, inside.Header(), signers, p.Limits)
	if err != nil {
		return nil, protect.Finding{}, fmt.Errorf("show header: %w", err)
	}
	return shown, f, nil
}

// bodyOf is decoded, but for armour that only calls itself quoted-printable:
// encoded armour holds "=3D" wherever it holds "=", and decoding what was never
// encoded would break it.
func bodyOf(src message.Source, p *message.Part) io.Reader {
	if p.Encoding == "quoted-printable" {
		lines := bufio.NewScanner(message.SectionReader(src, p.Body))
		encoded := false
		for !encoded && lines.Scan() {
			encoded = bytes.Contains(lines.Bytes(), []byte("=3D"))
		}
		if !encoded && lines.Err() == nil {
			return message.SectionReader(src, p.Body)
		}
	}
	return entity.Decoded(src, p)
}

// sealedBody finds the packets: armour, or what a mailer put into base64 without it.
func sealedBody(r io.Reader) (packets io.Reader, charset string, err error) {
	in := bufio.NewReaderSize(r, bufferSize(r))
	if first, err := in.Peek(1); err == nil && first[0]&0x80 != 0 {
		return in, "", nil
	}
	a, err := newUnarmor(in, labelMessage)
	if err != nil {
		return nil, "", err
	}
	return a, a.Charset, nil
}

// decrypt hands the plaintext to read, and knows only at the end whether it
// was whole: nil means that it was, to the last byte, and that nothing stands
// behind it. A wrong session key and a plaintext that makes no sense go the
// same way to the end of the ciphertext, so that the time does not tell them apart (R2).
func (d *data) decrypt(key hsm.SessionKey, read func(io.Reader) error) error {
	told := packet.CipherFunction(key.Cipher)
	if d.Version == 2 || d.libre {
		told = d.Cipher
	}
	secret := key.Key
	block := newBlock(told, secret, d.legacy)
	if block == nil {
		if d.Version == 1 && !d.libre {
			told = packet.CipherAES256
		}
		secret = make([]byte, told.KeySize())
		rand.Read(secret)
		if block = newBlock(told, secret, false); block == nil {
			return errPacket
		}
	}
	d.old = d.libre || !isAES(told)
	var plain io.ReadCloser
	var err error
	switch {
	case d.libre:
		plain, err = newLibreOpener(d, block)
	case d.Version == 1:
		plain, err = newOpener(d.Contents, block)
	default:
		plain, err = d.Decrypt(told, secret)
	}
	if err != nil {
		return errPacket
	}
	err = read(plain)
	if err != nil {
		_, _ = io.Copy(io.Discard, plain) // it has failed already
	}
	if integrity := plain.Close(); integrity != nil && err == nil {
		err = errPacket
	}
	if _, _, end := d.in.next(); end != io.EOF && err == nil { // armour behind the data is looked at as well
		err = errPacket
	}
	return err
}
