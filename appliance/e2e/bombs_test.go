package e2e

import (
	"bytes"
	"compress/flate"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"postern/appliance/trial"
)

// raw is a mail to us around any OpenPGP packets.
func (c *correspondent) raw(id string, packets []byte) []byte {
	c.t.Helper()
	var b, out bytes.Buffer
	key, ok := c.ours.EncryptionKey(time.Now(), nil)
	if !ok {
		c.t.Fatal("our certificate has no key to encrypt with")
	}
	session := make([]byte, 32)
	rand.Read(session)
	err := packet.SerializeEncryptedKeyAEAD(&b, key.PublicKey, packet.CipherAES256, false, session, nil)
	if err == nil {
		var w io.WriteCloser
		if w, err = packet.SerializeSymmetricallyEncrypted(&b, packet.CipherAES256, false, packet.CipherSuite{}, session, nil); err == nil {
			_, err = w.Write(packets)
			err = errors.Join(err, w.Close())
		}
	}
	a, err2 := armor.Encode(&out, "PGP MESSAGE", nil)
	if err = errors.Join(err, err2); err == nil {
		_, err = a.Write(b.Bytes())
		err = errors.Join(err, a.Close())
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return trial.Encrypted(inHeader(id), out.Bytes())
}

// literally is a literal data packet, deflated a compressed one, both without a length.
func literally(text []byte) []byte {
	return append([]byte("\xafb\x00\x00\x00\x00\x00"), text...)
}

func deflated(t *testing.T, content []byte) []byte {
	t.Helper()
	b := bytes.NewBuffer([]byte{0xa3, 1})
	w, err := flate.NewWriter(b, flate.BestSpeed)
	if err == nil {
		_, err = w.Write(content)
		err = errors.Join(err, w.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// gibibytes is a compressed packet of n GiB: once the window is full of one
// letter, the block for the next MiB may stand as often as one likes.
func gibibytes(t *testing.T, n int) []byte {
	t.Helper()
	b := bytes.NewBuffer([]byte{0xa3, 1})
	w, err := flate.NewWriter(b, flate.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	mib := bytes.Repeat([]byte("x"), 1<<20)
	var at [2]int
	for i, data := range [][]byte{literally(append([]byte("Content-Type: text/plain\r\n\r\n"), mib...)), mib} {
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		at[i] = b.Len()
	}
	again := slices.Clone(b.Bytes()[at[0]:at[1]])
	b.Write(bytes.Repeat(again, n<<10-2))
	b.Write([]byte{3, 0})
	return b.Bytes()
}

// Whatever a mail unfolds to, filterd takes at most 64 MiB above what it has
// when idle and 2 s of processor time for it, says one fixed thing, and lives
// (R29): the real process with the settings that it really has.
func TestBombs(t *testing.T) {
	const mostMemory, mostTime = 64 << 20, 2 * time.Second
	b := open(t, trial.Config{})
	c := correspond(t, b)
	recovers(t, b, c, "before")
	pid := b.Filterd.PID()
	quine := []byte(contents(t, "../../filter/openpgp/testdata/quine.pgp")) // made and explained there
	nested := literally([]byte("Content-Type: text/plain\r\n\r\nhello\r\n"))
	for range 128 {
		nested = deflated(t, nested)
	}
	multiparts := func(n int) string {
		var s strings.Builder
		for i := range n {
			fmt.Fprintf(&s, "Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n", i, i)
		}
		return s.String() + "\r\nhello\r\n"
	}
	plain := func(id, rest string) []byte {
		return []byte(strings.ReplaceAll(inHeader(id), "\n", "\r\n") + rest)
	}
	const marked, refused = "failed", "554 5.6.0 "
	idle := usage(t, pid, true)
	for _, m := range []struct {
		id   string
		mail func(id string) []byte
		want string // the reply, or the opened= of what was delivered
	}{
		{"4-gib", func(id string) []byte { return c.raw(id, gibibytes(t, 4)) }, marked},
		{"4-gib-twice", func(id string) []byte { return c.raw(id, deflated(t, gibibytes(t, 4))) }, marked},
		{"quine", func(id string) []byte { return c.raw(id, quine) }, marked},
		{"128-layers", func(id string) []byte { return c.raw(id, nested) }, marked},
		{"128-multiparts-inside", func(id string) []byte { return c.raw(id, literally([]byte(multiparts(128)))) }, marked},
		{"100,000-fields-inside", func(id string) []byte {
			return c.raw(id, literally([]byte(strings.Repeat("A: b\r\n", 100_000)+"\r\nhello\r\n")))
		}, "any"},
		{"128-multiparts", func(id string) []byte { return plain(id, multiparts(128)) }, refused},
		{"10,000-messages", func(id string) []byte {
			return plain(id, strings.Repeat("Content-Type: message/rfc822\r\n\r\n", 10_000))
		}, refused},
		{"100,000-fields", func(id string) []byte { return plain(id, strings.Repeat("A: b\r\n", 100_000)+"\r\nhello\r\n") }, refused},
		{"a-field-of-10-mib", func(id string) []byte {
			return plain(id, "A: b\r\n"+strings.Repeat(" "+strings.Repeat("c", 70)+"\r\n", 150_000)+"\r\nhello\r\n")
		}, refused},
		{"a-million-parts", func(id string) []byte {
			return plain(id, "Content-Type: multipart/mixed; boundary=b\r\n\r\n"+strings.Repeat("--b\r\n\r\n", 1_000_000))
		}, refused},
		{"a-million-boundaries", func(id string) []byte {
			return plain(id, "Content-Type: multipart/mixed; boundary=b\r\n\r\n"+strings.Repeat("--bb\r\n", 1_000_000)+"--b--\r\n")
		}, "none"},
		{"20,000-parameters", func(id string) []byte {
			return plain(id, "Content-Type: text/plain"+strings.Repeat(";\r\n a=b", 20_000)+"\r\n\r\nhello\r\n")
		}, "any"},
		{"30-mib", func(id string) []byte { return plain(id, "\r\n"+filler("x", 30<<20)+"\r\n") }, "any"},
	} {
		mail := m.mail(m.id)
		before := usage(t, pid, true)
		began := time.Now()
		a := send(b.Outside, bob, alice, mail)
		wall := time.Since(began)
		after := usage(t, pid, false)
		took, grew := after.time-before.time, after.peak-idle.now
		t.Logf("%s: %d KiB: %s; %v of processor time, %v in all, %d MiB above idle", m.id, len(mail)>>10, a, took, wall.Round(time.Millisecond), grew>>20)
		if took > mostTime {
			t.Errorf("%s: got %v of processor time, want at most %v", m.id, took, mostTime)
		}
		if grew > mostMemory {
			t.Errorf("%s: got %d MiB above idle, want at most %d", m.id, grew>>20, mostMemory>>20)
		}
		switch copies := arrived(t, b)[m.id]; {
		case m.want == "any":
		case m.want == refused:
			if !strings.HasPrefix(a.String(), refused) || len(copies) > 0 {
				t.Errorf("%s: got %s and %d copies, want %s", m.id, a, len(copies), refused)
			}
		case a.code != 250 || len(copies) != 1 || parameter(field(copies[0], "Postern-Status"), "opened") != m.want:
			t.Errorf("%s: got %s and %d copies, want it delivered with opened=%s", m.id, a, len(copies), m.want)
		}
	}
	recovers(t, b, c, "after")
	if b.Filterd.PID() != pid {
		t.Error("filterd is another process")
	}
}
