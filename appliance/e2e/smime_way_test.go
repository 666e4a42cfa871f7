package e2e

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"mime"
	"strings"

	"postern/hsm"
)

// way is one way to protect a mail: a row of the matrix. Who does both signs
// first, and seals what is signed.
type way struct {
	seal *sealing
	sign *signing
}

func (w way) String() string {
	switch {
	case w.sign == nil:
		return w.seal.String()
	case w.seal == nil:
		return w.sign.String()
	}
	return w.sign.String() + "; inside " + w.seal.String()
}

// ways are all of them.
func ways() (all []way) {
	for _, k := range sealings() {
		all = append(all, way{seal: &k})
	}
	for _, k := range signings() {
		all = append(all, way{sign: &k})
	}
	for _, both := range []struct {
		signing
		sealing
	}{
		{signing{by: hsm.RSA2048, hash: crypto.SHA256}, sealing{to: hsm.RSA2048, cipher: "aes-128-cbc", wrap: "pkcs1"}},
		{signing{by: hsm.RSA3072, hash: crypto.SHA256, opaque: true}, sealing{to: hsm.RSA3072, cipher: "aes-256-cbc", wrap: "pkcs1"}},
		{signing{by: hsm.RSA2048, hash: crypto.SHA256, pss: true}, sealing{to: hsm.RSA2048, cipher: "aes-128-gcm", wrap: "oaep", hash: crypto.SHA256}},
		{signing{by: hsm.P256, hash: crypto.SHA256}, sealing{to: hsm.P256, cipher: "aes-256-cbc", wrap: "x9.63", hash: crypto.SHA256}},
		{signing{by: hsm.P384, hash: crypto.SHA384}, sealing{to: hsm.P384, cipher: "aes-256-gcm", wrap: "x9.63", hash: crypto.SHA384}},
		{signing{by: hsm.Ed25519, hash: crypto.SHA512}, sealing{to: hsm.X25519, cipher: "aes-256-gcm", wrap: "hkdf", hash: crypto.SHA256}},
	} {
		all = append(all, way{seal: &both.sealing, sign: &both.signing})
	}
	return all
}

// offer is what every mail of the matrix says; header is that of the mail.
const offer = "Content-Type: text/plain; charset=utf-8\r\n\r\n" + secret + "\r\n"

func header(from, to string) string {
	return "From: " + from + "\r\nTo: " + to + "\r\nSubject: offer\r\nDate: Wed, 25 Nov 2026 00:00:00 +0000\r\nMIME-Version: 1.0\r\n"
}

// made is the mail of a program. The error says what the program cannot do.
func (w way) made(m mailer, p *partner, from, to string, reader *x509.Certificate) ([]byte, error) {
	return w.around([]byte(offer), m, p, from, to, reader)
}

// around is made with an entity of the test's own.
func (w way) around(entity []byte, m mailer, p *partner, from, to string, reader *x509.Certificate) ([]byte, error) {
	if w.sign != nil {
		message, err := m.sign(*w.sign, entity)
		if err == nil {
			err = w.sign.check(message, p.signs[w.sign.by].cert)
		}
		if err != nil {
			return nil, err
		}
		if w.sign.opaque {
			entity = pkcs7(message, "signed-data")
		} else {
			entity = multipartSigned(entity, message, w.sign.hash)
		}
	}
	if w.seal != nil {
		message, err := m.seal(*w.seal, reader, entity)
		if err == nil {
			err = w.seal.check(message, reader)
		}
		if err != nil {
			return nil, err
		}
		kind := "enveloped-data"
		if w.seal.aead() {
			kind = "authEnveloped-data"
		}
		entity = pkcs7(message, kind)
	}
	return append([]byte(header(from, to)), entity...), nil
}

// pkcs7 is the entity of RFC 8551 §3.2.
func pkcs7(message []byte, kind string) []byte {
	return []byte("Content-Type: application/pkcs7-mime; smime-type=" + kind + "; name=smime.p7m\r\nContent-Transfer-Encoding: base64\r\n\r\n" + base64Lines(message))
}

// multipartSigned is the entity of RFC 8551 §3.5.3.
func multipartSigned(entity, signature []byte, hash crypto.Hash) []byte {
	micalg := strings.ToLower(hash.String())
	return []byte("Content-Type: multipart/signed; protocol=\"application/pkcs7-signature\"; micalg=" + micalg + "; boundary=\"=_s\"\r\n\r\n--=_s\r\n" +
		string(entity) + "\r\n--=_s\r\nContent-Type: application/pkcs7-signature; name=smime.p7s\r\nContent-Transfer-Encoding: base64\r\n\r\n" + base64Lines(signature) + "--=_s--\r\n")
}

func base64Lines(b []byte) string {
	text := base64.StdEncoding.EncodeToString(b)
	var out strings.Builder
	for len(text) > 64 {
		out.WriteString(text[:64] + "\r\n")
		text = text[64:]
	}
	return out.String() + text + "\r\n"
}

// Errors of a mail that is not protected the way that it should be. No program
// is to blame for them.
var errForm = errors.New("the mail is of another form")

// read has a program read a mail. The error is the program's.
func (w way) read(m mailer, mail []byte) error {
	entity := mail
	if w.seal != nil {
		message, _, err := unpacked(entity, false)
		if err != nil {
			return err
		}
		if entity, err = m.open(*w.seal, message); err != nil {
			return err
		}
	}
	if w.sign != nil {
		k := *w.sign
		if w.seal != nil { // inside, either form will do
			k.opaque = !strings.HasPrefix(field(string(entity), "Content-Type"), "multipart/")
		}
		message, content, err := unpacked(entity, !k.opaque)
		if err != nil {
			return err
		}
		if entity, err = m.verify(k, message, content); err != nil {
			return err
		}
		if content != nil && !bytes.Equal(entity, content) {
			return errors.New("reads other content")
		}
	}
	if !bytes.Contains(entity, []byte(secret)) {
		return errors.New("reads other content")
	}
	return nil
}

// unpacked is the CMS message in an entity, and what it signs where that
// stands beside it.
func unpacked(entity []byte, detached bool) (message, content []byte, err error) {
	kind, params, err := mime.ParseMediaType(field(string(entity), "Content-Type"))
	_, body, _ := bytes.Cut(entity, []byte("\r\n\r\n"))
	switch {
	case err != nil:
	case detached && kind == "multipart/signed":
		parts := bytes.Split(append([]byte("\r\n"), body...), []byte("\r\n--"+params["boundary"]))
		if len(parts) != 4 {
			break
		}
		content = bytes.TrimPrefix(parts[1], []byte("\r\n"))
		message, _, err = unpacked(bytes.TrimPrefix(parts[2], []byte("\r\n")), false)
		return message, content, err
	case !detached && (kind == "application/pkcs7-mime" || kind == "application/pkcs7-signature"):
		if message, err = base64.StdEncoding.DecodeString(strings.Join(strings.Fields(string(body)), "")); err == nil {
			return message, nil, nil
		}
	}
	return nil, nil, fmt.Errorf("%w: %s, %v", errForm, kind, err)
}
