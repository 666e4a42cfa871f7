package provisioning

import (
	"context"
	"fmt"
	"io"
	"strings"

	"postern/hsm"
)

// tokenState is the result of token status.
type tokenState struct {
	State       string `json:"state"`
	Reason      string `json:"reason"`
	Token       string `json:"token"`
	Serial      string `json:"serial"`
	Module      string `json:"module"`
	Profile     string `json:"profile"`
	Keys        int    `json:"keys"`
	Wrapped     int    `json:"wrapped"` // of them
	PINCountLow bool   `json:"pin_count_low"`
	Version     string `json:"version"`
}

func stateOf(s hsm.Status) tokenState {
	return tokenState{State: s.State.String(), Reason: s.Reason, Token: s.Token, Serial: s.Serial, Module: s.Module,
		Profile: s.Profile, Keys: s.Keys, Wrapped: s.Wrapped, PINCountLow: s.PINCount, Version: s.Version}
}

func (s tokenState) text(w io.Writer) {
	rows := [][]string{{"state", s.State}}
	if s.Reason != "" {
		rows = append(rows, []string{"reason", s.Reason})
	}
	low := "no"
	if s.PINCountLow {
		low = "YES: the token counted a wrong PIN already"
	}
	rows = append(rows, [][]string{{"token", s.Token}, {"serial", s.Serial}, {"module", s.Module}, {"profile", s.Profile},
		{"keys", counted(s.Keys, s.Wrapped)}, {"PIN count low", low}, {"keyd", s.Version}}...)
	table(w, nil, rows)
}

// counted is the number of keys, with those that are not in the token.
func counted(keys, wrapped int) string {
	if wrapped == 0 {
		return fmt.Sprint(keys)
	}
	return fmt.Sprintf("%d, of which %d are wrapped", keys, wrapped)
}

// token is what the key daemon says of it, and the daemon.
func (c *call) token(ctx context.Context) (hsm.Keeper, hsm.Status, error) {
	k, err := c.keeper(ctx)
	if err != nil {
		return nil, hsm.Status{}, err
	}
	s, err := k.Status(ctx)
	if err != nil {
		return nil, hsm.Status{}, fmt.Errorf("ask for status: %w", err)
	}
	return k, s, nil
}

func tokenStatus(ctx context.Context, c *call) (any, error) {
	_, s, err := c.token(ctx)
	if err != nil {
		return nil, err
	}
	if s.State != hsm.Ready {
		return stateOf(s), &failure{err: errSaid, status: ExitNo}
	}
	return stateOf(s), nil
}

func tokenInit(ctx context.Context, c *call) (any, error) {
	k, s, err := c.token(ctx)
	if err != nil {
		return nil, err
	}
	if s.State != hsm.Unprovisioned {
		return nil, no("to start over, remove that token with the tool of its maker", "initialise token: there is one already: %q, serial %q, %s", s.Token, s.Serial, s.State)
	}
	pin, err := c.secret("pin-file", "PIN of the new token", true)
	if err != nil {
		return nil, err
	}
	so, err := c.secret("so-pin-file", "", false)
	if err != nil {
		return nil, err
	}
	if !c.dry() {
		if err := k.Init(ctx, so, pin); err != nil {
			return nil, fmt.Errorf("initialise token: %w", err)
		}
	}
	return c.did("initialise the token"), nil
}

func tokenUnlock(ctx context.Context, c *call) (any, error) {
	k, s, err := c.token(ctx)
	if err != nil {
		return nil, err
	}
	switch s.State {
	case hsm.Ready:
		return c.already("the token is unlocked"), nil
	case hsm.Unprovisioned:
		return nil, fmt.Errorf("unlock token: %w", hsm.ErrEmpty)
	}
	pin, err := c.secret("pin-file", "PIN", false)
	if err != nil {
		return nil, err
	}
	if !c.dry() {
		if err := k.Unlock(ctx, pin); err != nil {
			return nil, fmt.Errorf("unlock token: %w", err)
		}
	}
	return c.did("unlock the token"), nil
}

// probed is the result of token probe.
type probed struct {
	Probes []probe `json:"probes"`
	Plan   []plan  `json:"plan"`
}

type probe struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Reason string `json:"reason"`
}

// plan is the algorithm to take for one purpose.
type plan struct {
	Purpose   string        `json:"purpose"`
	Algorithm hsm.Algorithm `json:"algorithm"` // "" when the token offers none
	Why       string        `json:"why"`
}

func (p probed) text(w io.Writer) {
	var rows [][]string
	for _, r := range p.Probes {
		word := "works"
		if !r.OK {
			word = "no"
		}
		rows = append(rows, []string{r.Name, word, r.Reason})
	}
	table(w, []string{"MECHANISM", "RESULT", "REASON"}, rows)
	fmt.Fprintln(w)
	rows = nil
	for _, r := range p.Plan {
		algorithm := string(r.Algorithm)
		if algorithm == "" {
			algorithm = "none"
		}
		rows = append(rows, []string{r.Purpose, algorithm, r.Why})
	}
	table(w, []string{"FOR", "TAKE", "BECAUSE"}, rows)
}

// wish is one algorithm for a purpose, and why one would take it.
type wish struct {
	algorithm hsm.Algorithm
	why       string
}

// wishes are the algorithms for each purpose, best first. RSA comes first for
// mail because it is the one encryption key that nearly every token and every
// partner can use.
var wishes = []struct {
	purpose string
	usage   hsm.Usage
	scheme  string // of RSA signatures
	wishes  []wish
}{
	{"openpgp sign", hsm.Sign, "pkcs1", mailWishes(hsm.Ed25519)},
	{"openpgp encrypt", hsm.Unwrap, "", mailWishes(hsm.X25519)},
	{"smime sign", hsm.Sign, "pkcs1", mailWishes("")},
	{"smime encrypt", hsm.Unwrap, "", mailWishes("")},
	{"tls", hsm.Sign, "pss", []wish{
		{hsm.P256, "every TLS client knows it, and its handshakes are cheap for the token"},
		{hsm.P384, "the token has no P-256"},
		{hsm.RSA3072, "the token has no curve for it"},
		{hsm.RSA2048, "the token has nothing better"}}},
	{"dkim", hsm.Sign, "pkcs1", []wish{
		{hsm.RSA2048, "every verifier knows it, and its record fits (RFC 8301 §3.2)"},
		{hsm.RSA3072, "the token makes no RSA-2048"},
		{hsm.Ed25519, "the token has no RSA; some verifiers will not know it (RFC 8463)"}}},
	{"ledger", hsm.Sign, "pkcs1", []wish{
		{hsm.P256, "nearly every token has it, and its signatures are short"},
		{hsm.RSA3072, "the token has no P-256"},
		{hsm.Ed25519, "the token has neither P-256 nor RSA-3072"}}},
	{"wrapped user keys", 0, wrappedWord, []wish{
		{hsm.RSA3072, "the token keeps them outside, for itself alone"},
		{hsm.P256, "the token keeps no RSA outside"}}},
}

// wrappedWord ends the name of a probe of keys that are kept outside.
const wrappedWord = "wrapped"

func mailWishes(last hsm.Algorithm) []wish {
	list := []wish{
		{hsm.RSA3072, "every partner can use it"},
		{hsm.RSA4096, "the token makes no RSA-3072"},
		{hsm.P256, "the token makes no RSA of 3072 bits or more"},
		{hsm.P384, "the token has neither RSA nor P-256 for it"},
		{hsm.P521, "the token has neither RSA nor a smaller curve for it"},
	}
	if last != "" {
		list = append(list, wish{last, "the token has nothing else; old programs will not know it"})
	}
	return list
}

// planKeys reads the names of probes: "RSA-3072 sign PKCS1-SHA256",
// "RSA-3072 decrypt", "P-256 ECDH", "Ed25519 sign", "RSA-3072 wrapped".
func planKeys(probes []hsm.Probe) []plan {
	var plans []plan
	for _, w := range wishes {
		p := plan{Purpose: w.purpose, Why: "the token can do nothing that serves"}
		for _, one := range w.wishes {
			if works(probes, one.algorithm, w.usage, w.scheme) {
				p.Algorithm, p.Why = one.algorithm, one.why
				break
			}
		}
		plans = append(plans, p)
	}
	return plans
}

// works tells whether the probes show the algorithm at work for the usage;
// scheme is the word that the mechanism of an RSA signature must begin with, or
// wrappedWord.
func works(probes []hsm.Probe, a hsm.Algorithm, u hsm.Usage, scheme string) bool {
	for _, p := range probes {
		words := strings.Fields(strings.ToLower(p.Name))
		if len(words) == 2 && words[1] == wrappedWord {
			if p.OK && words[0] == string(a) && scheme == wrappedWord {
				return true
			}
			continue
		}
		if scheme == wrappedWord || !p.OK || len(words) < 2 || words[0] != string(a) || words[1] == "sign" != (u == hsm.Sign) {
			continue
		}
		if u != hsm.Sign || !strings.HasPrefix(words[0], "rsa") || len(words) > 2 && strings.HasPrefix(words[2], scheme) {
			return true
		}
	}
	return false
}

func tokenProbe(ctx context.Context, c *call) (any, error) {
	k, err := c.keeper(ctx)
	if err != nil {
		return nil, err
	}
	probes, err := k.Probe(ctx)
	if err != nil {
		return nil, fmt.Errorf("probe token: %w", err)
	}
	result := probed{Probes: []probe{}, Plan: planKeys(probes)}
	for _, p := range probes {
		result.Probes = append(result.Probes, probe{p.Name, p.OK, p.Reason})
	}
	return result, nil
}
