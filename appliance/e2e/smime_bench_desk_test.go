package e2e

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"postern/filter/chain"
	"postern/filter/cms"
	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/protect"
	"postern/filter/smime"
	"postern/hsm"
	"postern/hsm/hsmtest"
	"postern/hsm/keyd"
)

// cmsDesk is a folder with what is opened and sealed, and both who do it: the
// keys are in files for OpenSSL, and in a token in memory for us.
type cmsDesk struct {
	t                testing.TB
	dir              string
	token            *stopwatch
	smime            *smime.Protector
	signs, opens     *x509.Certificate
	signsID, opensID hsm.KeyID
	signer, reader   keyring.Identity
	spools           []*message.Spool // of the mail that is being worked on
}

// newCMSDesk prepares a folder for a content of so many bytes. What is to be
// read of CMS was made by OpenSSL, and the mails by us.
func newCMSDesk(b *testing.B, size int) *cmsDesk {
	b.Helper()
	dir := folder(b)
	put := func(name, kind string, der []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	ca := newAuthority(b, "Bench CA")
	put("ca.pem", "CERTIFICATE", ca.cert.Raw)
	for i, half := range []struct {
		name, address string
		use           hsm.Usage
	}{{"signs", alice, hsm.Sign}, {"opens", bob, hsm.Unwrap}} {
		key := newKey(b, hsm.RSA3072, i)
		put(half.name+".pem", "CERTIFICATE", ca.issue(public(key), half.name, half.address, half.use).Raw)
		put(half.name+".key", "PRIVATE KEY", pkcs8(b, key))
	}
	content := "Content-Type: text/plain\r\n\r\n" + filler("bench", size) + "\r\n"
	mail := "From: Alice <" + alice + ">\r\nTo: " + bob + "\r\nSubject: bench\r\nDate: " + time.Now().Format(time.RFC1123Z) + "\r\nMessage-ID: <1@bench.example>\r\nMIME-Version: 1.0\r\n" + content
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "content"), []byte(content), 0o600), os.WriteFile(filepath.Join(dir, "plain.eml"), []byte(mail), 0o600)); err != nil {
		b.Fatal(err)
	}
	d := loadCMSDesk(b, dir)
	must(b, nil, "openssl", "cms", "-binary", "-encrypt", "-aes-256-cbc", "-outform", "DER", "-in", d.path("content"), "-out", d.path("cbc.der"), d.path("opens.pem"))
	must(b, nil, "openssl", "cms", "-binary", "-encrypt", "-aes-256-gcm", "-outform", "DER", "-in", d.path("content"), "-out", d.path("gcm.der"), d.path("opens.pem"))
	must(b, nil, "openssl", "cms", "-binary", "-sign", "-nodetach", "-outform", "DER", "-in", d.path("content"), "-out", d.path("opaque.der"), "-signer", d.path("signs.pem"), "-inkey", d.path("signs.key"))
	for _, m := range []struct {
		name         string
		signed, seal bool
		cipher       string
	}{{"cbc.eml", false, true, "aes-256-cbc"}, {"gcm.eml", false, true, "aes-256-gcm"}, {"both.eml", true, true, "aes-256-cbc"}, {"signed.eml", true, false, ""}} {
		if err := d.through(d.path("plain.eml"), d.path(m.name), new(cost), d.sealer(m.signed, m.seal, m.cipher)); err != nil {
			b.Fatalf("make %s: %v", m.name, err)
		}
	}
	for file, do := range map[string]func(io.Reader, io.Writer) error{"cbc.der": d.openCMS, "gcm.der": d.openCMS, "opaque.der": d.verifyCMS} {
		var got bytes.Buffer
		if err := do(bytes.NewReader([]byte(contents(b, d.path(file)))), &got); err != nil || got.String() != content {
			b.Fatalf("%s: got %v, or other bytes", file, err)
		}
	}
	return d
}

// loadCMSDesk takes the keys and certificates of a folder.
func loadCMSDesk(t testing.TB, dir string) *cmsDesk {
	t.Helper()
	d := &cmsDesk{t: t, dir: dir}
	take := func(name string) []byte {
		block, _ := pem.Decode([]byte(contents(t, d.path(name))))
		if block == nil {
			t.Fatalf("%s is not PEM", name)
		}
		return block.Bytes
	}
	cert := func(name string) *x509.Certificate {
		c, err := x509.ParseCertificate(take(name))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	d.signs, d.opens = cert("signs.pem"), cert("opens.pem")
	soft := hsmtest.NewSoft()
	put := func(name string, use hsm.Usage) hsm.KeyID {
		private, err := x509.ParsePKCS8PrivateKey(take(name))
		if err != nil {
			t.Fatal(err)
		}
		key, err := soft.Put("smime/"+name, use, hsm.Resident, crypto.PrivateKey(private))
		if err != nil {
			t.Fatal(err)
		}
		return key.ID
	}
	d.signsID, d.opensID = put("signs.key", hsm.Sign), put("opens.key", hsm.Unwrap)
	if err := os.WriteFile(d.path("pin"), []byte(hsmtest.SoftPIN+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	k, err := keyd.New(keyd.Config{Device: soft, PINFile: d.path("pin"), Log: quiet, Audit: quiet, Budget: keyd.Budget{Failures: -1, Rate: -1}, Version: "bench"})
	if err == nil {
		err = k.Start(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.Close() })
	d.token = &stopwatch{Token: k}
	judge, err := chain.New(chain.Config{Anchors: []chain.Anchor{{Cert: cert("ca.pem"), Own: true}}, Mode: chain.Off})
	if err != nil {
		t.Fatal(err)
	}
	d.smime = smime.New(smime.Config{Token: d.token, Judge: judge})
	d.signer, d.reader = keyring.Identity{Cert: held(t, d.signs), Domain: "company1.example"}, keyring.Identity{Cert: held(t, d.opens), Domain: "partner.example"}
	return d
}

func (d *cmsDesk) path(name string) string { return filepath.Join(d.dir, name) }

// spool is one as the gateway has it, but for the size that it may reach:
// base64 in base64 makes more of 50 MiB than is taken by default.
func (d *cmsDesk) spool() *message.Spool {
	s := (&message.Spools{Max: 4 * message.DefaultMax, Dir: d.dir}).New()
	d.spools = append(d.spools, s)
	return s
}

// through brings the mail of a file into a spool, does something with it, and
// writes what it gives to another file. What the middle costs is added to inside.
func (d *cmsDesk) through(in, out string, inside *cost, do func(*message.Message) (*message.Message, error)) error {
	defer func() {
		for _, s := range d.spools {
			_ = s.Close()
		}
		d.spools = nil
	}()
	return fromTo(in, out, func(r io.Reader, w io.Writer) error {
		s := d.spool()
		if _, err := message.Copy(s, r); err != nil {
			return err
		}
		m, err := message.Parse(s, message.Limits{})
		if err != nil {
			return err
		}
		c, err := costOf(syscall.RUSAGE_SELF, func() (err error) {
			m, err = do(m)
			return err
		})
		*inside = inside.plus(c)
		if err != nil {
			return err
		}
		_, err = m.WriteTo(w)
		return err
	})
}

// opener opens as the gateway does, and holds that the mail was what is measured.
func (d *cmsDesk) opener(sealed, signed bool) func(*message.Message) (*message.Message, error) {
	return func(m *message.Message) (*message.Message, error) {
		m, f, err := d.smime.Open(d.t.Context(), protect.OpenRequest{Message: m, Identities: []keyring.Identity{d.reader}, At: time.Now(), NewSpool: d.spool})
		if err == nil && (f.Opened != sealed || f.Good != signed) {
			err = fmt.Errorf("opened %v, good %v (%s)", f.Opened, f.Good, f.Reason)
		}
		return m, err
	}
}

// sealer seals as the gateway does.
func (d *cmsDesk) sealer(signed, sealed bool, cipher string) func(*message.Message) (*message.Message, error) {
	return func(m *message.Message) (*message.Message, error) {
		r := protect.SealRequest{Message: m, At: time.Now(), NewSpool: d.spool, Style: protect.Style{Cipher: cipher}}
		if signed {
			r.Signer = &d.signer
		}
		if sealed {
			r.Recipients = []keyring.Cert{d.reader.Cert}
		}
		return d.smime.Seal(d.t.Context(), r)
	}
}

// openCMS decrypts as every user of filter/cms does.
func (d *cmsDesk) openCMS(r io.Reader, w io.Writer) error {
	e, err := cms.ReadEnvelope(r)
	if err != nil {
		return err
	}
	for _, to := range e.Recipients {
		if to.Names(d.opens) {
			key, err := d.token.Unwrap(d.t.Context(), d.opensID, to.Wrapped)
			if err != nil {
				return err
			}
			return e.Decrypt(key.Key, w)
		}
	}
	return errors.New("sealed to somebody else")
}

func (d *cmsDesk) verifyCMS(r io.Reader, w io.Writer) error {
	s, err := cms.ReadSigned(r, w)
	if err != nil {
		return err
	}
	return s.Signers[0].Verify(d.signs)
}

func (d *cmsDesk) sealCMS(c cms.Cipher) func(r io.Reader, w io.Writer) error {
	return func(r io.Reader, w io.Writer) error {
		s, err := cms.NewSealer(w, cms.SealRequest{Recipients: []*x509.Certificate{d.opens}, Cipher: c})
		if err != nil {
			return err
		}
		if _, err := message.Copy(s, r); err != nil {
			return err
		}
		return s.Close()
	}
}

func (d *cmsDesk) signCMS(r io.Reader, w io.Writer) error {
	can, err := cms.Readable()
	if err != nil {
		return err
	}
	return cms.SignDetached(d.t.Context(), w, r, cms.SignRequest{Token: d.token, Key: d.signsID, Cert: d.signs, Capabilities: can, At: time.Now()})
}

// fromTo does something with the contents of a file, into another one.
func fromTo(in, out string, do func(io.Reader, io.Writer) error) error {
	r, err := os.Open(in)
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := os.Create(out)
	if err != nil {
		return err
	}
	return errors.Join(do(r, w), w.Close())
}
