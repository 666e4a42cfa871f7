package trial

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// correspondent is somebody outside with a mail program that uses openssl:
// S/MIME, with one key in a file that signs and opens.
type correspondent struct {
	name, address string
	dir           string // key.pem; cert.pem; ca.pem, whom she believes; gateway.pem, what she seals to
}

func (c *correspondent) path(name string) string { return filepath.Join(c.dir, name) }

func (c *correspondent) openssl(ctx context.Context, stdin []byte, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "openssl", args...)
	var complaint bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(stdin), &complaint
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("openssl %s %s: %w: %s", args[0], args[1], err, bytes.TrimSpace(complaint.Bytes()))
	}
	return out, nil
}

// newKey makes a key, and gives its public half out of the request for a certificate.
func (c *correspondent) newKey(ctx context.Context) (any, error) {
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make correspondent: %w", err)
	}
	der, err := c.openssl(ctx, nil, "req", "-new", "-newkey", "rsa:3072", "-nodes", "-keyout", c.path("key.pem"), "-subj", "/CN="+c.name, "-outform", "DER")
	if err != nil {
		return nil, err
	}
	return proven(der)
}

// settled tells whether she has all that she needs at a time.
func (c *correspondent) settled(at time.Time) bool {
	pair, err := tls.LoadX509KeyPair(c.path("cert.pem"), c.path("key.pem"))
	if err != nil {
		return false
	}
	anchors := x509.NewCertPool()
	for _, name := range []string{"ca.pem", "gateway.pem"} {
		data, err := os.ReadFile(c.path(name))
		if err != nil || name == "ca.pem" && !anchors.AppendCertsFromPEM(data) {
			return false
		}
	}
	_, err = pair.Leaf.Verify(x509.VerifyOptions{Roots: anchors, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection}})
	return err == nil
}

// seal signs and encrypts a MIME entity to the gateway, and gives the whole mail.
func (c *correspondent) seal(ctx context.Context, to, subject, entity string) ([]byte, error) {
	signed, err := c.openssl(ctx, []byte(entity), "cms", "-sign", "-signer", c.path("cert.pem"), "-inkey", c.path("key.pem"))
	if err != nil {
		return nil, err
	}
	sealed, err := c.openssl(ctx, signed, "cms", "-encrypt", "-aes-256-cbc", "-from", c.name+" <"+c.address+">", "-to", to, "-subject", subject, c.path("gateway.pem"))
	if err != nil {
		return nil, err
	}
	return lines(string(sealed)), nil
}

// open decrypts and verifies a mail that the gateway sealed, and gives its
// entity. It fails unless openssl finds that the authority certified who signed.
func (c *correspondent) open(ctx context.Context, mail []byte) ([]byte, error) {
	signed, err := c.openssl(ctx, mail, "cms", "-decrypt", "-recip", c.path("cert.pem"), "-inkey", c.path("key.pem"))
	if err != nil {
		return nil, err
	}
	return c.openssl(ctx, signed, "cms", "-verify", "-CAfile", c.path("ca.pem"))
}
