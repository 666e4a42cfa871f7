package cms

import (
	"bytes"
	"crypto/x509"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// NSS, with which Thunderbird reads, opens what is sealed here with AES-CBC and
// PKCS #1 v1.5 for one RSA key, and the other way round. The rest it cannot read.
func TestNSS(t *testing.T) {
	r := readers(t)["rsa"]
	dir := t.TempDir()
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %s: %v: %s", name, args[0], err, out)
		}
	}
	file := func(name string, content []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cert, key := r.files(t)
	db, bundle := "sql:"+dir, filepath.Join(dir, "rsa.p12")
	run("certutil", "-N", "-d", db, "--empty-password")
	run("certutil", "-A", "-d", db, "-n", "issuer", "-t", "C,C,C", "-i", file("issuer.crt", r.issuer.Raw))
	run("openssl", "pkcs12", "-export", "-in", cert, "-inkey", key, "-name", "rsa", "-passout", "pass:secret", "-out", bundle)
	run("pk12util", "-i", bundle, "-d", db, "-W", "secret", "-K", "")
	out := filepath.Join(dir, "out")
	for _, size := range []int{1, 100, pieceSize, 100_001} {
		content := random(size)
		for _, c := range []Cipher{AES128CBC, AES192CBC, AES256CBC} {
			message := sealed(t, content, SealRequest{Recipients: []*x509.Certificate{r.cert}, Cipher: c})
			run("cmsutil", "-D", "-d", db, "-i", file("in", message), "-o", out)
			if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, content) {
				t.Errorf("NSS opens %s of %d bytes: got same=%t, %v, want true, nil", c, size, bytes.Equal(got, content), err)
			}
		}
		run("cmsutil", "-E", "-d", db, "-r", "rsa", "-i", file("in", content), "-o", out)
		message, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		if e, got, err := r.open(message); err != nil || !bytes.Equal(got, content) {
			t.Errorf("open %d bytes by NSS: got same=%t, %v, want true, nil", size, bytes.Equal(got, content), err)
		} else if e.Cipher.Authenticated() {
			t.Errorf("NSS: got %s, want a CBC cipher", e.Cipher)
		}
	}
}
