package provisioning

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"slices"
	"time"

	"postern/hsm"
	"postern/hsm/client"
)

// Health is what a box asks of itself after a start.
type Health interface {
	// Owned reports whether the box belongs to somebody, and whether people
	// unlock its token. It fails where this release cannot read box.toml.
	Owned() (owned, attended bool, err error)
	// Doors are the listeners of filterd, and what asks whether one answers.
	Doors(config string) ([]Hop, error)
	Knock(ctx context.Context, door Hop) error
	// Mail seals a mail to each kind of identity the box has, and has the mail
	// path open it with the key in the token. It tells which kinds.
	Mail(ctx context.Context, config string) (kinds []string, err error)
}

// healthEvery is how long lies between two looks.
const healthEvery = 5 * time.Second

// boxDoctor is doctor --box: whether this release does what a box is for. What
// somebody else has to do with, a mail server that is away or a certificate that
// has ended, is no reason to leave it.
func boxDoctor(ctx context.Context, c *call) (any, error) {
	wait := time.Duration(0)
	if text := c.get("wait"); text != "" {
		var err error
		if wait, err = time.ParseDuration(text); err != nil || wait < 0 || wait > time.Hour {
			return nil, misuse("as 90s or 10m, an hour at most", "--wait %.40q is no such time", text)
		}
	}
	for end := c.now().Add(wait); ; {
		e := &examined{Verdict: fine}
		c.examineBox(ctx, e)
		for _, v := range []string{unknown, concern, broken} {
			if slices.ContainsFunc(e.Checks, func(k check) bool { return k.Verdict == v }) {
				e.Verdict = v
			}
		}
		if e.Verdict != broken {
			return *e, nil
		}
		if !c.now().Before(end) {
			return *e, &failure{err: errSaid, status: ExitNo}
		}
		if err := c.pause(ctx, healthEvery); err != nil {
			return *e, err
		}
	}
}

// pause waits, or ends with its context.
func (c *call) pause(ctx context.Context, d time.Duration) error {
	if c.Pause != nil {
		return c.Pause(ctx, d)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *call) examineBox(ctx context.Context, e *examined) {
	owned, attended, err := c.Health.Owned()
	if err != nil {
		e.broke("box.toml", err)
		return
	}
	site, err := c.site()
	switch {
	case err != nil:
		e.broke("configuration", err)
		return
	case site.Policy == nil && owned:
		e.say("configuration", broken, "the journal of postern-render has the cause", "%s is not there, and box.toml is", c.config())
		return
	case site.Policy == nil:
		e.say("box", fine, "", "belongs to nobody, and waits to be claimed")
		return
	}
	e.say("configuration", fine, "", "%s", c.config())
	open := c.examineToken(ctx, e, attended)
	doors, err := c.Health.Doors(c.config())
	if err != nil {
		e.broke("listeners", err)
	}
	for _, d := range doors {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		err := c.Health.Knock(ctx, d)
		cancel()
		if err != nil {
			e.say("listener "+d.Name, broken, "the journal of filterd has the cause", "%s: %v", d.Address, err)
			continue
		}
		e.say("listener "+d.Name, fine, "", "%s answers", d.Address)
	}
	c.examineAgent(ctx, e, site)
	if !open {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	switch kinds, err := c.Health.Mail(ctx, c.config()); {
	case err != nil:
		e.broke("sealed mail", err)
	case len(kinds) == 0:
		e.say("sealed mail", concern, "`postern identity create`", "there is no identity yet that one could be sealed to")
	default:
		e.say("sealed mail", fine, "", "opened: %v", kinds)
	}
}

// examineToken asks the key daemon for its state, and for a signature with a key
// of each algorithm. open tells whether the token can be asked.
func (c *call) examineToken(ctx context.Context, e *examined, attended bool) (open bool) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	k, err := c.keeper(ctx)
	var s hsm.Status
	if err == nil {
		s, err = k.Status(ctx)
	}
	switch {
	case err != nil:
		e.broke("key daemon", err)
		return false
	case s.State == hsm.Locked && attended && !s.PINCount:
		e.say("key daemon", concern, "`postern unlock`", "%s, and people unlock it: no key was tried", s.State)
		return false
	case s.State != hsm.Ready:
		e.say("key daemon", broken, "see the journal of keyd", "%s: %s", s.State, s.Reason)
		return false
	}
	keys, err := k.Keys(ctx)
	if err != nil {
		e.broke("keys", err)
		return false
	}
	tried := map[hsm.Algorithm]bool{}
	for _, key := range keys {
		if a := hsm.AlgorithmOf(key.Public); key.Usage == hsm.Sign && !key.Retired && !tried[a] {
			tried[a] = true
			if err := signature(ctx, k, key); err != nil {
				e.broke("signature "+key.Label, err)
				return false
			}
		}
	}
	e.say("key daemon", fine, "", "%s, %d keys, signatures of %d algorithms are right", s.State, len(keys), len(tried))
	return true
}

// signature asks for a signature, and checks it with the public key.
func signature(ctx context.Context, k hsm.Token, key hsm.Key) error {
	s, err := client.Signer(ctx, k, key)
	if err != nil {
		return err
	}
	sum := sha256.Sum256([]byte("postern doctor"))
	message, hash := sum[:], crypto.SHA256
	if _, ok := key.Public.(ed25519.PublicKey); ok {
		hash = 0
	}
	sig, err := s.Sign(rand.Reader, message, hash)
	if err != nil {
		return err
	}
	good := false
	switch pub := key.Public.(type) {
	case *rsa.PublicKey:
		good = rsa.VerifyPKCS1v15(pub, crypto.SHA256, message, sig) == nil
	case *ecdsa.PublicKey:
		good = ecdsa.VerifyASN1(pub, message, sig)
	case ed25519.PublicKey:
		good = ed25519.Verify(pub, message, sig)
	}
	if !good {
		return fmt.Errorf("the signature is wrong: %w", hsm.ErrOpaque)
	}
	return nil
}
