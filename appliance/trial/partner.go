package trial

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// Partner is somebody outside with a mail program that uses GnuPG.
type Partner struct {
	Address string
	home    string
	key     string // fingerprint of the partner's own key
}

// NewPartner makes one in the folder home, whose path must be short enough
// for gpg-agent's sockets, or takes the one there up. keys are the arguments of gpg's
// --quick-generate-key behind the user id: "rsa3072 default never", "future-default".
func NewPartner(ctx context.Context, home, address string, keys ...string) (*Partner, error) {
	p := &Partner{Address: address, home: home}
	if err := os.MkdirAll(home, 0o700); err != nil {
		return nil, fmt.Errorf("make partner: %w", err)
	}
	list, err := p.gpg(ctx, nil, "--list-secret-keys", "--with-colons", address)
	if err != nil {
		if _, err = p.gpg(ctx, nil, append([]string{"--quick-generate-key", "Bob Partner <" + address + ">"}, keys...)...); err != nil {
			return nil, err
		}
		if list, err = p.gpg(ctx, nil, "--list-secret-keys", "--with-colons", address); err != nil {
			return nil, err
		}
	}
	for line := range strings.Lines(string(list)) {
		if f := strings.Split(line, ":"); f[0] == "fpr" && p.key == "" {
			p.key = f[9]
		}
	}
	if p.key == "" {
		return nil, errors.New("make partner: gpg lists no key")
	}
	return p, nil
}

// AddKeys makes further subkeys: gpg's --quick-add-key with "cv25519 encr never".
func (p *Partner) AddKeys(ctx context.Context, keys ...string) error {
	_, err := p.gpg(ctx, nil, append([]string{"--quick-add-key", p.key}, keys...)...)
	return err
}

func (p *Partner) gpg(ctx context.Context, stdin []byte, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "gpg", append([]string{"--homedir", p.home, "--batch", "--no-tty", "--pinentry-mode", "loopback", "--passphrase", "", "--trust-model", "always"}, args...)...)
	var complaint bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(stdin), &complaint
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("gpg %s: %w: %s", args[0], err, bytes.TrimSpace(complaint.Bytes()))
	}
	return out, nil
}

// Close ends the agent that gpg started.
func (p *Partner) Close() error {
	return exec.Command("gpgconf", "--homedir", p.home, "--kill", "all").Run()
}

// Cert is the partner's certificate, armoured.
func (p *Partner) Cert(ctx context.Context) ([]byte, error) {
	return p.gpg(ctx, nil, "--armor", "--export", p.key)
}

// Import takes certificates up.
func (p *Partner) Import(ctx context.Context, certs []byte) error {
	_, err := p.gpg(ctx, certs, "--import")
	return err
}

// Seal signs and encrypts a MIME entity to the certificate that names to, and
// gives the whole mail (RFC 3156 §4). header are its lines before those of MIME.
func (p *Partner) Seal(ctx context.Context, header, entity, to string) ([]byte, error) {
	sealed, err := p.gpg(ctx, []byte(entity), "--armor", "--local-user", p.key, "--recipient", to, "--sign", "--encrypt")
	if err != nil {
		return nil, err
	}
	return Encrypted(header, sealed), nil
}

// Encrypted puts armoured ciphertext into the MIME structure of RFC 3156 §4.
func Encrypted(header string, armour []byte) []byte {
	boundary := "=_" + rand.Text()[:16]
	return lines(header + "MIME-Version: 1.0\n" +
		"Content-Type: multipart/encrypted; protocol=\"application/pgp-encrypted\";\n boundary=\"" + boundary + "\"\n\n" +
		"--" + boundary + "\nContent-Type: application/pgp-encrypted\n\nVersion: 1\n\n" +
		"--" + boundary + "\nContent-Type: application/octet-stream\n\n" + string(armour) + "\n--" + boundary + "--\n")
}

// Open decrypts and verifies a mail that the gateway sealed, and gives its
// entity. It fails unless gpg says that the signature is good.
func (p *Partner) Open(ctx context.Context, mail []byte) ([]byte, error) {
	const begin, end = "-----BEGIN PGP MESSAGE-----", "-----END PGP MESSAGE-----"
	from, to := bytes.Index(mail, []byte(begin)), bytes.Index(mail, []byte(end))
	if from < 0 || to < from {
		return nil, errors.New("open mail: no OpenPGP message in it")
	}
	cmd := []string{"--status-fd", "2", "--decrypt"}
	c := exec.CommandContext(ctx, "gpg", append([]string{"--homedir", p.home, "--batch", "--no-tty", "--trust-model", "always"}, cmd...)...)
	var status bytes.Buffer
	c.Stdin, c.Stderr = bytes.NewReader(mail[from:to+len(end)]), &status
	out, err := c.Output()
	if err != nil {
		return nil, fmt.Errorf("open mail: %w: %s", err, bytes.TrimSpace(status.Bytes()))
	}
	for _, want := range []string{"[GNUPG:] GOODSIG ", "[GNUPG:] DECRYPTION_OKAY"} {
		if !bytes.Contains(status.Bytes(), []byte(want)) {
			return nil, fmt.Errorf("open mail: gpg does not say %s", want)
		}
	}
	return out, nil
}

// lines gives s the line ends of mail.
func lines(s string) []byte {
	return []byte(strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\n", "\r\n"))
}

// Submit hands a mail to an SMTP server with swaks and gives what swaks
// printed. The error is that of a mail that was not taken.
func Submit(ctx context.Context, server, from string, to []string, mail []byte) (dialogue string, err error) {
	f, err := os.CreateTemp("", "postern-mail-*")
	if err != nil {
		return "", err
	}
	defer os.Remove(f.Name())
	if _, err = f.Write(mail); err == nil {
		err = f.Close()
	}
	if err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, "swaks", "--server", server, "--from", from, "--to", strings.Join(to, ","), "--helo", "peer.example", "--data", "@"+f.Name(), "--suppress-data", "--timeout", "60").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("swaks: %w", err)
	}
	return string(out), err
}
