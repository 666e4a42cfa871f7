package openpgp

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/hsm"
	"postern/hsm/hsmtest"
)

// now is the time of judgement of all tests; peers are told it where they have a clock of their own.
var now = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// suiteUnderTest is one pair of algorithms in one version.
type suiteUnderTest struct {
	primary, subkey hsm.Algorithm
	v6              bool
}

func (s suiteUnderTest) String() string {
	version := 4
	if s.v6 {
		version = 6
	}
	return fmt.Sprintf("v%d-%s-%s", version, s.primary, s.subkey)
}

// suites are all that we make certificates of.
var suites = []suiteUnderTest{
	{hsm.RSA2048, hsm.RSA2048, false}, {hsm.RSA3072, hsm.RSA3072, false}, {hsm.RSA4096, hsm.RSA4096, false},
	{hsm.P256, hsm.P256, false}, {hsm.P384, hsm.P384, false}, {hsm.P521, hsm.P521, false},
	{hsm.Ed25519, hsm.X25519, false},
	{hsm.RSA3072, hsm.RSA3072, true},
	{hsm.P256, hsm.P256, true}, {hsm.P384, hsm.P384, true}, {hsm.P521, hsm.P521, true},
	{hsm.Ed25519, hsm.X25519, true},
	{hsm.P256, hsm.RSA2048, false}, // mixed, as a token without ECDH wants it
}

// address reads an address that a test wrote.
func address(t testing.TB, s string) message.Address {
	t.Helper()
	local, domain, ok := strings.Cut(s, "@")
	if !ok {
		t.Fatalf("address %q", s)
	}
	return message.Address{Local: local, Domain: domain}
}

// newIdentity makes keys in the token and a certificate for them.
func newIdentity(t testing.TB, token hsm.Keeper, s suiteUnderTest, who string) keyring.Identity {
	t.Helper()
	return newIdentityAt(t, token, s, who, now.Add(-24*time.Hour))
}

func newIdentityAt(t testing.TB, token hsm.Keeper, s suiteUnderTest, who string, created time.Time) keyring.Identity {
	t.Helper()
	generate := func(a hsm.Algorithm, u hsm.Usage) hsm.Key {
		k, err := token.Generate(t.Context(), hsm.KeySpec{Algorithm: a, Usage: u, Label: fmt.Sprintf("openpgp/%s/%s/%s", who, s, u)})
		if err != nil {
			t.Fatalf("generate %s: %v", a, err)
		}
		return k
	}
	a := address(t, who)
	cert, err := Create(t.Context(), token, CertSpec{Name: "Test " + s.String(), Address: a,
		Primary: generate(s.primary, hsm.Sign), Subkey: generate(s.subkey, hsm.Unwrap),
		Created: created, Lifetime: 365 * 24 * time.Hour, V6: s.v6})
	if err != nil {
		t.Fatalf("create %s: %v", s, err)
	}
	cert.Trust = keyring.Trusted
	return keyring.Identity{Cert: cert, Address: a}
}

// gnupg is a home of GnuPG that goes with the test. Its path is short: the
// socket of the agent lies in it.
type gnupg struct {
	t    testing.TB
	home string
}

func newGnuPG(t testing.TB) *gnupg {
	t.Helper()
	home, err := os.MkdirTemp("", "g")
	if err != nil {
		t.Fatal(err)
	}
	g := &gnupg{t, home}
	t.Cleanup(func() {
		_ = exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run()
		_ = os.RemoveAll(home)
	})
	return g
}

// run runs gpg at the time of the tests and gives its output.
func (g *gnupg) run(stdin string, args ...string) string {
	g.t.Helper()
	out, status, err := g.try(stdin, args...)
	if err != nil {
		g.t.Fatalf("gpg %s: %v\n%s", strings.Join(args, " "), err, status)
	}
	return out
}

func (g *gnupg) try(stdin string, args ...string) (out, status string, err error) {
	return peer(g.t, stdin, "gpg", append([]string{"--homedir", g.home, "--batch", "--yes", "--no-tty", "--pinentry-mode", "loopback", "--passphrase", "",
		"--trust-model", "always", "--status-fd", "2", "--faked-system-time", now.Format("20060102T150405!")}, args...)...)
}

// peer runs a foreign program.
func peer(t testing.TB, stdin, name string, args ...string) (out, status string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var o, e strings.Builder
	c := exec.CommandContext(ctx, name, args...)
	c.Stdin, c.Stdout, c.Stderr = strings.NewReader(stdin), &o, &e
	err = c.Run()
	return o.String(), e.String(), err
}

// write puts text into a file of the test.
func write(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func armored(t testing.TB, c keyring.Cert) string {
	t.Helper()
	var b strings.Builder
	if err := Armor(&b, c); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// soft is a token in memory; sharing one over a test saves the making of RSA keys.
func soft(t testing.TB) hsm.Keeper { return hsmtest.Memory(t) }
