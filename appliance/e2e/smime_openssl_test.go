package e2e

import (
	"crypto/x509"
	"errors"
	"os"
	"strings"
	"testing"

	"postern/hsm"
)

// opensslCMS is `openssl cms`.
type opensslCMS struct {
	*partner
	desk
	version string
	ca      string
	certs   map[*x509.Certificate]string
	keys    map[*x509.Certificate]string
}

func newOpenSSL(t testing.TB, p *partner) mailer {
	t.Helper()
	o := &opensslCMS{partner: p, desk: desk{t: t, dir: t.TempDir()}, certs: map[*x509.Certificate]string{}, keys: map[*x509.Certificate]string{}}
	version := strings.Fields(string(must(t, nil, "openssl", "version")))
	o.version = strings.Join(strings.Split(version[1], ".")[:2], ".")
	o.ca = o.cert(p.ca.cert)
	for _, all := range []map[hsm.Algorithm]keypair{p.signs, p.opens} {
		for _, k := range all {
			o.certs[k.cert], o.keys[k.cert] = o.cert(k.cert), o.key(k.key)
		}
	}
	return o
}

func (o *opensslCMS) name() string { return "OpenSSL " + o.version }

// cms runs the command; what it makes is in a file.
func (o *opensslCMS) cms(args ...string) ([]byte, error) {
	o.t.Helper()
	out := o.fresh()
	if _, err := tool(o.t, nil, "openssl", append([]string{"cms", "-binary", "-out", out}, args...)...); err != nil {
		return nil, o.reason(err)
	}
	return os.ReadFile(out)
}

// reason is the cause in OpenSSL's words: "…:error:CODE:library:function:cause:file:line:data".
func (o *opensslCMS) reason(err error) error {
	for line := range strings.Lines(err.Error()) {
		if _, rest, ok := strings.Cut(line, ":error:"); ok {
			if f := strings.Split(rest, ":"); len(f) > 3 {
				return errors.New(f[3])
			}
		}
	}
	return errors.New(lastLine(err.Error()))
}

func (o *opensslCMS) seal(k sealing, to *x509.Certificate, content []byte) ([]byte, error) {
	args := []string{"-encrypt", "-outform", "DER", "-in", o.keep(content), "-" + k.cipher}
	if k.keyID {
		args = append(args, "-keyid")
	}
	if k.agrees() {
		name, _ := k.wrapCipher()
		args = append(args, "-"+name)
	}
	if o.certs[to] == "" {
		o.certs[to] = o.cert(to)
	}
	args = append(args, "-recip", o.certs[to])
	switch k.wrap {
	case "oaep":
		args = append(args, "-keyopt", "rsa_padding_mode:oaep", "-keyopt", "rsa_oaep_md:"+opensslHash(k.hash.String()), "-keyopt", "rsa_mgf1_md:"+opensslHash(k.mgfHash().String()))
	case "x9.63":
		args = append(args, "-keyopt", "ecdh_kdf_md:"+opensslHash(k.hash.String()))
	case "cofactor":
		args = append(args, "-keyopt", "ecdh_kdf_md:"+opensslHash(k.hash.String()), "-keyopt", "ecdh_cofactor_mode:1")
	case "hkdf":
		if k.to != hsm.X25519 {
			return nil, errors.New("has no option for HKDF")
		}
	}
	return o.cms(args...)
}

// opensslHash is "sha256" for "SHA-256".
func opensslHash(name string) string { return strings.ToLower(strings.ReplaceAll(name, "-", "")) }

func (o *opensslCMS) open(k sealing, message []byte) ([]byte, error) {
	cert := o.opens[k.to].cert
	return o.cms("-decrypt", "-inform", "DER", "-in", o.keep(message), "-recip", o.certs[cert], "-inkey", o.keys[cert])
}

func (o *opensslCMS) sign(k signing, content []byte) ([]byte, error) {
	cert := o.signs[k.by].cert
	args := []string{"-sign", "-outform", "DER", "-in", o.keep(content), "-md", opensslHash(k.hash.String())}
	if k.opaque {
		args = append(args, "-nodetach")
	}
	if k.keyID {
		args = append(args, "-keyid")
	}
	args = append(args, "-signer", o.certs[cert], "-inkey", o.keys[cert])
	if k.pss {
		args = append(args, "-keyopt", "rsa_padding_mode:pss", "-keyopt", "rsa_pss_saltlen:digest")
	}
	return o.cms(args...)
}

func (o *opensslCMS) verify(k signing, message, content []byte) ([]byte, error) {
	args := []string{"-verify", "-inform", "DER", "-in", o.keep(message), "-CAfile", o.ca}
	if !k.opaque {
		args = append(args, "-content", o.keep(content))
	}
	return o.cms(args...)
}
