// Package credential is what a listener shows its clients: chains of
// certificates that stand in files, each with a private key in the token. Keys
// are for TLS by their label, and no other one signs a handshake.
package credential

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/net/idna"

	"postern/hsm"
)

// Why a chain can't be shown.
var (
	ErrChain = errors.New("no chain of certificates")
	ErrName  = errors.New("certificate for another name or use")
	ErrWeak  = errors.New("key of a kind or size that is not used for TLS")
	ErrKey   = errors.New("key not in the token, or not one for TLS")
)

// Prefix begins the labels of keys for TLS.
const Prefix = "tls/"

// Limits of a file.
const (
	maxFile  = 1 << 20 // bytes
	maxChain = 10      // certificates
)

// minRSA is the size of RSA keys from which on they are used, in bits.
const minRSA = 3072

// The two kinds of key that stand side by side: clients that can, get ECDSA.
const (
	ECDSA = "ecdsa"
	RSA   = "rsa"
)

// Kinds are both, the preferred one first.
var Kinds = []string{ECDSA, RSA}

// KindOf is the kind of a public key that TLS uses, or "".
func KindOf(pub crypto.PublicKey) string {
	switch k := pub.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() >= minRSA {
			return RSA
		}
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256(), elliptic.P384(), elliptic.P521():
			return ECDSA
		}
	}
	return ""
}

// Place is where the chain of a name stands that is brought in without a file
// of its own being named: in the folder dir, one for each kind of key.
func Place(dir, name, kind string) string {
	return filepath.Join(dir, strings.ReplaceAll(name, "/", "_")+"-"+kind+".pem")
}

// Places are those of both kinds.
func Places(dir, name string) (paths []string) {
	for _, kind := range Kinds {
		paths = append(paths, Place(dir, name, kind))
	}
	return paths
}

// Chain is the content of one file: the server's certificate, then each one's
// issuer.
type Chain struct {
	DER  [][]byte
	Leaf *x509.Certificate
	Key  hsm.KeyID
	Kind string
}

// Read reads the chain in a file.
func Read(path string) (Chain, error) {
	f, err := os.Open(path)
	if err != nil {
		return Chain{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return Chain{}, err
	}
	return Parse(path, b)
}

// Parse reads a chain in PEM. A private key in it is an error: it belongs into
// the token, and nowhere else.
func Parse(name string, text []byte) (c Chain, err error) {
	bad := func(format string, args ...any) (Chain, error) {
		return Chain{}, fmt.Errorf("read %s: %s: %w", name, fmt.Sprintf(format, args...), ErrChain)
	}
	if len(text) > maxFile {
		return bad("more than %d bytes", maxFile)
	}
	var above *x509.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if strings.HasSuffix(block.Type, "PRIVATE KEY") {
			return bad("it holds a private key")
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		x, err := x509.ParseCertificate(block.Bytes)
		switch {
		case err != nil:
			return bad("certificate %d: %v", len(c.DER)+1, err)
		case len(c.DER) == maxChain:
			return bad("more than %d certificates", maxChain)
		case c.Leaf == nil:
			c.Leaf = x
		case above.CheckSignatureFrom(x) != nil:
			return bad("certificate %d did not issue the one before it", len(c.DER)+1)
		}
		above = x
		c.DER = append(c.DER, block.Bytes)
	}
	if c.Leaf == nil {
		return bad("no certificate in PEM")
	}
	if c.Kind = KindOf(c.Leaf.PublicKey); c.Kind == "" {
		return Chain{}, fmt.Errorf("read %s: want RSA with %d bits or more, or P-256, P-384, P-521: %w", name, minRSA, ErrWeak)
	}
	if c.Key, err = hsm.IDOf(c.Leaf.PublicKey); err != nil {
		return Chain{}, fmt.Errorf("read %s: %w", name, err)
	}
	return c, nil
}

// Names says why the certificate is not one of a server called name.
func (c Chain) Names(name string) error {
	ascii, err := idna.Lookup.ToASCII(name)
	if err != nil {
		return fmt.Errorf("server name %.80q: %w", name, err)
	}
	switch u := c.Leaf.ExtKeyUsage; {
	case c.Leaf.VerifyHostname(ascii) != nil:
		return fmt.Errorf("it names %q and not %s: %w", c.Leaf.DNSNames, name, ErrName)
	case len(u)+len(c.Leaf.UnknownExtKeyUsage) > 0 && !slices.Contains(u, x509.ExtKeyUsageServerAuth) && !slices.Contains(u, x509.ExtKeyUsageAny):
		return fmt.Errorf("its extended key usage is not serverAuth: %w", ErrName)
	case c.Leaf.KeyUsage != 0 && c.Leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return fmt.Errorf("its key usage is not digitalSignature: %w", ErrName)
	}
	return nil
}

// Holds finds the key of the certificate among those of the token.
func (c Chain) Holds(keys []hsm.Key) (hsm.Key, error) {
	i := slices.IndexFunc(keys, func(k hsm.Key) bool { return k.ID == c.Key })
	switch {
	case i < 0:
		return hsm.Key{}, fmt.Errorf("key %s: %w", c.Key, ErrKey)
	case !strings.HasPrefix(keys[i].Label, Prefix) || keys[i].Usage != hsm.Sign:
		return hsm.Key{}, fmt.Errorf("key %s is %s, not one called %s…: %w", c.Key, keys[i].Label, Prefix, ErrKey)
	case keys[i].Retired:
		return hsm.Key{}, fmt.Errorf("key %s is retired: %w", keys[i].Label, ErrKey)
	}
	return keys[i], nil
}
