package e2e

import (
	"bufio"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"postern/hsm"
)

// bouncyCastle is the library of that name, behind peers/Cms.java.
type bouncyCastle struct {
	*partner
	desk
	version string
	ca      string
	in      io.Writer
	out     *bufio.Scanner
}

func newBouncyCastle(t testing.TB, p *partner) mailer {
	t.Helper()
	b := &bouncyCastle{partner: p, desk: desk{t: t, dir: t.TempDir()}}
	b.ca = b.keep(p.ca.cert.Raw)
	var path []string
	for _, jar := range []string{"bcprov.jar", "bcutil.jar", "bcpkix.jar"} {
		file := filepath.Join("/usr/share/java", jar)
		if _, err := os.Stat(file); err != nil {
			t.Fatalf("%v (make deps installs libbcpkix-java)", err)
		}
		path = append(path, file)
	}
	cmd := exec.CommandContext(t.Context(), "java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", strings.Join(path, ":"), "peers/Cms.java")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v (make deps)", err)
	}
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	b.in, b.out = in, bufio.NewScanner(out)
	if b.version, err = b.answer(); err != nil {
		t.Fatalf("start Java: %v", err)
	}
	return b
}

func (b *bouncyCastle) name() string { return "Bouncy Castle " + b.version }

// answer reads one line of the driver's.
func (b *bouncyCastle) answer() (string, error) {
	if !b.out.Scan() {
		b.t.Errorf("the driver ended: %v", b.out.Err())
		return "", errors.New("ended")
	}
	verdict, rest, _ := strings.Cut(b.out.Text(), " ")
	if verdict != "ok" {
		return "", errors.New(rest)
	}
	return rest, nil
}

// ask hands one order over; what it makes is in a file.
func (b *bouncyCastle) ask(verb string, fields ...string) ([]byte, error) {
	b.t.Helper()
	out := b.fresh()
	if _, err := fmt.Fprintln(b.in, verb, "out="+out, strings.Join(fields, " ")); err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.answer(); err != nil {
		return nil, err
	}
	return os.ReadFile(out)
}

func (b *bouncyCastle) seal(k sealing, to *x509.Certificate, content []byte) ([]byte, error) {
	fields := []string{"in=" + b.keep(content), "cert=" + b.keep(to.Raw), "cipher=" + ciphers[k.cipher]}
	switch {
	case k.wrap == "oaep":
		fields = append(fields, "oaep="+k.hash.String(), "mgf="+k.mgfHash().String())
	case k.agrees():
		_, wrap := k.wrapCipher()
		fields = append(fields, "agree="+agreements[k.wrap][k.hash], "wrap="+wrap)
	}
	if k.keyID {
		fields = append(fields, "ski="+hex.EncodeToString(to.SubjectKeyId))
	}
	return b.ask("seal", fields...)
}

func (b *bouncyCastle) open(k sealing, message []byte) ([]byte, error) {
	fields := []string{"in=" + b.keep(message), "key=" + b.keep(pkcs8(b.t, b.opens[k.to].key))}
	if k.aead() {
		fields = append(fields, "aead=yes")
	}
	return b.ask("open", fields...)
}

func (b *bouncyCastle) sign(k signing, content []byte) ([]byte, error) {
	own := b.signs[k.by]
	hash := strings.ReplaceAll(k.hash.String(), "-", "")
	algorithm := hash + "withECDSA"
	switch {
	case k.by == hsm.Ed25519:
		algorithm = "Ed25519"
	case k.pss:
		algorithm = hash + "withRSAandMGF1"
	case k.by == hsm.RSA2048, k.by == hsm.RSA3072:
		algorithm = hash + "withRSA"
	}
	fields := []string{"in=" + b.keep(content), "cert=" + b.keep(own.cert.Raw), "key=" + b.keep(pkcs8(b.t, own.key)), "algorithm=" + algorithm}
	if k.keyID {
		fields = append(fields, "ski="+hex.EncodeToString(own.cert.SubjectKeyId))
	}
	if !k.opaque {
		fields = append(fields, "detached=yes")
	}
	return b.ask("sign", fields...)
}

func (b *bouncyCastle) verify(k signing, message, content []byte) ([]byte, error) {
	fields := []string{"in=" + b.keep(message), "ca=" + b.ca}
	if !k.opaque {
		fields = append(fields, "content="+b.keep(content))
	}
	return b.ask("verify", fields...)
}
