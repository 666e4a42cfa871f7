package e2e

import (
	"crypto"
	"strings"
	"testing"

	"postern/hsm"
	"postern/hsm/hsmtest"
)

// OpenSSL also writes and reads whole mails, in a MIME of its own: old types,
// a preamble, line ends as they come. The gateway reads them and OpenSSL reads
// the gateway's, headers and all.
func TestOpenSSLMails(t *testing.T) {
	ca := newAuthority(t, "Postern Test CA")
	them := newPartner(t, ca, "bob@partner.example")
	h := newHouse(t, hsmtest.SoftHSM(t), false, ca, them, []hsm.Algorithm{hsm.P256}, []hsm.Algorithm{hsm.RSA2048})
	o := newOpenSSL(t, them).(*opensslCMS)
	signer, reader := them.signs[hsm.P256], them.opens[hsm.RSA2048]
	header := []string{"-from", them.address, "-to", alice, "-subject", "offer"}
	cms := func(in []byte, args ...string) []byte {
		t.Helper()
		return must(t, nil, "openssl", append([]string{"cms", "-in", o.keep(in)}, args...)...)
	}
	sign := func(more ...string) []byte {
		return cms([]byte(offer), append([]string{"-sign", "-signer", o.certs[signer.cert], "-inkey", o.keys[signer.cert]}, more...)...)
	}
	seal := func(in []byte) []byte {
		to := h.reader(way{seal: &sealing{to: hsm.RSA2048}})
		return cms(in, append(append([]string{"-encrypt", "-aes256"}, header...), o.cert(to))...)
	}
	signed, sealed := &signing{by: hsm.P256, hash: crypto.SHA256}, &sealing{to: hsm.RSA2048, cipher: "aes-256-cbc", wrap: "pkcs1"}
	opaque := *signed
	opaque.opaque = true
	for _, c := range []struct {
		name string
		way  way
		mail []byte
	}{
		{"detached", way{sign: signed}, sign(header...)},
		{"opaque", way{sign: &opaque}, sign(append(header, "-nodetach")...)},
		{"sealed", way{seal: sealed}, seal([]byte(offer))},
		{"detached and sealed", way{seal: sealed, sign: signed}, seal(sign())},
		{"opaque and sealed", way{seal: sealed, sign: &opaque}, seal(sign("-nodetach"))},
	} {
		if err := h.receive(c.way, crlf(c.mail)); err != nil {
			t.Errorf("%s: %v:\n%s", c.name, err, c.mail)
		}
	}

	both := way{seal: sealed, sign: signed}
	mail, err := h.send(both)
	if err != nil {
		t.Fatal(err)
	}
	entity := cms(mail, "-decrypt", "-recip", o.certs[reader.cert], "-inkey", o.keys[reader.cert])
	if text := cms(entity, "-verify", "-CAfile", o.ca, "-signer", o.fresh()); !strings.Contains(string(text), secret) {
		t.Errorf("sealed: OpenSSL reads %q", text)
	}
	if mail, err = h.send(way{sign: signed}); err != nil {
		t.Fatal(err)
	}
	who := o.fresh()
	if text := cms(mail, "-verify", "-CAfile", o.ca, "-signer", who); !strings.Contains(string(text), secret) {
		t.Errorf("signed: OpenSSL reads %q", text)
	}
	if names := must(t, nil, "openssl", "x509", "-in", who, "-noout", "-email"); strings.TrimSpace(string(names)) != alice {
		t.Errorf("signer: got %q, want %q", names, alice)
	}
}
