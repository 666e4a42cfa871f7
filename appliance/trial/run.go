package trial

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
)

const (
	bob   = "bob@partner.example"
	alice = "alice"
)

// introduce makes Bob, and lets him and the gateway know each other.
func (b *Box) introduce(ctx context.Context) (*Partner, error) {
	p, err := NewPartner(ctx, b.Path("gpg"), bob, "future-default")
	if err != nil {
		return nil, err
	}
	ours, err := b.Postern(ctx, nil, "identity", "export", b.Domain)
	if err == nil {
		err = p.Import(ctx, ours)
	}
	if err != nil {
		return p, err
	}
	theirs, err := p.Cert(ctx)
	if err == nil {
		_, err = b.Postern(ctx, strings.NewReader(string(theirs)), "cert", "import", "-")
	}
	return p, err
}

// postmaster is whom the certificate of the domain names, for gpg's --recipient.
func (b *Box) postmaster() string { return "postmaster@" + b.Domain }

// Run opens the box, tells out how to send mail through it, and waits until
// ctx ends or a daemon does.
func Run(ctx context.Context, c Config, out io.Writer) error {
	fmt.Fprintln(out, "Starting a gateway in", c.Dir, "…")
	return with(ctx, c, func(b *Box, p *Partner) error { return b.wait(ctx, p, out) })
}

// with opens a box with a partner, hands both to do, and closes them.
func with(ctx context.Context, c Config, do func(*Box, *Partner) error) (err error) {
	b, err := Open(ctx, c)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := b.Close(); err == nil {
			err = cerr
		}
	}()
	p, err := b.introduce(ctx)
	if p != nil {
		defer p.Close()
	}
	if err != nil {
		return err
	}
	return do(b, p)
}

// wait prints how to use the box, and stays until ctx or a daemon ends.
func (b *Box) wait(ctx context.Context, p *Partner, out io.Writer) error {
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
	fmt.Fprintf(out, `
The gateway of %[1]s is ready.
  outside listener  %[2]s   mail from the Internet: opened and verified
  inside listener   %[3]s   mail of the company: signed and sealed
  what arrives      %[4]s

Send a sealed mail in, as %[5]s with GnuPG:

  gpg --homedir %[6]s --batch --quiet --trust-model always --armor --sign --encrypt -u %[5]s -r %[7]s < %[8]s \
    | cat %[9]s - %[10]s \
    | swaks --server %[2]s --from %[5]s --to alice@%[1]s --data -

Send a plain mail out; it leaves signed and sealed:

  swaks --server %[3]s --from alice@%[1]s --to %[5]s --header 'Subject: answer' --body 'Agreed.'

Look at what arrived, and ask why:

  ls -t %[4]s | head -n 1 | xargs -I {} cat %[4]s/{}
  printf 'From: alice@%[1]s\nTo: vault@partner.example\n\nhello\n' | %[11]s explain --config %[12]s --direction outbound --from alice@%[1]s --to vault@partner.example

Operate it:

  %[11]s doctor --config %[12]s

Stop it with Ctrl-C.
`, b.Domain, b.Outside, b.Inside, b.Kept.Dir(), bob, p.home, b.postmaster(),
		b.Path("note.txt"), b.Path("head.txt"), b.Path("tail.txt"), b.Bin+"/postern", b.Path("filterd.toml"))
	select {
	case <-ctx.Done():
		return nil
	case <-b.Keyd.Done():
		return fmt.Errorf("keyd ended by itself: %v (hint: %s says why)", b.Keyd.err, b.Path("keyd.log"))
	case <-b.Filterd.Done():
		return fmt.Errorf("filterd ended by itself: %v (hint: %s says why)", b.Filterd.err, b.Path("filterd.log"))
	}
}
