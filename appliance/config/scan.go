package config

import (
	"fmt"
	"net"
	"slices"
	"strings"
)

// Scan is the table [scan].
type Scan struct {
	Budget Duration    `toml:"budget" default:"2m" min:"1s" max:"5m" doc:"How long one mail waits for all scanners at most. Its sender waits ten minutes for his answer, and the next hop takes its time too."`
	Clamd  *ScanClamd  `toml:"clamd" doc:"clamd of ClamAV, asked first. It keeps what it looks at in a file of its TemporaryDirectory, which must be a tmpfs without swap."`
	Rspamd *ScanRspamd `toml:"rspamd" doc:"The normal worker of rspamd, asked by /checkv2. It hears of the client, the envelope and the account. Its rules stand there; subjects that it would rewrite stay as they are."`
}

// ScanClamd is the table [scan.clamd].
type ScanClamd struct {
	Address   string   `toml:"address" need:"yes" form:"scanner" doc:"Its socket, as an absolute path, or host:port."`
	Remote    bool     `toml:"remote" doc:"Whether it may be on another machine, to which mails go in clear."`
	When      []string `toml:"when" enum:"inbound|outbound" doc:"Which mail it sees: inbound after it was opened, outbound before it is sealed. Default: both."`
	Timeout   Duration `toml:"timeout" default:"60s" min:"1s" max:"5m" doc:"How long it may take for one mail. Later it counts as away."`
	MaxSize   Size     `toml:"max-size" default:"25MiB" min:"64KiB" max:"1GiB" doc:"Largest mail that it is given; StreamMaxLength of clamd must be as much."`
	TooBig    string   `toml:"too-big" default:"reject" enum:"pass|reject" doc:"What becomes of a larger mail. pass: it is not scanned, and marked so. reject: it is refused with 552 5.3.4."`
	OnFailure string   `toml:"on-failure" default:"defer" enum:"defer|pass" doc:"What becomes of mail while it is away, too slow or not understood. defer: it waits with 451. pass: it is not scanned, and marked so."`
	Found     string   `toml:"found" default:"reject" enum:"reject|mark|defer" doc:"What becomes of a mail in which it finds something. reject: it is refused with 550 5.7.1. mark: it is delivered and marked. defer: it waits with 451."`
	Encrypted string   `toml:"encrypted" default:"mark" enum:"pass|mark|reject" doc:"What becomes of a mail with an archive or a document that wants a password, where clamd says so (AlertEncrypted)."`
}

// ScanRspamd is the table [scan.rspamd].
type ScanRspamd struct {
	Address   string   `toml:"address" need:"yes" form:"scanner" doc:"Its socket, as an absolute path, or host:port."`
	Remote    bool     `toml:"remote" doc:"Whether it may be on another machine, to which mails go in clear."`
	When      []string `toml:"when" enum:"inbound|outbound" doc:"Which mail it sees, as of clamd. Default: both."`
	Timeout   Duration `toml:"timeout" default:"30s" min:"1s" max:"5m" doc:"How long it may take for one mail. Later it counts as away."`
	MaxSize   Size     `toml:"max-size" default:"25MiB" min:"64KiB" max:"1GiB" doc:"Largest mail that it is given; max_message of rspamd must be as much."`
	TooBig    string   `toml:"too-big" default:"pass" enum:"pass|reject" doc:"What becomes of a larger mail, with the words of clamd."`
	OnFailure string   `toml:"on-failure" default:"defer" enum:"defer|pass" doc:"What becomes of mail while it is away, too slow or not understood, with the words of clamd."`
	Reject    string   `toml:"reject" default:"reject" enum:"reject|mark|defer" doc:"What its action reject does, with the words of clamd."`
	Soft      string   `toml:"soft" default:"defer" enum:"mark|defer" doc:"What its actions soft reject and greylist do. Its actions add header and rewrite subject mark the mail."`
	Headers   []string `toml:"headers" form:"header" doc:"Names of fields that it may put on inbound mail, such as X-Spam-Level; what arrives with such a name is taken off. Default: none."`
}

// checkScan fills in what depends on other fields, and finds what does not fit
// together.
func (c *Filterd) checkScan(r *reading) {
	one := func(table, address string, remote bool, when *[]string) {
		if *when == nil {
			*when = []string{"inbound", "outbound"}
		}
		at := func(field string) int { return r.line("scan", table, field) }
		if len(*when) == 0 {
			r.wrong(at("when"), fmt.Sprintf("scan.%s.when: is empty", table), "leave the table out where it is not to be asked")
		}
		for i, w := range *when {
			if slices.Contains((*when)[:i], w) {
				r.wrong(at("when"), fmt.Sprintf("scan.%s.when: %s stands here twice", table, quote(w)), "")
			}
		}
		host, _, _ := net.SplitHostPort(address) // has its form already
		here := strings.HasPrefix(address, "/") || isLoopback(host)
		switch {
		case !here && !remote:
			r.wrong(at("address"), fmt.Sprintf("scan.%s.address: %s is on another machine, and mails would go there in clear", table, quote(address)), "set remote = true where nobody else can read along")
		case here && remote:
			r.wrong(at("remote"), fmt.Sprintf("scan.%s.remote: has no effect with an address of this machine", table), "")
		}
	}
	if s := c.Scan.Clamd; s != nil {
		one("clamd", s.Address, s.Remote, &s.When)
	}
	if s := c.Scan.Rspamd; s != nil {
		one("rspamd", s.Address, s.Remote, &s.When)
	}
}

// headerForm says what is wrong with the name of a field that a scanner may write, or "".
func headerForm(s string) string {
	l := strings.ToLower(s)
	switch {
	case s == "" || len(s) > 64 || strings.Trim(l, "abcdefghijklmnopqrstuvwxyz0123456789-") != "":
		return "want the name of a field such as X-Spam-Level"
	case slices.Contains(kept, l), strings.HasPrefix(l, "content-"), strings.HasPrefix(l, "resent-"), strings.HasPrefix(l, "postern-"), strings.HasPrefix(l, "arc-"), strings.HasPrefix(l, "list-"):
		return "is a field that only others write"
	}
	return ""
}
