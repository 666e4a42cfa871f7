package e2e

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"postern/hsm"
)

// mailer is a program of somebody outside that speaks CMS. It has the keys of
// one partner, and trusts the authority. What it makes and reads is binary,
// and never a mail: that is for the tests to wrap.
type mailer interface {
	name() string // with the version
	seal(k sealing, to *x509.Certificate, content []byte) (message []byte, err error)
	open(k sealing, message []byte) (content []byte, err error)
	sign(k signing, content []byte) (message []byte, err error) // without the content unless opaque
	verify(k signing, message, content []byte) (signed []byte, err error)
}

// partner is one person outside, with keys for every algorithm.
type partner struct {
	address string
	ca      *authority
	signs   map[hsm.Algorithm]keypair
	opens   map[hsm.Algorithm]keypair
}

// signAlgorithms and openAlgorithms are what the two sides have keys of.
var (
	signAlgorithms = []hsm.Algorithm{hsm.RSA2048, hsm.RSA3072, hsm.P256, hsm.P384, hsm.P521, hsm.Ed25519}
	openAlgorithms = []hsm.Algorithm{hsm.RSA2048, hsm.RSA3072, hsm.P256, hsm.P384, hsm.P521, hsm.X25519}
)

// newPartner makes one.
func newPartner(t testing.TB, ca *authority, address string) *partner {
	t.Helper()
	p := &partner{address: address, ca: ca, signs: map[hsm.Algorithm]keypair{}, opens: map[hsm.Algorithm]keypair{}}
	for i, a := range signAlgorithms {
		key := newKey(t, a, 1)
		p.signs[a] = keypair{ca.issue(public(key), fmt.Sprintf("Signer %d", i), address, hsm.Sign), key}
	}
	for i, a := range openAlgorithms {
		key := newKey(t, a, 2)
		p.opens[a] = keypair{ca.issue(public(key), fmt.Sprintf("Reader %d", i), address, hsm.Unwrap), key}
	}
	return p
}

// desk is the folder of a program that works with files.
type desk struct {
	t   testing.TB
	dir string
	n   int
}

// fresh is the path of a new file.
func (d *desk) fresh() string {
	d.n++
	return filepath.Join(d.dir, fmt.Sprint(d.n))
}

// keep writes one.
func (d *desk) keep(b []byte) string {
	d.t.Helper()
	path := d.fresh()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		d.t.Fatal(err)
	}
	return path
}

// cert writes a certificate as PEM, and key a private key as PKCS #8 in PEM.
func (d *desk) cert(c *x509.Certificate) string {
	return d.keep(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}

func (d *desk) key(k crypto.PrivateKey) string {
	d.t.Helper()
	return d.keep(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8(d.t, k)}))
}

func pkcs8(t testing.TB, k crypto.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// tool runs a program, whose error is what it complained of.
func tool(t testing.TB, env []string, name string, args ...string) (out []byte, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	if out, err = cmd.Output(); err != nil {
		if _, ended := err.(*exec.ExitError); !ended {
			t.Fatalf("%s: %v (make deps)", name, err)
		}
		if ctx.Err() != nil { // which says nothing of what it can do
			t.Errorf("%s %s: %v", name, strings.Join(args, " "), ctx.Err())
		}
		return out, fmt.Errorf("%s", complaint.String())
	}
	return out, nil
}

// must is tool for what may not fail.
func must(t testing.TB, env []string, name string, args ...string) []byte {
	t.Helper()
	out, err := tool(t, env, name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v", name, strings.Join(args, " "), err)
	}
	return out
}

// lastLine is the last line of a text that is not empty.
func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}
