package openpgp

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"testing"
)

// The example that everybody gives for IDEA, and its way back for many keys.
func TestIDEA(t *testing.T) {
	key, _ := hex.DecodeString("00010002000300040005000600070008")
	c, err := newIDEA(key)
	if err != nil {
		t.Fatal(err)
	}
	block := []byte{0, 0, 0, 1, 0, 2, 0, 3}
	c.Encrypt(block, block)
	if got := hex.EncodeToString(block); got != "11fbed2b01986de5" {
		t.Errorf("got %s", got)
	}
	for n := range 1000 {
		key := make([]byte, 16)
		if n > 0 { // the first is all zeros, where mul has its corner
			rand.Read(key)
		}
		c, err := newIDEA(key)
		if err != nil {
			t.Fatal(err)
		}
		want := make([]byte, 8)
		rand.Read(want)
		got := bytes.Clone(want)
		c.Encrypt(got, got)
		c.Decrypt(got, got)
		if !bytes.Equal(got, want) {
			t.Fatalf("key %x: got %x, want %x", key, got, want)
		}
	}
	if _, err := newIDEA(key[:15]); err == nil {
		t.Error("a key of 15 bytes")
	}
}
