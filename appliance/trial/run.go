package trial

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"postern/filter/credential"
)

const (
	bob   = "bob@partner.example"   // has OpenPGP
	carol = "carol@partner.example" // has S/MIME
	alice = "alice"
)

// partners are the people outside.
type partners struct {
	bob   *Partner
	carol *correspondent
}

// introduce makes Bob, and lets him and the gateway know each other.
func (b *Box) introduce(ctx context.Context) (*Partner, error) {
	p, err := NewPartner(ctx, b.Path("gpg"), bob, "future-default")
	if err != nil {
		return nil, err
	}
	ours, err := b.Postern(ctx, nil, "identity", "export", b.Domain, "--format", "openpgp")
	if err == nil {
		err = p.Import(ctx, ours)
	}
	if err != nil {
		return p, err
	}
	theirs, err := p.Cert(ctx)
	if err == nil {
		_, err = b.Postern(ctx, bytes.NewReader(theirs), "cert", "import", "-")
	}
	return p, err
}

// introduceSMIME likewise makes Carol. Where she or the domain has no
// certificates that are valid, an authority of the trial certifies both.
func (b *Box) introduceSMIME(ctx context.Context) (*correspondent, error) {
	c := &correspondent{name: "Carol Partner", address: carol, dir: b.Path("carol")}
	ours, err := b.identities(ctx)
	if err != nil {
		return nil, err
	}
	bound := func(use string) bool { return slices.Contains(ours, identity{b.Domain, "smime", use}) }
	if !c.settled(time.Now()) || !bound("sign") || !bound("unwrap") {
		if err := b.certify(ctx, c); err != nil {
			return nil, err
		}
	}
	theirs, err := os.ReadFile(c.path("cert.pem"))
	if err == nil {
		_, err = b.Postern(ctx, bytes.NewReader(theirs), "cert", "import", "-")
	}
	return c, err
}

// certify has a new authority certify the domain's keys in the token, and
// Carol's. Her new key comes first and its certificate last: a box that is
// stopped in between is certified anew.
func (b *Box) certify(ctx context.Context, c *correspondent) error {
	a, err := newAuthority(b.Domain)
	if err != nil {
		return err
	}
	hers, err := c.newKey(ctx)
	if err != nil {
		return err
	}
	cert, err := a.certify(hers, c.name, c.address, x509.KeyUsageDigitalSignature|x509.KeyUsageKeyEncipherment)
	if err != nil {
		return err
	}
	out, err := b.Postern(ctx, nil, "identity", "create", "--use", "smime", "--domain", b.Domain, "--out", b.Dir, "--json")
	if err != nil {
		return err
	}
	var asked struct{ Requests []request }
	if err := json.Unmarshal(out, &asked); err != nil {
		return fmt.Errorf("read requests: %w", err)
	}
	var pair, gateway []byte
	for _, r := range asked.Requests {
		pub, usage, err := r.read()
		if err != nil {
			return err
		}
		ours, err := a.certify(pub, b.Domain, r.Address, usage)
		if err != nil {
			return err
		}
		if r.Use == "unwrap" {
			gateway = ours
		}
		pair = append(pair, ours...)
	}
	anchor := certPEM(a.cert)
	if _, err = b.Postern(ctx, bytes.NewReader(anchor), "cert", "import", "--anchor", "-"); err != nil {
		return err
	}
	if _, err = b.Postern(ctx, bytes.NewReader(pair), "identity", "add", "--domain", b.Domain, "--cert", "-"); err != nil {
		return err
	}
	for _, file := range []struct {
		name string
		data []byte
	}{{"ca.pem", anchor}, {"gateway.pem", gateway}, {"cert.pem", cert}} {
		if err := os.WriteFile(c.path(file.name), file.data, 0o600); err != nil {
			return fmt.Errorf("certify: %w", err)
		}
	}
	return nil
}

// postmaster is whom the certificate of the domain names, for gpg's --recipient.
func (b *Box) postmaster() string { return "postmaster@" + b.Domain }

// Run opens the box, tells out how to send mail through it, and waits until
// ctx ends or a daemon does.
func Run(ctx context.Context, c Config, out io.Writer) error {
	fmt.Fprintln(out, "Starting a gateway in", c.Dir, "…")
	if c.TLS == "" {
		c.TLS = "offer"
	}
	return with(ctx, c, func(b *Box, p partners) error { return b.wait(ctx, p, out) })
}

// with opens a box with its partners, hands both to do, and closes them.
func with(ctx context.Context, c Config, do func(*Box, partners) error) (err error) {
	b, err := Open(ctx, c)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := b.Close(); err == nil {
			err = cerr
		}
	}()
	var p partners
	p.bob, err = b.introduce(ctx)
	if p.bob != nil {
		defer p.bob.Close()
	}
	if err != nil {
		return err
	}
	if p.carol, err = b.introduceSMIME(ctx); err != nil {
		return err
	}
	return do(b, p)
}

// wait prints how to use the box, and stays until ctx or a daemon ends.
func (b *Box) wait(ctx context.Context, p partners, out io.Writer) error {
	for name, text := range map[string]string{
		"note.txt": "Content-Type: text/plain; charset=utf-8\n\nThe offer stands.\n",
		"head.txt": "From: Bob Partner <" + bob + ">\nTo: " + alice + "@" + b.Domain + "\nSubject: offer\nMIME-Version: 1.0\n" +
			"Content-Type: multipart/encrypted; protocol=\"application/pgp-encrypted\"; boundary=\"=_b\"\n\n" +
			"--=_b\nContent-Type: application/pgp-encrypted\n\nVersion: 1\n\n--=_b\nContent-Type: application/octet-stream\n\n",
		"tail.txt": "\n--=_b--\n",
	} {
		if err := os.WriteFile(b.Path(name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	c := p.carol
	for _, text := range []struct {
		format string
		values []any
	}{
		{`
The gateway of %s is ready.
  outside listener  %s   mail from the Internet: opened and verified
  inside listener   %s   mail of the company: signed and sealed
  what arrives      %s
`, []any{b.Domain, b.Outside, b.Inside, b.Kept.Dir()}},
		{`
OpenPGP: send a sealed mail in, as %[1]s with GnuPG:

  gpg --homedir %[2]s --batch --quiet --trust-model always --armor --sign --encrypt -u %[1]s -r %[3]s < %[4]s \
    | cat %[5]s - %[6]s \
    | swaks --server %[7]s --from %[1]s --to alice@%[8]s --data -

Send him a plain mail out; it leaves signed and sealed:

  swaks --server %[9]s --from alice@%[8]s --to %[1]s --header 'Subject: answer' --body 'Agreed.'
`, []any{bob, p.bob.home, b.postmaster(), b.Path("note.txt"), b.Path("head.txt"), b.Path("tail.txt"), b.Outside, b.Domain, b.Inside}},
		{`
S/MIME: send a sealed mail in, as %[1]s with openssl:

  openssl cms -sign -in %[2]s -signer %[3]s -inkey %[4]s \
    | openssl cms -encrypt -aes-256-cbc -from %[1]s -to alice@%[5]s -subject offer %[6]s \
    | swaks --server %[7]s --from %[1]s --to alice@%[5]s --data -

Send her a plain mail out; it leaves signed and sealed, and she reads it so:

  swaks --server %[8]s --from alice@%[5]s --to %[1]s --header 'Subject: answer' --body 'Agreed.'
  ls -t %[9]s | head -n 1 | xargs -I {} openssl cms -decrypt -in %[9]s/{} -recip %[3]s -inkey %[4]s \
    | openssl cms -verify -CAfile %[10]s
`, []any{carol, b.Path("note.txt"), c.path("cert.pem"), c.path("key.pem"), b.Domain, c.path("gateway.pem"), b.Outside, b.Inside, b.Kept.Dir(), c.path("ca.pem")}},
		{`
An authority of this trial certified both sides. It is no real one, and its key is gone.

Look at what arrived last, and ask why:

  ls -t %[1]s | head -n 1 | xargs -I {} cat %[1]s/{}
  printf 'From: alice@%[2]s\nTo: vault@partner.example\n\nhello\n' | %[3]s explain --config %[4]s --direction outbound --from alice@%[2]s --to vault@partner.example

Operate it:

  %[3]s doctor --config %[4]s

Both listeners offer STARTTLS, with keys in the token; this is how a server outside looks at it:

  openssl s_client -starttls smtp -connect %[5]s -CAfile %[6]s -verify_hostname %[7]s -verify_return_error < /dev/null

Stop it with Ctrl-C.
`, []any{b.Kept.Dir(), b.Domain, b.Bin + "/postern", b.Path("filterd.toml"), b.Outside, b.Certificate(credential.ECDSA), b.Server}},
	} {
		fmt.Fprintf(out, text.format, text.values...)
	}
	select {
	case <-ctx.Done():
		return nil
	case <-b.Keyd.Done():
		return fmt.Errorf("keyd ended by itself: %v (hint: %s says why)", b.Keyd.err, b.Path("keyd.log"))
	case <-b.Filterd.Done():
		return fmt.Errorf("filterd ended by itself: %v (hint: %s says why)", b.Filterd.err, b.Path("filterd.log"))
	}
}
