package cms

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"

	"golang.org/x/crypto/cryptobyte"

	"postern/filter/cms/ber"
)

// Envelope is an encrypted message that was read up to its ciphertext.
type Envelope struct {
	Type        Type        // TypeEnveloped or TypeAuthEnveloped
	ContentType Type        // what is inside says it is; nobody vouches for it
	Recipients  []Recipient // those that can be used, 16 at most
	Cipher      Cipher

	content contentCipher
	r       *ber.Reader // before the ciphertext
	spent   bool        // it was decrypted
}

// ReadEnvelope reads EnvelopedData (RFC 5652 §6.1) or AuthEnvelopedData (RFC
// 5083 §2.1) up to the ciphertext, which stays in r for Decrypt. The first 16
// RecipientInfos are looked at; the others are passed over. A cipher that
// nothing here reads is ErrAlgorithm.
func ReadEnvelope(r io.Reader) (*Envelope, error) {
	e := &Envelope{r: ber.NewReader(r)}
	oid, err := readContentInfo(e.r)
	if err != nil {
		return nil, fmt.Errorf("read envelope: %w", err)
	}
	e.Type = typeOf(oid)
	if e.Type != TypeEnveloped && e.Type != TypeAuthEnveloped {
		return nil, fmt.Errorf("read envelope: it is %s: %w", e.Type, ErrForm)
	}
	if err := e.readHead(); err != nil {
		return nil, fmt.Errorf("read envelope: %w", err)
	}
	return e, nil
}

func (e *Envelope) readHead() error {
	if err := enter(e.r, ber.Universal, ber.Sequence); err != nil {
		return err
	}
	// The version follows from what is in the message (RFC 5652 §6.1, RFC 5083
	// §2.1), and says nothing more.
	if v, err := readVersion(e.r); err != nil {
		return err
	} else if v < 0 || v > 4 {
		return malformed("unknown version")
	}
	// originatorInfo: certificates for static keys of the sender, which are not read.
	if err := e.skip(0); err != nil {
		return err
	}
	if err := e.readRecipients(); err != nil {
		return err
	}
	// EncryptedContentInfo
	if err := enter(e.r, ber.Universal, ber.Sequence); err != nil {
		return err
	}
	oid, err := readOID(e.r)
	if err != nil {
		return err
	}
	e.ContentType = typeOf(oid)
	der, err := e.r.DER(maxAlgorithm)
	if err != nil {
		return err
	}
	if e.content, err = parseCipher(der); err != nil {
		return err
	}
	e.Cipher = e.content.Cipher
	// A cipher under the other content type would be taken for what it is not.
	if e.Cipher.Authenticated() != (e.Type == TypeAuthEnveloped) {
		return fmt.Errorf("%s in %s: %w", e.Cipher, e.Type, ErrForm)
	}
	for i := range e.Recipients {
		e.Recipients[i].Wrapped.Size = e.KeySize()
	}
	switch t, err := e.r.Next(); {
	case err == io.EOF || err == nil && !t.Is(ber.Context, 0):
		return malformed("no content")
	default:
		return err
	}
}

func (e *Envelope) readRecipients() error {
	if err := enter(e.r, ber.Universal, ber.Set); err != nil {
		return err
	}
	for n := 0; ; n++ {
		t, err := e.r.Next()
		if err == io.EOF {
			return e.r.Leave()
		}
		if err != nil {
			return err
		}
		ours := t.Is(ber.Universal, ber.Sequence) || t.Is(ber.Context, 1)
		if n >= maxRecipients || !ours {
			if err := e.r.Skip(); err != nil {
				return err
			}
			continue
		}
		der, err := e.r.DER(maxRecipientInfo)
		if err != nil {
			return err
		}
		e.Recipients = append(e.Recipients, parseRecipient(der)...)
		e.Recipients = e.Recipients[:min(len(e.Recipients), maxRecipients)]
	}
}

// skip passes over the next element if it has the number as its tag.
func (e *Envelope) skip(number uint32) error {
	switch t, err := e.r.Next(); {
	case err == io.EOF:
		return nil
	case err != nil || !t.Is(ber.Context, number):
		return err
	}
	return e.r.Skip()
}

// Authenticated reports whether an altered message does not open. Without
// that, who is on the way can alter content that he cannot read, and may have
// turned a message of the other kind into this one (RFC 9709 §1): it says
// nothing of what its sender wrote.
func (e *Envelope) Authenticated() bool { return e.Cipher.Authenticated() }

// Legacy reports whether the cipher is one that only old mail has.
func (e *Envelope) Legacy() bool { return e.Cipher.Legacy() }

// KeySize is the length of the content key in bytes.
func (e *Envelope) KeySize() int { return e.Cipher.KeySize() }

// Decrypt writes the content to w. It counts only when the error is nil: until
// then it may be anything. Everything that is wrong with key, ciphertext,
// padding, tag or what follows is ErrDecrypt, and found out behind the last
// byte: a wrong key costs the time of the right one. An error of the reader or
// of w comes through as it is, and is the only one that a second try may mend.
// A message can be decrypted once.
func (e *Envelope) Decrypt(key []byte, w io.Writer) error {
	if e.spent {
		return ErrDecrypt
	}
	e.spent = true
	key, fits := slices.Clone(key), true
	if len(key) != e.KeySize() {
		key, fits = make([]byte, e.KeySize()), false
		rand.Read(key)
	}
	defer clear(key)
	o, err := e.content.opener(key)
	if err != nil {
		return ErrDecrypt
	}
	if err := pump(o, e.r.Octets(), w); err != nil {
		return hide(err)
	}
	attributes, tag, err := e.readFoot()
	if err != nil {
		return hide(err)
	}
	rest, ok := o.close(attributes, tag)
	if _, err := w.Write(rest); err != nil {
		return fmt.Errorf("write content: %w", err)
	}
	if !ok || !fits {
		return ErrDecrypt
	}
	return nil
}

// pump decrypts all of r.
func pump(o opener, r io.Reader, w io.Writer) error {
	buf := make([]byte, pieceSize)
	for {
		n, err := io.ReadFull(r, buf)
		last := err == io.EOF || err == io.ErrUnexpectedEOF
		if err != nil && !last {
			return fmt.Errorf("read content: %w", err)
		}
		if _, err := w.Write(o.open(buf[:n])); err != nil {
			return fmt.Errorf("write content: %w", err)
		}
		if last {
			return nil
		}
	}
}

// hide makes one of all that is wrong with a message.
func hide(err error) error {
	if errors.Is(err, ErrForm) || errors.Is(err, ErrLimit) {
		return ErrDecrypt
	}
	return err
}

// readFoot reads what follows the ciphertext, to the end of the message.
func (e *Envelope) readFoot() (attributes, tag []byte, err error) {
	if err := e.r.Leave(); err != nil { // EncryptedContentInfo
		return nil, nil, err
	}
	unprotected := uint32(1)
	if e.Type == TypeAuthEnveloped {
		unprotected = 2
		if attributes, err = e.readAttributes(); err != nil {
			return nil, nil, err
		}
		if tag, err = readOctets(e.r, gcmTag); err != nil {
			return nil, nil, err
		}
	}
	if err := e.skip(unprotected); err != nil {
		return nil, nil, err
	}
	if err := e.r.Leave(); err != nil { // EnvelopedData
		return nil, nil, err
	}
	return attributes, tag, endContentInfo(e.r)
}

// readAttributes reads authAttrs, and gives them as they are authenticated: a
// SET OF in DER, whatever they are in the message (RFC 5083 §2.2).
func (e *Envelope) readAttributes() ([]byte, error) {
	if t, err := e.r.Next(); err == io.EOF || err == nil && !t.Is(ber.Context, 1) {
		return nil, nil
	}
	der, err := e.r.DER(maxAttributes)
	if err != nil {
		return nil, err
	}
	in := cryptobyte.String(der)
	if !in.ReadASN1(&in, context1.Constructed()) {
		return nil, malformed("authenticated attributes")
	}
	all, err := parseAttributes(in)
	if err != nil {
		return nil, err
	}
	return printAttributes(all)
}
