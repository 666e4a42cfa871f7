package provisioning

import (
	"context"
	"time"
)

// Scanner is a program that looks at mails.
type Scanner struct {
	Name    string
	Address string
	// Probe has it look for what every scanner finds. A concern is nothing that
	// keeps mail from passing.
	Probe func(ctx context.Context, now time.Time) (detail, concern string, err error)
}

// examineScanners asks each for a known answer.
func (c *call) examineScanners(ctx context.Context, e *examined, site Site) {
	for _, s := range site.Scanners {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		detail, concerned, err := s.Probe(ctx, c.now())
		cancel()
		name := "scanner " + s.Name
		switch {
		case err != nil:
			e.say(name, broken, "is it running, may this user open its socket, and has it signatures?", "%s: %v", s.Address, err)
		case concerned != "":
			e.say(name, concern, "look at its own log and configuration", "%s: %s; %s", s.Address, detail, concerned)
		default:
			e.say(name, fine, "", "%s: %s", s.Address, detail)
		}
	}
}
