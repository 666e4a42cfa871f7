package cms

import (
	"bytes"
	"crypto/sha1"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// gpgsm is one with a home of its own.
type gpgsm struct{ home, passphrase string }

// newGPGSM knows the keys of the readers, and trusts their issuer.
func newGPGSM(t testing.TB, known ...*reader) *gpgsm {
	t.Helper()
	home, err := os.MkdirTemp("", "gpgsm") // short: there are sockets in it
	if err != nil {
		t.Fatal(err)
	}
	g := &gpgsm{home, filepath.Join(home, "passphrase")}
	t.Cleanup(func() {
		kill := exec.Command("gpgconf", "--kill", "all")
		kill.Env = append(os.Environ(), "GNUPGHOME="+home)
		if out, err := kill.CombinedOutput(); err != nil {
			t.Errorf("end gpg-agent: %v: %s", err, out)
		}
		if err := os.RemoveAll(home); err != nil {
			t.Errorf("remove home of gpgsm: %v", err)
		}
	})
	var trusted strings.Builder
	for i, b := range sha1.Sum(known[0].issuer.Raw) {
		if i > 0 {
			trusted.WriteByte(':')
		}
		fmt.Fprintf(&trusted, "%02X", b)
	}
	if err := os.WriteFile(filepath.Join(home, "trustlist.txt"), []byte(trusted.String()+" S relax\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(g.passphrase, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, "gpg-agent.conf"), []byte("disable-scdaemon\ns2k-count 65536\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	issuer := filepath.Join(home, "issuer.crt")
	if err := os.WriteFile(issuer, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: known[0].issuer.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, r := range known {
		cert, key := r.files(t)
		bundle := filepath.Join(home, r.name+".p12")
		out, err := exec.Command("openssl", "pkcs12", "-export", "-in", cert, "-inkey", key, "-certfile", issuer, "-out", bundle, "-passout", "pass:secret", "-keypbe", "PBE-SHA1-3DES", "-certpbe", "PBE-SHA1-3DES", "-macalg", "sha1").CombinedOutput()
		if err != nil {
			t.Fatalf("make PKCS#12: %v: %s", err, out)
		}
		if out, err := g.run(nil, "--import", bundle); err != nil {
			t.Fatalf("import key of %s: %v: %s", r.name, err, out)
		}
	}
	return g
}

// run gives what gpgsm prints.
func (g *gpgsm) run(in []byte, args ...string) ([]byte, error) {
	passphrase, err := os.Open(g.passphrase)
	if err != nil {
		return nil, err
	}
	defer passphrase.Close()
	c := exec.Command("gpgsm", slices.Concat([]string{"--homedir", g.home, "--batch", "--no-tty", "--disable-dirmngr", "--disable-crl-checks", "--pinentry-mode", "loopback", "--passphrase-fd", "3"}, args)...)
	c.ExtraFiles = []*os.File{passphrase}
	c.Stdin = bytes.NewReader(in)
	var said bytes.Buffer
	c.Stderr = &said
	out, err := c.Output()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, strings.TrimSpace(said.String()))
	}
	return out, nil
}

// gpgsm reads what is sealed here with AES-CBC for an RSA key, and the other
// way round: it writes indefinite lengths throughout. GCM and OAEP it cannot
// read.
func TestGPGSM(t *testing.T) {
	r := readers(t)["rsa"]
	g := newGPGSM(t, r)
	for _, size := range []int{0, 1, 100, pieceSize, 100_001} {
		content := random(size)
		for _, c := range []struct {
			cipher Cipher
			name   string
		}{{AES128CBC, "AES"}, {AES192CBC, "AES192"}, {AES256CBC, "AES256"}} {
			message := sealed(t, content, SealRequest{Recipients: []*x509.Certificate{r.cert}, Cipher: c.cipher})
			if got, err := g.run(message, "--decrypt"); err != nil || !bytes.Equal(got, content) {
				t.Errorf("gpgsm opens %s of %d bytes: got same=%t, %v, want true, nil", c.cipher, size, bytes.Equal(got, content), err)
			}
			message, err := g.run(content, "--encrypt", "--cipher-algo", c.name, "--recipient", r.name+"@company1.example")
			if err != nil {
				t.Fatal(err)
			}
			if e, got, err := r.open(message); err != nil || e.Cipher != c.cipher || !bytes.Equal(got, content) {
				t.Errorf("open %s of %d bytes by gpgsm: got same=%t, %v, want true, nil", c.cipher, size, bytes.Equal(got, content), err)
			}
		}
	}
}
