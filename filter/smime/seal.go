package smime

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"postern/filter/cms"
	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/protect"
	"postern/filter/protect/entity"
	"postern/filter/protect/headers"
	"postern/hsm"
)

// Errors of Seal beside those of protect and hsm.
var (
	errStyle = errors.New("unknown cipher")
	errClass = errors.New("recipients of different classes")
)

// Seal signs, then encrypts: multipart/signed where there is nobody to encrypt
// to (RFC 8551 §3.5.3), one encrypted message otherwise, with a signature
// inside that has its content in it (§3.5.2). See protect.Protector. It costs
// one token operation with a signer and none without.
func (p *Protector) Seal(ctx context.Context, r protect.SealRequest) (*message.Message, error) {
	to, err := recipientsOf(r)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	var by *cms.SignRequest
	if r.Signer != nil {
		if by, err = p.signing(r); err != nil {
			return nil, fmt.Errorf("seal: %w", err)
		}
	}
	if by == nil && to == nil {
		return nil, fmt.Errorf("seal: neither a signer nor a recipient: %w", protect.ErrNoCert)
	}
	protected, err := headers.Protect(r.Message, p.Headers, to != nil)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	sealed, err := protected.Wrap(r.NewSpool(), func(w io.Writer) error {
		if to == nil {
			return writeSigned(ctx, w, protected, *by)
		}
		return writeSealed(ctx, w, protected, by, *to)
	})
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return sealed, nil
}

// recipientsOf reads the certificates, each once, and chooses how to encrypt;
// nil where there is nobody.
func recipientsOf(r protect.SealRequest) (*cms.SealRequest, error) {
	if len(r.Recipients) == 0 {
		return nil, nil
	}
	s := &cms.SealRequest{OAEP: true}
	var known []cms.Capabilities
	for _, c := range r.Recipients {
		x, err := recipientOf(c, r.At)
		switch {
		case err != nil:
			return nil, err
		case slices.ContainsFunc(s.Recipients, x.Equal):
			continue
		case len(s.Recipients) > 0 && classOf(x) != classOf(s.Recipients[0]):
			return nil, errClass
		}
		s.Recipients = append(s.Recipients, x)
		can, err := cms.ParseCapabilities(c.Capabilities)
		if err != nil {
			can = nil // what can't be read says nothing
		}
		known = append(known, can)
		s.OAEP = s.OAEP && can.OAEP()
	}
	s.OAEP = s.OAEP || r.Style.OAEP
	var err error
	s.Cipher, err = cipherFor(r.Style.Cipher, known)
	return s, err
}

// styles are the names of protect.Style.
var styles = map[string]cms.Cipher{
	"aes-128-cbc": cms.AES128CBC, "aes-192-cbc": cms.AES192CBC, "aes-256-cbc": cms.AES256CBC,
	"aes-128-gcm": cms.AES128GCM, "aes-256-gcm": cms.AES256GCM,
}

// cipherFor is what was agreed on, or the best that all recipients read: GCM
// only if each says so, and of AES-CBC the longest key that nobody's list
// leaves out. AES-128 everybody has to read (RFC 8551 §2.7); less is not used (R41).
func cipherFor(style string, recipients []cms.Capabilities) (cms.Cipher, error) {
	if style != "" {
		c, ok := styles[style]
		if !ok {
			return 0, fmt.Errorf("style %.40q: %w", style, errStyle)
		}
		return c, nil
	}
	for _, c := range []cms.Cipher{cms.AES256GCM, cms.AES128GCM, cms.AES256CBC, cms.AES192CBC} {
		if !slices.ContainsFunc(recipients, func(r cms.Capabilities) bool {
			reads := r.Ciphers()
			return !slices.Contains(reads, c) && (len(reads) > 0 || c.Authenticated())
		}) {
			return c, nil
		}
	}
	return cms.AES128CBC, nil
}

// signing says how the signer signs.
func (p *Protector) signing(r protect.SealRequest) (*cms.SignRequest, error) {
	x, err := signerOf(*r.Signer, r.At)
	if err != nil {
		return nil, err
	}
	readable, err := cms.Readable()
	if err != nil {
		return nil, err
	}
	s := &cms.SignRequest{Token: p.Token, Key: r.Signer.KeyIDs[0], Cert: x, EncryptTo: answerTo(*r.Signer, r.Own, r.At), Capabilities: readable, PSS: r.Style.PSS, At: r.At}
	if p.Chain != nil {
		s.Others = p.Chain(x)
	}
	return s, nil
}

// answerTo is the certificate that the author reads with, to be told to those
// who answer: that which belongs to the signer's, or else his first one; nil
// where he has none.
func answerTo(signer keyring.Identity, own []keyring.Identity, at time.Time) (first *x509.Certificate) {
	for _, id := range own {
		if id.Format != keyring.SMIME || len(id.KeyIDs) != 1 || id.Use == hsm.Sign {
			continue
		}
		x, err := recipientOf(id.Cert, at)
		if err != nil || id.KeyIDs[0] == signer.KeyIDs[0] { // a key that signs opens nothing
			continue
		}
		if id.Address == signer.Address && id.Domain == signer.Domain {
			return x
		}
		if first == nil {
			first = x
		}
	}
	return first
}

// micalg names a hash (RFC 8551 §3.5.3.2).
func micalg(h crypto.Hash) string {
	switch h {
	case crypto.SHA384:
		return "sha-384"
	case crypto.SHA512:
		return "sha-512"
	}
	return "sha-256"
}

// writeSigned writes a multipart/signed.
func writeSigned(ctx context.Context, w io.Writer, m *headers.Mail, by cms.SignRequest) error {
	signing, err := cms.NewSigning(by)
	if err != nil {
		return err
	}
	b := entity.Boundary()
	if _, err := fmt.Fprintf(w, "Content-Type: multipart/signed; micalg=%s;\r\n protocol=\"application/pkcs7-signature\";\r\n boundary=%q\r\n\r\n--%s\r\n", micalg(signing.Hash()), b, b); err != nil {
		return err
	}
	if err := m.WriteEntity(io.MultiWriter(w, signing)); err != nil {
		return fmt.Errorf("write entity: %w", err)
	}
	if _, err := fmt.Fprintf(w, "\r\n--%s\r\nContent-Type: application/pkcs7-signature; name=\"smime.p7s\"\r\nContent-Transfer-Encoding: base64\r\nContent-Disposition: attachment; filename=\"smime.p7s\"\r\n\r\n", b); err != nil {
		return err
	}
	lines := entity.NewEncoder(w, entity.Line)
	if err := signing.Finish(ctx, lines); err != nil {
		return err
	}
	if err := lines.Close(); err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "\r\n--%s--\r\n", b)
	return err
}

// writeHead writes the header of an entity of CMS (RFC 8551 §3.2). Its name is
// what old programs know it by.
func writeHead(w io.Writer, kind string) error {
	_, err := fmt.Fprintf(w, "Content-Type: application/pkcs7-mime; smime-type=%s;\r\n name=\"smime.p7m\"\r\nContent-Transfer-Encoding: base64\r\nContent-Disposition: attachment; filename=\"smime.p7m\"\r\n\r\n", kind)
	return err
}

// writeSealed writes an encrypted message. Inside, too, there is base64: not
// every reader takes binary there.
func writeSealed(ctx context.Context, w io.Writer, m *headers.Mail, by *cms.SignRequest, to cms.SealRequest) error {
	kind := "enveloped-data"
	if to.Cipher.Authenticated() {
		kind = "authEnveloped-data"
	}
	if err := writeHead(w, kind); err != nil {
		return err
	}
	lines := entity.NewEncoder(w, entity.Line)
	sealed, err := cms.NewSealer(lines, to)
	if err != nil {
		return err
	}
	if by == nil {
		err = m.WriteEntity(sealed)
	} else {
		err = writeOpaque(ctx, sealed, m, *by)
	}
	if err != nil {
		return err
	}
	if err := sealed.Close(); err != nil {
		return err
	}
	return lines.Close()
}

// writeOpaque writes a signature with the entity in it.
func writeOpaque(ctx context.Context, w io.Writer, m *headers.Mail, by cms.SignRequest) error {
	if err := writeHead(w, "signed-data"); err != nil {
		return err
	}
	content := entity.Pull(m.WriteEntity)
	defer content.Close()
	lines := entity.NewEncoder(w, entity.Line)
	if err := cms.SignOpaque(ctx, lines, content, by); err != nil {
		return err
	}
	return lines.Close()
}
