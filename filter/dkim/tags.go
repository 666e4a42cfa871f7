package dkim

import (
	"encoding/base64"
	"errors"
	"strconv"
	"strings"

	"golang.org/x/net/idna"
)

var errTags = errors.New("not a list of tags")

// Tags is a list of tags (RFC 6376 §3.2).
type Tags map[string]string

// ParseTags reads a list; one with a tag that stands there twice is none.
func ParseTags(s string) (Tags, error) {
	t := Tags{}
	if len(s) > maxField {
		return nil, errTags
	}
	parts := strings.Split(s, ";")
	for i, p := range parts {
		name, value, ok := strings.Cut(p, "=")
		name = strings.Trim(name, blanks)
		if !ok {
			if i == len(parts)-1 && name == "" {
				break
			}
			return nil, errTags
		}
		if _, twice := t[name]; twice || !isTag(name) || len(t) == maxTags {
			return nil, errTags
		}
		t[name] = strings.Trim(value, blanks)
	}
	return t, nil
}

// blanks are what may fold a line.
const blanks = " \t\r\n"

func isTag(s string) bool {
	for i := range len(s) {
		c := s[i] | 0x20
		if s[i] != '_' && (c < 'a' || c > 'z') && (i == 0 || s[i] < '0' || s[i] > '9') {
			return false
		}
	}
	return s != ""
}

// bare is a value without any white space.
func bare(s string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune(blanks, r) {
			return -1
		}
		return r
	}, s)
}

// Words is a list with colons between.
func (t Tags) Words(name string) (list []string) {
	v, ok := t[name]
	if !ok {
		return nil
	}
	for _, w := range strings.Split(v, ":") {
		list = append(list, bare(w))
	}
	return list
}

// Bytes are those of a value in base64.
func (t Tags) Bytes(name string) ([]byte, bool) {
	b, err := base64.StdEncoding.DecodeString(bare(t[name]))
	return b, err == nil && len(b) > 0
}

// Number is a value in at most 12 digits; -1 where there is none.
func (t Tags) Number(name string) (int64, bool) {
	v, ok := t[name]
	if !ok {
		return -1, true
	}
	if len(v) == 0 || len(v) > 12 || strings.Trim(v, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(v, 10, 64)
	return n, err == nil
}

// Host is a value that is a name of DNS, in small A-labels. A selector may be
// one label, a domain is never a top-level one.
func (t Tags) Host(name string, labels int) (string, bool) {
	return host(bare(t[name]), labels)
}

func host(v string, labels int) (string, bool) {
	ascii, err := idna.Lookup.ToASCII(v)
	if err != nil { // as one with an underscore, of which there are some
		ascii = v
	}
	ascii = strings.ToLower(ascii)
	parts := strings.Split(ascii, ".")
	if len(ascii) > 253 || len(parts) < labels {
		return "", false
	}
	for _, p := range parts {
		if p == "" || len(p) > 63 || strings.Trim(p, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" || p[0] == '-' {
			return "", false
		}
	}
	return ascii, true
}

// Unsigned is a signature field with nothing behind its b=.
func Unsigned(raw string) string {
	head, value, ok := strings.Cut(raw, ":")
	if !ok {
		return raw
	}
	parts := strings.Split(strings.TrimSuffix(value, "\r\n"), ";")
	for i, p := range parts {
		if name, _, ok := strings.Cut(p, "="); ok && strings.Trim(name, blanks) == "b" {
			parts[i] = p[:strings.IndexByte(p, '=')+1]
		}
	}
	return head + ":" + strings.Join(parts, ";") + "\r\n"
}
