package config

import (
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"net"
	"net/netip"
	"net/url"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"
)

// form says what is wrong with the syntax of s, or "".
func form(name, s string) string {
	switch name {
	case "path", "socket":
		switch {
		case strings.ContainsFunc(s, unicode.IsControl):
			return "want a path without control characters"
		case !filepath.IsAbs(s):
			return "want an absolute path"
		case name == "socket" && len(s) > 107: // sun_path of unix(7) has 108 bytes, with the last for NUL
			return "want at most 107 bytes"
		}
	case "listen":
		host, port, err := net.SplitHostPort(s)
		if err != nil || !isPort(port, 0) || host != "" && !isIP(host) {
			return "want address:port such as 192.0.2.1:25, [2001:db8::1]:25 or :25"
		}
	case "dial":
		host, port, err := net.SplitHostPort(s)
		if err != nil || !isPort(port, 1) || !isIP(host) && !isDomain(host) {
			return "want host:port such as mail.company1.example:25"
		}
	case "scanner":
		if strings.HasPrefix(s, "/") {
			return form("socket", s)
		}
		if form("dial", s) != "" {
			return "want an absolute path, or host:port such as 127.0.0.1:3310"
		}
	case "header":
		return headerForm(s)
	case "server":
		if !isServer(s) {
			return "want address:port such as 127.0.0.1:53 or [::1]:53"
		}
	case "domain":
		if !isDomain(s) {
			return "want a domain such as company1.example"
		}
	case "ours", "partner":
		if l := strings.ToLower(s); strings.HasPrefix(l, "xn--") || strings.Contains(l, ".xn--") {
			return "want the name in its own letters" // as mail addresses are looked up
		}
		if name == "ours" {
			return form("domain", s)
		}
		if !isDomain(strings.TrimPrefix(s, "*.")) {
			return "want a domain such as partner.example, or *.partner.example for every name below it"
		}
	case "host":
		if !isDomain(strings.TrimPrefix(s, "*.")) || !strings.Contains(s, ".") {
			return "want a name such as mx.provider.example, or *.provider.example for every name below it"
		}
	case "address":
		local, domain, ok := cutLast(s, "@")
		if !ok || local == "" || len(local) > 64 || !isDomain(domain) || strings.ContainsFunc(local, func(r rune) bool {
			return unicode.IsControl(r) || unicode.IsSpace(r) || strings.ContainsRune(`"(),:;<>@[\]`, r)
		}) {
			return "want an address such as someone@partner.example"
		}
	case "url":
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
			return "want a URL such as http://proxy.company1.example:3128"
		}
	case "https":
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery+u.Fragment != "" {
			return "want a URL such as https://keys.openpgp.org"
		}
	case "directory":
		if strings.HasPrefix(s, "ldap") {
			return form("ldap", s)
		}
		return form("https", s)
	case "ldap":
		const want = "want a URL such as ldaps://dir.company1.example"
		if path, ok := strings.CutPrefix(s, "ldapi://"); ok {
			if path, err := url.PathUnescape(path); err != nil || !filepath.IsAbs(path) {
				return want
			}
			return ""
		}
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "ldaps" && u.Scheme != "ldap" || u.Hostname() == "" || u.User != nil || u.Path+u.RawQuery+u.Fragment != "" {
			return want
		}
	case "attribute":
		if s == "" || len(s) > 64 || strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.;") != "" {
			return "want the name of an attribute such as mail"
		}
	case "escrow":
		switch {
		case strings.Contains(s, "@"):
			return form("address", s)
		case form("fingerprint", s) != "":
			return "want an address, or a fingerprint of 40 or 64 hexadecimal digits"
		}
	case "fingerprint":
		digits := strings.NewReplacer(" ", "", ":", "").Replace(s)
		if _, err := hex.DecodeString(digits); err != nil || len(digits) != 40 && len(digits) != 64 {
			return "want a fingerprint of 40 or 64 hexadecimal digits"
		}
	case "trigger":
		return triggerForm(s)
	case "name":
		if s == "" || len(s) > 32 || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return "want a name of small letters, digits and hyphens"
		}
	case "pin":
		digits, ok := strings.CutPrefix(s, "sha256:")
		if b, err := hex.DecodeString(digits); !ok || err != nil || len(b) != 32 {
			return "want sha256: and 64 hexadecimal digits"
		}
	case "certificates":
		if _, err := certificates(s); err != nil {
			return err.Error()
		}
	case "label":
		if s == "" || len(s) > 32 || strings.TrimSpace(s) != s || strings.ContainsFunc(s, unicode.IsControl) {
			return "want 1 to 32 bytes without space around them"
		}
	case "pattern":
		if _, err := path.Match(s, ""); err != nil || s == "" {
			return "want a pattern such as dkim/*"
		}
	case "group":
		if s == "" || len(s) > 32 || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789_-") != "" || s[0] == '-' {
			return "want the name or number of a group"
		}
	case "ip":
		if a, err := netip.ParseAddr(s); err != nil || a.Zone() != "" {
			return "want an address such as 192.0.2.1 or 2001:db8::1"
		}
	case "prefix":
		if p, err := netip.ParsePrefix(s); err != nil || p.Addr().Is4In6() || p.Addr().IsUnspecified() {
			return "want an address and the length of its network, such as 192.0.2.25/24"
		}
	case "device":
		if s == "" || len(s) > 15 || strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-*") != "" || s[0] == '.' || s[0] == '-' {
			return "want the name of a network device such as enp1s0, or en* for the first that fits"
		}
	case "mac":
		if m, err := net.ParseMAC(s); err != nil || len(m) != 6 {
			return "want a hardware address such as 52:54:00:12:34:56"
		}
	case "age":
		if !strings.HasPrefix(s, "age1") || len(s) < 62 || len(s) > 4096 || strings.Trim(s[4:], "0123456789abcdefghijklmnopqrstuvwxyz") != "" {
			return "want an age recipient such as age1…, as age-keygen prints it"
		}
	case "lifetime":
		return lifetimeForm(s)
	case "tls-version":
		if s != "1.2" && s != "1.3" {
			return "want 1.2 or 1.3"
		}
	case "text":
		if strings.ContainsRune(s, 0) {
			return "want a text without NUL"
		}
	}
	return ""
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

func isPort(s string, least uint64) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n >= least
}

func isIP(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

// isDomain takes letters, digits and hyphens (RFC 1123 §2.1), letters of any
// script (RFC 5890 §2.3.2.1), and one label as well as many.
func isDomain(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || strings.HasPrefix(label, "-") || strings.HasSuffix(label, "-") {
			return false
		}
		if strings.ContainsFunc(label, func(r rune) bool {
			return r != '-' && !unicode.IsLetter(r) && !unicode.IsDigit(r) && !unicode.IsMark(r)
		}) {
			return false
		}
	}
	return true
}

// isLoopback reports whether host names this machine itself.
func isLoopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && a.Unmap().IsLoopback()
}

// certificates reads those of a text in PEM, which has nothing else.
func certificates(s string) (list []*x509.Certificate, err error) {
	want := errors.New("want certificates in PEM, each from -----BEGIN CERTIFICATE----- to -----END CERTIFICATE-----")
	for rest := []byte(strings.TrimSpace(s)); len(rest) > 0; {
		block, after := pem.Decode(rest)
		if block == nil || block.Type != "CERTIFICATE" || !strings.HasPrefix(string(rest), "-----BEGIN ") {
			return nil, want
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, want
		}
		list, rest = append(list, c), []byte(strings.TrimSpace(string(after)))
	}
	return list, nil
}
