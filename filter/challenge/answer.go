package challenge

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	"postern/filter/message"
)

// Join is how the two halves of a token become one. RFC 8823 §3 leaves open
// whether what is put together are the texts, or the bytes that they encode,
// and authorities do either; the two differ unless the first half encodes a
// multiple of three bytes.
type Join string

// The ways to join.
const (
	Text  Join = "text"
	Bytes Join = "bytes"
)

// Digest is what proves that whoever has the first half, out of a mail, also
// has the second one, and the key of the account with that thumbprint
// (RFC 7638): the base64url of SHA-256 over the key authorization (RFC 8555
// §8.1). The error is ErrForm where a half is none.
func Digest(j Join, first, second, thumbprint string) (string, error) {
	a, err := decode(first)
	if err != nil {
		return "", fmt.Errorf("first half of the token: %w", ErrForm)
	}
	b, err := decode(second)
	if err != nil {
		return "", fmt.Errorf("second half of the token: %w", ErrForm)
	}
	token := first + second
	if j == Bytes {
		token = base64.RawURLEncoding.EncodeToString(append(a, b...))
	}
	sum := sha256.Sum256([]byte(token + "." + thumbprint))
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}

// Answer is a mail that answers a challenge (RFC 8823 §3.2), still without the
// DKIM signature that makes it count.
type Answer struct {
	From, To  message.Address
	Token     string // the first half, as the challenge has it
	InReplyTo string // its Message-ID
	Digest    string
	Host      string // right of the @ in the Message-ID
	At        time.Time
}

// Mail is the answer as it is sent.
func (a Answer) Mail() []byte {
	var b bytes.Buffer
	for _, f := range [][2]string{
		{"From", "<" + a.From.String() + ">"},
		{"To", "<" + a.To.String() + ">"},
		{"Subject", "Re: " + label + " " + a.Token},
		{"Date", a.At.UTC().Format("Mon, 2 Jan 2006 15:04:05 -0700")},
		{"Message-ID", "<" + strings.ToLower(rand.Text()) + "@" + a.Host + ">"},
		{"In-Reply-To", a.InReplyTo},
		{"References", a.InReplyTo},
		{"Auto-Submitted", "auto-replied; type=acme"},
		{"MIME-Version", "1.0"},
		{"Content-Type", "text/plain; charset=us-ascii"},
		{"Content-Transfer-Encoding", "7bit"},
	} {
		b.Write(message.FoldField(f[0], f[1]))
	}
	fmt.Fprintf(&b, "\r\n-----BEGIN ACME RESPONSE-----\r\n%s\r\n-----END ACME RESPONSE-----\r\n", a.Digest)
	return b.Bytes()
}
