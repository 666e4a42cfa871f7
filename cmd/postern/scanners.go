package main

import (
	"context"
	"time"

	"postern/appliance/config"
	"postern/filter/scan"
	"postern/provisioning"
)

// prober is a scanner that can be asked for a known answer.
type prober interface {
	scan.Scanner
	Probe(ctx context.Context, now time.Time) (scan.Health, error)
}

// scanners are those of c, for the doctor.
func scanners(c *config.Filterd) (list []provisioning.Scanner) {
	add := func(p prober, address string) {
		list = append(list, provisioning.Scanner{Name: p.Name(), Address: address, Probe: func(ctx context.Context, now time.Time) (string, string, error) {
			h, err := p.Probe(ctx, now)
			return h.Detail, h.Concern, err
		}})
	}
	if s := c.Scan.Clamd; s != nil {
		add(&scan.Clamd{Address: s.Address, Found: scan.Reject}, s.Address)
	}
	if s := c.Scan.Rspamd; s != nil {
		add(&scan.Rspamd{Address: s.Address}, s.Address)
	}
	return list
}
