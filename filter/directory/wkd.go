package directory

import (
	"context"
	"crypto/sha1"
	"encoding/base32"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/web"
)

// Read reads the certificates of one format out of what a source gave.
type Read func(data []byte) ([]keyring.Cert, error)

// WKD is the Web Key Directory of the address's own domain
// (draft-koch-openpgp-webkey-service): the host openpgpkey of the domain, or the
// domain itself where there is no such host.
type WKD struct {
	Names web.Names
	HTTP  *http.Client
	Read  Read
}

var _ Directory = (*WKD)(nil)

// Name is wkd.
func (*WKD) Name() string { return "wkd" }

// zbase32 has the alphabet of the draft.
var zbase32 = base32.NewEncoding("ybndrfg8ejkmcpqxot1uwisza345h769").WithPadding(base32.NoPadding)

// HashLocal is the name under which the certificate of a local part stands: 32
// letters. Capital letters of ASCII are as small ones.
func HashLocal(local string) string {
	sum := sha1.Sum([]byte(strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, local)))
	return zbase32.EncodeToString(sum[:])
}

// Lookup asks the one host that is there.
func (d *WKD) Lookup(ctx context.Context, a message.Address) (Answer, error) {
	domain, ok := asciiDomain(a)
	if !ok {
		return Answer{}, nil
	}
	for _, place := range []struct{ host, path string }{
		{"openpgpkey." + domain, "/.well-known/openpgpkey/" + domain + "/hu/"},
		{domain, "/.well-known/openpgpkey/hu/"},
	} {
		at, err := d.Names.Addresses(ctx, place.host)
		if err != nil {
			return Answer{}, err
		}
		if len(at.Found) == 0 {
			continue
		}
		body, _, err := web.Get(ctx, d.HTTP, "https://"+place.host+place.path+HashLocal(a.Local)+"?l="+url.QueryEscape(a.Local), maxAnswer)
		if errors.Is(err, web.ErrNone) {
			return Answer{}, nil
		}
		if err != nil {
			return Answer{}, err
		}
		certs, err := d.Read(body)
		return Answer{Certs: certs, Home: true}, err
	}
	return Answer{}, nil
}

// asciiDomain is the domain of an address as DNS has it; an address literal has none.
func asciiDomain(a message.Address) (string, bool) {
	text, ok := message.Address{Local: "x", Domain: a.Domain}.ASCII()
	_, domain, _ := strings.Cut(text, "@")
	return domain, ok && domain != "" && !strings.HasPrefix(domain, "[")
}
