// Package postfix is the Postfix behind the gateway: the queue, and the way to
// the partners. Its main.cf and master.cf are printed from our configuration,
// every line with its reason; nobody edits them by hand. It listens on
// loopback only, delivers nothing on this machine, and asks filterd by
// socketmap how safe the way to each domain must be (policy.go).
//
// A mail that asks for more than its recipients' domains do enters by a second
// port, and leaves by a transport of its own whose question names the floor.
package postfix

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/idna"
)

// The ways in which Postfix, or what is to be written for it, is not as it should be.
var (
	ErrConfig  = errors.New("configuration for Postfix")
	ErrMissing = errors.New("no Postfix is installed")
	ErrForeign = errors.New("written by somebody else")
	ErrAnswer  = errors.New("not an answer of filterd")
)

// The names under which main.cf asks filterd: each is a floor, "" where the
// domain's own way decides.
const (
	Table      = "tls-policy"
	TableFloor = "tls-policy-verify"
)

// reporting follows the name of a table where Postfix makes reports on TLS: then
// the answer tells which MTA-STS policy stands behind it, in words that Postfix
// knows from 3.10 on.
const reporting = "-report"

// table is the name under which one is asked.
func (c *Config) table(name string, have Installed) string {
	if c.reports(have) {
		name += reporting
	}
	return "socketmap:unix:" + c.Socket + ":" + name
}

// reports holds where Postfix tells a collector how it went (RFC 8460).
func (c *Config) reports(have Installed) bool {
	return c.TLSRPT != "" && have.least(3, 10) && have.Parameters["smtp_tlsrpt_enable"]
}

// Config is what is rendered. Every field is needed, but for those whose zero
// value is explained.
type Config struct {
	Dir         string // of main.cf and master.cf
	Queue, Data string // queue_directory, data_directory
	Listen      string // address:port where filterd submits; loopback
	Strict      string // the same, for mail that must leave with TLS to a server that proves its name
	Name        string // of the gateway: myhostname
	Hello       string // for EHLO to the partners: Name by default
	Domains     []string
	Inside      Inside // where mail to Domains goes: reports of ours to the senders
	Root        string // who reads the mail of this machine itself
	Socket      string // of the socketmap in filterd
	Own         []netip.Addr
	Bind        []netip.Addr  // source of connections to partners, one of each family at most; none: what the system takes
	CAFile      string        // whom the level verify trusts
	MaxSize     int64         // of a mail, as it leaves filterd
	Recipients  int           // of one mail
	Warn        time.Duration // until the sender hears that his mail waits
	Lifetime    time.Duration // until a mail comes back
	Retry       time.Duration // between the first tries
	RetryMax    time.Duration // between the last ones
	TLSRPT      string        // socket of a collector of TLS reports (RFC 8460); "": none
	Log         string        // file; "": syslog
}

// Inside is the company's mail server as [next-hop.inbound] has it.
type Inside struct {
	Address string // host:port
	LMTP    bool
	TLS     string // off, may, encrypt or verify
	Name    string // in the certificate, of verify
	CAFile  string // whom verify trusts: Config.CAFile by default
}

// File is one file of the configuration folder.
type File struct{ Name, Text string }

// Render prints main.cf and master.cf for a Postfix as it is installed. It is
// pure: the same arguments give the same bytes.
func Render(c Config, have Installed) ([]File, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	main, err := c.main(have)
	if err != nil {
		return nil, err
	}
	return []File{{"main.cf", main}, {"master.cf", c.master(have)}}, nil
}

// check finds values that Postfix would read otherwise than they are meant: it
// expands "$", and splits lists at white space and commas.
func (c *Config) check() error {
	words := []struct{ what, text string }{
		{"folder", c.Dir}, {"queue", c.Queue}, {"data", c.Data}, {"listen", c.Listen}, {"strict", c.Strict}, {"name", c.Name},
		{"inside", c.Inside.Address}, {"root", c.Root}, {"socket", c.Socket}, {"ca-file", c.CAFile},
	}
	for _, o := range []struct{ what, text string }{
		{"helo", c.Hello}, {"name of the inside", c.Inside.Name}, {"ca-file of the inside", c.Inside.CAFile}, {"tlsrpt", c.TLSRPT}, {"log", c.Log},
	} {
		if o.text != "" {
			words = append(words, o)
		}
	}
	for _, d := range c.Domains {
		words = append(words, struct{ what, text string }{"domain", d})
	}
	for _, w := range words {
		if w.text == "" || strings.ContainsFunc(w.text, func(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune(`$,;{}="\#`, r) }) {
			return fmt.Errorf("%s %q: empty, or with a character that Postfix reads otherwise: %w", w.what, w.text, ErrConfig)
		}
	}
	for _, a := range []string{c.Listen, c.Strict} {
		if p, err := netip.ParseAddrPort(a); err != nil || !p.Addr().IsLoopback() {
			return fmt.Errorf("listen %q: not an address of this machine alone: %w", a, ErrConfig)
		}
	}
	if c.Listen == c.Strict {
		return fmt.Errorf("listen %q: both ports are one: %w", c.Listen, ErrConfig)
	}
	if _, _, err := net.SplitHostPort(c.Inside.Address); err != nil {
		return fmt.Errorf("inside %q: not host:port: %w", c.Inside.Address, ErrConfig)
	}
	if !slices.Contains([]string{"off", "may", "encrypt", "verify"}, c.Inside.TLS) {
		return fmt.Errorf("inside: TLS level %q: %w", c.Inside.TLS, ErrConfig)
	}
	if len(c.Domains) == 0 || c.MaxSize <= 0 || c.Recipients <= 0 || c.Warn <= 0 || c.Retry <= 0 || c.RetryMax < c.Retry || c.Lifetime < c.Warn {
		return fmt.Errorf("domains, sizes or times: empty, or in the wrong order: %w", ErrConfig)
	}
	for _, four := range []bool{true, false} {
		if slices.IndexFunc(c.Bind, func(a netip.Addr) bool { return a.Is4() == four }) != lastIndex(c.Bind, four) {
			return fmt.Errorf("bind: more than one address of a family: %w", ErrConfig)
		}
	}
	return nil
}

func lastIndex(list []netip.Addr, four bool) int {
	last := -1
	for i, a := range list {
		if a.Is4() == four {
			last = i
		}
	}
	return last
}

// spellings are a domain's own letters, and its form in the DNS where that is
// another one: a recipient may come in both.
func spellings(domain string) ([]string, error) {
	ascii, err := idna.Lookup.ToASCII(domain)
	if err != nil {
		return nil, fmt.Errorf("domain %q: %w", domain, ErrConfig)
	}
	if ascii == domain {
		return []string{domain}, nil
	}
	return []string{domain, ascii}, nil
}

// nextHop is host:port as a transport table has it: in brackets nobody looks
// for its mail exchangers.
func nextHop(address string) string {
	host, port, _ := net.SplitHostPort(address)
	return "[" + host + "]:" + port
}

// seconds is a time as Postfix reads it, never nothing.
func seconds(d time.Duration) string {
	return fmt.Sprintf("%ds", max(1, int64(d/time.Second)))
}
