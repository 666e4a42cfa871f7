package dkim

import (
	"bytes"
	"context"
	"crypto/sha256"
	"slices"
	"strings"
	"time"
)

// Signature is a signature field that was read: DKIM-Signature, and what ARC
// has of the same form.
type Signature struct {
	Result
	field    Field
	at       int // where it stands in the header
	tags     Tags
	signed   []string
	relaxed  bool
	form     Form
	bodyHash []byte
	value    []byte
	identity string // domain of i=
}

// once are fields that a mail has at most once (RFC 5322 §3.6), and whoever
// reads it takes for the author's.
var once = []string{"from", "sender", "reply-to", "to", "cc", "date", "subject", "message-id", "in-reply-to", "references", "mime-version", "content-type", "content-transfer-encoding"}

// Kind is a field of signatures.
type Kind uint8

// The fields of signatures.
const (
	Message    Kind = iota + 1 // DKIM-Signature
	ARCMessage                 // ARC-Message-Signature: without v=, and i= is no identity (RFC 8617 §4.1.2)
	ARCSeal                    // ARC-Seal: over no body and no other field (RFC 8617 §4.1.3)
)

// Read reads the field at a place of the header. A signature that does not
// count already has its Value; the others have none.
func Read(h Header, at int, k Kind, now time.Time) *Signature {
	s := &Signature{field: h[at], at: at, form: Form{Limit: -1}}
	no := func(v Value, reason string) *Signature {
		s.Value, s.Reason = v, reason
		return s
	}
	t, err := ParseTags(h[at].Value())
	if err != nil {
		return no(PermError, ReasonSyntax)
	}
	s.tags = t
	var ok, ok2 bool
	s.Domain, ok = t.Host("d", 2)
	s.Selector, ok2 = t.Host("s", 1)
	if sig := bare(t["b"]); len(sig) >= 8 && strings.Trim(sig[:8], "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/") == "" {
		s.Signature = sig[:8]
	}
	switch a := bare(t["a"]); a {
	case RSA, Ed25519:
		s.Algorithm = a
	case "rsa-sha1":
		return no(PermError, ReasonWeak)
	default:
		return no(PermError, ReasonAlgorithm)
	}
	if k == Message && t["v"] != "1" {
		return no(PermError, ReasonVersion)
	}
	if !ok || !ok2 {
		return no(PermError, ReasonSyntax)
	}
	if s.value, ok = t.Bytes("b"); !ok {
		return no(PermError, ReasonSyntax)
	}
	if k == ARCSeal {
		return s
	}
	if s.bodyHash, ok = t.Bytes("bh"); !ok {
		return no(PermError, ReasonSyntax)
	}
	s.signed = t.Words("h")
	for i, name := range s.signed {
		if name == "" || len(s.signed) > maxSigned {
			return no(PermError, ReasonSyntax)
		}
		s.signed[i] = strings.ToLower(name)
	}
	if !slices.Contains(s.signed, "from") {
		return no(PermError, ReasonFrom)
	}
	if q := t.Words("q"); q != nil && !slices.Contains(q, "dns/txt") {
		return no(PermError, ReasonSyntax)
	}
	head, tail, _ := strings.Cut(bare(t["c"]), "/")
	for _, c := range []struct {
		word string
		to   *bool
	}{{head, &s.relaxed}, {tail, &s.form.Relaxed}} {
		switch c.word {
		case "relaxed":
			*c.to = true
		case "simple", "":
		default:
			return no(PermError, ReasonSyntax)
		}
	}
	made, ok := t.Number("t")
	until, ok2 := t.Number("x")
	var ok3 bool
	if s.form.Limit, ok3 = t.Number("l"); !ok || !ok2 || !ok3 {
		return no(PermError, ReasonSyntax)
	}
	if until >= 0 && (until <= made || now.Unix() > until) {
		return no(PermError, ReasonExpired)
	}
	if k == Message {
		s.identity = s.Domain
		if i, has := t["i"]; has {
			i = bare(i)
			if s.identity, ok = host(i[strings.LastIndexByte(i, '@')+1:], 2); !ok || !strings.Contains(i, "@") {
				return no(PermError, ReasonSyntax)
			}
			if s.identity != s.Domain && !strings.HasSuffix(s.identity, "."+s.Domain) {
				return no(PermError, ReasonIdentity)
			}
		}
	}
	for _, name := range once {
		if h.Count(name) > 1 && (name == "from" || slices.Contains(s.signed, name)) {
			return no(Policy, ReasonTwice)
		}
	}
	return s
}

// Form is how the body is to be hashed for s.
func (s *Signature) Form() Form { return s.form }

// Tag is a value of the field, and whether it is there.
func (s *Signature) Tag(name string) (string, bool) {
	v, ok := s.tags[name]
	return v, ok
}

// Over reports whether a field is one of those signed.
func (s *Signature) Over(name string) bool { return slices.Contains(s.signed, name) }

// Judge finishes a signature that was read, with the sum of the body in its form.
func (s *Signature) Judge(ctx context.Context, look Lookup, h Header, body BodySum) {
	if keys := s.keys(ctx, look); keys != nil {
		s.Value, s.Reason = s.fits(h, body, keys)
	}
}

// JudgeSum finishes a signature that was read and is over nothing but a hash.
func (s *Signature) JudgeSum(ctx context.Context, look Lookup, sum [sha256.Size]byte) {
	if keys := s.keys(ctx, look); keys != nil {
		s.Value, s.Reason = Fail, ReasonHeader
		if slices.ContainsFunc(keys, func(k record) bool { return k.holds(sum, s.value) }) {
			s.Value, s.Reason = Pass, ReasonGood
		}
	}
}

// keys are those that may have made s; nil where it is judged without.
func (s *Signature) keys(ctx context.Context, look Lookup) []record {
	if s.Value != "" {
		return nil
	}
	keys, v, reason := find(ctx, look, s.Selector, s.Domain, s.Algorithm)
	if keys == nil {
		s.Value, s.Reason = v, reason
	}
	return keys
}

func (s *Signature) fits(h Header, body BodySum, keys []record) (Value, string) {
	switch {
	case s.form.Limit > body.Len:
		return PermError, ReasonSyntax
	case !bytes.Equal(body.Hash[:], s.bodyHash):
		return Fail, ReasonBody
	}
	sum := h.Sum(s.signed, s.relaxed, s.field, s.at)
	for _, k := range keys {
		if k.strict && s.identity != "" && s.identity != s.Domain {
			return PermError, ReasonIdentity
		}
		if !k.holds(sum, s.value) {
			continue
		}
		s.Testing = k.testing
		if s.form.Limit >= 0 && s.form.Limit < body.Len {
			return Policy, ReasonPartial
		}
		return Pass, ReasonGood
	}
	return Fail, ReasonHeader
}
