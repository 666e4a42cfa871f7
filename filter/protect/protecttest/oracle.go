package protecttest

import (
	"math"
	mathrand "math/rand/v2"
	"runtime"
	"testing"
	"time"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/protect"
)

// The bar of R2: so many mails of each of two kinds, and Welch's t between them.
const (
	OracleMails = 2000
	OracleLimit = 4.5
)

// Comparison is two kinds of mail that don't open, and must not be told apart.
type Comparison struct {
	Name  string
	Mails [2]*message.Message
	Told  bool // they can be told apart, and may: the control that the measurement sees anything
	Loose bool // reported, not judged

	T      float64 // what Measure found out
	Mean   [2]time.Duration
	Rounds int
}

// Measure opens mails of both kinds as the identity, and wants the one error
// each time. If clocked, it does so in random order until the times say
// something; a busy machine gets three tries, and a leak fails them all.
func (c *Comparison) Measure(t *testing.T, p protect.Protector, as keyring.Identity, at time.Time, clocked bool) {
	t.Helper()
	newSpool := func() *message.Spool { return (&message.Spools{Memory: 1 << 20, Max: 1 << 20}).New() }
	open := func(which int) time.Duration {
		began := time.Now()
		m, f, err := p.Open(t.Context(), protect.OpenRequest{Message: c.Mails[which], Identities: []keyring.Identity{as}, At: at, NewSpool: newSpool})
		took := time.Since(began)
		if err != protect.ErrCannotOpen || m != nil || f.Opened || f.Signed {
			t.Fatalf("%s, mail %d: got %v, %+v, %v, want %v", c.Name, which, m, f, err, protect.ErrCannotOpen)
		}
		return min(took, 10*time.Millisecond) // what the scheduler does is not ours
	}
	if !clocked {
		open(0)
		open(1)
		return
	}
	for range 200 {
		open(mathrand.IntN(2))
	}
	for c.Rounds = 1; ; c.Rounds++ {
		c.round(open)
		if c.told() == c.Told || c.Loose {
			return
		}
		if c.Rounds == 3 {
			t.Errorf("%s: t = %.1f; told apart: got %v, want %v", c.Name, c.T, c.told(), c.Told)
			return
		}
	}
}

func (c *Comparison) told() bool { return math.Abs(c.T) >= OracleLimit }

func (c *Comparison) round(open func(which int) time.Duration) {
	runtime.GC()
	var n, total, squares [2]float64
	for n[0] < OracleMails || n[1] < OracleMails {
		which := mathrand.IntN(2)
		if n[which] == OracleMails {
			which = 1 - which
		}
		d := float64(open(which))
		n[which]++
		total[which] += d
		squares[which] += d * d
	}
	var variance float64
	for i := range total {
		mean := total[i] / n[i]
		c.Mean[i] = time.Duration(mean)
		variance += (squares[i]/n[i] - mean*mean) / n[i]
	}
	c.T = (total[0]/n[0] - total[1]/n[1]) / math.Sqrt(variance)
}
