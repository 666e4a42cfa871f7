package dmarc

import (
	"crypto/sha256"
	"strings"

	"postern/filter/dkim"
)

// record is a policy (RFC 7489 §6.3).
type record struct {
	policy, below         string // for the domain, and for the names below it
	strictDKIM, strictSPF bool
	percent               int64
}

// maxRecord is the longest record that is read.
const maxRecord = 4 << 10

func isDMARC(text string) bool {
	name, value, _ := strings.Cut(text, "=")
	word, _, _ := strings.Cut(value, ";")
	return strings.TrimSpace(name) == "v" && strings.TrimSpace(word) == "DMARC1"
}

// parse reads a policy. What is malformed beside the policy itself counts as
// left out, and a record without a policy is none, unless it asks for reports
// (RFC 7489 §6.3, §6.6.3).
func parse(text string) (record, bool) {
	if len(text) > maxRecord {
		return record{}, false
	}
	t, err := dkim.ParseTags(text)
	if err != nil {
		return record{}, false
	}
	r := record{percent: 100}
	var ok bool
	if r.policy, ok = word(t["p"]); !ok {
		if t["rua"] == "" {
			return record{}, false
		}
		r.policy = "none"
	}
	if r.below, ok = word(t["sp"]); !ok {
		r.below = r.policy
	}
	r.strictDKIM = strings.EqualFold(t["adkim"], "s")
	r.strictSPF = strings.EqualFold(t["aspf"], "s")
	if n, ok := t.Number("pct"); ok && n >= 0 && n <= 100 {
		r.percent = n
	}
	return r, true
}

func word(s string) (string, bool) {
	s = strings.ToLower(s)
	return s, s == "none" || s == "quarantine" || s == "reject"
}

// wants is what counts for one mail: with pct= the others get the next lower
// policy (RFC 7489 §6.6.4). The chance is in the trace, so that a mail that is
// looked at again gets the same.
func (r record) wants(trace string) string {
	lot := sha256.Sum256([]byte(trace))
	if (int64(lot[0])<<8|int64(lot[1]))%100 < r.percent {
		return r.policy
	}
	if r.policy == "reject" {
		return "quarantine"
	}
	return "none"
}
