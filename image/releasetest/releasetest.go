// Package releasetest makes releases for tests: of small files, by keys that are
// in memory only.
package releasetest

import (
	"bytes"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"os"
	"path/filepath"
	"testing"

	"postern/image"
)

// Publisher is who releases.
type Publisher struct {
	Dir     string // of the releases and their log
	Keys    string // folder of the keys to trust
	Profile string
	release *ecdsa.PrivateKey
	log     ed25519.PrivateKey
	trusted *image.Keys
}

const origin = "company1.example/releases"

// New makes keys, and a folder to trust them by.
func New(t testing.TB) *Publisher {
	t.Helper()
	p := &Publisher{Dir: t.TempDir(), Keys: t.TempDir(), Profile: "release"}
	var err error
	if p.release, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	if _, p.log, err = ed25519.GenerateKey(rand.Reader); err != nil {
		t.Fatal(err)
	}
	pem, err := image.ReleaseKeyFile(p.release.Public())
	if err != nil {
		t.Fatal(err)
	}
	vkey, err := image.LogKey(origin, p.log.Public())
	if err != nil {
		t.Fatal(err)
	}
	Put(t, filepath.Join(p.Keys, "release.pem"), pem)
	Put(t, filepath.Join(p.Keys, "log.vkey"), []byte(vkey+"\n"))
	if p.trusted, err = image.LoadKeys(p.Keys); err != nil {
		t.Fatal(err)
	}
	return p
}

// Put writes a file.
func Put(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// Path of the manifest of a version.
func (p *Publisher) Path(v image.Version) string {
	return filepath.Join(p.Dir, image.Name(v)+image.ManifestEnd)
}

// Release publishes a version that consists of those files, by the ends of their
// names; a root is there packed as well.
func (p *Publisher) Release(t testing.TB, v, from image.Version, roothash string, files map[string][]byte) image.Manifest {
	t.Helper()
	name := filepath.Join(p.Dir, image.Name(v))
	for end, b := range files {
		Put(t, name+end, b)
		if end != ".root.raw" {
			continue
		}
		var z bytes.Buffer
		w := gzip.NewWriter(&z)
		if _, err := w.Write(b); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		Put(t, name+end+".gz", z.Bytes())
	}
	m := image.Manifest{Format: 1, Product: image.Product, Version: v, From: from, Profile: p.Profile, Time: "2026-11-25T10:00:00Z",
		Commit: "0123456789012345678901234567890123456789", RootHash: roothash, Tools: []image.Tool{}, Packages: []image.Package{}}
	var err error
	if m.Artifacts, err = image.Artifacts(t.Context(), p.Dir, v); err != nil {
		t.Fatal(err)
	}
	manifest, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	sig, err := image.Sign(manifest, p.release)
	if err != nil {
		t.Fatal(err)
	}
	log, err := image.OpenLog(filepath.Join(p.Dir, "log"), origin, p.log)
	if err != nil {
		t.Fatal(err)
	}
	proof, err := log.Append(sig, p.trusted)
	if err != nil {
		t.Fatal(err)
	}
	Put(t, name+image.ManifestEnd, manifest)
	Put(t, name+image.SignatureEnd, sig)
	Put(t, name+image.ProofEnd, proof)
	return m
}
