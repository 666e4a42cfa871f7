package openpgp

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/hsm"
	"postern/hsm/hsmtest"
)

// made is a certificate of our own in a token of this test.
func made(t *testing.T, a, opens hsm.Algorithm, v6 bool) (hsm.Keeper, keyring.Identity) {
	t.Helper()
	token := hsmtest.Memory(t)
	key := func(a hsm.Algorithm, u hsm.Usage) hsm.Key {
		k, err := token.Generate(t.Context(), hsm.KeySpec{Algorithm: a, Usage: u, Label: "openpgp/" + u.String()})
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	alice := message.Address{Local: "alice", Domain: "company1.example"}
	c, err := Create(t.Context(), token, CertSpec{Address: alice, Primary: key(a, hsm.Sign), Subkey: key(opens, hsm.Unwrap), Created: time.Now().Add(-time.Hour).Truncate(time.Second), V6: v6})
	if err != nil {
		t.Fatal(err)
	}
	return token, keyring.Identity{Cert: c, Address: alice}
}

// TestRevoke: a certificate that was taken back is used by nobody, here and in
// GnuPG, and still opens old mail.
func TestRevoke(t *testing.T) {
	for _, c := range []struct {
		name  string
		a, o  hsm.Algorithm
		v6    bool
		gnupg bool
	}{{"rsa", hsm.RSA3072, hsm.RSA3072, false, true}, {"p-256", hsm.P256, hsm.P256, false, true}, {"ed25519", hsm.Ed25519, hsm.X25519, false, true}, {"v6", hsm.Ed25519, hsm.X25519, true, false}} {
		t.Run(c.name, func(t *testing.T) {
			token, id := made(t, c.a, c.o, c.v6)
			now := time.Now()
			revocation, err := Revocation(t.Context(), token, id.Cert, Compromised, now.Add(-time.Minute))
			if err != nil {
				t.Fatal(err)
			}
			file, err := LockRevocation(t.Context(), id.Cert, revocation, now)
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(file, revocation) || strings.Contains(string(file), labelCert) {
				t.Errorf("got %s\nwant it sealed", file)
			}
			back, err := UnlockRevocation(t.Context(), token, id, file)
			if err != nil || !bytes.Equal(back, revocation) {
				t.Fatalf("got %d bytes and %v, want the revocation back", len(back), err)
			}
			if _, err := UnlockRevocation(t.Context(), hsmtest.Memory(t), id, file); err == nil {
				t.Error("without the token it opens")
			}
			if _, err := UnlockRevocation(t.Context(), token, id, []byte("Subject: x\r\n\r\nplain")); !errors.Is(err, ErrCert) {
				t.Errorf("a plain file: got %v, want %v", err, ErrCert)
			}

			revoked, err := Revoke(id.Cert, revocation)
			if err != nil {
				t.Fatal(err)
			}
			if !Revoked(revoked, now) || Revoked(id.Cert, now) {
				t.Error("want the one revoked, and the other not")
			}
			if err := New(Config{}).Usable(revoked, now); err == nil {
				t.Error("mail can be sealed to it")
			}
			if err := New(Config{}).Signs(keyring.Identity{Cert: revoked}, now); err == nil {
				t.Error("it signs")
			}
			if len(revoked.KeyIDs) != 2 || len(revoked.Addresses) != 1 {
				t.Errorf("got %d keys and %d addresses, want what it had", len(revoked.KeyIDs), len(revoked.Addresses))
			}
			if _, err := UnlockRevocation(t.Context(), token, keyring.Identity{Cert: revoked}, file); err != nil {
				t.Errorf("old mail: got %v, want it opened", err)
			}
			if c.gnupg {
				if got := inGnuPG(t, id.Cert, revoked); got != "r" {
					t.Errorf("GnuPG says %q, want r for revoked", got)
				}
			}
		})
	}
}

// inGnuPG is the validity of the primary key after both were imported.
func inGnuPG(t *testing.T, certs ...keyring.Cert) string {
	t.Helper()
	home, err := os.MkdirTemp("", "g")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run()
		os.RemoveAll(home)
	})
	for _, c := range certs {
		path := filepath.Join(home, "cert")
		if err := os.WriteFile(path, c.Raw, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("gpg", "--homedir", home, "--batch", "--import", path).CombinedOutput(); err != nil {
			t.Fatalf("gpg: %v: %s", err, out)
		}
	}
	out, err := exec.Command("gpg", "--homedir", home, "--batch", "--with-colons", "--list-keys").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		if f := strings.Split(line, ":"); f[0] == "pub" {
			return f[1]
		}
	}
	return ""
}

// TestRevokeRefuses what is no revocation of this certificate.
func TestRevokeRefuses(t *testing.T) {
	token, id := made(t, hsm.P256, hsm.P256, false)
	other, theirs := made(t, hsm.P256, hsm.P256, false)
	mine, err := Revocation(t.Context(), token, id.Cert, Retired, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := Revocation(t.Context(), other, theirs.Cert, Retired, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(mine)
	flipped[len(flipped)-3] ^= 1
	for name, revocation := range map[string][]byte{
		"another's": foreign, "nothing": nil, "damaged": flipped, "cut": mine[:len(mine)-1], "twice": append(bytes.Clone(mine), mine...), "a certificate": id.Raw,
	} {
		if _, err := Revoke(id.Cert, revocation); !errors.Is(err, ErrCert) {
			t.Errorf("%s: got %v, want %v", name, err, ErrCert)
		}
	}
	if _, err := Revocation(t.Context(), other, id.Cert, Retired, time.Now()); !errors.Is(err, hsm.ErrNoKey) {
		t.Errorf("without the key: got %v, want %v", err, hsm.ErrNoKey)
	}
}
