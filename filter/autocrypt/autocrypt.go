// Package autocrypt reads and writes the header fields by which mail programs
// tell each other their OpenPGP certificates (Autocrypt Level 1, version 1.1).
//
// Whoever can write a mail can write such a field: what it says is the sender's
// word, and he need not be who he says.
package autocrypt

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"postern/filter/message"
)

// The fields.
const (
	Field  = "Autocrypt"
	Gossip = "Autocrypt-Gossip"
)

// ErrHeader is a field that says nothing that counts.
var ErrHeader = errors.New("not a header field of Autocrypt")

// What a field may be.
const (
	maxField = 96 << 10 // bytes, with its folds
	maxKey   = 64 << 10 // bytes
	maxAttrs = 16
)

// Header is what one field says.
type Header struct {
	Addr    message.Address
	Mutual  bool   // prefer-encrypt=mutual
	Keydata []byte // an OpenPGP certificate, or what is said to be one
}

// Parse reads the value of a field. Of an attribute that stands there twice, or
// one that is not known and has no "_" before it, nothing counts (§2.1): not the
// rest of the field either.
func Parse(value string) (Header, error) {
	bad := func(format string, args ...any) (Header, error) {
		return Header{}, fmt.Errorf("read field: %s: %w", fmt.Sprintf(format, args...), ErrHeader)
	}
	if len(value) > maxField {
		return bad("more than %d bytes", maxField)
	}
	seen := map[string]string{}
	n := 0
	for part := range strings.SplitSeq(value, ";") {
		if n++; n > maxAttrs {
			return bad("more than %d attributes", maxAttrs)
		}
		name, text, ok := strings.Cut(part, "=")
		name = strings.ToLower(strings.Trim(name, space))
		if !ok && name == "" {
			continue // behind the last one
		}
		if _, twice := seen[name]; !ok || twice {
			return bad("attribute %.40q", name)
		}
		switch name {
		case "addr", "prefer-encrypt", "keydata":
		default:
			if !strings.HasPrefix(name, "_") {
				return bad("attribute %.40q", name)
			}
		}
		seen[name] = strings.Trim(text, space)
	}
	h := Header{Mutual: seen["prefer-encrypt"] == "mutual"}
	var err error
	if h.Addr, err = message.ParseAddress(seen["addr"]); err != nil {
		return bad("addr")
	}
	h.Keydata, err = base64.StdEncoding.DecodeString(strings.Map(func(r rune) rune {
		if strings.ContainsRune(space, r) {
			return -1
		}
		return r
	}, seen["keydata"]))
	if err != nil || len(h.Keydata) == 0 || len(h.Keydata) > maxKey {
		return bad("keydata")
	}
	return h, nil
}

// space is what may stand between words, and where a field is folded.
const space = " \t\r\n"

// Print is the field, folded, with its line end. It says nothing of how its owner
// wants mail: that is for him.
func Print(addr string, keydata []byte) []byte {
	var b strings.Builder
	b.WriteString(Field + ": addr=" + addr + "; keydata=\r\n")
	for text := base64.StdEncoding.EncodeToString(keydata); text != ""; {
		n := min(len(text), 76)
		b.WriteString(" " + text[:n] + "\r\n")
		text = text[n:]
	}
	return []byte(b.String())
}
