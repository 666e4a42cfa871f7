package smime

import (
	"bytes"
	"io"
	"strings"

	"postern/filter/cms"
	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/protect/entity"
)

// base64Of is what stands in a mail for bytes.
func base64Of(b []byte) string {
	var out strings.Builder
	e := entity.NewEncoder(&out, entity.Line)
	_, _ = e.Write(b)
	_ = e.Close()
	return out.String()
}

// head is the header of a mail from Alice.
const head = "From: Alice <alice@company1.example>\r\nTo: bob@partner.example\r\nDate: Tue, 24 Nov 2026 11:00:00 +0000\r\nMIME-Version: 1.0\r\n"

// holding is an entity around a CMS message.
func holding(b []byte) string {
	return "Content-Type: application/pkcs7-mime\r\nContent-Transfer-Encoding: base64\r\n\r\n" + base64Of(b)
}

// signing is what the signer of an identity signs with.
func (w *world) signing(id keyring.Identity) cms.SignRequest {
	w.Helper()
	x, err := parse(id.Raw)
	if err != nil {
		w.Fatal(err)
	}
	return cms.SignRequest{Token: w.token, Key: id.KeyIDs[0], Cert: x, At: now}
}

// signed is content in a signature, without anything around it.
func (w *world) signed(content string, r cms.SignRequest) []byte {
	w.Helper()
	var b bytes.Buffer
	if err := cms.SignOpaque(w.Context(), &b, strings.NewReader(content), r); err != nil {
		w.Fatal(err)
	}
	return b.Bytes()
}

// opaque is a mail that Alice signed.
func (w *world) opaque(entity string) *message.Message {
	w.Helper()
	return mail(w, head+holding(w.signed(entity, w.signing(w.alice.signs))))
}

// multipart is an entity with Alice's signature beside it.
func (w *world) multipart(entity string, r cms.SignRequest) string {
	w.Helper()
	var b bytes.Buffer
	if err := cms.SignDetached(w.Context(), &b, strings.NewReader(entity), r); err != nil {
		w.Fatal(err)
	}
	return beside(entity, b.Bytes())
}

func beside(entity string, signature []byte) string {
	return "Content-Type: multipart/signed; protocol=\"application/pkcs7-signature\"; micalg=sha-256; boundary=sig\r\n\r\n--sig\r\n" + entity +
		"\r\n--sig\r\nContent-Type: application/pkcs7-signature\r\nContent-Transfer-Encoding: base64\r\n\r\n" + base64Of(signature) + "--sig--\r\n"
}

// envelope encrypts content for Bob.
func (w *world) envelope(content string, c cms.Cipher, to ...keyring.Identity) []byte {
	w.Helper()
	if to == nil {
		to = []keyring.Identity{w.bob.opens}
	}
	r := cms.SealRequest{Cipher: c}
	for _, id := range to {
		x, err := parse(id.Raw)
		if err != nil {
			w.Fatal(err)
		}
		r.Recipients = append(r.Recipients, x)
	}
	var b bytes.Buffer
	s, err := cms.NewSealer(&b, r)
	if err == nil {
		_, err = io.WriteString(s, content)
	}
	if err == nil {
		err = s.Close()
	}
	if err != nil {
		w.Fatal(err)
	}
	return b.Bytes()
}

// sealed is a mail from Alice around an entity that is encrypted as it stands.
func (w *world) sealed(entity string, c cms.Cipher) *message.Message {
	w.Helper()
	return mail(w, head+holding(w.envelope(entity, c)))
}
