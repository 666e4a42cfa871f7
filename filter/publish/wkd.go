// Package publish serves to strangers what our domains publish: certificates of
// ours in a Web Key Directory, and the MTA-STS policy of a domain. Nothing in it
// is secret, and nothing asks a token.
package publish

import (
	"context"
	"net/http"
	"strings"
	"time"

	"postern/filter/directory"
	"postern/filter/keyring"
	"postern/filter/message"
)

// Identities are ours; keyring.KeyRing has them.
type Identities interface {
	Identities(ctx context.Context, a message.Address) ([]keyring.Identity, error)
}

// WKD is the Web Key Directory of our domains by both methods
// (draft-koch-openpgp-webkey-service): on the host openpgpkey of the domain, and
// on the domain itself. A client has to say the local part, as those in use do:
// an address without a certificate of its own has that of its domain, whose name
// for it cannot be found from the hash.
type WKD struct {
	Ours       func(domain string) bool
	Identities Identities
	// Fit tells whether a certificate can be sealed to at the time.
	Fit func(c keyring.Cert, at time.Time) error
	Now func() time.Time // time.Now where nil
}

const wkdRoot = "/.well-known/openpgpkey/"

// maxLocal is the longest local part (RFC 5321 §4.5.3.1.1).
const maxLocal = 64

// ServeHTTP answers GET and HEAD.
func (h *WKD) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
		return
	}
	domain, rest, ok := h.place(r)
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Access-Control-Allow-Origin", "*")
	if rest == "policy" {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		return // an empty file says that nothing special is to be known
	}
	hash, ok := strings.CutPrefix(rest, "hu/")
	local := r.URL.Query().Get("l")
	if !ok || local == "" || len(local) > maxLocal || directory.HashLocal(local) != hash {
		http.NotFound(w, r)
		return
	}
	cert, err := h.cert(r.Context(), local, domain)
	switch {
	case err != nil:
		http.Error(w, "try again later", http.StatusServiceUnavailable)
	case cert == nil:
		http.NotFound(w, r)
	default:
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Write(cert.Raw)
	}
}

// place is which domain of ours is asked about, and what of it.
func (h *WKD) place(r *http.Request) (domain, rest string, ok bool) {
	rest, ok = strings.CutPrefix(r.URL.Path, wkdRoot)
	if !ok {
		return "", "", false
	}
	domain = hostOf(r)
	if host, advanced := strings.CutPrefix(domain, "openpgpkey."); advanced {
		first, after, found := strings.Cut(rest, "/")
		if !found || !strings.EqualFold(first, host) {
			return "", "", false
		}
		domain, rest = host, after
	}
	a, err := message.ParseAddress("x@" + domain) // its own letters, as identities have them
	if err != nil || !h.Ours(a.Domain) {
		return "", "", false
	}
	return a.Domain, rest, true
}

// hostOf is the host that a request names, without its port.
func hostOf(r *http.Request) string {
	host, _, _ := strings.Cut(strings.ToLower(r.Host), ":")
	return strings.TrimSuffix(host, ".")
}

// cert is the one that mail to the address is to be sealed to: his own before
// that of the domain, the newest first; nil where there is none.
func (h *WKD) cert(ctx context.Context, local, domain string) (*keyring.Cert, error) {
	a, err := message.ParseAddress(message.Address{Local: local, Domain: domain}.String())
	if err != nil {
		return nil, nil
	}
	ids, err := h.Identities.Identities(ctx, a)
	if err != nil {
		return nil, err
	}
	now := time.Now
	if h.Now != nil {
		now = h.Now
	}
	return Best(ids, keyring.OpenPGP, func(c keyring.Cert) bool { return h.Fit(c, now()) == nil }), nil
}

// Best is the certificate of the first identity of a format that fits; nil where
// none does.
func Best(ids []keyring.Identity, f keyring.Format, fit func(keyring.Cert) bool) *keyring.Cert {
	for i := range ids {
		if c := &ids[i].Cert; c.Format == f && fit(*c) {
			return c
		}
	}
	return nil
}
