// Package dkim judges and makes DKIM signatures (RFC 6376, RFC 8301, RFC 8463)
// over a mail that is read once, as a stream, and never copied. What ARC shares
// with DKIM, filter/arc takes from here: canonical forms, tags, keys.
//
// It departs from RFC 6376 where that leaves room for additions: a signature
// with l= counts only where it covers the whole body, one over a field that
// should be there once counts only where no second one stands beside it, and
// rsa-sha1 and RSA keys below 1024 bits never count (RFC 8301 §3).
package dkim

import (
	"context"
	"errors"
	"strings"
)

// Bounds of what a stranger's header can cost.
const (
	MaxSignatures = 5       // of one mail that are looked at
	MaxHeader     = 1 << 20 // bytes of the header
	maxField      = 16 << 10
	maxTags       = 64
	maxSigned     = 256 // names in h=
	maxRecords    = 4   // TXT records of one selector that are tried
	maxRecord     = 4 << 10
)

var (
	// ErrHeader is a header beyond MaxHeader.
	ErrHeader = errors.New("header beyond limits")
	// ErrKey is a key that DKIM has no word for.
	ErrKey = errors.New("key of another kind")
)

// Lookup gives the texts under a name: none and no error where there are none.
// Every error counts as one that may go away.
type Lookup func(ctx context.Context, name string) ([]string, error)

// Value is a result in the words of RFC 8601 §2.7.1.
type Value string

// The results of one signature.
const (
	None      Value = "none"
	Pass      Value = "pass"
	Fail      Value = "fail"
	Policy    Value = "policy"
	Neutral   Value = "neutral"
	TempError Value = "temperror"
	PermError Value = "permerror"
)

// The reasons behind them, each one word.
const (
	ReasonGood      = "good"
	ReasonBody      = "body-changed"
	ReasonHeader    = "header-changed"
	ReasonSyntax    = "malformed"
	ReasonVersion   = "unknown-version"
	ReasonAlgorithm = "unknown-algorithm"
	ReasonWeak      = "weak"
	ReasonExpired   = "expired"
	ReasonFrom      = "from-not-signed"
	ReasonIdentity  = "identity-outside"
	ReasonPartial   = "partial-body"
	ReasonTwice     = "field-twice"
	ReasonNoKey     = "no-key"
	ReasonRevoked   = "key-revoked"
	ReasonBadKey    = "key-malformed"
	ReasonAway      = "key-not-available"
)

// Result is the judgement of one signature. Domain and Selector are names in
// A-labels, or empty where what stood there is none.
type Result struct {
	Value     Value
	Reason    string
	Domain    string
	Selector  string
	Algorithm string   // "rsa-sha256", "ed25519-sha256" or ""
	Signature string   // the first 8 letters of b=, which tell signatures of a mail apart (RFC 6008)
	Testing   bool     // the key says so; the signature counts all the same, as it does everywhere
	Signed    []string // fields that it is over, in small letters; as often as h= names them
}

// Field is one header field as it stands in a mail, with the CRLF at its end.
type Field struct {
	Name string // in small letters; "" for what is no field
	Raw  string
}

// Value is what stands behind the colon.
func (f Field) Value() string {
	_, v, _ := strings.Cut(f.Raw, ":")
	return v
}

// Header is the fields of a mail, from the top.
type Header []Field

// Count is how often a field is there.
func (h Header) Count(name string) (n int) {
	for _, f := range h {
		if f.Name == name {
			n++
		}
	}
	return n
}

// split cuts a header into its fields. A line that begins with white space
// belongs to the one before it.
func split(header string) (h Header) {
	for len(header) > 0 {
		end := 0
		for {
			n := strings.Index(header[end:], "\r\n")
			if n < 0 {
				end = len(header)
				break
			}
			end += n + 2
			if end == len(header) || header[end] != ' ' && header[end] != '\t' {
				break
			}
		}
		raw := header[:end]
		header = header[end:]
		name, _, ok := strings.Cut(raw, ":")
		name = strings.TrimRight(name, " \t")
		if !ok || strings.ContainsAny(name, " \t\r\n") {
			name = ""
		}
		h = append(h, Field{strings.ToLower(name), raw})
	}
	return h
}
