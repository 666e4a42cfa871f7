package provisioning

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// taken is the result of box claim.
type taken struct {
	Recovery string   `json:"recovery"`
	Shares   []string `json:"shares,omitempty"`
	Files    []string `json:"files,omitempty"`
}

func (t taken) text(w io.Writer) {
	for i, s := range t.Shares {
		fmt.Fprintf(w, "share %d: %s\n", i+1, s)
	}
	for _, f := range t.Files {
		fmt.Fprintf(w, "share in %s\n", printable(f))
	}
	if t.Recovery != "" {
		fmt.Fprintf(w, "\nrecovery key of the data partition:\n\n    %s\n\nWrite it down: it is shown once, and is the one way to the data when the TPM is gone.\n", printable(t.Recovery))
	}
}

// maxShares is the most people a PIN is shared among.
const maxShares = 16

// sharesOf reads "2/3".
func sharesOf(text string) (need, total int, err error) {
	if text == "" {
		return 0, 0, nil
	}
	m, n, ok := strings.Cut(text, "/")
	need, err1 := strconv.Atoi(m)
	total, err2 := strconv.Atoi(n)
	if !ok || err1 != nil || err2 != nil || need < 2 || need > total || total > maxShares {
		return 0, 0, misuse("two of three people: --shares 2/3", "--shares %.20q: want M/N, M from 2 to N and N up to %d", text, maxShares)
	}
	return need, total, nil
}

func boxClaim(ctx context.Context, c *call, dir string) (any, error) {
	for _, flag := range []string{"fingerprint", "code", "config"} {
		if c.get(flag) == "" {
			return nil, misuse(c.cmd.synopsis(), "box claim wants --%s", flag)
		}
	}
	claim := BoxClaim{Address: c.args[0], Fingerprint: c.get("fingerprint"), Code: c.get("code")}
	var err error
	if claim.Config, err = c.read(c.get("config"), maxBoxFile); err != nil {
		return nil, fmt.Errorf("read box.toml: %w", err)
	}
	if claim.PIN, claim.Need, claim.Total, err = c.newPIN(); err != nil {
		return nil, err
	}
	if c.dry() {
		return c.did("claim the box at %s", c.args[0]), nil
	}
	var t taken
	if t.Recovery, t.Shares, err = c.Box.Claim(ctx, dir, claim); err != nil {
		return nil, err
	}
	if err := c.share(&t); err != nil {
		return t, err
	}
	if t.Recovery == "" { // nothing is encrypted, and nothing is to be typed back
		if err := c.print(t); err != nil {
			return nil, err
		}
		return confirmed(c.Box.Confirm(ctx, dir, ""))
	}
	if c.Secret == nil {
		return t, no("postern box confirm", "the claim waits: the recovery key has to be typed back")
	}
	if err := c.print(t); err != nil {
		return nil, err
	}
	typed, err := c.Secret("\ntype the recovery key back: ")
	if err != nil {
		return nil, fmt.Errorf("read recovery key: %w", err)
	}
	return confirmed(c.Box.Confirm(ctx, dir, typed))
}

// confirmed is what became of a claim. A box that took it goes to the addresses
// of its box.toml, and its answer may be lost on the way.
func confirmed(st BoxStatus, err error) (any, error) {
	if _, said := errors.AsType[hinted](err); err != nil && !said {
		return nil, Later(err, "if box.toml gives it another address it is there now: `postern box meet HOST:PORT`, then `postern box status`")
	}
	return orNil(st, err)
}

// maxBoxFile is the largest box.toml, in bytes.
const maxBoxFile = 1 << 20

// writeShares puts each share in a file of its own.
func writeShares(dir string, shares []string) (files []string, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	for i, s := range shares {
		path := filepath.Join(dir, fmt.Sprintf("share-%d.txt", i+1))
		if err := os.WriteFile(path, []byte(s+"\n"), 0o600); err != nil {
			return files, err
		}
		files = append(files, path)
	}
	return files, nil
}

// newPIN is the PIN of a new token: given, or made up and then shared.
func (c *call) newPIN() (pin string, need, total int, err error) {
	if need, total, err = sharesOf(c.get("shares")); err != nil {
		return "", 0, 0, err
	}
	if pin, err = c.secret("pin-file", "PIN of the token", true); err != nil {
		return "", 0, 0, err
	}
	if pin == "" {
		if need == 0 {
			return "", 0, 0, misuse("share it with --shares 2/3, or choose it with --ask-pin or --pin-file", "nobody would know the PIN")
		}
		pin = rand.Text()[:15] // 75 bits, and no longer than smart cards take
	}
	return pin, need, total, nil
}

// share puts the shares of t into files, where that is asked for.
func (c *call) share(t *taken) (err error) {
	if out := c.get("out"); out != "" && len(t.Shares) > 0 {
		t.Files, err = writeShares(out, t.Shares)
		t.Shares = nil
	}
	return err
}

// defaultStick is where the box's unit mounts a stick.
const defaultStick = "/run/stick/claim.json"

func boxOffer(_ context.Context, c *call, dir string) (any, error) {
	for _, flag := range []string{"config", "out"} {
		if c.get(flag) == "" {
			return nil, misuse(c.cmd.synopsis(), "box offer wants --%s", flag)
		}
	}
	text, err := c.read(c.get("config"), maxBoxFile)
	if err != nil {
		return nil, fmt.Errorf("read box.toml: %w", err)
	}
	file, err := c.Box.Offer(dir, text)
	if err != nil {
		return nil, err
	}
	if !c.dry() {
		if err := os.WriteFile(c.get("out"), file, 0o644); err != nil {
			return nil, err
		}
	}
	return c.did("write %s", c.get("out")), nil
}

func boxPIN(ctx context.Context, c *call, dir string) (any, error) {
	pin, need, total, err := c.newPIN()
	if err != nil {
		return nil, err
	}
	if c.dry() {
		return c.did("give the token its PIN"), nil
	}
	st, shares, err := c.Box.PIN(ctx, dir, pin, need, total)
	if err != nil {
		return nil, err
	}
	t := taken{Shares: shares}
	if err := c.share(&t); err != nil {
		return t, err
	}
	if err := c.print(t); err != nil {
		return nil, err
	}
	return st, nil
}

func boxConfirm(ctx context.Context, c *call, dir string) (any, error) {
	typed, err := c.line("recovery key: ")
	if err != nil {
		return nil, err
	}
	return confirmed(c.Box.Confirm(ctx, dir, typed))
}

// line asks at the terminal, or reads the first line of standard input.
func (c *call) line(prompt string) (string, error) {
	if c.Secret != nil {
		return c.Secret(prompt)
	}
	b, err := c.read("-", maxSecret)
	if err != nil {
		return "", fmt.Errorf("read standard input: %w", err)
	}
	first, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimRight(first, "\r"), nil
}
