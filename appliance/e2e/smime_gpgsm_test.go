package e2e

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"postern/hsm"
)

// gpgsm is the S/MIME half of GnuPG.
type gpgsm struct {
	*partner
	desk
	home    string
	version string
	known   map[string]bool
}

func newGPGSM(t testing.TB, p *partner) mailer {
	t.Helper()
	g := &gpgsm{partner: p, desk: desk{t: t, dir: t.TempDir()}, home: folder(t), known: map[string]bool{}}
	t.Cleanup(func() { exec.Command("gpgconf", "--homedir", g.home, "--kill", "all").Run() })
	version := strings.Fields(lastLine(strings.SplitN(string(must(t, nil, "gpgsm", "--version")), "\n", 2)[0]))
	g.version = strings.Join(strings.Split(version[len(version)-1], ".")[:2], ".")
	keys := filepath.Join(g.home, "private-keys-v1.d")
	if err := os.Mkdir(keys, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"gpgsm.conf":    "disable-crl-checks\ndisable-dirmngr\nno-secmem-warning\ncompatibility-flags allow-ka-to-encr\n",
		"trustlist.txt": fmt.Sprintf("%X S relax\n", sha1Of(p.ca.cert)),
	} {
		if err := os.WriteFile(filepath.Join(g.home, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	g.know(p.ca.cert)
	secret := map[string]crypto.PrivateKey{}
	for _, all := range []map[hsm.Algorithm]keypair{p.signs, p.opens} {
		for _, k := range all {
			if err := g.know(k.cert); err == nil {
				secret[fingerprint(k.cert)] = k.key
			}
		}
	}
	// The key files of the agent are named by a hash of what gpgsm makes of the certificate.
	owner := ""
	for line := range strings.Lines(string(must(t, nil, "gpgsm", "--homedir", g.home, "--batch", "--with-colons", "--with-keygrip", "--list-keys"))) {
		switch f := strings.Split(line, ":"); f[0] {
		case "fpr":
			owner = f[9]
		case "grp":
			if key := secret[owner]; key != nil {
				if err := os.WriteFile(filepath.Join(keys, f[9]+".key"), agentKey(t, key), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	return g
}

func fingerprint(c *x509.Certificate) string { return fmt.Sprintf("%X", sha1Of(c)) }

// know imports a certificate.
func (g *gpgsm) know(c *x509.Certificate) error {
	if fpr := fingerprint(c); !g.known[fpr] {
		if _, err := g.gpgsm("--import", g.cert(c)); err != nil {
			return g.reason(err)
		}
		g.known[fpr] = true
	}
	return nil
}

func (g *gpgsm) name() string { return "GnuPG " + g.version }

// run gives what gpgsm writes. A verdict that it only prints is an error, too.
func (g *gpgsm) run(args ...string) ([]byte, error) {
	g.t.Helper()
	out := g.fresh()
	if _, err := g.gpgsm(append([]string{"--output", out}, args...)...); err != nil {
		return nil, g.reason(err)
	}
	return os.ReadFile(out)
}

// gpgsm gives the status lines.
func (g *gpgsm) gpgsm(args ...string) ([]byte, error) {
	g.t.Helper()
	return tool(g.t, nil, "gpgsm", append([]string{"--homedir", g.home, "--batch", "--no-tty", "--quiet", "--status-fd", "1"}, args...)...)
}

// reason is the cause in GnuPG's words: the first line that is not talk,
// "gpgsm: what failed: cause <source>".
func (g *gpgsm) reason(err error) error {
	for line := range strings.Lines(err.Error()) {
		line = strings.TrimPrefix(strings.TrimSpace(strings.TrimPrefix(line, "gpgsm: ")), "DBG: ")
		line, _, _ = strings.Cut(line, " <")
		if line != "" && !slices.ContainsFunc(gpgsmTalk, func(talk string) bool { return strings.Contains(line, talk) }) {
			return errors.New(line)
		}
	}
	return errors.New("says nothing")
}

var gpgsmTalk = []string{"CRLs not checked", "adding certificates", "Signature made", "using ", "encrypted to", "should not have been used", "keybox"}

func (g *gpgsm) seal(k sealing, to *x509.Certificate, content []byte) ([]byte, error) {
	if err := g.know(to); err != nil {
		return nil, err
	}
	cipher := map[string]string{"des-ede3-cbc": "3DES"}[k.cipher]
	if cipher == "" {
		cipher = strings.TrimSuffix(strings.Replace(strings.ToUpper(k.cipher), "-", "", 1), "-CBC")
	}
	return g.run("--cipher-algo", cipher, "--recipient", fingerprint(to), "--encrypt", g.keep(content))
}

func (g *gpgsm) open(_ sealing, message []byte) ([]byte, error) {
	return g.run("--decrypt", g.keep(message))
}

func (g *gpgsm) sign(k signing, content []byte) ([]byte, error) {
	args := []string{"--local-user", fingerprint(g.signs[k.by].cert), "--digest-algo", opensslHash(k.hash.String())}
	if k.opaque {
		args = append(args, "--sign")
	} else {
		args = append(args, "--detach-sign")
	}
	return g.run(append(args, g.keep(content))...)
}

func (g *gpgsm) verify(k signing, message, content []byte) ([]byte, error) {
	args := []string{"--verify", g.keep(message)}
	if k.opaque {
		return g.run(args...)
	}
	status, err := g.gpgsm(append(args, g.keep(content))...)
	switch {
	case err != nil:
		return nil, g.reason(err)
	case !bytes.Contains(status, []byte("[GNUPG:] GOODSIG ")) || !bytes.Contains(status, []byte("[GNUPG:] TRUST_FULLY")):
		return nil, fmt.Errorf("no good signature")
	}
	return content, nil
}

// agentKey is a private key without a passphrase, as gpg-agent keeps it: a
// canonical S-expression in the form of Libgcrypt.
func agentKey(t testing.TB, key crypto.PrivateKey) []byte {
	t.Helper()
	atom := func(b []byte) string { return fmt.Sprintf("%d:%s", len(b), b) }
	list := func(name string, value []byte) string { return "(" + atom([]byte(name)) + atom(value) + ")" }
	number := func(name string, n *big.Int) string {
		b := n.Bytes()
		if len(b) > 0 && b[0]&0x80 != 0 {
			b = append([]byte{0}, b...)
		}
		return list(name, b)
	}
	point := func(curve string, q, d []byte) string {
		return "(" + atom([]byte("ecc")) + list("curve", []byte(curve)) + list("q", q) + list("d", d) + ")"
	}
	var inner string
	switch k := key.(type) {
	case *rsa.PrivateKey:
		p, q := k.Primes[0], k.Primes[1]
		if p.Cmp(q) > 0 { // Libgcrypt wants the smaller one first
			p, q = q, p
		}
		inner = "(" + atom([]byte("rsa")) + number("n", k.N) + number("e", big.NewInt(int64(k.E))) + number("d", k.D) +
			number("p", p) + number("q", q) + number("u", new(big.Int).ModInverse(p, q)) + ")"
	case *ecdsa.PrivateKey:
		q, err := k.PublicKey.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		d, err := k.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		inner = point("NIST "+k.Curve.Params().Name, q, d)
	case ed25519.PrivateKey:
		inner = "(" + atom([]byte("ecc")) + list("curve", []byte("Ed25519")) + list("flags", []byte("eddsa")) + list("q", k.Public().(ed25519.PublicKey)) + list("d", k.Seed()) + ")"
	case *ecdh.PrivateKey:
		d := bytes.Clone(k.Bytes())
		for i, j := 0, len(d)-1; i < j; i, j = i+1, j-1 {
			d[i], d[j] = d[j], d[i]
		}
		inner = point("Curve25519", append([]byte{0x40}, k.PublicKey().Bytes()...), d)
	default:
		t.Fatalf("key of type %T", key)
	}
	return []byte("(" + atom([]byte("private-key")) + inner + ")")
}
