package directory

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"postern/filter/message"
	"postern/filter/web"
)

// VKS is a key server that has mailed every address before it gives a
// certificate for it, such as keys.openpgp.org.
type VKS struct {
	URL  string // https://host[:port]
	HTTP *http.Client
	Read Read
}

// HKPS is a key server of the old kind (draft-gallagher-openpgp-hkp): anybody
// puts there what he likes.
type HKPS struct {
	URL  string // https://host[:port]
	HTTP *http.Client
	Read Read
}

var _, _ Directory = (*VKS)(nil), (*HKPS)(nil)

// Name is vks and the host.
func (d *VKS) Name() string { return "vks:" + host(d.URL) }

// Name is hkps and the host.
func (d *HKPS) Name() string { return "hkps:" + host(d.URL) }

func host(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Host
}

// Lookup asks by the address.
func (d *VKS) Lookup(ctx context.Context, a message.Address) (Answer, error) {
	return armoured(ctx, d.HTTP, d.Read, strings.TrimSuffix(d.URL, "/")+"/vks/v1/by-email/"+url.PathEscape(a.String()))
}

// Lookup asks for certificates that name exactly the address.
func (d *HKPS) Lookup(ctx context.Context, a message.Address) (Answer, error) {
	answer, err := armoured(ctx, d.HTTP, d.Read, strings.TrimSuffix(d.URL, "/")+"/pks/lookup?op=get&options=mr&exact=on&search="+url.QueryEscape(a.String()))
	answer.Open = true
	return answer, err
}

func armoured(ctx context.Context, c *http.Client, read Read, address string) (Answer, error) {
	body, _, err := web.Get(ctx, c, address, maxAnswer)
	if errors.Is(err, web.ErrNone) {
		return Answer{}, nil
	}
	if err != nil {
		return Answer{}, err
	}
	certs, err := read(body)
	return Answer{Certs: certs}, err
}
