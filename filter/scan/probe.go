package scan

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// What every scanner is to find, and nobody is hurt by: the EICAR file, and
// GTUBE. They stand here in pieces, or a scanner would find this program.
var (
	eicar = []string{`X5O!P%@AP[4\PZX54(P^)7CC)7}`, `$EICAR-STANDARD-ANTIVIRUS-TEST-FILE!`, `$H+H*`}
	gtube = []string{"XJS*C4JDBQADN1.NSBN3*2IDNEN*", "GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL", "*C.34X"}
)

// ErrBlind is a scanner that does not find what every one does.
var ErrBlind = errors.New("does not find what it has to")

// staleAfter is how old signatures may be: there are new ones every day.
const staleAfter = 7 * 24 * time.Hour

// Health is what a probe shows.
type Health struct {
	Detail  string
	Concern string // "": none
}

// Probe asks clamd for itself, and for the EICAR file.
func (c *Clamd) Probe(ctx context.Context, now time.Time) (Health, error) {
	version, err := c.Version(ctx)
	if err != nil {
		return Health{}, err
	}
	h := Health{Detail: fmt.Sprintf("%.80q", version)}
	a, err := c.Scan(ctx, probe(eicar...))
	switch {
	case err != nil:
		return h, err
	case len(a.Found) == 0:
		return h, fmt.Errorf("EICAR: %w", ErrBlind)
	}
	h.Detail += ", finds EICAR as " + a.Found[0]
	if made, ok := signed(version); ok && now.Sub(made) > staleAfter {
		h.Concern = "signatures of " + made.Format(time.DateOnly)
	}
	return h, nil
}

// signed is when the signatures were made, where clamd says so: such as have no
// number, as those of a site's own, have no date either.
func signed(version string) (time.Time, bool) {
	parts := strings.Split(version, "/")
	made, err := time.Parse(time.ANSIC, parts[len(parts)-1])
	return made, err == nil && len(parts) == 3
}

// Probe asks rspamd for GTUBE.
func (r *Rspamd) Probe(ctx context.Context, _ time.Time) (Health, error) {
	strict := Rspamd{Address: r.Address, Reject: Reject}
	a, err := strict.Scan(ctx, probe(slices.Concat([]string{"Subject: probe\r\n\r\n"}, gtube, []string{"\r\n"})...))
	switch {
	case err != nil:
		return Health{}, err
	case a.Verdict != Reject:
		return Health{Detail: "answers", Concern: "does not refuse GTUBE: it is told not to, or looks at nothing"}, nil
	}
	return Health{Detail: "refuses GTUBE"}, nil
}

// pieces is a mail for a probe.
type pieces []string

func probe(text ...string) Mail {
	n := 0
	for _, s := range text {
		n += len(s)
	}
	return Mail{Trace: "probe", Size: int64(n), Body: pieces(text)}
}

func (p pieces) WriteTo(w io.Writer) (n int64, err error) {
	for _, s := range p {
		var m int
		if m, err = io.WriteString(w, s); err != nil {
			break
		}
		n += int64(m)
	}
	return n, err
}
