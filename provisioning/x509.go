package provisioning

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"postern/filter/chain"
	"postern/filter/cms"
	"postern/filter/keyring"
	"postern/filter/openpgp"
	"postern/filter/smime"
	"postern/hsm"
)

// Judge finds paths of X.509 certificates as the mail path does, by the
// authorities in the keyring and the configuration.
type Judge interface {
	Path(ctx context.Context, c keyring.Cert, use chain.Use, at time.Time) (chain.Path, error)
	Close() error
}

// court is the Judge of this call, or nil where there is none.
func (c *call) court(ctx context.Context) (Judge, error) {
	if c.judging != nil || c.Judge == nil {
		return c.judging, nil
	}
	var err error
	c.judging, err = c.Judge(ctx, c.config())
	return c.judging, err
}

// isX509 tells the one kind of file from the other by its first bytes.
func isX509(data []byte) bool {
	if i := bytes.Index(data, []byte("-----BEGIN ")); i >= 0 {
		return !bytes.HasPrefix(data[i:], []byte("-----BEGIN PGP "))
	}
	return len(data) > 1 && data[0] == 0x30 // a SEQUENCE; no packet of OpenPGP begins so (RFC 9580 §4.2)
}

// readX509 reads PEM, DER or PKCS#7, and sorts authorities from holders.
func readX509(name string, data []byte) ([]keyring.Cert, error) {
	certs, err := smime.Read(data)
	switch {
	case errors.Is(err, smime.ErrSecret):
		return nil, no("export the certificate alone and import that; if this key left its owner's hands, replace it", "import %s: %w", name, err)
	case errors.Is(err, smime.ErrCertLimit):
		return nil, no("split the file", "read certificate %s: %w", name, err)
	case err != nil:
		return nil, no("want an X.509 certificate as PEM, DER or PKCS#7, or an OpenPGP certificate, armored or binary", "read certificate %s: %w", name, err)
	}
	for i := range certs {
		x, err := parseX509(certs[i])
		if err != nil {
			return nil, fmt.Errorf("read certificate %s: %w", name, err)
		}
		if x.IsCA {
			certs[i].Role = keyring.Intermediate
		}
	}
	return certs, nil
}

func parseX509(c keyring.Cert) (*x509.Certificate, error) {
	x, err := x509.ParseCertificate(c.Raw)
	if err != nil {
		return nil, fmt.Errorf("read certificate %s: %w", c.Fingerprint, smime.ErrCert)
	}
	return x, nil
}

// again reads a certificate from its bytes alone: what the store of what mail
// brought says beside them is not an operator's word.
func again(c keyring.Cert) (keyring.Cert, error) {
	read := openpgp.Read
	if c.Format == keyring.SMIME {
		read = smime.Read
	}
	list, err := read(c.Raw)
	if err != nil {
		return c, fmt.Errorf("read certificate %s: %w", c.Fingerprint, err)
	}
	if len(list) != 1 || list[0].Fingerprint != c.Fingerprint {
		return c, no("mail brought something else under this name; the file of seen certificates may be removed", "certificate %s: its bytes are another's", c.Fingerprint)
	}
	fresh := list[0]
	if c.Format == keyring.SMIME {
		x, err := parseX509(fresh)
		if err != nil {
			return c, err
		}
		if x.IsCA {
			fresh.Role = keyring.Intermediate
		}
	}
	fresh.Capabilities, fresh.FirstSeen, fresh.LastSeen, fresh.Source = c.Capabilities, c.FirstSeen, c.LastSeen, "mail"
	return fresh, nil
}

// sealable tells why mail can't be sealed to a certificate now, whoever trusts it.
func sealable(c keyring.Cert, at time.Time) error {
	if c.Format == keyring.SMIME {
		return smime.New(smime.Config{}).Usable(c, at)
	}
	return openpgp.New(openpgp.Config{}).Usable(c, at)
}

// signs tells why an identity can't sign now.
func signs(i keyring.Identity, at time.Time) error {
	if i.Format == keyring.SMIME {
		return smime.New(smime.Config{}).Signs(i, at)
	}
	return openpgp.New(openpgp.Config{}).Signs(i, at)
}

// What an X.509 certificate lets its key do, in the words of hsm.Usage.
const (
	useBoth = "sign, unwrap"
	useNone = "nothing"
)

// useOf is what key usage and key allow (RFC 8550 §4.4.2); of OpenPGP there is
// always both in one certificate.
func useOf(c keyring.Cert) string {
	if c.Format != keyring.SMIME {
		return useBoth
	}
	x, err := parseX509(c)
	if err != nil {
		return useNone
	}
	const signing, opening = x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment, x509.KeyUsageKeyEncipherment | x509.KeyUsageKeyAgreement
	switch {
	case x.KeyUsage == 0, x.KeyUsage&signing != 0 && x.KeyUsage&opening != 0:
		return useBoth
	case x.KeyUsage&signing != 0:
		return hsm.Sign.String()
	case x.KeyUsage&opening != 0:
		return hsm.Unwrap.String()
	}
	return useNone
}

// doesOf is what an identity does: what its certificate allows and its key can.
func doesOf(i keyring.Identity) string {
	if i.Use != 0 {
		return i.Use.String()
	}
	return useOf(i.Cert)
}

var keyUsages = []struct {
	bit  x509.KeyUsage
	name string
}{
	{x509.KeyUsageDigitalSignature, "digitalSignature"}, {x509.KeyUsageContentCommitment, "nonRepudiation"},
	{x509.KeyUsageKeyEncipherment, "keyEncipherment"}, {x509.KeyUsageDataEncipherment, "dataEncipherment"},
	{x509.KeyUsageKeyAgreement, "keyAgreement"}, {x509.KeyUsageCertSign, "keyCertSign"}, {x509.KeyUsageCRLSign, "cRLSign"},
}

func usageWords(x *x509.Certificate) string {
	var words []string
	for _, u := range keyUsages {
		if x.KeyUsage&u.bit != 0 {
			words = append(words, u.name)
		}
	}
	return cmpOr(strings.Join(words, ", "), "any")
}

func purposeWords(x *x509.Certificate) string {
	var words []string
	for _, u := range x.ExtKeyUsage {
		switch u {
		case x509.ExtKeyUsageEmailProtection:
			words = append(words, "emailProtection")
		case x509.ExtKeyUsageAny:
			words = append(words, "anyExtendedKeyUsage")
		default:
			words = append(words, "others")
		}
	}
	for _, id := range x.UnknownExtKeyUsage {
		words = append(words, id.String())
	}
	return cmpOr(strings.Join(slices.Compact(words), ", "), "any")
}

// describeX509 is what people read of a certificate.
func describeX509(c keyring.Cert) (string, error) {
	x, err := parseX509(c)
	if err != nil {
		return "", err
	}
	key := string(hsm.AlgorithmOf(x.PublicKey))
	if key == "" {
		key = x.PublicKeyAlgorithm.String()
	}
	lines := []string{
		"subject      " + x.Subject.String(),
		"issuer       " + x.Issuer.String(),
		"serial       " + x.SerialNumber.Text(16),
		"key          " + key,
		"signed with  " + x.SignatureAlgorithm.String(),
		"key usage    " + usageWords(x),
		"purpose      " + purposeWords(x),
	}
	if len(c.Capabilities) > 0 {
		can, err := cms.ParseCapabilities(c.Capabilities)
		reads := fmt.Sprint(can.Ciphers())
		if err != nil {
			reads = "what cannot be read"
		}
		lines = append(lines, "reads        "+strings.Trim(reads, "[]"))
	}
	return strings.Join(lines, "\n"), nil
}

// verdict is what the Judge says of a certificate for one use.
type pathVerdict struct {
	Use    string   `json:"use"`
	Good   bool     `json:"good"`
	Reason string   `json:"reason"` // why not, or that nobody knows whether it is revoked
	Path   []string `json:"path"`   // subjects, from the certificate to the anchor
}

// verdicts judges a certificate for what it may be used for.
func (c *call) verdicts(ctx context.Context, cert keyring.Cert) ([]pathVerdict, error) {
	judge, err := c.court(ctx)
	if err != nil || judge == nil || cert.Format != keyring.SMIME || cert.Role != keyring.Holder {
		return nil, err
	}
	var list []pathVerdict
	for _, u := range []struct {
		word string
		use  chain.Use
	}{{hsm.Sign.String(), chain.Signing}, {hsm.Unwrap.String(), chain.Encryption}} {
		if !strings.Contains(useOf(cert), u.word) {
			continue
		}
		path, err := judge.Path(ctx, cert, u.use, c.now())
		v := pathVerdict{Use: u.word, Good: err == nil, Path: []string{}}
		if err != nil {
			v.Reason = err.Error()
		} else if path.Status != chain.Good {
			v.Reason = "whether it is revoked is not known"
		}
		for _, x := range path.Certs {
			v.Path = append(v.Path, x.Subject.String())
		}
		list = append(list, v)
	}
	return list, nil
}

// pathNote is the verdict in a few words, for an import.
func (c *call) pathNote(ctx context.Context, cert keyring.Cert) string {
	list, err := c.verdicts(ctx, cert)
	switch {
	case err != nil:
		return "; its path could not be judged: " + err.Error()
	case len(list) == 0:
		return ""
	case list[0].Good:
		return "; good path to " + list[0].Path[len(list[0].Path)-1]
	}
	return "; your word is all that speaks for it: " + list[0].Reason
}

// above are the authorities in list on the way up from x, nearest first.
func above(x *x509.Certificate, list []keyring.Cert) (way []keyring.Cert) {
	for range list {
		i := slices.IndexFunc(list, func(c keyring.Cert) bool {
			p, err := parseX509(c)
			return err == nil && bytes.Equal(p.RawSubject, x.RawIssuer) && !p.Equal(x) && x.CheckSignatureFrom(p) == nil
		})
		if i < 0 || slices.ContainsFunc(way, func(c keyring.Cert) bool { return c.Fingerprint == list[i].Fingerprint }) {
			break
		}
		way = append(way, list[i])
		x, _ = parseX509(list[i]) // it was parsed a moment ago
	}
	return way
}

// rooted reports whether an authority certifies itself.
func rooted(c keyring.Cert) bool {
	x, err := parseX509(c)
	return err == nil && bytes.Equal(x.RawSubject, x.RawIssuer) && x.CheckSignature(x.SignatureAlgorithm, x.RawTBSCertificate, x.Signature) == nil
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
