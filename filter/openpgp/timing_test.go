package openpgp

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/binary"
	"math"
	"testing"
	"time"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/protect"
)

// The time to fail tells nothing about the padding (R2): mails whose session
// key is well padded and wrong, and mails where it is noise, by turns, judged
// by Welch's t. A busy machine gets three tries; a leak fails them all.
func TestPaddingTime(t *testing.T) {
	if testing.Short() {
		t.Skip("measures for seconds")
	}
	const rounds, limit = 2000, 4.5
	token := soft(t)
	bob := newIdentity(t, token, suites[0], "bob@partner.example")
	e, err := entityOf(bob.Raw)
	if err != nil {
		t.Fatal(err)
	}
	k := e.Subkeys[0].PublicKey
	noise := make([]byte, 4<<10)
	rand.Read(noise)
	noise[0] = 1
	with := func(wrapped []byte) *message.Message {
		p := append(append(binary.BigEndian.AppendUint64([]byte{3}, k.KeyId), byte(k.PubKeyAlgo)), appendMPI(nil, wrapped)...)
		return mail(t, pgpMIME(t, join(appendPacket(nil, tagSessionKey, p), appendPacket(nil, tagIntegrity, noise))))
	}
	block := make([]byte, 35)
	block[0] = 9
	rand.Read(block[1:33])
	var sum uint16
	for _, b := range block[1:33] {
		sum += uint16(b)
	}
	binary.BigEndian.PutUint16(block[33:], sum)
	padded, err := rsa.EncryptPKCS1v15(rand.Reader, k.PublicKey.(*rsa.PublicKey), block) //lint:ignore SA1019 OpenPGP has no other padding
	if err != nil {
		t.Fatal(err)
	}
	random := make([]byte, 256)
	rand.Read(random[1:])
	mails := [2]*message.Message{with(padded), with(random)}
	p := New(Config{Token: token})
	newSpool := func() *message.Spool { return (&message.Spools{Memory: 1 << 20, Max: 1 << 20}).New() }
	var got float64
	for range 3 {
		var total, squares [2]float64
		for i := range 2 * rounds {
			which := i % 2
			began := time.Now()
			_, _, err := p.Open(t.Context(), protect.OpenRequest{Message: mails[which], Identities: []keyring.Identity{bob}, At: now, NewSpool: newSpool})
			d := min(float64(time.Since(began)), 1e7) // what the scheduler does is not ours
			if err != protect.ErrCannotOpen {
				t.Fatalf("got %v, want %v", err, protect.ErrCannotOpen)
			}
			total[which] += d
			squares[which] += d * d
		}
		var mean, variance [2]float64
		for i := range mean {
			mean[i] = total[i] / rounds
			variance[i] = squares[i]/rounds - mean[i]*mean[i]
		}
		if got = (mean[0] - mean[1]) / math.Sqrt((variance[0]+variance[1])/rounds); math.Abs(got) < limit {
			return
		}
	}
	t.Errorf("t = %.1f, want below %.1f", got, limit)
}
