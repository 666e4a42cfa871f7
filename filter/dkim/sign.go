package dkim

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/base64"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Key signs for a domain under a selector.
type Key struct {
	Domain, Selector string // in A-labels
	Signer           crypto.Signer
}

// Signed are the fields that our signatures are over. Each is named once more
// than it is there, so that none can be added (RFC 6376 §8.15).
var Signed = []string{"from", "sender", "reply-to", "to", "cc", "subject", "date", "message-id", "in-reply-to", "references",
	"mime-version", "content-type", "content-transfer-encoding", "content-disposition", "content-language",
	"list-id", "list-unsubscribe", "list-unsubscribe-post", "resent-from", "resent-to", "resent-cc", "resent-date", "resent-message-id",
	"autocrypt", "openpgp"}

// Sign gives a DKIM-Signature field for each key, relaxed/relaxed and over the
// whole body, to stand on top of the mail. The domain of a key is not compared
// with anything: who calls holds it to the author's. The first error of a key
// ends it: a mail is never signed by some of its keys.
func Sign(mail io.WriterTo, keys []Key, now time.Time) ([]byte, error) {
	h, sums, err := Scan(mail, func(Header) []Form { return []Form{{Relaxed: true, Limit: -1}} })
	if err != nil {
		return nil, fmt.Errorf("read mail: %w", err)
	}
	names := Names(h)
	var out []byte
	for _, k := range keys {
		alg := algorithm(k.Signer.Public())
		if alg == "" {
			return nil, fmt.Errorf("sign as %s: key of type %T: %w", k.Domain, k.Signer.Public(), ErrKey)
		}
		f, err := k.Field("DKIM-Signature", []string{
			"v=1", "a=" + alg, "c=relaxed/relaxed", "d=" + k.Domain, "s=" + k.Selector, "t=" + strconv.FormatInt(now.Unix(), 10),
			"h=" + strings.Join(names, ":"), "bh=" + base64.StdEncoding.EncodeToString(sums[0].Hash[:])},
			func(f Field) [32]byte { return h.Sum(names, true, f, -1) })
		if err != nil {
			return nil, err
		}
		out = append(out, f...)
	}
	return out, nil
}

// Names are the fields of a mail that are signed: each as often as it is there,
// and once more.
func Names(h Header) (names []string) {
	for _, name := range Signed {
		for range h.Count(name) {
			names = append(names, name)
		}
	}
	return append(names, Signed...)
}

// Field is a signature field with its value: tags, and b= at the end. sum says
// what is signed, of the field whose b= is empty.
func (k Key) Field(name string, tags []string, sum func(Field) [32]byte) ([]byte, error) {
	raw := Fold(name, append(slices.Clip(tags), "b="))
	hash := sum(Field{strings.ToLower(name), raw + "\r\n"})
	var opts crypto.SignerOpts = crypto.SHA256
	if _, ok := k.Signer.Public().(ed25519.PublicKey); ok {
		opts = crypto.Hash(0) // RFC 8463 §3: the hash is the message
	}
	sig, err := k.Signer.Sign(nil, hash[:], opts)
	if err != nil {
		return nil, fmt.Errorf("sign as %s: %w", k.Domain, err)
	}
	if !(record{key: k.Signer.Public()}).holds(hash, sig) {
		return nil, fmt.Errorf("sign as %s: what the key made is no signature: %w", k.Domain, ErrKey)
	}
	return []byte(raw + fold64(base64.StdEncoding.EncodeToString(sig)) + "\r\n"), nil
}

// Fold prints a field of tags without its CRLF: lines are folded between tags,
// and behind the colons of h=.
func Fold(name string, tags []string) string {
	var b strings.Builder
	b.WriteString(name + ":")
	line := b.Len()
	put := func(space, text string) {
		if line+len(space)+len(text) > 76 {
			space, line = "\r\n\t", 7
		}
		b.WriteString(space + text)
		line += len(space) + len(text)
	}
	for i, t := range tags {
		if i < len(tags)-1 {
			t += ";"
		}
		space := " "
		for strings.HasPrefix(tags[i], "h=") && strings.Contains(t, ":") {
			var word string
			word, t, _ = strings.Cut(t, ":")
			put(space, word+":")
			space = ""
		}
		put(space, t)
	}
	return b.String()
}

// fold64 breaks base64 into lines.
func fold64(s string) string {
	var b strings.Builder
	for len(s) > 0 {
		n := min(len(s), 72)
		b.WriteString("\r\n\t" + s[:n])
		s = s[n:]
	}
	return b.String()
}

// NewKey gives a key that can sign in the words of DKIM.
func NewKey(domain, selector string, s crypto.Signer) (Key, error) {
	switch p := s.Public().(type) {
	case ed25519.PublicKey:
	case *rsa.PublicKey:
		if n := p.N.BitLen(); n < 2048 || n > maxBits {
			return Key{}, fmt.Errorf("key %s of %s: RSA of %d bits: %w", selector, domain, n, ErrKey)
		}
	default:
		return Key{}, fmt.Errorf("key %s of %s: type %T: %w", selector, domain, s.Public(), ErrKey)
	}
	d, ok := host(domain, 1)
	l, ok2 := host(selector, 1)
	if !ok || !ok2 {
		return Key{}, fmt.Errorf("key %s of %s: not names of DNS: %w", selector, domain, ErrKey)
	}
	return Key{d, l, s}, nil
}
