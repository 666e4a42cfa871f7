package openpgp

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/protect"
	"postern/hsm"
	"postern/hsm/hsmtest"
)

const simpleEntity = "Content-Type: text/plain\r\n\r\nhello\r\n"

// Whatever byte of a sealed mail is changed, nothing of the plaintext comes
// out (R5): there is the one error, or the very same plaintext where the byte meant nothing.
func TestTampered(t *testing.T) {
	for _, s := range []suiteUnderTest{suites[3], suites[11]} {
		token := soft(t)
		alice := newIdentity(t, token, s, "alice@company1.example")
		o := opening{token: hsmtest.Count(token), ids: []keyring.Identity{alice}, certs: []keyring.Cert{alice.Cert}}
		sealed := print(t, seal(t, token, mail(t, crlf("From: Alice <alice@company1.example>\nTo: b@c.example\nSubject: s\n\nhello\n")), &alice, alice.Cert))
		packets := packetsOf(t, sealed)
		whole, _, err := o.open(t, mail(t, pgpMIME(t, packets)))
		if err != nil {
			t.Fatal(err)
		}
		want := print(t, whole)
		for _, mask := range []byte{0x01, 0x80, 0xff} {
			for i := range packets {
				changed := bytes.Clone(packets)
				changed[i] ^= mask
				m, f, err := o.open(t, mail(t, pgpMIME(t, changed)))
				switch {
				case err == nil && print(t, m) == want:
				case err != protect.ErrCannotOpen || m != nil || f.Good || f.Opened:
					t.Errorf("%s byte %d of %d ^ %02x: got %v, %+v, %v", s, i, len(packets), mask, m, f, err)
				}
			}
		}
		for n := range packets {
			if m, _, err := o.open(t, mail(t, pgpMIME(t, packets[:n]))); err != protect.ErrCannotOpen || m != nil {
				t.Errorf("%s cut at %d: got %v, %v", s, n, m, err)
			}
		}
	}
}

// The grammar of what was encrypted (R18): one message, one literal, nothing behind.
func TestPayloadGrammar(t *testing.T) {
	token := soft(t)
	bob := newIdentity(t, token, suites[3], "bob@partner.example")
	lit := literal(simpleEntity)
	zip := func(p []byte) []byte { return compressed(t, packet.CompressionZIP, p) }
	zlib := func(p []byte) []byte { return compressed(t, packet.CompressionZLIB, p) }
	onePass := appendPacket(nil, tagOnePass, []byte{3, 0, 8, 19, 1, 2, 3, 4, 5, 6, 7, 8, 1})
	garbled := appendPacket(nil, tagSignature, []byte{4, 0, 19, 8, 0, 0})
	for _, c := range []struct {
		name    string
		payload []byte
		opens   bool
	}{
		{"literal", lit, true},
		{"literal in parts", join([]byte{0xcb, 0xe3}, append([]byte("b\x00\x00\x00\x00\x00"), simpleEntity[:2]...), []byte{byte(len(simpleEntity) - 2)}, []byte(simpleEntity[2:])), true},
		{"literal of old format to the end", join([]byte{0xaf}, append([]byte("t\x03abc\x00\x00\x00\x00"), simpleEntity...)), true},
		{"zip", zip(lit), true},
		{"zlib", zlib(lit), true},
		{"stored", compressed(t, packet.CompressionNone, lit), true},
		{"padding as of Sequoia", appendPacket(nil, tagCompressed, append(contentOf(t, zip(lit)), "padding"...)), true},
		{"marker before", join(appendPacket(nil, tagMarker, []byte("PGP")), lit), true},
		{"padding behind", join(lit, appendPacket(nil, tagPadding, make([]byte, 50))), true},
		{"signature that nobody can judge", join(onePass, lit, garbled), true},
		{"old style signature", join(garbled, lit), true},

		{"nothing", nil, false},
		{"two literals", join(lit, lit), false},
		{"two literals compressed", zip(join(lit, lit)), false},
		{"literal behind compressed", join(zip(lit), lit), false},
		{"bytes behind zlib data", appendPacket(nil, tagCompressed, append(contentOf(t, zlib(lit)), "more"...)), false},
		{"compressed twice", zip(zip(lit)), false},
		{"unknown compression", compressed(t, 9, lit), false},
		{"user id behind", join(lit, appendPacket(nil, tagUserID, []byte("x"))), false},
		{"bytes behind", join(lit, []byte("\r\nmore")), false},
		{"encrypted again", crafted{to: bob.Cert, payload: lit}.packets(t), false},
		{"announced, no signature", join(onePass, lit), false},
		{"signature not announced", join(lit, garbled), false},
		{"announcement only", onePass, false},
		{"announcement cut", join(appendPacket(nil, tagOnePass, []byte{3, 0, 8}), lit, garbled), false},
		{"nine signatures", join(bytes.Repeat(onePass, 9), lit, bytes.Repeat(garbled, 9)), false},
		{"unknown format", appendPacket(nil, tagLiteral, append([]byte("x\x00\x00\x00\x00\x00"), simpleEntity...)), false},
		{"literal without a head", appendPacket(nil, tagLiteral, []byte("b\x09a")), false},
		{"NUL", literal("Content-Type: text/plain\r\n\r\nhel\x00lo"), false},
	} {
		for _, aead := range []bool{false, true} {
			o := opening{token: token, ids: []keyring.Identity{bob}}
			m, f, err := o.open(t, mail(t, pgpMIME(t, crafted{to: bob.Cert, payload: c.payload, aead: aead}.packets(t))))
			if c.opens && (err != nil || !f.Opened || f.Good || !strings.HasSuffix(print(t, m), "\r\n\r\nhello\r\n")) {
				t.Errorf("%s: got %+v, %v", c.name, f, err)
			}
			if !c.opens && (err != protect.ErrCannotOpen || m != nil) {
				t.Errorf("%s: got %v, %v, want %v", c.name, m, err, protect.ErrCannotOpen)
			}
		}
	}
}

func contentOf(t testing.TB, p []byte) []byte {
	t.Helper()
	_, bodies, err := walk(p)
	if err != nil {
		t.Fatal(err)
	}
	return bodies[0]
}

// The grammar around the ciphertext (R18), and what has no integrity (R5).
func TestDataGrammar(t *testing.T) {
	token := soft(t)
	bob := newIdentity(t, token, suites[3], "bob@partner.example")
	lit := literal(simpleEntity)
	good := crafted{to: bob.Cert, payload: lit}
	goodPackets := good.packets(t)
	tags, bodies, err := walk(goodPackets)
	if err != nil || len(tags) != 2 {
		t.Fatal(tags, err)
	}
	session, sealed := appendPacket(nil, tags[0], bodies[0]), appendPacket(nil, tags[1], bodies[1])
	stripped := bodies[1][:len(bodies[1])-22]
	for _, c := range []struct {
		name    string
		packets []byte
		opens   bool
	}{
		{"as made", goodPackets, true},
		{"joined again", join(session, sealed), true},
		{"marker first", join(appendPacket(nil, tagMarker, []byte("PGP")), session, sealed), true},
		{"foreign session key first", join(appendPacket(nil, tagSessionKey, bytes.Repeat([]byte{3}, 40)), session, sealed), true},
		{"password beside", join(appendPacket(nil, tagPassword, []byte{4, 9, 3, 8, 1, 2, 3, 4, 5, 6, 7, 8, 96}), session, sealed), true},

		{"nothing", nil, false},
		{"session key only", session, false},
		{"data only", sealed, false},
		{"data first", join(sealed, session), false},
		{"data twice", join(session, sealed, sealed), false},
		{"packet behind", join(session, sealed, appendPacket(nil, tagUserID, []byte("x"))), false},
		{"padding behind", join(session, sealed, appendPacket(nil, tagPadding, []byte("x"))), false},
		{"literal beside", join(session, lit, sealed), false},
		{"literal only", lit, false},
		{"no MDC", join(session, appendPacket(nil, tagIntegrity, stripped)), false},
		{"MDC cut", join(session, appendPacket(nil, tagIntegrity, bodies[1][:len(bodies[1])-1])), false},
		{"called data without integrity", join(session, appendPacket(nil, tagNoIntegrity, stripped[1:])), false},
		{"data without integrity", crafted{to: bob.Cert, session: make([]byte, 32), data: appendPacket(nil, tagNoIntegrity, sed(t, lit))}.packets(t), false},
		{"LibrePGP's", join(session, appendPacket(nil, tagLibreAEAD, append([]byte{1, 9, 2, 6}, make([]byte, 60)...))), false},
		{"version 3 of the data", join(session, appendPacket(nil, tagIntegrity, append([]byte{3}, bodies[1][1:]...))), false},
		{"version 2 with a session key of version 3", join(session, appendPacket(nil, tagIntegrity, append([]byte{2, 9, 2, 6}, make([]byte, 100)...))), false},
		{"unknown critical packet", join(appendPacket(nil, 30, nil), session, sealed), false},
		{"empty data", join(session, appendPacket(nil, tagIntegrity, nil)), false},
		{"session key of 5 KiB", join(appendPacket(nil, tagSessionKey, make([]byte, 5<<10)), session, sealed), false},
	} {
		counted := hsmtest.Count(token)
		m, f, err := opening{token: counted, ids: []keyring.Identity{bob}}.open(t, mail(t, pgpMIME(t, c.packets)))
		if c.opens && (err != nil || !f.Opened) || !c.opens && (err != protect.ErrCannotOpen || m != nil) {
			t.Errorf("%s: got %v, %v", c.name, m, err)
		}
		if counted.Unwraps() > 1 {
			t.Errorf("%s: %d token operations", c.name, counted.Unwraps())
		}
	}
}

// sed encrypts as old programs did, in CFB with a prefix and no integrity, with
// a session key of zeros.
func sed(t *testing.T, plain []byte) []byte {
	t.Helper()
	b, err := aes.NewCipher(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	iv := make([]byte, b.BlockSize())
	stream, prefix := packet.NewOCFBEncrypter(b, iv, packet.OCFBResync)
	out := make([]byte, len(plain))
	cipher.Stream(stream).XORKeyStream(out, plain)
	return append(prefix, out...)
}

// A mail costs one token operation, and four where session keys name nobody,
// however many it brings (R4), and only the recipients' own keys are tried (R9).
func TestManySessionKeys(t *testing.T) {
	token := soft(t)
	bob := newIdentity(t, token, suites[3], "bob@partner.example")
	carol := newIdentity(t, token, suites[6], "carol@partner.example")
	lit := literal(simpleEntity)
	good := crafted{to: bob.Cert, payload: lit}.packets(t)
	tags, bodies, err := walk(good)
	if err != nil {
		t.Fatal(err)
	}
	broken := bytes.Clone(bodies[0])
	broken[len(broken)-1] ^= 1
	dave := newIdentity(t, token, suites[0], "dave@partner.example")
	e, err := entityOf(dave.Raw)
	if err != nil {
		t.Fatal(err)
	}
	wrongKey := append(append(binary.BigEndian.AppendUint64([]byte{3}, e.PrimaryKey.KeyId), 1), appendMPI(nil, bytes.Repeat([]byte{0x77}, 256))...)
	tooLong := append(append(binary.BigEndian.AppendUint64([]byte{3}, e.Subkeys[0].PublicKey.KeyId), 1), appendMPI(nil, bytes.Repeat([]byte{0x77}, 3<<10))...)
	sealedOnly := appendPacket(nil, tags[1], bodies[1])
	first := newIdentity(t, token, suites[3], "first@partner.example")
	second := newIdentity(t, token, suites[3], "second@partner.example")
	lost := newIdentity(t, soft(t), suites[3], "bob@partner.example")
	hidden := crafted{to: bob.Cert, payload: lit, hidden: true}.packets(t)
	hiddenFor := func(id keyring.Identity) []byte {
		return firstOf(t, crafted{to: id.Cert, payload: lit, hidden: true}.packets(t))
	}
	for _, c := range []struct {
		name    string
		packets []byte
		ids     []keyring.Identity
		ops     int
		opens   bool
	}{
		{"2,000 good", crafted{to: bob.Cert, payload: lit, keys: 2000}.packets(t), []keyring.Identity{bob}, 1, true},
		{"2,000 broken before a good one", join(bytes.Repeat(appendPacket(nil, tags[0], broken), 2000), good), []keyring.Identity{bob}, 1, false},
		{"2,000 anonymous", crafted{to: bob.Cert, payload: lit, keys: 2000, hidden: true}.packets(t), []keyring.Identity{carol, bob}, 1, true},
		{"anonymous", crafted{to: bob.Cert, payload: lit, hidden: true}.packets(t), []keyring.Identity{bob}, 1, true},
		{"anonymous in version 6", crafted{to: bob.Cert, payload: lit, hidden: true, aead: true}.packets(t), []keyring.Identity{bob}, 1, true},
		{"anonymous before a named one", join(firstOf(t, crafted{to: carol.Cert, payload: lit, hidden: true}.packets(t)), good), []keyring.Identity{carol, bob}, 1, true},
		{"anonymous, the second of the recipient's keys", crafted{to: second.Cert, payload: lit, hidden: true}.packets(t), []keyring.Identity{bob, second}, 2, true},
		{"anonymous, behind those of others", join(hiddenFor(first), hiddenFor(dave), hiddenFor(carol), hiddenFor(first), hidden), []keyring.Identity{bob}, 3, true},
		{"anonymous, the fourth", join(hiddenFor(first), hiddenFor(first), hiddenFor(first), hidden), []keyring.Identity{bob}, 4, true},
		{"anonymous, the fifth", join(hiddenFor(first), hiddenFor(first), hiddenFor(first), hiddenFor(first), hidden), []keyring.Identity{bob}, 4, false},
		{"anonymous, and the token has not the first key", hidden, []keyring.Identity{lost, bob}, 2, true},
		{"anonymous behind a broken one that names us", join(appendPacket(nil, tags[0], broken), hidden), []keyring.Identity{bob}, 1, false},
		{"for our signing key", join(appendPacket(nil, tagSessionKey, wrongKey), sealedOnly), []keyring.Identity{dave}, 0, false},
		{"old curve in version 6", crafted{to: carol.Cert, payload: lit, aead: true}.packets(t), []keyring.Identity{carol}, 0, false},
		{"RSA integer of 3 KiB", join(appendPacket(nil, tagSessionKey, tooLong), sealedOnly), []keyring.Identity{dave}, 0, false},
		{"another's", good, []keyring.Identity{carol}, 0, false},
		{"nobody's", good, nil, 0, false},
	} {
		counted := hsmtest.Count(token)
		m, _, err := opening{token: counted, ids: c.ids}.open(t, mail(t, pgpMIME(t, c.packets)))
		if c.opens != (err == nil) || err != nil && (err != protect.ErrCannotOpen || m != nil) {
			t.Errorf("%s: got %v, %v", c.name, m, err)
		}
		if counted.Unwraps() != c.ops {
			t.Errorf("%s: %d token operations, want %d", c.name, counted.Unwraps(), c.ops)
		}
	}
}

// firstOf is the first packet.
func firstOf(t testing.TB, packets []byte) []byte {
	t.Helper()
	tags, bodies, err := walk(packets)
	if err != nil {
		t.Fatal(err)
	}
	return appendPacket(nil, tags[0], bodies[0])
}

// random is a token that opens nothing: each session key is a new one, of every length and cipher.
type random struct {
	hsm.Token
	n int
}

func (r *random) Unwrap(context.Context, hsm.KeyID, hsm.Wrapped) (hsm.SessionKey, error) {
	r.n++
	key := make([]byte, []int{16, 24, 32, 0, 7}[r.n%5])
	rand.Read(key)
	return hsm.SessionKey{Cipher: uint8(r.n % 14), Key: key}, nil
}

// 10,000 wrong session keys give one and the same error, and not a byte (R6).
func TestRandomSessionKeys(t *testing.T) {
	token := soft(t)
	for _, s := range []suiteUnderTest{suites[3], suites[11]} {
		bob := newIdentity(t, token, s, "bob@partner.example")
		m := mail(t, pgpMIME(t, crafted{to: bob.Cert, payload: literal(simpleEntity), aead: s.v6}.packets(t)))
		p := New(Config{Token: &random{Token: token}})
		r := protect.OpenRequest{Message: m, Identities: []keyring.Identity{bob}, At: now, NewSpool: func() *message.Spool { return (&message.Spools{Memory: 1 << 20, Max: 1 << 20}).New() }}
		for i := range 5000 {
			opened, f, err := p.Open(t.Context(), r)
			if err != protect.ErrCannotOpen || opened != nil || f.Opened || f.Signed {
				t.Fatalf("%s, key %d: got %v, %+v, %v", s, i, opened, f, err)
			}
		}
	}
}

// A bomb does not open (R29).
func TestBombs(t *testing.T) {
	token := soft(t)
	bob := newIdentity(t, token, suites[3], "bob@partner.example")
	big := literal(simpleEntity + strings.Repeat("0", 32<<20))
	bzip2, err := hex.DecodeString(bzip2Bomb)
	if err != nil {
		t.Fatal(err)
	}
	for name, payload := range map[string][]byte{
		"zip":   compressed(t, packet.CompressionZIP, big),
		"zlib":  compressed(t, packet.CompressionZLIB, big),
		"bzip2": appendPacket(nil, tagCompressed, append([]byte{3}, bzip2...)),
	} {
		m, _, err := opening{token: token, ids: []keyring.Identity{bob}}.open(t, mail(t, pgpMIME(t, crafted{to: bob.Cert, payload: payload}.packets(t))))
		if err != protect.ErrCannotOpen || m != nil {
			t.Errorf("%s: got %v, %v, want %v", name, m, err, protect.ErrCannotOpen)
		}
	}
	// What is just big, and what a spool can't take, are no bombs: a disk that
	// is full is our trouble, and a mail beyond the limit of spools does not open.
	fits := mail(t, pgpMIME(t, crafted{to: bob.Cert, payload: compressed(t, packet.CompressionZIP, literal(simpleEntity+strings.Repeat("0", 900<<10)))}.packets(t)))
	o := opening{token: token, ids: []keyring.Identity{bob}}
	if _, _, err := o.open(t, fits); err != nil {
		t.Errorf("900 KiB: %v", err)
	}
	r := protect.OpenRequest{Message: fits, Identities: o.ids, At: now}
	r.NewSpool = func() *message.Spool {
		return (&message.Spools{Memory: 4 << 10, Max: 64 << 10, Dir: t.TempDir()}).New()
	}
	if _, _, err := New(Config{Token: token}).Open(t.Context(), r); err != protect.ErrCannotOpen {
		t.Errorf("beyond the spool: got %v, want %v", err, protect.ErrCannotOpen)
	}
	r.NewSpool = func() *message.Spool {
		return (&message.Spools{Memory: 4 << 10, Max: 64 << 20, Dir: "/nonexistent"}).New()
	}
	if _, _, err := New(Config{Token: token}).Open(t.Context(), r); err == nil || errors.Is(err, protect.ErrCannotOpen) {
		t.Errorf("no room on the disk: got %v", err)
	}
}
