package provisioning

import (
	"bytes"
	"context"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/idna"

	"postern/filter/credential"
	"postern/filter/dkim"
	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/smime"
	"postern/hsm"
)

func sortedNames(m map[string]desk) []string { return slices.Sorted(maps.Keys(m)) }

// one brings one certificate, or finds that it is there.
func (e *enrolment) one(ctx context.Context, w wanted, line *enrolLine) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	switch w.use {
	case "dkim":
		return e.oneDKIM(ctx, w, line)
	case "openpgp":
		return e.oneOpenPGP(ctx, w, line)
	case "smime":
		return e.oneSMIME(ctx, w, line)
	}
	return e.oneTLS(ctx, w, line)
}

// lasts reports whether a certificate needs no successor yet. One that is short
// gets it when a third of its life is left, or every run would make another.
func (e *enrolment) lasts(from, to time.Time) bool {
	return to.IsZero() || to.After(e.now().Add(min(e.renew, to.Sub(from)/3)))
}

// there tells that a certificate is left alone.
func (l *enrolLine) there(fingerprint string, expires time.Time) {
	l.State, l.Fingerprint, l.Expires = enrolThere, fingerprint, stamp(expires)
}

func (l *enrolLine) step(format string, args ...any) {
	l.Steps = append(l.Steps, fmt.Sprintf(format, args...))
}

// certified reports whether one of our certificates has the key.
func (e *enrolment) certified(id hsm.KeyID) bool {
	return slices.ContainsFunc(e.ours, func(i keyring.Identity) bool { return slices.Contains(i.KeyIDs, id) })
}

// key is the key that a new certificate is for: one that an earlier run made
// and got no certificate for, or a new one. spent tells which have one already.
// made is false with -n where it would be new.
func (e *enrolment) key(ctx context.Context, w wanted, a hsm.Algorithm, u hsm.Usage, spent func(hsm.KeyID) bool, line *enrolLine) (key hsm.Key, made bool, err error) {
	if a, err = algorithmFor(string(a), w.use, u); err != nil {
		return key, false, err
	}
	base, err := label(w.use, w.owner, u, a)
	if err != nil {
		return key, false, err
	}
	spare := func() bool {
		i := slices.IndexFunc(e.keys, func(k hsm.Key) bool {
			return k.Usage == u && !k.Retired && (k.Class == hsm.OutsideWrapped) == w.wrapped && hsm.AlgorithmOf(k.Public) == a && succeeds(k.Label, base) && !spent(k.ID)
		})
		if i >= 0 {
			key = e.keys[i]
		}
		return i >= 0
	}
	if spare() {
		return key, true, nil
	}
	name, err := free(e.keys, base, true)
	if err != nil {
		return key, false, err
	}
	words := string(a)
	if w.wrapped {
		words += ", wrapped"
	}
	line.step("generate %s (%s)", name, words)
	if e.dry() {
		return hsm.Key{Label: name}, false, nil
	}
	fresh, err := makeKey(ctx, e.keeper, hsm.KeySpec{Algorithm: a, Usage: u, Label: name, Wrapped: w.wrapped})
	if errors.Is(err, hsm.ErrExists) { // a run that was killed had asked for it, and the token has made it since
		if e.keys, err = e.keeper.Keys(ctx); err == nil && spare() {
			return key, true, nil
		}
		err = errors.Join(err, hsm.ErrExists)
	}
	if err != nil {
		return key, false, err
	}
	e.keys = append(e.keys, fresh)
	return fresh, true, nil
}

// succeeds reports whether a label is base, or that of a successor.
func succeeds(label, base string) bool {
	rest, ok := strings.CutPrefix(label, base)
	if !ok || rest == "" {
		return ok
	}
	n, err := strconv.Atoi(strings.TrimPrefix(rest, "-"))
	return err == nil && rest[0] == '-' && n > 1
}

// oneDKIM makes the key of a domain that has none of its kind, or whose key is
// as old as the plan lets it become: that one signs after a week, so that its
// record stands in DNS everywhere by then.
func (e *enrolment) oneDKIM(ctx context.Context, w wanted, line *enrolLine) error {
	domain, err := idna.Lookup.ToASCII(w.owner.domain)
	if err != nil {
		return misuse("a domain looks like company1.example", "domain %.80q: %w", w.owner.domain, err)
	}
	a, now := hsm.Algorithm(w.part), e.now()
	all := dkim.Selectors(e.keys)
	same := slices.DeleteFunc(slices.Clone(all), func(s dkim.Selector) bool { return s.Domain != domain || hsm.AlgorithmOf(s.Key.Public) != a })
	from := now
	for _, s := range same {
		switch s.StateOf(all, now) {
		case dkim.Signing:
			if w.dkim.Rotate == 0 || s.From.IsZero() || now.Sub(s.From) < w.dkim.Rotate {
				line.State = enrolThere
				return nil
			}
			from = now.AddDate(0, 0, leadDays)
		case dkim.Coming:
			line.State = enrolThere
			return nil
		}
	}
	base := dkim.Dated(from, a)
	name := base
	for n := 2; slices.ContainsFunc(same, func(s dkim.Selector) bool { return s.Name == name }); n++ {
		name = fmt.Sprintf("%s-%d", base, n)
	}
	label, err := dkim.Label(domain, name)
	if err != nil {
		return err
	}
	line.step("generate %s (%s), which signs from %s on; `postern dkim list --json` has its record", label, a, from.UTC().Format(time.DateOnly))
	if e.dry() {
		return nil
	}
	key, err := e.keeper.Generate(ctx, hsm.KeySpec{Algorithm: a, Usage: hsm.Sign, Label: label})
	if err != nil {
		return fmt.Errorf("generate %s: %w", label, err)
	}
	e.keys = append(e.keys, key)
	return nil
}

// whole reports whether the token has what an identity needs to sign and open.
func (e *enrolment) whole(i keyring.Identity) bool {
	for _, id := range i.KeyIDs {
		if !slices.ContainsFunc(e.keys, func(k hsm.Key) bool { return k.ID == id && !k.Retired }) {
			return false
		}
	}
	return len(i.KeyIDs) > 0
}

func (e *enrolment) oneOpenPGP(ctx context.Context, w wanted, line *enrolLine) error {
	for _, i := range e.ours {
		at := e.now()
		if at.Before(i.Created) {
			at = i.Created
		}
		if i.Format == keyring.OpenPGP && w.owner.is(i) && e.lasts(i.Created, i.Expires) && e.whole(i) && signs(i, at) == nil && sealable(i.Cert, at) == nil {
			line.there(i.Fingerprint, i.Expires)
			return nil
		}
	}
	life, err := parseLifetime(w.openpgp.Lifetime, e.created())
	if err != nil {
		return err
	}
	made := map[hsm.Usage]hsm.Key{}
	for _, u := range uses["openpgp"] {
		if made[u], _, err = e.key(ctx, w, hsm.Algorithm(w.openpgp.Algorithm), u, e.certified, line); err != nil {
			return err
		}
	}
	line.step("make the certificate of %s and %s", made[hsm.Sign].Label, made[hsm.Unwrap].Label)
	if e.dry() {
		return nil
	}
	id, err := e.certifyOpenPGP(ctx, e.keeper, e.store, openPGPWish{owner: w.owner, name: w.name, created: e.created(), life: life, v6: w.openpgp.V6}, made)
	if err != nil {
		return err
	}
	e.bound(line, id)
	return nil
}

// created is the time of what is made now, as certificates can say it.
func (e *enrolment) created() time.Time { return e.now().UTC().Truncate(time.Second) }

// bound is told of an identity that is new.
func (e *enrolment) bound(line *enrolLine, id keyring.Identity) {
	e.ours = append(e.ours, id)
	line.Fingerprint, line.Expires = id.Fingerprint, stamp(id.Expires)
	line.step("bind %s", id.Fingerprint)
}

// oneSMIME brings one of the two certificates of an owner.
func (e *enrolment) oneSMIME(ctx context.Context, w wanted, line *enrolLine) error {
	usage, algorithm := hsm.Sign, w.smime.Sign
	if w.part == hsm.Unwrap.String() {
		usage, algorithm = hsm.Unwrap, w.smime.Open
	}
	var old *keyring.Identity
	for n, i := range e.ours {
		if i.Format != keyring.SMIME || !w.owner.is(i) || doesOf(i) != w.part || !valid(i.Cert, e.now()) {
			continue
		}
		if e.lasts(i.Created, i.Expires) && e.whole(i) { // also one that is not valid yet
			line.there(i.Fingerprint, i.Expires)
			return nil
		}
		if old == nil || old.Expires.Before(i.Expires) {
			old = &e.ours[n]
		}
	}
	address, err := e.mailbox(w)
	if err != nil {
		return err
	}
	key, made, err := e.key(ctx, w, hsm.Algorithm(algorithm), usage, e.certified, line)
	if err != nil {
		return err
	}
	at := e.desk[w.smime.Authority]
	if e.dry() {
		e.foresee(made && at.has(key), w.smime.Authority, line)
		return nil
	}
	p := plea{wanted: w, key: key, old: old}
	if usage == hsm.Sign || strings.HasPrefix(string(hsm.AlgorithmOf(key.Public)), "rsa-") {
		if p.der, err = smime.Request(ctx, e.keeper, smime.RequestSpec{Key: key, Subject: pkix.Name{CommonName: cmpOr(w.name, address.Key())}, Address: address, Prover: e.keeper}); err != nil {
			return err
		}
	}
	certs, err := at.certify(ctx, p)
	if err != nil {
		return err
	}
	if err := e.bindSMIME(ctx, w, certs, line); err != nil {
		return err
	}
	return at.done(p)
}

// mailbox is the address that the certificates of an owner name.
func (e *enrolment) mailbox(w wanted) (message.Address, error) {
	if w.owner.domain == "" {
		return w.owner.address, nil
	}
	a, err := message.ParseAddress(cmpOr(w.smime.Mailbox, mailbox) + "@" + w.owner.domain)
	if err != nil {
		return a, misuse("a mailbox is what stands before the @", "mailbox %.80q: %w", w.smime.Mailbox, err)
	}
	return a, nil
}

// foresee is what -n says of the way to a certificate.
func (e *enrolment) foresee(has bool, authority string, line *enrolLine) {
	if has {
		line.step("bind what %s has made", authority)
	} else {
		line.step("ask %s for a certificate", authority)
	}
}

func (e *enrolment) bindSMIME(ctx context.Context, w wanted, certs []keyring.Cert, line *enrolLine) error {
	b, err := e.bindings(w.owner, "what the authority made", certs, e.keys)
	if err != nil {
		return err
	}
	if err := b.keep(ctx, e.call, e.store); err != nil {
		return err
	}
	for _, id := range b.ids {
		e.bound(line, id)
	}
	return nil
}

// oneTLS brings the certificate of a server for one kind of key.
func (e *enrolment) oneTLS(ctx context.Context, w wanted, line *enrolLine) error {
	dir, err := e.tlsDir()
	if err != nil {
		return err
	}
	place := credential.Place(dir, strings.Map(fileLetter, w.owner.String()), w.part)
	shown, err := credential.Read(place)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	spent := func(id hsm.KeyID) bool { return shown.Leaf != nil && shown.Key == id }
	if shown.Leaf != nil {
		_, missing := shown.Holds(e.keys)
		if missing == nil && shown.Names(w.owner.domain) == nil && e.lasts(shown.Leaf.NotBefore, shown.Leaf.NotAfter) {
			line.there(fingerprintOf(shown.Leaf), shown.Leaf.NotAfter)
			return nil
		}
	}
	key, made, err := e.key(ctx, w, kindAlgorithms[w.part], hsm.Sign, spent, line)
	if err != nil {
		return err
	}
	if w.tls.Authority == "" {
		return e.selfSigned(ctx, w, key, place, line)
	}
	at := e.desk[w.tls.Authority]
	if e.dry() {
		e.foresee(made && at.has(key), w.tls.Authority, line)
		return nil
	}
	p := plea{wanted: w, key: key}
	if p.der, err = credential.Request(ctx, e.keeper, key, w.owner.domain); err != nil {
		return err
	}
	certs, err := at.certify(ctx, p)
	if err != nil {
		return err
	}
	if err := e.show(w, certs, place, line); err != nil {
		return err
	}
	return at.done(p)
}

// selfSigned has the key certify itself.
func (e *enrolment) selfSigned(ctx context.Context, w wanted, key hsm.Key, place string, line *enrolLine) error {
	if e.dry() {
		line.step("have it certify itself")
		return nil
	}
	life, err := parseLifetime(w.tls.Lifetime, e.created())
	if err != nil {
		return err
	}
	s := shownLine{Kind: w.part, File: place}
	if err := e.certifyTLS(ctx, w.owner, key, true, e.created(), e.created().Add(life), &s); err != nil {
		return err
	}
	line.Fingerprint, line.Expires = s.Fingerprint, s.Expires
	line.step("write %s", place)
	return nil
}

// show puts a chain where filterd reads it, the root left out.
func (e *enrolment) show(w wanted, certs []keyring.Cert, place string, line *enrolLine) error {
	x, err := parseX509(certs[0])
	if err != nil {
		return err
	}
	var text bytes.Buffer
	text.Write(pemOf("CERTIFICATE", certs[0].Raw))
	for _, a := range above(x, certs[1:]) {
		if !rooted(a) {
			text.Write(pemOf("CERTIFICATE", a.Raw))
		}
	}
	chain, err := credential.Parse(w.owner.String(), text.Bytes())
	if err != nil {
		return err
	}
	if _, err := addTLS(e.call, w.owner, "what the authority made", text.Bytes(), chain, e.keys); err != nil {
		return err
	}
	line.Fingerprint, line.Expires = fingerprintOf(chain.Leaf), stamp(chain.Leaf.NotAfter)
	line.step("write %s", place)
	return nil
}
