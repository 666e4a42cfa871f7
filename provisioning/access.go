package provisioning

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"postern/filter/autoconfig"
	"postern/filter/message"
)

// accessCommands are there where the program keeps doors for mail programs.
var accessCommands = []command{
	{noun: "access", verb: "serve", here: true, about: "keep the doors of [[access]] and [[web]]",
		more: "For mail programs and browsers: IMAP and POP3 with TLS in front of the company's server, and what our domains say over HTTPS. It runs until it is told to end; postern-access.service does that.", run: accessServe},
	{noun: "autoconfig", verb: "print", about: "print what mail programs are told of our servers",
		more:  "The records of each domain, as lines of a zone file, then the file for Thunderbird and the answer for Outlook.",
		flags: []option{{name: "domain", value: "D", about: "of this domain only"}}, run: printSettings},
}

func accessServe(ctx context.Context, c *call) (any, error) {
	if c.dry() {
		return nil, misuse(c.cmd.synopsis(), "%s has no -n", c.cmd.name())
	}
	if err := c.Access.Serve(ctx, c.config()); err != nil {
		return nil, fmt.Errorf("serve: %w", err)
	}
	return nil, nil
}

// told is the result of autoconfig print.
type told struct {
	Domains []toldDomain `json:"domains"`
}

// toldDomain is what is said of one domain.
type toldDomain struct {
	Domain       string   `json:"domain"`
	Records      []string `json:"records"`
	Thunderbird  string   `json:"thunderbird"`
	Autodiscover string   `json:"autodiscover"`
}

func (t told) text(w io.Writer) {
	for i, d := range t.Domains {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "; records of %s\n%s\n", d.Domain, strings.Join(d.Records, "\n"))
		fmt.Fprintf(w, "\n; https://autoconfig.%[1]s/mail/config-v1.1.xml, also at https://%[1]s/.well-known/autoconfig/mail/config-v1.1.xml\n%[2]s", d.Domain, d.Thunderbird)
		fmt.Fprintf(w, "\n; https://autodiscover.%s/autodiscover/autodiscover.xml, for someone@%[1]s\n%s", d.Domain, d.Autodiscover)
	}
}

func printSettings(_ context.Context, c *call) (any, error) {
	list, err := c.Access.Settings(c.config())
	if err != nil {
		return nil, err
	}
	if d := strings.ToLower(c.get("domain")); d != "" {
		list = slices.DeleteFunc(list, func(s autoconfig.Site) bool { return s.Domain != d })
		if len(list) == 0 {
			return nil, no("name one of [domain]", "%.80q is none of our domains", d)
		}
	}
	var t told
	for _, s := range list {
		if len(s.Servers) == 0 {
			return nil, no("add [[access]], or auth to a listener", "mail programs have no server here")
		}
		d := toldDomain{Domain: s.Domain, Records: s.Records()}
		file, err := s.Thunderbird()
		if err != nil {
			return nil, err
		}
		answer, err := s.Autodiscover(message.Address{Local: "someone", Domain: s.Domain})
		if err != nil {
			return nil, err
		}
		d.Thunderbird, d.Autodiscover = string(file), string(answer)
		t.Domains = append(t.Domains, d)
	}
	return t, nil
}

// Mailbox is the server behind one door.
type Mailbox struct {
	Name, Address string
	Greet         func(ctx context.Context) error // connects as a client's session does
}

// examineMailboxes hears the greeting of each.
func (c *call) examineMailboxes(ctx context.Context, e *examined, site Site) {
	for _, m := range site.Mailboxes {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		err := m.Greet(ctx)
		cancel()
		if err != nil {
			e.say("mailboxes "+m.Name, broken, "is it running, reachable from here, and does it know the PROXY protocol where proxy says so?", "%s: %v", m.Address, err)
			continue
		}
		e.say("mailboxes "+m.Name, fine, "", "%s greets", m.Address)
	}
}

// Access are the doors for mail programs.
type Access struct {
	Serve    func(ctx context.Context, config string) error
	Settings func(config string) ([]autoconfig.Site, error) // one for each of our domains
}
