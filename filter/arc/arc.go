// Package arc judges an Authenticated Received Chain and adds a set to it (RFC
// 8617): whoever changes a mail on its way, as we do where we open it, says so
// what he found before. Forms, tags and keys are those of filter/dkim.
//
// Where a key of the chain can't be had now, the chain is no pass, and no set is
// added: cv=fail would end the chain for good.
package arc

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"postern/filter/dkim"
)

// MaxSets is how many sets a chain has at most (RFC 8617 §5.1.1.1).
const MaxSets = 50

// The reasons why a chain does not hold, beside those of its signatures.
const (
	ReasonStructure = "broken-chain" // a set is not whole, or one is missing
	ReasonSaid      = "failed-before"
	ReasonLong      = "too-long"
	ReasonVerdict   = "wrong-verdict" // cv= that does not fit its place
)

// Chain is what a mail brought.
type Chain struct {
	Value  dkim.Value // none, pass, fail; temperror where a key could not be had
	Reason string
	Sets   int    // instances that are there
	Domain string // of the last sealer, when the chain passes
	dead   bool   // the last sealer found it broken: nobody adds to it
	sets   []set
}

// set are the three fields of one instance, as they stand there.
type set struct{ results, message, seal dkim.Field }

// places are where those fields stand in a header.
type places struct{ results, message, seal int }

// Verify judges the chain of a mail. The error is that of reading the mail.
func Verify(ctx context.Context, mail io.WriterTo, look dkim.Lookup, now time.Time) (Chain, error) {
	var c Chain
	var at []places
	var last *dkim.Signature
	h, sums, err := dkim.Scan(mail, func(h dkim.Header) []dkim.Form {
		if c, at = collect(h); c.Value != "" {
			return nil
		}
		last = dkim.Read(h, at[len(at)-1].message, dkim.ARCMessage, now)
		return []dkim.Form{last.Form()}
	})
	if err != nil {
		return Chain{}, fmt.Errorf("read mail: %w", err)
	}
	if c.Value != "" {
		return c, nil
	}
	seals := make([]*dkim.Signature, len(at))
	for i, p := range at {
		seals[i] = dkim.Read(h, p.seal, dkim.ARCSeal, now)
		cv, _ := seals[i].Tag("cv")
		switch _, over := seals[i].Tag("h"); {
		case over:
			return c.broken(ReasonStructure), nil
		case i == len(at)-1 && cv == string(dkim.Fail):
			c.dead = true
			return c.broken(ReasonSaid), nil
		case i == 0 && cv != string(dkim.None), i > 0 && cv != string(dkim.Pass):
			return c.broken(ReasonVerdict), nil
		}
	}
	if last.Over("arc-seal") {
		return c.broken(ReasonStructure), nil
	}
	var wait sync.WaitGroup
	wait.Go(func() { last.Judge(ctx, look, h, sums[0]) })
	for i, s := range seals {
		sum := seal(c.sets[:i+1])
		wait.Go(func() { s.JudgeSum(ctx, look, sum) })
	}
	wait.Wait()
	c.Value, c.Reason, c.Domain = dkim.Pass, dkim.ReasonGood, seals[len(seals)-1].Domain
	for _, s := range append(seals, last) {
		switch {
		case s.Value == dkim.Pass || c.Value == dkim.Fail:
		case s.Value == dkim.TempError:
			c.Value, c.Reason, c.Domain = dkim.TempError, s.Reason, ""
		default:
			c = c.broken(s.Reason)
		}
	}
	return c, nil
}

func (c Chain) broken(reason string) Chain {
	c.Value, c.Reason, c.Domain = dkim.Fail, reason, ""
	return c
}

// collect finds the sets of a header. A chain that is none, or is broken in its
// structure, has its Value.
func collect(h dkim.Header) (Chain, []places) {
	var c Chain
	at := make([]places, MaxSets)
	for i := range at {
		at[i] = places{-1, -1, -1}
	}
	structure := true
	for i, f := range h {
		var n int
		var place func(*places) *int
		switch f.Name {
		case "arc-seal":
			n, place = instance(f), func(p *places) *int { return &p.seal }
		case "arc-message-signature":
			n, place = instance(f), func(p *places) *int { return &p.message }
		case "arc-authentication-results":
			n, place = instance(dkim.Field{Raw: f.Name + ":" + strings.SplitN(f.Value(), ";", 2)[0]}), func(p *places) *int { return &p.results }
		default:
			continue
		}
		if n < 1 || n > MaxSets {
			structure = false
			c.Sets = max(c.Sets, min(n, MaxSets))
			continue
		}
		c.Sets = max(c.Sets, n)
		if p := place(&at[n-1]); *p < 0 {
			*p = i
		} else {
			structure = false
		}
	}
	at = at[:c.Sets]
	for _, p := range at {
		if p.results < 0 || p.message < 0 || p.seal < 0 {
			structure = false
			break
		}
		c.sets = append(c.sets, set{h[p.results], h[p.message], h[p.seal]})
	}
	switch {
	case !structure:
		c.sets = nil
		return c.broken(ReasonStructure), nil
	case c.Sets == 0:
		c.Value = dkim.None
	}
	return c, at
}

// instance is the number of the set that a field belongs to, or 0; what is too
// long for a chain is one more than that.
func instance(f dkim.Field) int {
	t, err := dkim.ParseTags(f.Value())
	if err != nil {
		return 0
	}
	v := t["i"]
	if v == "" || strings.Trim(v, "0123456789") != "" {
		return 0
	}
	n, err := strconv.Atoi(v)
	if err != nil || n > MaxSets {
		return MaxSets + 1
	}
	return n
}

// seal is the hash that the seal of the last of the sets is over (RFC 8617 §5.1.1).
func seal(sets []set) [sha256.Size]byte {
	sum := sha256.New()
	for i, s := range sets {
		io.WriteString(sum, dkim.Relaxed(s.results.Raw))
		io.WriteString(sum, dkim.Relaxed(s.message.Raw))
		if i < len(sets)-1 {
			io.WriteString(sum, dkim.Relaxed(s.seal.Raw))
		} else {
			io.WriteString(sum, strings.TrimSuffix(dkim.Relaxed(dkim.Unsigned(s.seal.Raw)), "\r\n"))
		}
	}
	return [sha256.Size]byte(sum.Sum(nil))
}
