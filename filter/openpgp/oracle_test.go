package openpgp

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/protect/protecttest"
)

var (
	oracle = flag.Bool("oracle", false, "measure whether the time to refuse a mail tells why: minutes, and a machine that does nothing else")
	update = flag.Bool("update", false, "write the result of -oracle to the documents")
)

// oraclePage is where the last result stands.
const oraclePage = "../../appliance/docs/oracle.md"

// The reply to mails that do not open, and the time to it, are the same
// whatever is wrong with them (R1, R2). Without -oracle only the reply is
// looked at, for a few mails.
func TestOracle(t *testing.T) {
	token := soft(t)
	p := New(Config{Token: token})
	var results []protecttest.Comparison
	for _, s := range []suiteUnderTest{suites[0], suites[3], suites[6]} {
		bob := newIdentity(t, token, s, "bob@partner.example")
		for _, c := range comparisons(t, bob) {
			c.Name = s.String() + ": " + c.Name
			c.Measure(t, p, bob, now, *oracle)
			results = append(results, c)
		}
	}
	if *oracle && *update {
		if err := os.WriteFile(oraclePage, []byte(oracleText(results)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// comparisons are the pairs for a key: what an attacker would like to tell apart.
func comparisons(t *testing.T, bob keyring.Identity) []protecttest.Comparison {
	t.Helper()
	e, err := entityOf(bob.Raw)
	if err != nil {
		t.Fatal(err)
	}
	k := e.Subkeys[0].PublicKey
	noise := make([]byte, 32<<10)
	rand.Read(noise)
	noise[0] = 1
	mailWith := func(sessionKey []byte) *message.Message {
		return mail(t, pgpMIME(t, join(sessionKey, appendPacket(nil, tagIntegrity, noise))))
	}
	ours := firstOf(t, crafted{to: bob.Cert, payload: literal("x")}.packets(t))
	good := mailWith(ours)
	other := bytes.Clone(ours)
	other[10] ^= 1 // in the key id
	control := protecttest.Comparison{Name: "control: a key of ours against another's", Mails: [2]*message.Message{good, mailWith(other)}, Told: true}
	damaged := crafted{to: bob.Cert, payload: literal(strings.Repeat("x", len(noise)-40))}.packets(t)
	damaged[len(damaged)-1] ^= 1
	if pub, ok := k.PublicKey.(*rsa.PublicKey); ok {
		with := func(block []byte) *message.Message {
			wrapped, err := rsa.EncryptPKCS1v15(rand.Reader, pub, block) //lint:ignore SA1019 OpenPGP has no other padding
			if err != nil {
				t.Fatal(err)
			}
			return mailWith(rsaSessionKey(k, wrapped))
		}
		noise := make([]byte, pub.Size())
		rand.Read(noise[1:])
		random := mailWith(rsaSessionKey(k, noise))
		return []protecttest.Comparison{
			{Name: "good padding against noise", Mails: [2]*message.Message{good, random}},
			{Name: "wrong checksum against noise", Mails: [2]*message.Message{with(make([]byte, 35)), random}},
			{Name: "wrong length against noise", Mails: [2]*message.Message{with([]byte{9, 1, 0, 1}), random}},
			{Name: "no such cipher against good padding", Mails: [2]*message.Message{with(append(append([]byte{200}, make([]byte, 32)...), 0, 0)), good}},
			{Name: "damaged data against noise", Mails: [2]*message.Message{mail(t, pgpMIME(t, damaged)), random}, Loose: true},
			control,
		}
	}
	wrong := bytes.Clone(ours)
	wrong[len(wrong)-1] ^= 1
	return []protecttest.Comparison{
		{Name: "right key wrap against wrong", Mails: [2]*message.Message{good, mailWith(wrong)}},
		{Name: "damaged data against wrong key wrap", Mails: [2]*message.Message{mail(t, pgpMIME(t, damaged)), mailWith(wrong)}, Loose: true},
		control,
	}
}

// rsaSessionKey is a session key packet for k around what RSA gave.
func rsaSessionKey(k *packet.PublicKey, wrapped []byte) []byte {
	return appendPacket(nil, tagSessionKey, append(append(binary.BigEndian.AppendUint64([]byte{3}, k.KeyId), byte(k.PubKeyAlgo)), appendMPI(nil, wrapped)...))
}

func oracleText(results []protecttest.Comparison) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# What the time to refuse tells\n\nWritten by `make oracle` on %s, with %s on %s/%s.\n\n", time.Now().UTC().Format(time.DateOnly), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	fmt.Fprintf(&b, "For each line two kinds of mail that do not open, %d of each in random order, went through `filter/openpgp` with a token in memory. "+
		"All ended in the same error. Welch's t says whether their times differ; below %.1f nobody can tell them apart by so many mails. "+
		"A busy machine may measure up to three times; the column says how often it did. "+
		"The controls may be told apart, for who has which key is no secret: they show that the measurement sees something. "+
		"Damaged data is reported and not judged: it is a real mail with its right session key and one byte changed at its end, whose packets are read and written before "+
		"that shows, and noise has no packets to read. Who changes mail of others may see from this whether it still reads as packets; padding and keys do not come into it.\n\n", protecttest.OracleMails, protecttest.OracleLimit)
	b.WriteString("| key | one against the other | mean | mean | t | measured |\n|---|---|---|---|---|---|\n")
	for _, c := range results {
		suite, name, _ := strings.Cut(c.Name, ": ")
		fmt.Fprintf(&b, "| %s | %s | %d µs | %d µs | %.1f | %d |\n", suite, name, c.Mean[0].Microseconds(), c.Mean[1].Microseconds(), c.T, c.Rounds)
	}
	return b.String()
}
