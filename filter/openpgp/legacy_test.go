package openpgp

import (
	"bytes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/eax"
	"github.com/ProtonMail/go-crypto/ocb"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"postern/filter/keyring"
	"postern/filter/protect"
	"postern/hsm"
	"postern/hsm/hsmtest"
)

// libre is LibrePGP's OCB packet, version 1, around a payload.
func libre(t testing.TB, key []byte, mode packet.AEADMode, chunkBits byte, payload []byte) []byte {
	t.Helper()
	block := newBlock(packet.CipherAES256, key, false)
	var aead cipher.AEAD
	var err error
	if mode == packet.AEADModeEAX {
		aead, err = eax.NewEAX(block)
	} else {
		aead, err = ocb.NewOCB(block)
	}
	if err != nil {
		t.Fatal(err)
	}
	head := []byte{1, byte(packet.CipherAES256), byte(mode), chunkBits}
	iv := make([]byte, mode.IvLength())
	rand.Read(iv)
	prefix := append([]byte{0xd4}, head...)
	nonce := func(i uint64) []byte {
		n := bytes.Clone(iv)
		binary.BigEndian.PutUint64(n[len(n)-8:], binary.BigEndian.Uint64(n[len(n)-8:])^i)
		return n
	}
	body := append(head, iv...)
	var index uint64
	for rest := payload; len(rest) > 0; index++ {
		n := len(rest)
		if chunkBits < 30 {
			n = min(n, 1<<(chunkBits+6))
		}
		body = aead.Seal(body, nonce(index), rest[:n], binary.BigEndian.AppendUint64(bytes.Clone(prefix), index))
		rest = rest[n:]
	}
	last := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(bytes.Clone(prefix), index), uint64(len(payload)))
	return appendPacket(nil, tagLibreAEAD, aead.Seal(body, nonce(index), nil, last))
}

// libreTo is a message with that packet for a certificate.
func libreTo(t testing.TB, to keyring.Cert, mode packet.AEADMode, chunkBits byte, payload []byte) []byte {
	t.Helper()
	r, err := recipientOf(to, now)
	if err != nil {
		t.Fatal(err)
	}
	key := make([]byte, 32)
	rand.Read(key)
	var b bytes.Buffer
	if err := packet.SerializeEncryptedKeyAEAD(&b, r.key, packet.CipherAES256, false, key, config); err != nil {
		t.Fatal(err)
	}
	return append(b.Bytes(), libre(t, key, mode, chunkBits, payload)...)
}

// Old ciphers and LibrePGP's packet open behind the switch only, and what was
// signed inside is never believed.
func TestLegacy(t *testing.T) {
	token := soft(t)
	alice := newIdentity(t, token, suites[1], "alice@company1.example")
	g := newGnuPG(t)
	g.run("", "--quick-gen-key", "Bob <bob@partner.example>", "ed25519", "sign", "never")
	bob := imported(t, g.run("", "--armor", "--export"))
	g.run(armored(t, alice.Cert), "--import")
	signed := g.run(simpleEntity, "--compress-algo", "none", "--sign", "-u", "bob")
	messages := map[string]string{
		"EAX packet":                     pgpMIME(t, libreTo(t, alice.Cert, packet.AEADModeEAX, 0, []byte(signed))),
		"OCB packet":                     pgpMIME(t, libreTo(t, alice.Cert, packet.AEADModeOCB, 16, []byte(signed))),
		"OCB packet of one endless part": pgpMIME(t, libreTo(t, alice.Cert, packet.AEADModeOCB, 56, []byte(signed))),
	}
	var allow []string // gpg 2.4 wants to be asked twice
	if option := "--allow-old-cipher-algos"; strings.Contains(g.run("", "--dump-options"), option) {
		allow = []string{option}
	}
	for _, name := range []string{"IDEA", "3DES", "CAST5", "BLOWFISH", "TWOFISH"} {
		messages[name] = pgpMIMEText(g.run(simpleEntity, append(allow, "--cipher-algo", name, "--armor", "--sign", "--encrypt", "-u", "bob", "-r", alice.Fingerprint)...))
	}
	for name, text := range messages {
		for _, legacy := range []bool{false, true} {
			counted := hsmtest.Count(token)
			p := New(Config{Token: counted, Legacy: legacy})
			m, f, err := p.Open(t.Context(), protect.OpenRequest{Message: mail(t, text), Identities: []keyring.Identity{alice}, Certs: []keyring.Cert{bob}, At: now, NewSpool: spools(t)})
			if !legacy {
				if err != protect.ErrCannotOpen || m != nil {
					t.Errorf("%s: got %v, %v without the switch", name, m, err)
				}
				continue
			}
			if err != nil || !f.Opened || !f.Signed || f.Good || f.Reason != protect.ReasonWeak || f.Signer != "" || f.Signers != nil {
				t.Errorf("%s: got %+v, %v, want %s", name, f, err, protect.ReasonWeak)
				continue
			}
			if got := print(t, m); !strings.HasSuffix(got, "\r\n\r\nhello\r\n") {
				t.Errorf("%s: got\n%s", name, got)
			}
			if counted.Unwraps() != 1 {
				t.Errorf("%s: %d token operations, want 1", name, counted.Unwraps())
			}
		}
	}
	// GnuPG reads what is made here, so that the same mistake is not made twice.
	g.run("", "--quick-gen-key", "Carol <carol@partner.example>", "rsa2048", "encrypt,sign", "never")
	carol := imported(t, g.run("", "--armor", "--export", "carol"))
	if out, status, err := g.try(string(libreTo(t, carol, packet.AEADModeOCB, 0, literal(strings.Repeat(simpleEntity, 9)))), "--decrypt"); err != nil || out != strings.Repeat(simpleEntity, 9) {
		t.Errorf("gpg: got %q, %v\n%s", out, err, status)
	}
}

// LibrePGP's packet is whole or it is nothing, at every length around the borders of chunks.
func TestLibre(t *testing.T) {
	key := make([]byte, 32)
	rand.Read(key)
	open := func(packets []byte) ([]byte, error) {
		d, err := readData(bytes.NewReader(packets), true)
		if err != nil {
			return nil, err
		}
		var payload []byte
		err = d.decrypt(hsm.SessionKey{Cipher: 9, Key: key}, collect(&payload))
		return payload, err
	}
	for _, mode := range []packet.AEADMode{packet.AEADModeEAX, packet.AEADModeOCB} {
		for _, n := range []int{0, 1, 63, 64, 65, 127, 128, 129, 1000} {
			want := make([]byte, n)
			rand.Read(want)
			whole := libre(t, key, mode, 0, want)
			if got, err := open(whole); err != nil || !bytes.Equal(got, want) {
				t.Errorf("mode %d, %d bytes: got %d bytes, %v", mode, n, len(got), err)
			}
			content := contentOf(t, whole)
			for i := range content {
				broken := bytes.Clone(content)
				broken[i] ^= 1
				if _, err := open(appendPacket(nil, tagLibreAEAD, broken)); err == nil {
					t.Errorf("mode %d, %d bytes, byte %d changed: it opens", mode, n, i)
				}
				if _, err := open(appendPacket(nil, tagLibreAEAD, content[:i])); err == nil {
					t.Errorf("mode %d, %d bytes, cut at %d: it opens", mode, n, i)
				}
			}
			if n > 128 { // chunks in another order
				broken := bytes.Clone(content)
				at := 4 + mode.IvLength()
				copy(broken[at:], content[at+80:at+160])
				copy(broken[at+80:], content[at:at+80])
				if _, err := open(appendPacket(nil, tagLibreAEAD, broken)); err == nil {
					t.Errorf("mode %d, %d bytes: chunks in another order open", mode, n)
				}
			}
		}
	}
	// A chunk that would have to be held whole is refused before it is.
	if _, err := open(libre(t, key, packet.AEADModeOCB, 30, make([]byte, 5<<20))); err == nil {
		t.Error("a chunk of 5 MiB opens")
	}
	big := make([]byte, 9<<20)
	if got, err := open(libre(t, key, packet.AEADModeOCB, 16, big)); err != nil || len(got) != len(big) {
		t.Errorf("chunks of 4 MiB: got %d bytes, %v", len(got), err)
	}
}
