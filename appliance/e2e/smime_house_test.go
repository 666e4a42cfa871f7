package e2e

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"postern/filter/chain"
	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/message/messagetest"
	"postern/filter/protect"
	"postern/filter/smime"
	"postern/hsm"
	"postern/hsm/hsmtest"
	"postern/hsm/module"
)

// house is the gateway's side of the matrix: a Protector whose keys are in a
// token behind the key daemon, in this process.
type house struct {
	t     testing.TB
	smime *smime.Protector
	signs map[hsm.Algorithm]keyring.Identity
	opens map[hsm.Algorithm]keyring.Identity
	them  *partner
}

// newHouse makes a key in the token for each algorithm, and a certificate for it.
func newHouse(t testing.TB, f *hsmtest.Fixture, imported bool, ca *authority, them *partner, signs, opens []hsm.Algorithm) *house {
	t.Helper()
	device, err := module.New(module.Config{Module: f.Module, Token: f.Label, Reserved: f.Reserved, AllowImported: imported})
	if err != nil {
		t.Fatal(err)
	}
	keep, use := hsmtest.NewDaemon(t, device, f.PIN).Open()
	judge, err := chain.New(chain.Config{Anchors: []chain.Anchor{{Cert: ca.cert, Own: true}}, Mode: chain.Off})
	if err != nil {
		t.Fatal(err)
	}
	h := &house{t: t, them: them, signs: map[hsm.Algorithm]keyring.Identity{}, opens: map[hsm.Algorithm]keyring.Identity{}}
	h.smime = smime.New(smime.Config{Token: use, Judge: judge, Legacy: true})
	for _, half := range []struct {
		usage hsm.Usage
		algs  []hsm.Algorithm
		into  map[hsm.Algorithm]keyring.Identity
	}{{hsm.Sign, signs, h.signs}, {hsm.Unwrap, opens, h.opens}} {
		for _, a := range half.algs {
			key, err := keep.Generate(t.Context(), hsm.KeySpec{Algorithm: a, Usage: half.usage, Label: "smime/" + half.usage.String() + "/" + string(a)})
			if err != nil {
				t.Fatalf("%s to %s: %v", a, half.usage, err)
			}
			id := keyring.Identity{Cert: held(t, ca.issue(key.Public, "Alice "+half.usage.String()+" "+string(a), alice, half.usage)), Domain: "company1.example"}
			half.into[a] = id
		}
	}
	return h
}

// held is the entry of the keyring for a certificate.
func held(t testing.TB, c *x509.Certificate) keyring.Cert {
	t.Helper()
	certs, err := smime.Read(c.Raw)
	if err != nil || len(certs) != 1 {
		t.Fatalf("read certificate: %d, %v", len(certs), err)
	}
	certs[0].Trust = keyring.Trusted
	return certs[0]
}

// reader is the certificate that mail to the gateway is sealed to.
func (h *house) reader(w way) *x509.Certificate {
	h.t.Helper()
	if w.seal == nil {
		return nil
	}
	id, ok := h.opens[w.seal.to]
	if !ok {
		h.t.Fatalf("the gateway has no key of %s", w.seal.to)
	}
	c, err := x509.ParseCertificate(id.Raw)
	if err != nil {
		h.t.Fatal(err)
	}
	return c
}

func (h *house) spool() *message.Spool { return messagetest.Spools(h.t)() }

// receive opens and verifies a mail of the partner's.
func (h *house) receive(w way, mail []byte) error {
	m, err := messagetest.Read(h.spool, string(mail))
	if err != nil {
		return err
	}
	r := protect.OpenRequest{Message: m, At: time.Now(), NewSpool: h.spool}
	want := protect.Signed
	if w.seal != nil {
		r.Identities, want = []keyring.Identity{h.opens[w.seal.to]}, protect.Sealed
	}
	if layer := h.smime.Detect(m); layer != want {
		return fmt.Errorf("detected %d, want %d", layer, want)
	}
	m, f, err := h.smime.Open(h.t.Context(), r)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if _, err := m.WriteTo(&b); err != nil {
		return err
	}
	switch {
	case f.Opened != (w.seal != nil):
		return fmt.Errorf("opened: got %v", f.Opened)
	case f.Signed != (w.sign != nil) || f.Good != f.Signed:
		return fmt.Errorf("signed: got %v, good %v, reason %s", f.Signed, f.Good, f.Reason)
	case f.Good && (len(f.Signers) != 1 || f.Signers[0].String() != h.them.address):
		return fmt.Errorf("signers: got %v", f.Signers)
	case (w.seal != nil || !w.sign.opaque) && !strings.Contains(b.String(), secret):
		return errors.New("the text is not in the mail")
	}
	return nil
}

// styles are the ciphers that a rule can ask for (protect.Style). Others are
// read only.
var styles = []string{"aes-128-cbc", "aes-192-cbc", "aes-256-cbc", "aes-128-gcm", "aes-256-gcm"}

// errNotSent says that the gateway never protects mail in this way.
var errNotSent = errors.New("not sent")

// send seals a mail to the partner, in the style that the way asks for.
func (h *house) send(w way) ([]byte, error) {
	m, err := messagetest.Read(h.spool, header(alice, h.them.address)+offer)
	if err != nil {
		return nil, err
	}
	r := protect.SealRequest{Message: m, At: time.Now(), NewSpool: h.spool}
	for _, id := range h.opens {
		r.Own = append(r.Own, id)
	}
	if w.sign != nil {
		id := h.signs[w.sign.by]
		r.Signer, r.Style.PSS = &id, w.sign.pss
	}
	if w.seal != nil {
		if !slices.Contains(styles, w.seal.cipher) {
			return nil, errNotSent
		}
		r.Recipients = []keyring.Cert{held(h.t, h.them.opens[w.seal.to].cert)}
		r.Style.Cipher, r.Style.OAEP = w.seal.cipher, w.seal.wrap == "oaep"
	}
	sealed, err := h.smime.Seal(h.t.Context(), r)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if _, err := sealed.WriteTo(&b); err != nil {
		return nil, err
	}
	return b.Bytes(), h.sent(w, b.Bytes())
}

// sent tells whether the outer layer is what the way asks for. An inner one
// shows itself when the partner verifies it.
func (h *house) sent(w way, mail []byte) error {
	var err error
	var b []byte
	switch {
	case w.seal != nil:
		if b, _, err = unpacked(mail, false); err == nil {
			err = w.seal.check(b, h.them.opens[w.seal.to].cert)
		}
	default:
		if b, _, err = unpacked(mail, !w.sign.opaque); err == nil {
			var c *x509.Certificate
			if c, err = x509.ParseCertificate(h.signs[w.sign.by].Raw); err == nil {
				err = w.sign.check(b, c)
			}
		}
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errNotSent, err)
	}
	return nil
}
