package hsmtest

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// Vectors is a group of Wycheproof's test vectors that share a key. What a
// file has not is empty.
type Vectors struct {
	Curve           string
	Sha             string // "SHA-256"
	MGFSha          string
	PrivateKeyPkcs8 Hex
	PublicKeyDer    Hex // SubjectPublicKeyInfo
	Tests           []Vector
}

// Vector is one of them.
type Vector struct {
	ID      int `json:"tcId"`
	Comment string
	Flags   []string
	Result  string // "valid", "invalid", or "acceptable" where readers may differ

	Public, Private, Shared Hex // key agreement
	Key, Msg, CT, Label     Hex // encryption
	Sig                     Hex
}

// Hex is bytes as the vectors write them.
type Hex []byte

// UnmarshalText reads hexadecimal digits.
func (h *Hex) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

// Wycheproof reads a file of vectors from the Corpora.
func Wycheproof(t testing.TB, file string) []Vectors {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(Corpora(t), "msgs/wycheproof", file))
	if err != nil {
		t.Fatalf("read vectors of Wycheproof: %v", err)
	}
	var f struct {
		NumberOfTests int
		TestGroups    []Vectors
	}
	if err := json.Unmarshal(b, &f); err != nil {
		t.Fatalf("read %s: %v", file, err)
	}
	n := 0
	for _, g := range f.TestGroups {
		n += len(g.Tests)
	}
	if n == 0 || n != f.NumberOfTests {
		t.Fatalf("%s: got %d vectors, want %d", file, n, f.NumberOfTests)
	}
	return f.TestGroups
}
