package box

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/base32"
	"fmt"
	"strings"
	"sync"
	"time"
)

// code is the one-time code of the screen: 80 bits, so that a proof made with
// it tells nobody the code, however much he computes.
type code struct {
	now func() time.Time

	mu    sync.Mutex
	text  string
	until time.Time
	left  int
}

var letters = base32.StdEncoding.WithPadding(base32.NoPadding)

// show is the code that counts now, made anew when the last one is used up.
func (c *code) show() (text string, until time.Time, left int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.renew()
	return c.text, c.until, c.left
}

// renew is called with mu held.
func (c *code) renew() {
	if c.left > 0 && c.now().Before(c.until) {
		return
	}
	b := make([]byte, 10)
	rand.Read(b)
	s := letters.EncodeToString(b)
	c.text = s[:4] + "-" + s[4:8] + "-" + s[8:12] + "-" + s[12:]
	c.until, c.left = c.now().Add(codeLife), tries
}

// check compares a proof with the one of this code, and takes a try away where
// it is another. ours is the answer to a right one.
func (c *code) check(proof, binding, body []byte) (ours []byte, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.renew()
	if subtle.ConstantTimeCompare(proof, prove(c.text, "claim", binding, body)) != 1 {
		c.left--
		left := c.left
		if left == 0 {
			c.until = time.Time{}
			return nil, fmt.Errorf("%w; the screen shows another one now", ErrProof)
		}
		return nil, fmt.Errorf("%w; %d tries are left", ErrProof, left)
	}
	return prove(c.text, "box", binding, body), nil
}

// spend ends the code: it has served.
func (c *code) spend() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left = 0
}

// prove shows that a side knows the code, on this connection and for this
// request only: whoever sits between has other keys of TLS.
func prove(code, side string, binding, body []byte) []byte {
	sum := sha256.Sum256(body)
	m := hmac.New(sha256.New, []byte(plain(code)))
	fmt.Fprintf(m, "postern %s 1\x00", side)
	m.Write(binding)
	m.Write(sum[:])
	return m.Sum(nil)
}

// plain is a code or recovery key without what people put between its letters.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		switch r {
		case '-', ' ', '\t', '\r', '\n':
			return -1
		}
		return r
	}, strings.ToUpper(s))
}

// bindingOf is what both sides of one TLS connection know, and nobody else
// (RFC 5705, RFC 8446 §7.5).
func bindingOf(s *tls.ConnectionState) ([]byte, error) {
	return s.ExportKeyingMaterial("EXPERIMENTAL-postern-claim", nil, 32)
}
