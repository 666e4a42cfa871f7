package keyd

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"postern/hsm"
)

// caller is the daemon as one user sees it. Every operation of every way in
// passes here: permission, budget, work, record.
type caller struct {
	k   *Keyd
	uid uint32
}

var _ hsm.Keeper = caller{}

// As is the daemon as user uid sees it.
func (k *Keyd) As(uid uint32) hsm.Keeper { return caller{k, uid} }

// record is one line of audit for each operation that was asked, done or not.
// It has names, verdict and time; never a digest, a ciphertext or a secret.
type record struct {
	c       caller
	ctx     context.Context
	op      string
	id      hsm.KeyID
	label   string
	begin   time.Time
	verdict string
}

func (c caller) begin(ctx context.Context, op string, id hsm.KeyID) *record {
	return &record{c: c, ctx: ctx, op: op, id: id, begin: c.k.cfg.Now()}
}

func (r *record) end(err *error) {
	verdict := r.verdict
	if verdict == "" {
		verdict = word(*err)
	}
	attrs := []slog.Attr{slog.String("op", r.op)}
	if r.id != (hsm.KeyID{}) {
		attrs = append(attrs, slog.String("key", r.id.String()))
	}
	if r.label != "" {
		attrs = append(attrs, slog.String("label", clean(r.label, hsm.MaxLabel)))
	}
	attrs = append(attrs,
		slog.Uint64("uid", uint64(r.c.uid)),
		slog.String("verdict", verdict),
		slog.String("trace", clean(hsm.Trace(r.ctx), 64)),
		slog.Duration("took", r.c.k.cfg.Now().Sub(r.begin)))
	r.c.k.cfg.Audit.LogAttrs(r.ctx, slog.LevelInfo, "key operation", attrs...)
}

// word is the verdict of the audit record.
func word(err error) string {
	for _, v := range []struct {
		err  error
		word string
	}{
		{nil, "ok"}, {hsm.ErrAway, "away"}, {hsm.ErrLocked, "locked"}, {hsm.ErrEmpty, "unprovisioned"}, {hsm.ErrNoKey, "no-key"},
		{hsm.ErrRefused, "refused"}, {hsm.ErrBudget, "budget"}, {hsm.ErrBusy, "busy"}, {hsm.ErrInvalid, "invalid"},
		{hsm.ErrExists, "exists"}, {hsm.ErrPIN, "pin-refused"}, {hsm.ErrClock, "clock"}, {hsm.ErrBroken, "broken"},
	} {
		if errors.Is(err, v.err) {
			return v.word
		}
	}
	return "failed"
}

// owns reports whether the caller may see and use a key.
func (c caller) owns(key hsm.Key) bool {
	for _, r := range c.k.cfg.Rules {
		if ok, _ := path.Match(r.Label, key.Label); ok {
			return c.uid == 0 || c.uid == uint32(os.Getuid()) || slices.Contains(r.UIDs, c.uid)
		}
	}
	return true
}

// admit is the whole permission for one operation with a key.
func (c caller) admit(r *record, id hsm.KeyID, u hsm.Usage) (hsm.Key, error) {
	key, err := c.permit(r, id, u)
	if err == nil {
		err = c.k.guard.admit(id, u)
	}
	return key, err
}

// permit is the permission without the budget.
func (c caller) permit(r *record, id hsm.KeyID, u hsm.Usage) (hsm.Key, error) {
	if err := c.k.usable(); err != nil {
		return hsm.Key{}, err
	}
	key, ok := c.k.key(id)
	if !ok {
		return hsm.Key{}, hsm.ErrNoKey
	}
	r.label = key.Label
	switch {
	case !c.owns(key):
		return hsm.Key{}, fmt.Errorf("user %d: %w", c.uid, hsm.ErrRefused)
	case key.Usage != u:
		return hsm.Key{}, fmt.Errorf("key is for %s: %w", key.Usage, hsm.ErrRefused)
	case key.Retired && u == hsm.Sign:
		return hsm.Key{}, fmt.Errorf("key is retired: %w", hsm.ErrRefused)
	}
	return key, nil
}

// Keys implements hsm.Token.
func (c caller) Keys(ctx context.Context) (keys []hsm.Key, err error) {
	defer c.begin(ctx, "keys", hsm.KeyID{}).end(&err)
	if err := c.k.usable(); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(c.k.list(), func(key hsm.Key) bool { return !c.owns(key) }), nil
}

// Sign implements hsm.Token. The signature is checked with the public key
// before it leaves: a fault in the token could otherwise give the key away.
func (c caller) Sign(ctx context.Context, id hsm.KeyID, alg hsm.SignAlg, digest []byte) (sig []byte, err error) {
	r := c.begin(ctx, "sign", id)
	defer r.end(&err)
	key, err := c.admit(r, id, hsm.Sign)
	if err == nil {
		err = c.k.timely(key)
	}
	if err != nil {
		return nil, err
	}
	if err := fits(key.Public, alg, digest); err != nil {
		return nil, err
	}
	digest = slices.Clone(truncate(key.Public, digest))
	return enqueue(ctx, c.k.queueOf(key), func() ([]byte, error) {
		sig, err := use(c.k, func() ([]byte, error) { return c.k.device.Sign(id, alg, digest) })
		if err == nil && !verify(key.Public, alg, digest, sig) {
			c.k.log.Error("the token made a wrong signature", "key", id.String())
			return nil, hsm.ErrOpaque
		}
		return sig, err
	})
}

// timely is nil where the clock can be believed, or the signature says nothing
// of the time.
func (k *Keyd) timely(key hsm.Key) error {
	if k.cfg.Clock == nil || strings.HasPrefix(key.Label, "tls/") {
		return nil
	}
	return k.cfg.Clock()
}

// Unwrap implements hsm.Token.
func (c caller) Unwrap(ctx context.Context, id hsm.KeyID, w hsm.Wrapped) (sk hsm.SessionKey, err error) {
	r := c.begin(ctx, "unwrap", id)
	defer r.end(&err)
	key, err := c.permit(r, id, hsm.Unwrap)
	if err != nil {
		return hsm.SessionKey{}, err
	}
	if err := check(key, w); err != nil {
		return hsm.SessionKey{}, err
	}
	began, origin := time.Now(), hsm.Origin(ctx)
	if c.k.limited(key, origin) {
		return c.turnAway(ctx, r, key, w, began)
	}
	if err := c.k.guard.admit(id, hsm.Unwrap); err != nil {
		return hsm.SessionKey{}, err
	}
	type result struct {
		sk       hsm.SessionKey
		rejected int
		limited  bool
	}
	out, err := enqueue(ctx, c.k.queueOf(key), func() (result, error) {
		// The limit may have been reached while this one waited: the token is
		// asked that often, and once more at most for each other worker.
		if c.k.limited(key, origin) {
			return result{limited: true}, nil
		}
		return use(c.k, func() (result, error) {
			sk, bad, err := c.k.unwrap.open(key, w)
			if err != nil {
				return result{}, err
			}
			rejected := 0
			if bad {
				rejected = 1
			}
			c.k.failed.Add(int64(rejected))
			if c.k.guard.count(id, origin, rejected, time.Since(began)) {
				c.k.log.Warn("failure budget of a key is used up", "key", id.String(), "label", clean(key.Label, hsm.MaxLabel))
			}
			return result{sk: sk, rejected: rejected}, nil
		})
	})
	if err != nil {
		return hsm.SessionKey{}, err
	}
	if out.limited {
		return c.turnAway(ctx, r, key, w, began)
	}
	r.verdict = [2]string{"ok", "rejected"}[out.rejected]
	return out.sk, nil
}

// limited reports whether an origin used up its failures with a key.
func (k *Keyd) limited(key hsm.Key, origin string) bool {
	over, alarm := k.guard.limited(key.ID, origin)
	if alarm {
		k.log.Warn("failures of a sender are used up: its mail is not opened for a while", "origin", origin, "key", key.ID.String(), "label", clean(key.Label, hsm.MaxLabel))
	}
	return over
}

// turnAway answers as if w had been tried and had failed, so that who is
// limited does not learn it: the same key that a failure would give, when about
// the time of an operation is over since began. It waits without a worker.
func (c caller) turnAway(ctx context.Context, r *record, key hsm.Key, w hsm.Wrapped, began time.Time) (hsm.SessionKey, error) {
	timer := time.NewTimer(c.k.guard.took(key.ID) - time.Since(began))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return hsm.SessionKey{}, fmt.Errorf("%w: %w", hsm.ErrAway, ctx.Err())
	case <-c.k.done:
		return hsm.SessionKey{}, hsm.ErrAway
	}
	r.verdict = "limited"
	return c.k.unwrap.invented(key, w), nil
}

// Status implements hsm.Keeper.
func (c caller) Status(ctx context.Context) (st hsm.Status, err error) {
	defer c.begin(ctx, "status", hsm.KeyID{}).end(&err)
	c.k.mu.RLock()
	defer c.k.mu.RUnlock()
	st = c.k.info
	st.State, st.Reason, st.Keys, st.Wrapped, st.Version = c.k.state, c.k.reason, 0, 0, c.k.cfg.Version
	if st.State == hsm.Ready {
		st.Keys = len(c.k.keys)
		for _, key := range c.k.keys {
			if key.Class == hsm.OutsideWrapped {
				st.Wrapped++
			}
		}
	}
	return st, nil
}

// Init implements hsm.Keeper. A token that has our label already is never
// touched: hsm.ErrExists.
func (c caller) Init(ctx context.Context, soPIN, pin string) (err error) {
	defer c.begin(ctx, "init", hsm.KeyID{}).end(&err)
	if len(soPIN) > maxPIN || len(pin) > maxPIN {
		return fmt.Errorf("init token: PIN of more than %d bytes: %w", maxPIN, hsm.ErrInvalid)
	}
	return c.k.initialise(soPIN, pin)
}

// Unlock implements hsm.Keeper: one login at most. When the daemon is Ready
// it does nothing and says nothing about the PIN, so that nobody can guess
// here without the token counting.
func (c caller) Unlock(ctx context.Context, pin string) (err error) {
	defer c.begin(ctx, "unlock", hsm.KeyID{}).end(&err)
	if len(pin) > maxPIN {
		return fmt.Errorf("unlock: PIN of more than %d bytes: %w", maxPIN, hsm.ErrInvalid)
	}
	return c.k.unlock(pin)
}

// Probe implements hsm.Keeper.
func (c caller) Probe(ctx context.Context) (probes []hsm.Probe, err error) {
	defer c.begin(ctx, "probe", hsm.KeyID{}).end(&err)
	leave, err := c.k.alone(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := c.k.usable(); err != nil {
		return nil, err
	}
	return use(c.k, c.k.device.Probe)
}

// Audit implements hsm.Keeper. It also begins to serve what appeared in the
// token since the last look, and stops serving what vanished. Keys outside the
// token are opened one by one while others work.
func (c caller) Audit(ctx context.Context) (findings []hsm.Finding, err error) {
	defer c.begin(ctx, "audit", hsm.KeyID{}).end(&err)
	if findings, err = c.k.reload(); err != nil {
		return nil, err
	}
	broken := false
	for _, f := range findings {
		if f.Class != hsm.OutsideWrapped || !f.Served {
			continue
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%w: %w", hsm.ErrAway, ctx.Err())
		}
		_, known := c.k.key(f.ID)
		if !known { // destroyed meanwhile
			continue
		}
		_, err := use(c.k, func() (struct{}, error) { return struct{}{}, c.k.device.Try(f.ID) })
		if broken = broken || errors.Is(err, hsm.ErrBroken); err != nil && !errors.Is(err, hsm.ErrBroken) {
			return nil, err
		}
	}
	if broken {
		return c.k.reload()
	}
	return findings, nil
}

// Generate implements hsm.Keeper.
func (c caller) Generate(ctx context.Context, s hsm.KeySpec) (key hsm.Key, err error) {
	r := c.begin(ctx, "generate", hsm.KeyID{})
	r.label = s.Label
	defer func() { r.id = key.ID; r.end(&err) }()
	if err := sensible(s); err != nil {
		return hsm.Key{}, err
	}
	leave, err := c.k.alone(ctx)
	if err != nil {
		return hsm.Key{}, err
	}
	defer leave()
	if err := c.k.usable(); err != nil {
		return hsm.Key{}, err
	}
	if c.k.taken(s.Label) {
		return hsm.Key{}, fmt.Errorf("generate key %q: %w", s.Label, hsm.ErrExists)
	}
	key, err = use(c.k, func() (hsm.Key, error) { return c.k.device.Generate(s) })
	if err != nil {
		return hsm.Key{}, err
	}
	// Ask the token, then check what it made.
	id, err := hsm.IDOf(key.Public)
	if err != nil || id != key.ID || hsm.AlgorithmOf(key.Public) != s.Algorithm || key.Usage != s.Usage || key.Label != s.Label || (key.Class == hsm.OutsideWrapped) != s.Wrapped {
		c.k.log.Error("the token made another key than it was asked for", "label", clean(s.Label, hsm.MaxLabel))
		return hsm.Key{}, hsm.ErrOpaque
	}
	c.k.mu.Lock()
	defer c.k.mu.Unlock()
	if c.k.state != hsm.Ready {
		return hsm.Key{}, hsm.ErrAway // it is there, and found at the next load
	}
	c.k.keys[id] = key
	c.k.findings = append(slices.Clone(c.k.findings), hsm.Finding{ID: id, Label: key.Label, Class: key.Class, Served: true})
	return key, nil
}

// Retire implements hsm.Keeper. It is on disk when Retire returns.
func (c caller) Retire(ctx context.Context, id hsm.KeyID) (err error) {
	r := c.begin(ctx, "retire", id)
	defer r.end(&err)
	leave, err := c.k.alone(ctx)
	if err != nil {
		return err
	}
	defer leave()
	key, err := c.known(id)
	if err != nil {
		return err
	}
	r.label = key.Label
	return c.k.guard.retire(id)
}

// Destroy implements hsm.Keeper.
func (c caller) Destroy(ctx context.Context, id hsm.KeyID) (err error) {
	r := c.begin(ctx, "destroy", id)
	defer r.end(&err)
	leave, err := c.k.alone(ctx)
	if err != nil {
		return err
	}
	defer leave()
	key, err := c.known(id)
	if err != nil {
		return err
	}
	r.label = key.Label
	_, served := c.k.key(id)
	missing, err := use(c.k, func() (bool, error) {
		err := c.k.device.Destroy(id)
		// A device may know only what it serves; that is no sign that it is
		// another one now.
		if !served && errors.Is(err, hsm.ErrNoKey) {
			return true, nil
		}
		return false, err
	})
	if err != nil {
		return err
	}
	if missing {
		return fmt.Errorf("destroy a key that is not served: the device does not do it: %w", hsm.ErrRefused)
	}
	c.k.mu.Lock()
	delete(c.k.keys, id)
	c.k.findings = slices.DeleteFunc(slices.Clone(c.k.findings), func(f hsm.Finding) bool { return f.ID == id })
	c.k.mu.Unlock()
	return c.k.guard.forget(id)
}

// known is a key in the token, served or only found by the audit.
func (c caller) known(id hsm.KeyID) (hsm.Key, error) {
	if err := c.k.usable(); err != nil {
		return hsm.Key{}, err
	}
	if key, ok := c.k.key(id); ok {
		return key, nil
	}
	c.k.mu.RLock()
	defer c.k.mu.RUnlock()
	for _, f := range c.k.findings {
		if f.ID == id && id != (hsm.KeyID{}) { // keys that cannot be named have none
			return hsm.Key{ID: id, Label: f.Label, Class: f.Class}, nil
		}
	}
	return hsm.Key{}, hsm.ErrNoKey
}

// alone waits for the turn of an operation that must be the only one of its
// kind. Who stopped waiting gets none: a key is not made for a caller that left.
func (k *Keyd) alone(ctx context.Context) (leave func(), err error) {
	if ctx.Err() == nil {
		select {
		case k.making <- struct{}{}:
			return func() { <-k.making }, nil
		case <-ctx.Done():
		}
	}
	return nil, fmt.Errorf("%w: %w", hsm.ErrAway, ctx.Err())
}

// taken reports whether a key in the token has the label, served or not.
func (k *Keyd) taken(label string) bool {
	k.mu.RLock()
	defer k.mu.RUnlock()
	for _, key := range k.keys {
		if key.Label == label {
			return true
		}
	}
	return slices.ContainsFunc(k.findings, func(f hsm.Finding) bool { return f.Label == label })
}

// use runs one operation while nobody opens or closes the token, and turns
// what it says about itself into a state.
func use[T any](k *Keyd, f func() (T, error)) (T, error) {
	var zero T
	k.dev.RLock()
	if err := k.usable(); err != nil {
		k.dev.RUnlock()
		return zero, err
	}
	v, err := f()
	k.dev.RUnlock()
	switch {
	case err == nil:
		return v, nil
	case errors.Is(err, hsm.ErrAway), errors.Is(err, hsm.ErrLocked), errors.Is(err, hsm.ErrEmpty), errors.Is(err, hsm.ErrNoKey):
		// We know the key and are logged in: a token that says otherwise is
		// not the one we opened.
		k.away(err)
		return zero, fmt.Errorf("%w: %w", hsm.ErrAway, err)
	}
	k.failed.Add(1)
	if errors.Is(err, hsm.ErrBroken) { // from now on it is a key that is not served, as at a start
		k.stale.Store(true)
		k.poke()
	}
	k.log.Debug("token operation", "error", err)
	return zero, err
}

// queueOf is the line a key's operations wait in.
func (k *Keyd) queueOf(key hsm.Key) *queue {
	if _, ok := key.Public.(*rsa.PublicKey); ok {
		return k.rsa
	}
	return k.ec
}

// sensible refuses keys that no token here should make.
func sensible(s hsm.KeySpec) error {
	bad := func(what string) error { return fmt.Errorf("generate key: %s: %w", what, hsm.ErrInvalid) }
	switch s.Algorithm {
	case hsm.RSA2048, hsm.RSA3072, hsm.RSA4096, hsm.P256, hsm.P384, hsm.P521:
		if s.Usage != hsm.Sign && s.Usage != hsm.Unwrap {
			return bad("usage")
		}
	case hsm.Ed25519:
		if s.Usage != hsm.Sign {
			return bad("ed25519 is for signing")
		}
	case hsm.X25519:
		if s.Usage != hsm.Unwrap {
			return bad("x25519 is for unwrapping")
		}
	default:
		return bad("algorithm")
	}
	if s.Label == "" || len(s.Label) > hsm.MaxLabel || clean(s.Label, hsm.MaxLabel) != s.Label {
		return bad("label")
	}
	return nil
}

// fits refuses what the key cannot sign: hsm.ErrInvalid.
func fits(pub crypto.PublicKey, alg hsm.SignAlg, digest []byte) error {
	ok := false
	switch pub.(type) {
	case *rsa.PublicKey:
		ok = alg.Hash() != 0 && len(digest) == alg.Hash().Size()
	case *ecdsa.PublicKey:
		ok = alg == hsm.ECDSA && (len(digest) == 32 || len(digest) == 48 || len(digest) == 64)
	case ed25519.PublicKey:
		ok = alg == hsm.PureEdDSA && len(digest) <= hsm.MaxMessage
	}
	if !ok {
		return fmt.Errorf("sign with %s: algorithm %d and %d bytes: %w", hsm.AlgorithmOf(pub), alg, len(digest), hsm.ErrInvalid)
	}
	return nil
}

// verify reports whether sig is what alg promises.
func verify(pub crypto.PublicKey, alg hsm.SignAlg, digest, sig []byte) bool {
	switch k := pub.(type) {
	case *rsa.PublicKey:
		switch alg {
		case hsm.PKCS1SHA256, hsm.PKCS1SHA384, hsm.PKCS1SHA512:
			return rsa.VerifyPKCS1v15(k, alg.Hash(), digest, sig) == nil
		default:
			return rsa.VerifyPSS(k, alg.Hash(), digest, sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
		}
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(k, digest, sig)
	case ed25519.PublicKey:
		return ed25519.Verify(k, digest, sig)
	}
	return false
}
