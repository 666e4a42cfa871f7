package cms

import (
	"bytes"
	"crypto/sha1"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"postern/hsm"
	"postern/hsm/hsmtest"
)

// gpgsmHome is a folder of gpgsm that trusts our CA. Its name is short, as
// sockets are in it.
func gpgsmHome(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		exec.Command("gpgconf", "--homedir", dir, "--kill", "all").Run()
		os.RemoveAll(dir)
	})
	ca, _ := authority()
	write(t, dir, "trustlist.txt", fmt.Appendf(nil, "%X S relax\n", sha1.Sum(ca.Raw))) // SHA-1 is how gpg-agent names it
	write(t, dir, "gpgsm.conf", []byte("disable-crl-checks\nno-secmem-warning\nfaked-system-time 20261125T120000\n"))
	write(t, dir, "ca.crt", certPEM(ca))
	run(t, dir, "gpgsm", "--homedir", dir, "--batch", "--import", "ca.crt")
	return dir
}

// What is signed here gpgsm verifies. 2.2 has neither Ed25519 nor P-521, of
// which it thinks that it is no multiple of 8 bits.
func TestWriteGpgsm(t *testing.T) {
	dir := gpgsmHome(t)
	token := hsmtest.Memory(t)
	for _, way := range ways {
		if way.algorithm == hsm.Ed25519 || way.algorithm == hsm.P521 {
			continue
		}
		r := signWith(t, token, way.algorithm)
		r.PSS = way.pss
		write(t, dir, "mail", []byte(entity))
		write(t, dir, "detached", signed(t, r, entity, true))
		write(t, dir, "opaque", signed(t, r, entity, false))
		for _, args := range [][]string{{"detached", "mail"}, {"opaque"}} {
			cmd := exec.CommandContext(t.Context(), "gpgsm", append([]string{"--homedir", dir, "--batch", "--status-fd", "1", "--verify"}, args...)...)
			cmd.Dir = dir
			out, err := cmd.CombinedOutput()
			if err != nil || !bytes.Contains(out, []byte("[GNUPG:] GOODSIG")) {
				t.Errorf("%s %v: %v\n%s", way.name, args, err, out)
			}
		}
	}
}

// What gpgsm signs is verified: all of it has indefinite lengths.
func TestReadGpgsm(t *testing.T) {
	dir := gpgsmHome(t)
	cert := keyFiles(t, dir, "ann", testKey(t, hsm.RSA2048))
	run(t, dir, "openssl", strings.Fields("pkcs12 -export -in ann.crt -inkey ann.key -out ann.p12 -passout pass: -keypbe PBE-SHA1-3DES -certpbe PBE-SHA1-3DES -macalg sha1")...)
	run(t, dir, "gpgsm", "--homedir", dir, "--batch", "--pinentry-mode", "loopback", "--passphrase-fd", "0", "--import", "ann.p12")
	write(t, dir, "mail", []byte(entity))
	for _, detached := range []bool{true, false} {
		args := []string{"--homedir", dir, "--batch", "--pinentry-mode", "loopback", "--passphrase-fd", "0", "-u", "ann@company1.example", "--sign"}
		if detached {
			args = append(args, "--detach-sign")
		}
		message := run(t, dir, "gpgsm", append(args, "mail")...)
		var s *Signed
		var err error
		var content bytes.Buffer
		if detached {
			s, err = ReadDetached(bytes.NewReader(message), strings.NewReader(entity))
		} else if s, err = ReadSigned(bytes.NewReader(message), &content); content.String() != entity {
			t.Errorf("got %q", content.String())
		}
		if err != nil {
			t.Errorf("detached %v: %v", detached, err)
			continue
		}
		if err := s.Signers[0].Verify(cert); err != nil || !s.Signers[0].Names(cert) {
			t.Errorf("detached %v: got %v", detached, err)
		}
	}
}
