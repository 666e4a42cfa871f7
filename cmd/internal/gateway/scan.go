package gateway

import (
	"log/slog"
	"slices"
	"time"

	"postern/appliance/config"
	"postern/filter/scan"
)

// verdicts are those of scanners in the words of the configuration.
var verdicts = map[string]scan.Verdict{"pass": scan.Clean, "mark": scan.Mark, "defer": scan.Defer, "reject": scan.Reject}

// Scan is the desk of the scanners of c; nil where it names none.
func Scan(c *config.Filterd, log *slog.Logger) *scan.Desk {
	d := &scan.Desk{Budget: time.Duration(c.Scan.Budget), Log: log}
	post := func(s scan.Scanner, when []string, timeout config.Duration, max config.Size, tooBig, onFailure string) {
		d.Posts = append(d.Posts, scan.Post{
			Scanner: s, Inbound: slices.Contains(when, "inbound"), Outbound: slices.Contains(when, "outbound"),
			Timeout: time.Duration(timeout), MaxSize: int64(max), PassBig: tooBig == "pass", PassAway: onFailure == "pass",
		})
	}
	if s := c.Scan.Clamd; s != nil {
		post(&scan.Clamd{Address: s.Address, Found: verdicts[s.Found], Encrypted: verdicts[s.Encrypted]}, s.When, s.Timeout, s.MaxSize, s.TooBig, s.OnFailure)
	}
	if s := c.Scan.Rspamd; s != nil {
		post(&scan.Rspamd{Address: s.Address, Reject: verdicts[s.Reject], Soft: verdicts[s.Soft], Fields: s.Headers}, s.When, s.Timeout, s.MaxSize, s.TooBig, s.OnFailure)
		d.Fields = s.Headers
	}
	if len(d.Posts) == 0 {
		return nil
	}
	return d
}
