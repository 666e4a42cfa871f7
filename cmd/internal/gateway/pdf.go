package gateway

import (
	"time"

	"postern/appliance/config"
	"postern/filter"
	"postern/filter/paper"
)

// PDF reads how mail goes as a PDF. Whether any does is for the rules to say.
func PDF(c *config.Filterd) filter.PDF {
	return filter.PDF{
		Press:   &paper.Client{Socket: c.PDF.Socket, Timeout: time.Duration(c.PDF.Timeout), MaxSize: int64(c.PDF.MaxSize)},
		Subject: c.PDF.Subject, Cover: c.PDF.Cover, Advice: c.PDF.Advice,
	}
}

// Prints tells whether a rule of c has mail go as a PDF.
func Prints(c *config.Filterd) bool {
	asks := c.Default.NoKey == "pdf"
	for _, p := range c.Partners {
		asks = asks || p.NoKey == "pdf"
	}
	for _, r := range c.Recipients {
		asks = asks || r.NoKey == "pdf"
	}
	return asks
}
