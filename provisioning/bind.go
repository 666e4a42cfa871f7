package provisioning

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"

	"postern/filter/cms"
	"postern/filter/keyring"
	"postern/hsm"
)

// addSMIME binds the X.509 certificates in a file to keys of the token, and
// keeps the authorities that came with them, to be sent along.
func addSMIME(ctx context.Context, c *call, o owner, path string, certs []keyring.Cert) (any, error) {
	_, keys, err := c.keys(ctx)
	if err != nil {
		return nil, err
	}
	b, err := c.bindings(o, path, certs, keys)
	if err != nil {
		return nil, err
	}
	result := identityList{Identities: []identityLine{}, DryRun: c.dry(), Notes: b.notes}
	for _, id := range b.ids {
		result.Identities = append(result.Identities, identityLineOf(id))
	}
	store, err := c.ring(true)
	if err != nil {
		return nil, err
	}
	if !c.dry() {
		if err := b.keep(ctx, c, store); err != nil {
			return result, err
		}
	}
	ours, err := store.AllIdentities(ctx)
	if err = absent(err); err != nil {
		return result, err
	}
	result.Notes = slices.Concat(result.Notes, c.pathNotes(ctx, b.ids), pairNote(append(ours, b.ids...), o, c))
	return result, nil
}

// bindings are identities of one owner that are to be, and the authorities on
// the way up from them.
type bindings struct {
	ids   []keyring.Identity
	way   []keyring.Cert
	notes []string
}

// bindings judges certificates by the keys that the token has, and by what else
// stands in path, where they come from.
func (c *call) bindings(o owner, path string, certs []keyring.Cert, keys []hsm.Key) (b bindings, err error) {
	var holders, authorities []keyring.Cert
	for _, one := range certs {
		if one.Role != keyring.Holder && c.on["expired"] && len(certs) == 1 && holding(keys, one) != nil {
			one.Role = keyring.Holder // old programs made themselves authorities
		}
		if one.Role == keyring.Holder {
			holders = append(holders, one)
		} else {
			authorities = append(authorities, one)
		}
	}
	if len(holders) == 0 {
		return b, no("the file wants the certificate of the owner; one of an authority alone goes to `postern cert import`", "add identity: %s holds certificates of authorities only", path)
	}
	for _, one := range holders {
		use, err := c.bindable(o, one, keys)
		if err != nil {
			return b, err
		}
		x, err := parseX509(one)
		if err != nil {
			return b, err
		}
		for _, a := range above(x, authorities) {
			if !slices.ContainsFunc(b.way, func(c keyring.Cert) bool { return a.Fingerprint == c.Fingerprint }) {
				b.way = append(b.way, a)
			}
		}
		readable, err := cms.Readable()
		if err != nil {
			return b, err
		}
		if one.Capabilities, err = readable.DER(); err != nil {
			return b, err
		}
		one.Trust, one.Source, one.FirstSeen, one.LastSeen = keyring.Trusted, "import", c.now(), c.now()
		id := keyring.Identity{Cert: one, Address: o.address, Domain: o.domain, Use: use}
		if use == hsm.Sign && useOf(one) == useBoth {
			b.notes = append(b.notes, one.Fingerprint+" also allows encryption, and its key opens nothing: partners' programs that take it for that seal mail to nobody; one for signatures alone is better")
		}
		b.ids = append(b.ids, id)
	}
	for _, a := range authorities {
		if !slices.ContainsFunc(b.way, func(c keyring.Cert) bool { return a.Fingerprint == c.Fingerprint }) {
			return b, no("take out what does not belong to the chain", "add identity: %s holds the certificate of an authority that did not issue it, nor any above it: %s", path, a.Fingerprint)
		}
	}
	return b, nil
}

// keep writes them down.
func (b bindings) keep(ctx context.Context, c *call, store *keyring.Store) error {
	for _, a := range b.way {
		if err := keepAuthority(ctx, c, store, a); err != nil {
			return err
		}
	}
	for _, id := range b.ids {
		if err := store.Bind(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// holding is the key of a certificate, nil where the token has none of it.
func holding(keys []hsm.Key, cert keyring.Cert) *hsm.Key {
	i := slices.IndexFunc(keys, func(k hsm.Key) bool { return slices.Contains(cert.KeyIDs, k.ID) })
	if i < 0 {
		return nil
	}
	return &keys[i]
}

// forMail says why a key of the token is not one for mail: its label says what
// it is for, and what signs a handshake signs nothing else.
func forMail(k hsm.Key) error {
	use, _, _ := strings.Cut(k.Label, "/")
	if _, ok := uses[use]; !ok || use == string(keyring.OpenPGP) || use == string(keyring.SMIME) {
		return nil
	}
	return no("make one for mail: `postern identity create`", "bind key %s: it is for %s, and for nothing else: %w", k.Label, use, hsm.ErrRefused)
}

// bindable says why a certificate can't be one of ours, or what its key does.
// Where the certificate allows more it goes by the key: many authorities allow
// everything, and keys that were brought from elsewhere open old mail.
func (c *call) bindable(o owner, cert keyring.Cert, keys []hsm.Key) (hsm.Usage, error) {
	x, err := parseX509(cert)
	if err != nil {
		return 0, err
	}
	key := holding(keys, cert)
	if key == nil {
		return 0, no("see `postern key list`; a certificate is bound by the public key in it, so it has to be made for a key of the token: `postern identity create --use smime`",
			"add identity of %s: the key of certificate %s is not in the token", o, cert.Fingerprint)
	}
	if err := forMail(*key); err != nil {
		return 0, err
	}
	if use := useOf(cert); use != key.Usage.String() && use != useBoth {
		want := "digitalSignature alone"
		if key.Usage == hsm.Unwrap {
			want = "keyEncipherment alone"
			if x.PublicKeyAlgorithm != x509.RSA {
				want = "keyAgreement alone"
			}
		}
		return 0, no("a key of the token has one use; ask the authority for a certificate with key usage "+want,
			"add identity of %s: certificate %s is to %s (key usage %s), and its key %s can only %s", o, cert.Fingerprint, use, usageWords(x), key.Label, key.Usage)
	}
	if o.domain == "" && !slices.ContainsFunc(cert.Addresses, o.sameAddress) {
		return 0, no("ask for one that names the address, or bind it to the domain with --domain", "add identity: certificate %s does not name %s", cert.Fingerprint, o)
	}
	if !valid(cert, c.now()) && !c.on["expired"] {
		return 0, no("`--expired` binds it all the same, to open old mail", "add identity: certificate %s expired on %s", cert.Fingerprint, day(stamp(cert.Expires)))
	}
	at := c.now() // from the first day on it has to work
	if at.Before(cert.Created) {
		at = cert.Created
	}
	if !valid(cert, at) {
		at = cert.Created
	}
	if key.Usage == hsm.Sign {
		err = signs(keyring.Identity{Cert: cert, Address: o.address, Domain: o.domain}, at)
	} else if !c.on["expired"] { // old mail is opened whatever it was sealed to
		err = sealable(cert, at)
	}
	if err != nil {
		return 0, no("ask the authority for a certificate for mail: extended key usage emailProtection, RSA with 2048 bits or more, P-256, P-384 or P-521", "add identity of %s: %w", o, err)
	}
	return key.Usage, nil
}

// keepAuthority keeps one on the way, and changes nothing that was said of it.
func keepAuthority(ctx context.Context, c *call, store *keyring.Store, a keyring.Cert) error {
	_, err := store.Get(ctx, a.Fingerprint)
	if err == nil {
		return nil
	}
	a.Trust, a.Source, a.FirstSeen, a.LastSeen = keyring.Trusted, "import", c.now(), c.now()
	return store.Import(ctx, a)
}

func (c *call) pathNotes(ctx context.Context, ids []keyring.Identity) (notes []string) {
	for _, id := range ids {
		list, err := c.verdicts(ctx, id.Cert)
		switch {
		case err != nil:
			notes = append(notes, "the path could not be judged: "+err.Error())
		case len(list) > 0 && !list[0].Good:
			notes = append(notes, fmt.Sprintf("%s has no good path here (%s); partners judge it by their own anchors", id.Fingerprint, list[0].Reason))
		}
	}
	return notes
}

// pairNote says which half of an S/MIME identity is missing.
func pairNote(ours []keyring.Identity, o owner, c *call) []string {
	has := map[string]bool{}
	for _, i := range ours {
		if i.Format == keyring.SMIME && o.is(i) && valid(i.Cert, c.now()) {
			has[doesOf(i)] = true
		}
	}
	switch {
	case has[hsm.Sign.String()] && !has[hsm.Unwrap.String()]:
		return []string{"nobody can encrypt to " + o.String() + " until the certificate for encryption is bound as well"}
	case has[hsm.Unwrap.String()] && !has[hsm.Sign.String()]:
		return []string{"mail of " + o.String() + " cannot be signed until the certificate for signatures is bound as well"}
	}
	return nil
}

// exportSMIME prints the newest certificate of each use that is valid now (or
// the newest, if none is), then the authorities above them but for roots,
// which a partner has to get from somewhere else than from us.
func (c *call) exportSMIME(ctx context.Context, store *keyring.Store, list []keyring.Identity) ([]byte, error) {
	authorities, err := store.Authorities(ctx)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	var done []string
	write := func(cert keyring.Cert) {
		if !slices.Contains(done, cert.Fingerprint) {
			done = append(done, cert.Fingerprint)
			out.Write(pemOf("CERTIFICATE", cert.Raw))
		}
	}
	var way []keyring.Cert
	for _, use := range []string{hsm.Sign.String(), hsm.Unwrap.String()} {
		fit := slices.DeleteFunc(slices.Clone(list), func(i keyring.Identity) bool { return doesOf(i) != use })
		if len(fit) == 0 {
			continue
		}
		best := fit[0]
		if i := slices.IndexFunc(fit, func(i keyring.Identity) bool { return valid(i.Cert, c.now()) && !i.Created.After(c.now()) }); i >= 0 {
			best = fit[i]
		}
		write(best.Cert)
		x, err := parseX509(best.Cert)
		if err != nil {
			return nil, err
		}
		way = append(way, above(x, authorities)...)
	}
	for _, a := range way {
		if !rooted(a) {
			write(a)
		}
	}
	return out.Bytes(), nil
}
