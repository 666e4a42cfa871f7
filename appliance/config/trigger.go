package config

import (
	"fmt"
	"slices"
	"strings"
)

// checkTriggers fills in the triggers, and finds those that say two things.
func (c *Filterd) checkTriggers(r *reading) {
	if c.Trigger.Encrypt == nil {
		c.Trigger.Encrypt = []string{"[encrypt]", "X-Postern-Encrypt: yes"}
	}
	if c.Trigger.Sign == nil {
		c.Trigger.Sign = []string{"[sign]", "X-Postern-Sign: yes"}
	}
	seen := map[string]bool{}
	for _, list := range []struct {
		name    string
		entries []string
	}{{"encrypt", c.Trigger.Encrypt}, {"sign", c.Trigger.Sign}, {"plain", c.Trigger.Plain}} {
		for _, e := range list.entries {
			name, value, _ := strings.Cut(strings.ToLower(e), ":")
			key := name + ":" + strings.TrimSpace(value)
			if seen[key] {
				r.wrong(r.line("trigger", list.name), fmt.Sprintf("trigger.%s: %s stands here twice, or in another list", list.name, quote(e)), "")
			}
			seen[key] = true
		}
	}
}

// kept are the fields that no trigger may take out of a mail.
var kept = []string{"from", "sender", "reply-to", "to", "cc", "bcc", "date", "message-id", "in-reply-to", "references", "subject",
	"received", "return-path", "mime-version", "dkim-signature", "authentication-results"}

// triggerForm says what is wrong with an entry of [trigger], or "".
func triggerForm(s string) string {
	for _, c := range s {
		if c < ' ' || c > '~' {
			return "want ASCII"
		}
	}
	name, value, field := strings.Cut(s, ":")
	switch {
	case len(s) < 3 || len(s) > 64:
		return "want 3 to 64 characters"
	case !field && strings.ContainsAny(s, " "):
		return "want a tag without blanks such as [encrypt], or a field such as X-Postern-Encrypt: yes"
	case !field:
		return ""
	case name == "" || strings.ContainsAny(name, " ") || strings.TrimSpace(value) != strings.TrimPrefix(value, " "):
		return "want a field such as X-Postern-Encrypt: yes"
	}
	if name = strings.ToLower(name); slices.Contains(kept, name) || strings.HasPrefix(name, "content-") || strings.HasPrefix(name, "resent-") {
		return "is a field that mail needs"
	}
	return ""
}
