package e2e

import (
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"postern/hsm"
)

// cmsutil is NSS, with which Thunderbird reads.
type cmsutil struct {
	*partner
	desk
	db      string
	version string
	unknown map[string]error // certificates that it does not even keep, by fingerprint
	nicks   map[string]string
}

func newNSS(t testing.TB, p *partner) mailer {
	t.Helper()
	n := &cmsutil{partner: p, desk: desk{t: t, dir: t.TempDir()}, db: "sql:" + folder(t), version: nssVersion(t), unknown: map[string]error{}, nicks: map[string]string{}}
	must(t, nil, "certutil", "-N", "--empty-password", "-d", n.db)
	must(t, nil, "certutil", "-A", "-d", n.db, "-n", "ca", "-t", "CT,C,C", "-a", "-i", n.cert(p.ca.cert))
	for _, all := range []map[hsm.Algorithm]keypair{p.signs, p.opens} {
		for _, k := range all {
			n.own(k)
		}
	}
	return n
}

// nssVersion is that of the library, which no program of NSS tells.
func nssVersion(t testing.TB) string {
	t.Helper()
	out := must(t, nil, "dpkg-query", "-W", "-f", "${Version}", "libnss3-tools")
	_, version, _ := strings.Cut(string(out), ":")
	version, _, _ = strings.Cut(version, "-")
	return strings.Join(strings.Split(version, ".")[:2], ".")
}

// own brings a key and its certificate in.
func (n *cmsutil) own(k keypair) {
	n.t.Helper()
	nick := fmt.Sprintf("n%d", len(n.nicks))
	n.nicks[fingerprint(k.cert)] = nick
	p12 := n.fresh()
	must(n.t, nil, "openssl", "pkcs12", "-export", "-in", n.cert(k.cert), "-inkey", n.key(k.key), "-name", nick, "-passout", "pass:x", "-out", p12)
	if _, err := tool(n.t, nil, "pk12util", "-i", p12, "-d", n.db, "-W", "x", "-K", ""); err != nil {
		n.unknown[fingerprint(k.cert)] = n.reason(err)
	}
}

func (n *cmsutil) name() string { return "NSS " + n.version }

func (n *cmsutil) run(args ...string) ([]byte, error) {
	n.t.Helper()
	out := n.fresh()
	if _, err := tool(n.t, nil, "cmsutil", append(args, "-d", n.db, "-o", out)...); err != nil {
		return nil, n.reason(err)
	}
	return os.ReadFile(out)
}

// reason is the cause in the words of NSS: the first of its codes, if there is one.
func (n *cmsutil) reason(err error) error {
	if code := nssCode.FindString(err.Error()); code != "" {
		return errors.New(code)
	}
	return errors.New(strings.TrimPrefix(lastLine(err.Error()), "cmsutil: "))
}

var nssCode = regexp.MustCompile(`SEC_ERROR_[A-Z0-9_]+`)

func (n *cmsutil) seal(_ sealing, to *x509.Certificate, content []byte) ([]byte, error) {
	if n.nicks[fingerprint(to)] == "" {
		n.nicks[fingerprint(to)] = fmt.Sprintf("n%d", len(n.nicks))
		if _, err := tool(n.t, nil, "certutil", "-A", "-d", n.db, "-n", n.nicks[fingerprint(to)], "-t", ",,", "-a", "-i", n.cert(to)); err != nil {
			n.unknown[fingerprint(to)] = n.reason(err)
		}
	}
	if err := n.unknown[fingerprint(to)]; err != nil {
		return nil, err
	}
	return n.run("-E", "-r", n.nicks[fingerprint(to)], "-i", n.keep(content))
}

func (n *cmsutil) open(k sealing, message []byte) ([]byte, error) {
	if err := n.unknown[fingerprint(n.opens[k.to].cert)]; err != nil {
		return nil, err
	}
	return n.run("-D", "-i", n.keep(message))
}

func (n *cmsutil) sign(k signing, content []byte) ([]byte, error) {
	cert := n.signs[k.by].cert
	if err := n.unknown[fingerprint(cert)]; err != nil {
		return nil, err
	}
	args := []string{"-S", "-N", n.nicks[fingerprint(cert)], "-H", strings.ReplaceAll(k.hash.String(), "-", ""), "-G", "-Y", "NONE", "-i", n.keep(content)}
	if !k.opaque {
		args = append(args, "-T")
	}
	return n.run(args...)
}

func (n *cmsutil) verify(k signing, message, content []byte) ([]byte, error) {
	args := []string{"-D", "-i", n.keep(message)}
	if !k.opaque {
		args = append(args, "-c", n.keep(content))
	}
	return n.run(args...)
}
