package openpgp

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"postern/filter/keyring"
	"postern/filter/protect"
)

// Whatever armour holds, opening it ends in a mail that was whole, or in the one error.
func FuzzOpen(f *testing.F) {
	token := soft(f)
	alice := newIdentity(f, token, suites[3], "alice@company1.example")
	f.Add(packetsOf(f, print(f, seal(f, token, mail(f, plainMail), &alice, alice.Cert))), true)
	f.Add(crafted{to: alice.Cert, payload: literal(simpleEntity)}.packets(f), true)
	f.Add(crafted{to: alice.Cert, payload: literal(simpleEntity), aead: true}.packets(f), true)
	f.Add(literal(simpleEntity), false)
	f.Add(literal("From: ceo@company1.example\r\nSubject: inner\r\n"+strings.Replace(simpleEntity, "text/plain", "text/plain; hp=cipher", 1)), false)
	f.Add(compressedSeed(f), false)
	f.Add(libreTo(f, alice.Cert, packet.AEADModeOCB, 0, literal(simpleEntity)), true)
	p := New(Config{Token: token, Legacy: true})
	f.Fuzz(func(t *testing.T, data []byte, sealed bool) {
		if !sealed { // data is what was encrypted
			data = crafted{to: alice.Cert, payload: data}.packets(t)
		}
		m, err := parse(spools(t), pgpMIME(t, data))
		if err != nil {
			t.Fatal(err)
		}
		opened, finding, err := p.Open(t.Context(), protect.OpenRequest{Message: m, Identities: []keyring.Identity{alice}, Certs: []keyring.Cert{alice.Cert}, At: now, NewSpool: spools(t)})
		if err != nil {
			if opened != nil || finding.Opened || finding.Good || err != protect.ErrCannotOpen {
				t.Fatalf("got %v, %+v, %v", opened, finding, err)
			}
			return
		}
		if opened == nil || !finding.Opened {
			t.Fatalf("got %v, %+v", opened, finding)
		}
		for _, name := range []string{"From", "To", "Subject", "MIME-Version"} {
			if n := opened.Count(name); n > 1 || n == 0 && name == "From" {
				t.Fatalf("%d times %s in %q", n, name, print(t, opened))
			}
		}
		text := print(t, opened)
		if strings.Contains(strings.ReplaceAll(text, "\r\n", ""), "\n") || strings.Contains(text, "\x00") {
			t.Fatalf("line ends of %q", text)
		}
	})
}

func compressedSeed(f *testing.F) []byte { return compressed(f, 2, literal(simpleEntity)) }

// What Read gives can be read again, and is the same.
func FuzzRead(f *testing.F) {
	token := soft(f)
	for _, s := range []suiteUnderTest{suites[3], suites[6], suites[11]} {
		id := newIdentity(f, token, s, "alice@company1.example")
		f.Add(id.Raw)
		f.Add([]byte(armored(f, id.Cert)))
	}
	p := New(Config{Token: token})
	f.Fuzz(func(t *testing.T, data []byte) {
		certs, err := Read(data)
		if err != nil {
			if !errors.Is(err, ErrCert) && !errors.Is(err, ErrCertLimit) && !errors.Is(err, ErrSecret) {
				t.Fatalf("got %v", err)
			}
			return
		}
		for _, c := range certs {
			again, err := Read(c.Raw)
			if err != nil || len(again) != 1 || again[0].Fingerprint != c.Fingerprint || len(again[0].KeyIDs) != len(c.KeyIDs) || !again[0].Expires.Equal(c.Expires) {
				t.Fatalf("again: got %+v, %v, want %+v", again, err, c)
			}
			_ = p.Usable(c, now)
			text, err := Describe(c)
			if err != nil || strings.ContainsFunc(strings.ReplaceAll(text, "\n", ""), func(r rune) bool { return r < 0x20 }) {
				t.Fatalf("describe: got %q, %v", text, err)
			}
		}
	})
}

// Whatever claims to be armour gives bytes that survive being armoured again,
// or an error: the same each time, however it is read.
func FuzzUnarmor(f *testing.F) {
	for _, s := range []string{armour(f, labelMessage, []byte("packets")), armour(f, labelMessage, nil), armour(f, labelMessage, make([]byte, 200)),
		crlf("-----BEGIN PGP MESSAGE-----\nVersion: x\nCharset: utf-8\n\nwcBM\n=AAAA\n-----END PGP MESSAGE-----\n"), "-----BEGIN PGP MESSAGE-----\n\nwcBM", "wcBM"} {
		f.Add([]byte(s))
	}
	read := func(r io.Reader) ([]byte, error) {
		a, err := newUnarmor(r, labelMessage)
		if err != nil {
			return nil, err
		}
		return io.ReadAll(a)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		packets, err := read(bytes.NewReader(text))
		pieces, err2 := read(iotest.OneByteReader(bytes.NewReader(text)))
		if !bytes.Equal(packets, pieces) || (err == nil) != (err2 == nil) {
			t.Fatalf("got %x, %v at once, %x, %v by bytes", packets, err, pieces, err2)
		}
		if len(packets) > len(text) {
			t.Fatalf("got %d bytes out of %d", len(packets), len(text))
		}
		if err != nil {
			return
		}
		again, err := read(strings.NewReader(armour(t, labelMessage, packets)))
		if err != nil || !bytes.Equal(again, packets) {
			t.Fatalf("got %x, %v, want %x", again, err, packets)
		}
	})
}

// Whatever a mail looks like, only the words that Alice has signed are hers.
func FuzzMail(f *testing.F) {
	token := soft(f)
	alice := newIdentity(f, token, suites[3], "alice@company1.example")
	signed := print(f, seal(f, token, mail(f, plainMail), &alice))
	f.Add([]byte(signed))
	f.Add([]byte(print(f, seal(f, token, mail(f, plainMail), &alice, alice.Cert))))
	f.Add([]byte(crlf("Content-Type: text/plain\n\n-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nx\n-----BEGIN PGP SIGNATURE-----\n\nwcBM\n-----END PGP SIGNATURE-----\n")))
	p := New(Config{Token: token})
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parse(spools(t), string(data))
		if err != nil {
			return
		}
		layer := p.Detect(m)
		opened, finding, err := p.Open(t.Context(), protect.OpenRequest{Message: m, Identities: []keyring.Identity{alice}, Certs: []keyring.Cert{alice.Cert}, At: now, NewSpool: spools(t)})
		if err != nil {
			if err != protect.ErrCannotOpen || layer != protect.Sealed || opened != nil {
				t.Fatalf("layer %d: got %v, %+v, %v", layer, opened, finding, err)
			}
			return
		}
		if finding.Opened != (layer == protect.Sealed) {
			t.Fatalf("layer %d: got %+v", layer, finding)
		}
		if finding.Good && layer == protect.Signed {
			if part := m.Root.Parts[0]; !strings.Contains(signed, string(data[part.Body.Start:part.Body.End])) {
				t.Fatalf("got %+v for %q", finding, data[part.Whole.Start:part.Whole.End])
			}
		}
	})
}
