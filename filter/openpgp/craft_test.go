package openpgp

import (
	"bytes"
	"compress/flate"
	"compress/zlib"
	"crypto/rand"
	"io"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"postern/filter/keyring"
	"postern/hsm"
)

// pgpMIME puts packets into a multipart/encrypted mail.
func pgpMIME(t testing.TB, packets []byte) string {
	t.Helper()
	return pgpMIMEText(armour(t, labelMessage, packets))
}

// armour puts packets into armour.
func armour(t testing.TB, label string, packets []byte) string {
	t.Helper()
	var b bytes.Buffer
	a, err := newArmorer(&b, label, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Write(packets); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// pgpMIMEText puts armour into a multipart/encrypted mail.
func pgpMIMEText(armour string) string {
	return crlf("From: Alice <alice@company1.example>\nTo: bob@partner.example\nSubject: s\nMIME-Version: 1.0\n" +
		"Content-Type: multipart/encrypted; protocol=\"application/pgp-encrypted\"; boundary=b\n\n" +
		"--b\nContent-Type: application/pgp-encrypted\n\nVersion: 1\n\n" +
		"--b\nContent-Type: application/octet-stream\n\n" + strings.ReplaceAll(armour, "\r\n", "\n") + "\n--b--\n")
}

// packetsOf takes the packets out of a sealed mail.
func packetsOf(t testing.TB, text string) []byte {
	t.Helper()
	from, to := strings.Index(text, "-----BEGIN PGP MESSAGE-----"), strings.Index(text, "-----END PGP MESSAGE-----")
	if from < 0 || to < 0 {
		t.Fatalf("no armour in\n%.1000s", text)
	}
	a, err := newUnarmor(strings.NewReader(text[from:to]+"-----END PGP MESSAGE-----\r\n"), labelMessage)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(a)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// crafted is a message made to be wrong in one point.
type crafted struct {
	to      keyring.Cert
	payload []byte
	aead    bool
	hidden  bool   // the session key names nobody
	keys    int    // session keys, 1 by default
	session []byte // its session key, of AES-256; random by default
	data    []byte // instead of the encrypted data
	tail    []byte // behind it
}

func (c crafted) packets(t testing.TB) []byte {
	t.Helper()
	r, err := recipientOf(c.to, now)
	if err != nil {
		t.Fatal(err)
	}
	key := c.session
	if key == nil {
		key = make([]byte, 32)
		rand.Read(key)
	}
	var b bytes.Buffer
	for range max(1, c.keys) {
		if err := packet.SerializeEncryptedKeyAEADwithHiddenOption(&b, r.key, packet.CipherAES256, c.aead, key, c.hidden, config); err != nil {
			t.Fatal(err)
		}
	}
	if c.data != nil {
		b.Write(c.data)
	} else {
		w, err := packet.SerializeSymmetricallyEncrypted(&b, packet.CipherAES256, c.aead, packet.CipherSuite{Cipher: packet.CipherAES256, Mode: packet.AEADModeOCB}, key, config)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(c.payload); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	b.Write(c.tail)
	return b.Bytes()
}

// literal is a literal data packet.
func literal(text string) []byte {
	return appendPacket(nil, tagLiteral, append([]byte("b\x00\x00\x00\x00\x00"), text...))
}

// compressed is a compressed data packet.
func compressed(t testing.TB, algorithm packet.CompressionAlgo, content []byte) []byte {
	t.Helper()
	b := bytes.NewBuffer([]byte{byte(algorithm)})
	var w io.WriteCloser = stays{b}
	var err error
	switch algorithm {
	case packet.CompressionZIP:
		w, err = flate.NewWriter(b, 9)
	case packet.CompressionZLIB:
		w, err = zlib.NewWriterLevel(b, 9)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return appendPacket(nil, tagCompressed, b.Bytes())
}

// join puts packets one behind the other.
func join(packets ...[]byte) []byte { return bytes.Join(packets, nil) }

// bzip2Bomb is a literal data packet of 100 MiB.
const bzip2Bomb = "425a68393141592653591689e050057e3d5f84e1124002c010480004003225c46000080008a0005424a8006d40f53353408a91a068d000699c0c60d2e38be7d955011015544d1554115400766e26d1a93b69a452b1dd6cf72abba10804924847df98a0ac9329acf45bd30780afc70400600000041000184026a3215012d485404b98a0ac9329acee5ba5ba0032060c00600020000004100018660294d38c4808b60901178bb9229c28482bffc31580"

// plaintext decrypts without looking.
func plaintext(t testing.TB, d *data, key hsm.SessionKey) []byte {
	t.Helper()
	var payload []byte
	if err := d.decrypt(key, collect(&payload)); err != nil {
		t.Fatal(err)
	}
	return payload
}

// collect reads all there is.
func collect(into *[]byte) func(io.Reader) error {
	return func(r io.Reader) (err error) {
		*into, err = io.ReadAll(r)
		return err
	}
}

// stays is a writer that stays open when what writes to it closes.
type stays struct{ io.Writer }

func (stays) Close() error { return nil }
