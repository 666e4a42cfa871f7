package dkim

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
)

// Sizes of RSA keys that count, in bits: below nobody should (RFC 8301 §3.2),
// above one check would take too long.
const (
	minBits = 1024
	maxBits = 4096
)

// record is a public key as DNS has it (RFC 6376 §3.6.1).
type record struct {
	key     crypto.PublicKey
	testing bool
	strict  bool // i= must name the domain itself
}

// algorithm is the word of a= that a key can check.
func algorithm(k crypto.PublicKey) string {
	switch k.(type) {
	case *rsa.PublicKey:
		return RSA
	case ed25519.PublicKey:
		return Ed25519
	}
	return ""
}

// The algorithms of signatures.
const (
	RSA     = "rsa-sha256"
	Ed25519 = "ed25519-sha256"
)

// parseRecord reads a key, or gives the reason why not.
func parseRecord(text string) (record, string) {
	if len(text) > maxRecord {
		return record{}, ReasonBadKey
	}
	t, err := ParseTags(text)
	if err != nil {
		return record{}, ReasonBadKey
	}
	if v, ok := t["v"]; ok && (v != "DKIM1" || !strings.HasPrefix(strings.TrimLeft(text, blanks), "v")) {
		return record{}, ReasonBadKey
	}
	if h := t.Words("h"); h != nil && !slices.Contains(h, "sha256") {
		return record{}, ReasonAlgorithm
	}
	if s := t.Words("s"); s != nil && !slices.Contains(s, "*") && !slices.Contains(s, "email") {
		return record{}, ReasonBadKey
	}
	p, ok := t["p"]
	if !ok {
		return record{}, ReasonBadKey
	}
	if bare(p) == "" {
		return record{}, ReasonRevoked
	}
	der, ok := t.Bytes("p")
	if !ok {
		return record{}, ReasonBadKey
	}
	flags := t.Words("t")
	r := record{testing: slices.Contains(flags, "y"), strict: slices.Contains(flags, "s")}
	switch k, ok := t["k"]; {
	case !ok || k == "rsa":
		key, err := x509.ParsePKIXPublicKey(der)
		public, isRSA := key.(*rsa.PublicKey)
		if err != nil {
			public, err = x509.ParsePKCS1PublicKey(der) // erratum 3017 of RFC 6376
			isRSA = err == nil
		}
		switch {
		case !isRSA:
			return record{}, ReasonBadKey
		case public.N.BitLen() < minBits || public.N.BitLen() > maxBits:
			return record{}, ReasonWeak
		}
		r.key = public
	case k == "ed25519":
		if len(der) != ed25519.PublicKeySize {
			return record{}, ReasonBadKey
		}
		r.key = ed25519.PublicKey(der)
	default:
		return record{}, ReasonAlgorithm
	}
	return r, ""
}

// find gives the keys of a selector that fit an algorithm.
func find(ctx context.Context, look Lookup, selector, domain, alg string) ([]record, Value, string) {
	texts, err := look(ctx, selector+"._domainkey."+domain)
	if err != nil {
		return nil, TempError, ReasonAway
	}
	why := ReasonNoKey
	var found []record
	for _, text := range texts[:min(len(texts), maxRecords)] {
		r, reason := parseRecord(text)
		switch {
		case reason != "":
			why = reason
		case algorithm(r.key) != alg:
			why = ReasonAlgorithm
		default:
			found = append(found, r)
		}
	}
	if found == nil {
		return nil, PermError, why
	}
	return found, Pass, ""
}

// holds reports whether a signature over a hash is one of the key.
func (r record) holds(sum [sha256.Size]byte, sig []byte) bool {
	switch k := r.key.(type) {
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(k, crypto.SHA256, sum[:], sig) == nil
	case ed25519.PublicKey:
		return ed25519.Verify(k, sum[:], sig) // RFC 8463 §3: the hash is the message
	}
	return false
}

// Record is the text under selector._domainkey.domain for a public key.
func Record(public crypto.PublicKey) (string, error) {
	switch k := public.(type) {
	case *rsa.PublicKey:
		der, err := x509.MarshalPKIXPublicKey(k)
		if err != nil {
			return "", fmt.Errorf("print key: %w", err)
		}
		return "v=DKIM1; k=rsa; p=" + base64.StdEncoding.EncodeToString(der), nil
	case ed25519.PublicKey:
		return "v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(k), nil
	}
	return "", fmt.Errorf("print key of type %T: %w", public, ErrKey)
}
