package smime

import (
	"bytes"
	"testing"

	"postern/filter/cms"
	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/protect"
)

// Whatever a mail is made of: it opens, or there is the one error; what is
// called good was signed by Alice; and one token operation is the most.
func FuzzOpen(f *testing.F) {
	w := newWorld(f, ecPair)
	alice := w.signing(w.alice.signs)
	for _, entity := range []string{
		w.multipart(textEntity, alice), holding(w.signed(textEntity, alice)), holding(w.envelope(textEntity, cms.AES128CBC)), holding(w.envelope(htmlEntity, cms.AES128CBC)),
		holding(w.envelope(holding(w.signed(textEntity, alice)), cms.AES256GCM)), w.multipart(holding(w.envelope(w.multipart(textEntity, alice), cms.AES256CBC)), alice),
		holding(w.envelope(string("Content-Type: application/pkcs7-mime\r\n\r\n"+string(w.signed(textEntity, alice))), cms.AES256GCM)),
	} {
		f.Add([]byte(head + entity))
	}
	p := New(w.config)
	made := (&message.Spools{Memory: 16 << 20, Max: 16 << 20}).New
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := message.Parse(bytes.NewReader(text), message.Limits{})
		if err != nil {
			t.Skip()
		}
		layer := p.Detect(m)
		before := w.counted.Unwraps()
		opened, got, err := p.Open(t.Context(), protect.OpenRequest{Message: m, Identities: w.ids, At: now, NewSpool: made})
		if n := w.counted.Unwraps() - before; n > 1 {
			t.Errorf("%d token operations", n)
		}
		switch {
		case err != nil && (err != protect.ErrCannotOpen || opened != nil || got.Opened || got.Good || layer != protect.Sealed):
			t.Errorf("layer %d: got %+v, %v", layer, got, err)
		case err == nil && got.Opened != (layer == protect.Sealed):
			t.Errorf("layer %d: got %+v", layer, got)
		case got.Good && (got.Reason != protect.ReasonGood || len(got.Signers) != 1 || got.Signers[0] != w.alice.signs.Address || got.Signer != w.alice.signs.Fingerprint):
			t.Errorf("got %+v", got)
		case !got.Good && (got.Reason == protect.ReasonGood || got.Signers != nil || got.Brought != nil):
			t.Errorf("got %+v", got)
		}
		if opened != nil {
			if _, err := opened.WriteTo(new(bytes.Buffer)); err != nil {
				t.Error(err)
			}
		}
	})
}

// What Read reads it reads again from its own bytes, to the same.
func FuzzRead(f *testing.F) {
	w := newWorld(f, ecPair)
	f.Add(w.alice.signs.Raw)
	f.Add(pemOf("CERTIFICATE", w.alice.signs.Raw, w.ca.cert.Raw))
	f.Add(bundled(f, w.ca.cert))
	p := New(w.config)
	f.Fuzz(func(t *testing.T, data []byte) {
		certs, err := Read(data)
		if err != nil && certs != nil {
			t.Errorf("got certificates, and %v", err)
		}
		for _, c := range certs {
			again, err := Read(c.Raw)
			if err != nil || len(again) != 1 || again[0].Fingerprint != c.Fingerprint || len(c.KeyIDs) > 1 {
				t.Errorf("got %+v, %v, want %+v", again, err, c)
			}
			_ = p.Usable(c, now)
			_ = p.Signs(keyring.Identity{Cert: c}, now)
			_ = p.Class(c)
		}
	})
}
