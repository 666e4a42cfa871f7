// Package mtasts knows what domains ask of the way to their mail servers with
// MTA-STS (RFC 8461): it finds the policy of a domain, and keeps it as long as
// it holds. Whoever can forge DNS answers can hide a policy that is not known
// yet, and none that is.
//
// A policy is written by strangers: it is read within bounds, and what is not
// understood is no policy. It can ask for more than a site asks by itself, and
// never for less.
package mtasts

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Mode is what a policy asks for (RFC 8461 §5).
type Mode string

const (
	Enforce Mode = "enforce" // nothing is delivered to a server that fails it
	Testing Mode = "testing" // all is delivered
	None    Mode = "none"    // there is no policy any more
)

// Bounds of a policy.
const (
	maxPolicy = 64 << 10 // bytes (RFC 8461 §3.3)
	maxLines  = 1000
	maxMX     = 100
	maxAge    = 31557600 // seconds (RFC 8461 §3.2)
)

// ErrPolicy is what is no policy, or no record of one.
var ErrPolicy = errors.New("not a policy of MTA-STS")

// Policy is that of one domain.
type Policy struct {
	ID      string // of the record that it was fetched for
	Mode    Mode
	MX      []string // names of servers, or "*.name" for one label more; small letters
	MaxAge  time.Duration
	Fetched time.Time
	Expires time.Time
}

// Matches reports whether the policy names host (RFC 8461 §4.1): a pattern
// stands for exactly one label more.
func (p Policy) Matches(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return slices.ContainsFunc(p.MX, func(pattern string) bool {
		above, wild := strings.CutPrefix(pattern, "*.")
		if !wild {
			return pattern == host
		}
		first, rest, ok := strings.Cut(host, ".")
		return ok && first != "" && rest == above
	})
}

// ParsePolicy reads the file of a policy (RFC 8461 §3.2). A field that is not
// known is passed over; of one that stands there twice the first counts, but
// for mx.
func ParsePolicy(text []byte) (Policy, error) {
	bad := func(format string, args ...any) (Policy, error) {
		return Policy{}, fmt.Errorf("read policy: %s: %w", fmt.Sprintf(format, args...), ErrPolicy)
	}
	if len(text) > maxPolicy {
		return bad("more than %d bytes", maxPolicy)
	}
	var p Policy
	seen := map[string]string{}
	n := 0
	for line := range strings.SplitSeq(string(text), "\n") {
		line = strings.TrimSuffix(line, "\r")
		if n++; n > maxLines {
			return bad("more than %d lines", maxLines)
		}
		if strings.Trim(line, " \t") == "" {
			continue
		}
		key, value, ok := strings.Cut(line, ":")
		if !ok || !isKey(key) {
			return bad("line %d", n)
		}
		value = strings.Trim(value, " \t")
		if key == "mx" {
			pattern := strings.ToLower(strings.TrimSuffix(value, "."))
			if !isPattern(pattern) {
				return bad("mx %.100q", value)
			}
			if len(p.MX) == maxMX {
				return bad("more than %d servers", maxMX)
			}
			p.MX = append(p.MX, pattern)
			continue
		}
		if _, twice := seen[key]; !twice {
			seen[key] = value
		}
		if n == 1 && key != "version" {
			return bad("version is not first")
		}
	}
	age, err := strconv.ParseUint(seen["max_age"], 10, 32)
	p.Mode = Mode(seen["mode"])
	switch {
	case seen["version"] != "STSv1":
		return bad("version %.20q", seen["version"])
	case p.Mode != Enforce && p.Mode != Testing && p.Mode != None:
		return bad("mode %.20q", p.Mode)
	case err != nil:
		return bad("max_age %.20q", seen["max_age"])
	case len(p.MX) == 0 && p.Mode != None:
		return bad("no mx")
	}
	p.MaxAge = time.Duration(min(age, maxAge)) * time.Second
	return p, nil
}

func isKey(s string) bool {
	return s != "" && len(s) <= 32 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.") == ""
}

// isPattern takes a host name in A-labels, with "*." before it or not.
func isPattern(s string) bool {
	s = strings.TrimPrefix(s, "*.")
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return true
}

// parseRecord finds the id in the TXT records under _mta-sts (RFC 8461 §3.1).
// Records of something else do not count; two of MTA-STS are none.
func parseRecord(texts []string) (id string, err error) {
	found := 0
	for _, text := range texts {
		if rest, ok := strings.CutPrefix(text, "v=STSv1"); ok && strings.HasPrefix(strings.TrimLeft(rest, " \t"), ";") {
			found++
			id = text
		}
	}
	if found != 1 || len(id) > 1000 {
		return "", fmt.Errorf("read record: %d of them: %w", found, ErrPolicy)
	}
	fields := strings.Split(id, ";")
	id = ""
	for _, f := range fields[1:] {
		key, value, ok := strings.Cut(strings.Trim(f, " \t"), "=")
		if ok && strings.TrimRight(key, " \t") == "id" && id == "" {
			id = strings.TrimLeft(value, " \t")
		}
	}
	if id == "" || len(id) > 32 || strings.Trim(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") != "" {
		return "", fmt.Errorf("read record: id %.40q: %w", id, ErrPolicy)
	}
	return id, nil
}
