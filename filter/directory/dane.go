package directory

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/resolver"
)

// Records is what is asked of the resolver; resolver.Client is the real one.
type Records interface {
	OpenPGPKey(ctx context.Context, name string) (resolver.Answer[[]byte], error)
	SMIMEA(ctx context.Context, name string) (resolver.Answer[resolver.TLSA], error)
}

// OpenPGPKey are the certificates that stand in the DNS (RFC 7929).
type OpenPGPKey struct {
	Names Records
	Read  Read
}

// SMIMEA are those for S/MIME (RFC 8162).
type SMIMEA struct {
	Names Records
	Read  Read
}

var _, _ Directory = (*OpenPGPKey)(nil), (*SMIMEA)(nil)

// Name is openpgpkey.
func (*OpenPGPKey) Name() string { return "openpgpkey" }

// Name is smimea.
func (*SMIMEA) Name() string { return "smimea" }

// DANEName is where the records of an address stand: 56 hexadecimal digits of
// its local part, below _openpgpkey or _smimecert of its domain (RFC 7929 §3, RFC
// 8162 §3). The local part is taken as it is, and not in small letters.
func DANEName(a message.Address, label string) (string, bool) {
	domain, ok := asciiDomain(a)
	sum := sha256.Sum256([]byte(a.Local))
	return hex.EncodeToString(sum[:28]) + "." + label + "." + domain, ok
}

// Lookup gives every certificate of every record.
func (d *OpenPGPKey) Lookup(ctx context.Context, a message.Address) (Answer, error) {
	name, ok := DANEName(a, "_openpgpkey")
	if !ok {
		return Answer{}, nil
	}
	got, err := d.Names.OpenPGPKey(ctx, name)
	if err != nil {
		return Answer{}, err
	}
	return gathered(got.Found, got.Secure, d.Read)
}

// Certificate usages that name the end entity's own certificate, and how it
// stands there (RFC 6698 §2.1).
const (
	pkixEE, daneEE = 1, 3
	wholeCert      = 0
	asItIs         = 0
)

// Lookup gives the certificates that stand there as they are. A hash of one is
// nothing to seal to, and the certificate of an authority is nobody's own.
func (d *SMIMEA) Lookup(ctx context.Context, a message.Address) (Answer, error) {
	name, ok := DANEName(a, "_smimecert")
	if !ok {
		return Answer{}, nil
	}
	got, err := d.Names.SMIMEA(ctx, name)
	if err != nil {
		return Answer{}, err
	}
	var list [][]byte
	for _, r := range got.Found {
		if slices.Contains([]uint8{pkixEE, daneEE}, r.Usage) && r.Selector == wholeCert && r.Matching == asItIs {
			list = append(list, r.Data)
		}
	}
	return gathered(list, got.Secure, d.Read)
}

// gathered reads each record by itself: what stands in one spoils no other.
func gathered(records [][]byte, secure bool, read Read) (Answer, error) {
	var all gathering
	for _, data := range records {
		all.add(read(data))
	}
	return Answer{Certs: all.certs, Secure: secure, Home: true}, all.trouble()
}

// gathering is what several records hold: each certificate once.
type gathering struct {
	certs []keyring.Cert
	err   error
}

func (g *gathering) add(certs []keyring.Cert, err error) {
	if err != nil && g.err == nil {
		g.err = err
	}
	for _, c := range certs {
		if !slices.ContainsFunc(g.certs, func(d keyring.Cert) bool { return d.Fingerprint == c.Fingerprint }) {
			g.certs = append(g.certs, c)
		}
	}
}

// trouble is the first error, where nothing could be read.
func (g *gathering) trouble() error {
	if len(g.certs) > 0 {
		return nil
	}
	return g.err
}
