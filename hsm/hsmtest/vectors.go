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

// Wycheproof reads a file of vectors from the folder of third-party material:
// $POSTERN_CORPORA, or the one beside the checkout. Without it the test is
// skipped.
func Wycheproof(t testing.TB, file string) []Vectors {
	t.Helper()
	dir := os.Getenv("POSTERN_CORPORA")
	if dir == "" {
		root, err := os.Getwd()
		if err != nil {
			t.Fatal(err)
		}
		for !exists(filepath.Join(root, "go.mod")) && root != filepath.Dir(root) {
			root = filepath.Dir(root)
		}
		dir = filepath.Join(root, "../shared/corpora")
	}
	b, err := os.ReadFile(filepath.Join(dir, "msgs/wycheproof", file))
	if err != nil {
		t.Skipf("no vectors of Wycheproof: %v (set POSTERN_CORPORA to the folder of third-party material)", err)
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

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
