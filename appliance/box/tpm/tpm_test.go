package tpm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"postern/appliance/box"
)

// emulated is a TPM of this test's own, whose state is in dir.
func emulated(t *testing.T, dir string) *Chip {
	t.Helper()
	run, err := os.MkdirTemp("", "tpm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(run) })
	path := filepath.Join(run, "sock")
	cmd := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+dir, "--server", "type=unixio,path="+path, "--flags", "not-need-init,startup-clear")
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatalf("start swtpm (make deps installs it): %v", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-ended
	})
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); ; <-tick.C {
		c, err := Open(path)
		if err == nil {
			t.Cleanup(func() { c.Close() })
			return c
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("swtpm: %v\n%s", err, said.Bytes())
		default:
		}
		if time.Now().After(end) {
			t.Fatalf("swtpm makes no socket: %v", err)
		}
	}
}

// The same salt is the same key, also after the machine was off; another salt,
// or another TPM, is another one.
func TestKeys(t *testing.T) {
	dir := t.TempDir()
	salt, other := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	public := func(c *Chip, salt []byte) *ecdsa.PublicKey {
		t.Helper()
		k, err := c.Key(salt)
		if err != nil {
			t.Fatal(err)
		}
		return k.Public().(*ecdsa.PublicKey)
	}
	var first *ecdsa.PublicKey
	t.Run("first", func(t *testing.T) {
		c := emulated(t, dir)
		first = public(c, salt)
		if !first.Equal(public(c, salt)) {
			t.Error("the same salt gives another key")
		}
		if first.Equal(public(c, other)) {
			t.Error("another salt gives the same key")
		}
		if _, err := c.Key([]byte("short")); err == nil {
			t.Error("a short salt: got no error, want one")
		}
	})
	t.Run("again", func(t *testing.T) {
		if !first.Equal(public(emulated(t, dir), salt)) {
			t.Error("after a restart the key is another one")
		}
	})
	t.Run("another", func(t *testing.T) {
		if first.Equal(public(emulated(t, t.TempDir()), salt)) {
			t.Error("another TPM has the same key")
		}
	})
}

// A TPM has place for three keys: many signatures show that each is freed.
func TestSign(t *testing.T) {
	c := emulated(t, t.TempDir())
	k, err := c.Key(bytes.Repeat([]byte{1}, 32))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		digest := sha256.Sum256([]byte{byte(i)})
		sig, err := k.Sign(rand.Reader, digest[:], crypto.SHA256)
		if err != nil || !ecdsa.VerifyASN1(k.Public().(*ecdsa.PublicKey), digest[:], sig) {
			t.Fatalf("signature %d: got %x, %v, want one that holds", i, sig, err)
		}
	}
	if _, err := k.Sign(rand.Reader, make([]byte, 48), crypto.SHA384); err == nil {
		t.Error("SHA-384: got a signature, want an error")
	}
}

// A TPM that has locked itself against guessing opens what is sealed again, once
// it is calmed; one that has a password for that is left alone.
func TestForgive(t *testing.T) {
	c := emulated(t, t.TempDir())
	if err := c.Forgive(); err != nil {
		t.Errorf("where nothing is counted: got %v", err)
	}
	made, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.TPMRHOwner,
		InSensitive:   tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{UserAuth: tpm2.TPM2BAuth{Buffer: []byte("right")}}},
		InPublic: tpm2.New2B(tpm2.TPMTPublic{
			Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256,
			ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, SignEncrypt: true},
			Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgKeyedHash, &tpm2.TPMSKeyedHashParms{Scheme: tpm2.TPMTKeyedHashScheme{
				Scheme: tpm2.TPMAlgHMAC, Details: tpm2.NewTPMUSchemeKeyedHash(tpm2.TPMAlgHMAC, &tpm2.TPMSSchemeHMAC{HashAlg: tpm2.TPMAlgSHA256}),
			}}),
		}),
	}.Execute(c.tpm)
	if err != nil {
		t.Fatal(err)
	}
	use := func(password string) error {
		_, err := tpm2.Hmac{
			Handle: tpm2.AuthHandle{Handle: made.ObjectHandle, Name: made.Name, Auth: tpm2.PasswordAuth([]byte(password))},
			Buffer: tpm2.TPM2BMaxBuffer{Buffer: []byte("x")}, HashAlg: tpm2.TPMAlgSHA256,
		}.Execute(c.tpm)
		return err
	}
	if err := use("right"); err != nil {
		t.Fatal(err)
	}
	lock := func() {
		t.Helper()
		for range 100 {
			if errors.Is(use("wrong"), tpm2.TPMRCLockout) {
				return
			}
		}
		t.Fatal("it does not lock itself")
	}
	lock()
	if err := use("right"); !errors.Is(err, tpm2.TPMRCLockout) {
		t.Fatalf("locked: got %v, want %v", err, tpm2.TPMRCLockout)
	}
	if err := c.Forgive(); err != nil {
		t.Fatal(err)
	}
	if err := use("right"); err != nil {
		t.Errorf("calmed: got %v", err)
	}
	_, err = tpm2.HierarchyChangeAuth{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHLockout, Auth: tpm2.PasswordAuth(nil)}, NewAuth: tpm2.TPM2BAuth{Buffer: []byte("somebody's")},
	}.Execute(c.tpm)
	if err != nil {
		t.Fatal(err)
	}
	lock()
	if err := c.Forgive(); !errors.Is(err, ErrLocked) {
		t.Errorf("with a password: got %v, want %v", err, ErrLocked)
	}
}

// The box's identity is in the TPM, its folder holds no key, and it is of no
// use to another machine.
func TestIdentity(t *testing.T) {
	dir := t.TempDir()
	c := emulated(t, t.TempDir())
	id, err := box.Identity(dir, c)
	if err != nil {
		t.Fatal(err)
	}
	again, err := box.Identity(dir, c)
	if err != nil || !bytes.Equal(again.Certificate[0], id.Certificate[0]) {
		t.Errorf("got another certificate, %v, want the same", err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "identity.key"))
	if err != nil || bytes.Contains(b, []byte("PRIVATE KEY")) {
		t.Errorf("the folder holds a private key (%v)", err)
	}
	leaf, err := x509.ParseCertificate(id.Certificate[0])
	if err != nil || leaf.CheckSignature(leaf.SignatureAlgorithm, leaf.RawTBSCertificate, leaf.Signature) != nil {
		t.Errorf("its certificate does not hold (%v)", err)
	}
	if _, err := box.Identity(dir, emulated(t, t.TempDir())); err == nil {
		t.Error("another TPM: got the identity, want an error")
	}
	if _, err := box.Identity(dir, nil); err == nil {
		t.Error("no TPM: got the identity, want an error")
	}
}

func TestNoTPM(t *testing.T) {
	if _, err := Open(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want fs.ErrNotExist", err)
	}
}
