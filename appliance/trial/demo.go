package trial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// demoTime is how long one mail of the demonstration may take.
const demoTime = 30 * time.Second

// Demo opens a box, sends mails through it, one each way in each format and one
// that is refused, shows each before and after, and stops. The error is
// whatever is not as it should be.
func Demo(ctx context.Context, c Config, out io.Writer) error {
	return with(ctx, c, func(b *Box, p partners) error {
		for _, show := range []func(context.Context, partners, io.Writer) error{b.showOpened, b.showSealed, b.showOpenedSMIME, b.showSealedSMIME, b.showRefused} {
			ctx, cancel := context.WithTimeout(ctx, demoTime)
			err := show(ctx, p, out)
			cancel()
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// passes submits a mail and gives what the sink got.
func (b *Box) passes(ctx context.Context, server, from, to string, mail []byte) (string, error) {
	seen, err := b.Kept.Seen()
	if err != nil {
		return "", err
	}
	if dialogue, err := Submit(ctx, server, from, []string{to}, mail); err != nil {
		return "", fmt.Errorf("%w: %s", err, dialogue)
	}
	paths, err := b.Kept.Await(ctx, seen, 1)
	if err != nil {
		return "", err
	}
	got, err := os.ReadFile(paths[0])
	return string(got), err
}

func (b *Box) showOpened(ctx context.Context, p partners, out io.Writer) error {
	to := alice + "@" + b.Domain
	sealed, err := p.bob.Seal(ctx, "From: Bob Partner <"+bob+">\nTo: "+to+"\nSubject: offer\n",
		"Content-Type: text/plain; charset=utf-8\r\n\r\nThe offer stands.\r\n", b.postmaster())
	if err != nil {
		return err
	}
	show(out, "1. OpenPGP: a partner's sealed mail comes in. Before, on the wire:", string(sealed))
	got, err := b.passes(ctx, b.Outside, bob, to, sealed)
	if err != nil {
		return err
	}
	show(out, "After, at the company's mail server: opened, and verified", got)
	if !strings.Contains(got, "The offer stands.") || !strings.Contains(unfold(got), "verified=yes; signer="+bob) {
		return errors.New("the sealed mail was not opened and verified")
	}
	return nil
}

func (b *Box) showSealed(ctx context.Context, p partners, out io.Writer) error {
	from := alice + "@" + b.Domain
	plain := lines("From: Alice <" + from + ">\nTo: " + bob + "\nSubject: answer\n\nAgreed.\n")
	show(out, "2. OpenPGP: an employee's plain mail goes out. Before, inside:", string(plain))
	got, err := b.passes(ctx, b.Inside, from, bob, plain)
	if err != nil {
		return err
	}
	show(out, "After, on its way to the partner: signed and encrypted", got)
	if strings.Contains(got, "Agreed.") {
		return errors.New("the mail left in clear")
	}
	entity, err := p.bob.Open(ctx, []byte(got))
	if err != nil {
		return err
	}
	show(out, "What the partner's GnuPG reads in it, signature good:", string(entity))
	if !strings.Contains(string(entity), "Agreed.") {
		return errors.New("the partner does not read what was sent")
	}
	return nil
}

func (b *Box) showOpenedSMIME(ctx context.Context, p partners, out io.Writer) error {
	to := alice + "@" + b.Domain
	sealed, err := p.carol.seal(ctx, to, "contract", "Content-Type: text/plain; charset=utf-8\r\n\r\nThe contract is signed.\r\n")
	if err != nil {
		return err
	}
	show(out, "3. S/MIME: another partner's sealed mail comes in. Before, on the wire:", string(sealed))
	got, err := b.passes(ctx, b.Outside, carol, to, sealed)
	if err != nil {
		return err
	}
	show(out, "After, at the company's mail server: opened, and verified", got)
	if !strings.Contains(got, "The contract is signed.") || !strings.Contains(unfold(got), "opened=smime; verified=yes; signer="+carol) {
		return errors.New("the sealed S/MIME mail was not opened and verified")
	}
	return nil
}

func (b *Box) showSealedSMIME(ctx context.Context, p partners, out io.Writer) error {
	from := alice + "@" + b.Domain
	plain := lines("From: Alice <" + from + ">\nTo: " + carol + "\nSubject: thanks\n\nReceived with thanks.\n")
	show(out, "4. S/MIME: an employee's plain mail goes out. Before, inside:", string(plain))
	got, err := b.passes(ctx, b.Inside, from, carol, plain)
	if err != nil {
		return err
	}
	show(out, "After, on its way to the partner: signed and encrypted", got)
	if strings.Contains(got, "Received with thanks.") {
		return errors.New("the mail left in clear")
	}
	entity, err := p.carol.open(ctx, []byte(got))
	if err != nil {
		return err
	}
	show(out, "What the partner's openssl reads in it, signature good:", string(entity))
	if !strings.Contains(string(entity), "Received with thanks.") {
		return errors.New("the partner does not read what was sent")
	}
	return nil
}

func (b *Box) showRefused(ctx context.Context, _ partners, out io.Writer) error {
	from, to := alice+"@"+b.Domain, "vault@partner.example"
	plain := lines("From: Alice <" + from + ">\nTo: " + to + "\nSubject: numbers\n\nFor your eyes only.\n")
	show(out, "5. A plain mail to an address that must be protected, and has no certificate:", string(plain))
	dialogue, err := Submit(ctx, b.Inside, from, []string{to}, plain)
	if err == nil || !strings.Contains(dialogue, "550 5.7.3") {
		return fmt.Errorf("the mail was not refused with 550 5.7.3: %v: %s", err, dialogue)
	}
	for line := range strings.Lines(dialogue) {
		if strings.Contains(line, "550 5.7.3") {
			show(out, "The gateway says no, and the employee's mail server tells him:", strings.TrimLeft(line, "<* "))
		}
	}
	return nil
}

// show prints a mail, or the beginning of a long one.
func show(out io.Writer, title, mail string) {
	fmt.Fprintf(out, "\n%s\n\n", title)
	all := strings.Split(strings.TrimRight(strings.ReplaceAll(mail, "\r\n", "\n"), "\n"), "\n")
	for i, line := range all {
		if i == 24 && len(all) > 28 {
			fmt.Fprintf(out, "    … %d more lines\n", len(all)-i)
			break
		}
		fmt.Fprintln(out, "   ", line)
	}
}

// unfold joins folded header fields.
func unfold(mail string) string {
	return strings.NewReplacer("\r\n\t", " ", "\r\n ", " ").Replace(mail)
}
