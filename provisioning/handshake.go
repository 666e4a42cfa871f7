package provisioning

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"postern/filter/credential"
	"postern/hsm"
)

// useTLS is the use of keys that sign handshakes, and stands where other
// identities have the format of their mail.
const useTLS = "tls"

// kindAlgorithms is what is made for each kind of key of a listener.
var kindAlgorithms = map[string]hsm.Algorithm{credential.ECDSA: hsm.P256, credential.RSA: hsm.RSA3072}

// shownLine is one certificate of a listener, or what it is asked for with.
type shownLine struct {
	Kind        string `json:"kind"` // ecdsa or rsa
	Key         string `json:"key"`
	File        string `json:"file"`
	Fingerprint string `json:"fingerprint,omitempty"` // of the certificate, SHA-256
	Expires     string `json:"expires,omitempty"`
	PEM         string `json:"pem,omitempty"`
}

// listening is the result of identity create and identity add for TLS.
type listening struct {
	Owner     string      `json:"owner"`
	Generated []keyLine   `json:"generated,omitempty"`
	Requests  []shownLine `json:"requests,omitempty"`
	Certs     []shownLine `json:"certificates,omitempty"`
	Notes     []string    `json:"notes,omitempty"`
	DryRun    bool        `json:"dry_run,omitempty"`
}

func (r listening) text(w io.Writer) {
	if len(r.Generated) > 0 {
		keyList{Keys: r.Generated, DryRun: r.DryRun}.text(w)
		fmt.Fprintln(w)
	}
	d := did{DryRun: r.DryRun}
	for _, q := range r.Requests {
		d.Done = append(d.Done, fmt.Sprintf("write the request of the %s key to %s", q.Kind, q.File))
	}
	for _, q := range r.Certs {
		d.Done = append(d.Done, fmt.Sprintf("write the %s certificate of %s to %s", q.Kind, r.Owner, q.File))
	}
	d.text(w)
	if len(r.Requests) > 0 && !r.DryRun {
		fmt.Fprintln(w, "Bring in what comes back with `postern identity add`, a file for each key, with its chain.")
	}
	for _, n := range r.Notes {
		fmt.Fprintln(w, "note:", printable(n))
	}
}

// listenerName is the server that --domain names.
func (c *call) listenerName() (owner, error) {
	o, err := c.owner()
	if err == nil && o.domain == "" {
		err = misuse("name the server with --domain", "a %s identity belongs to a server, not to an address", useTLS)
	}
	return o, err
}

// createTLS makes the keys of a listener, one of each kind or the one that
// --algorithm names, and asks an authority with them, or has them certify
// themselves.
func createTLS(ctx context.Context, c *call) (any, error) {
	o, err := c.listenerName()
	if err != nil {
		return nil, err
	}
	if c.get("mailbox") != "" || c.get("name") != "" || c.on["v6"] {
		return nil, misuse(c.cmd.synopsis(), "identity create: --mailbox, --name and --v6 are for mail")
	}
	self := c.on["self-signed"]
	if !self && c.get("lifetime") != "" {
		return nil, misuse("an authority decides about that", "identity create: --lifetime of a %s certificate wants --self-signed", useTLS)
	}
	now := c.now().UTC().Truncate(time.Second)
	life, err := parseLifetime(c.get("lifetime"), now)
	if err != nil {
		return nil, err
	}
	if self && life == 0 {
		return nil, misuse("2y is the default", "identity create: a certificate of X.509 ends")
	}
	wanted := kindAlgorithms
	if name := c.get("algorithm"); name != "" {
		a, err := algorithmFor(name, useTLS, hsm.Sign)
		if err != nil {
			return nil, err
		}
		wanted = map[string]hsm.Algorithm{kindOf(a): a}
	}
	result := listening{Owner: o.String(), DryRun: c.dry()}
	dir, ending := cmpOr(c.get("out"), "."), ".csr"
	if self {
		if dir, err = c.tlsDir(); err != nil {
			return nil, err
		}
		ending = ".pem"
	}
	for _, kind := range credential.Kinds {
		algorithm, ok := wanted[kind]
		if !ok {
			continue
		}
		line := shownLine{Kind: kind, File: strings.TrimSuffix(credential.Place(dir, strings.Map(fileLetter, o.String()), kind), ".pem") + ending}
		if _, err := os.Stat(line.File); self && err == nil && !c.on["successor"] {
			return result, no("`--successor` makes a new key and replaces it", "create certificate of %s: there is %s", o, line.File)
		}
		key, made, err := c.listenerKey(ctx, o, algorithm)
		if made != nil {
			result.Generated = append(result.Generated, *made)
		}
		if err != nil {
			return result, err
		}
		if !c.dry() {
			if err := c.certifyTLS(ctx, o, key, self, now, now.Add(life), &line); err != nil {
				return result, err
			}
		}
		if self {
			result.Certs = append(result.Certs, line)
		} else {
			result.Requests = append(result.Requests, line)
		}
	}
	return result, nil
}

// certifyTLS writes the request of a key, or the certificate that it makes itself.
func (c *call) certifyTLS(ctx context.Context, o owner, key hsm.Key, self bool, from, to time.Time, line *shownLine) error {
	k, err := c.keeper(ctx)
	if err != nil {
		return err
	}
	line.Key = key.ID.String()
	if !self {
		der, err := credential.Request(ctx, k, key, o.domain)
		if err != nil {
			return err
		}
		text := pemOf("CERTIFICATE REQUEST", der)
		line.PEM = string(text)
		return putFile(line.File, text)
	}
	der, err := credential.SelfSigned(ctx, k, key, o.domain, from, to)
	if err != nil {
		return err
	}
	text := pemOf("CERTIFICATE", der)
	chain, err := credential.Parse(line.File, text)
	if err != nil {
		return err
	}
	*line = describeChain(chain, line.File)
	return putChain(line.File, text)
}

func describeChain(c credential.Chain, file string) shownLine {
	return shownLine{Kind: c.Kind, Key: c.Key.String(), File: file, Fingerprint: fingerprintOf(c.Leaf), Expires: stamp(c.Leaf.NotAfter)}
}

func fingerprintOf(x *x509.Certificate) string {
	id := sha256.Sum256(x.Raw)
	return strings.ToUpper(hex.EncodeToString(id[:]))
}

func putFile(path string, text []byte) error {
	if err := writeFile(path, 0o644, func(w io.Writer) error { _, err := w.Write(text); return err }); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// putChain puts a chain where filterd reads it.
func putChain(path string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make folder of certificates: %w", err)
	}
	return putFile(path, text)
}

// tlsDir is the folder of the listeners' chains.
func (c *call) tlsDir() (string, error) {
	s, err := c.site()
	return cmpOr(s.TLSDir, DefaultTLS), err
}

// kindOf is the kind of the keys of an algorithm.
func kindOf(a hsm.Algorithm) string {
	if strings.HasPrefix(string(a), "rsa-") {
		return credential.RSA
	}
	return credential.ECDSA
}

// listenerKey is the newest key of a name for an algorithm's kind, or a new
// one; zero with -n where it would be new.
func (c *call) listenerKey(ctx context.Context, o owner, algorithm hsm.Algorithm) (key hsm.Key, made *keyLine, err error) {
	base, err := label(useTLS, o, hsm.Sign, algorithm)
	if err != nil {
		return key, nil, err
	}
	k, keys, err := c.keys(ctx)
	if err != nil {
		return key, nil, err
	}
	if found, ok := newest(keys, base); ok && !c.on["successor"] {
		if a := hsm.AlgorithmOf(found.Public); c.get("algorithm") != "" && a != algorithm {
			return key, nil, no("leave out --algorithm to use that key, or make a --successor", "create identity of %s: key %s is %s, not %s", o, found.Label, a, algorithm)
		}
		return found, nil, nil
	}
	name, err := free(keys, base, true)
	if err != nil {
		return key, nil, err
	}
	line, err := c.generate(ctx, k, hsm.KeySpec{Algorithm: algorithm, Usage: hsm.Sign, Label: name})
	if err != nil || c.dry() {
		return key, &line, err
	}
	if keys, err = k.Keys(ctx); err == nil {
		key, err = findKey(keys, line.ID)
	}
	return key, &line, err
}

// forTLS reports whether the certificate that a file begins with has a key for
// TLS: the key decides what a certificate is for.
func forTLS(keys []hsm.Key, chain credential.Chain) bool {
	return slices.ContainsFunc(keys, func(k hsm.Key) bool { return k.ID == chain.Key && strings.HasPrefix(k.Label, credential.Prefix) })
}

// addTLS puts the chain of a listener in its place.
func addTLS(c *call, o owner, path string, text []byte, chain credential.Chain, keys []hsm.Key) (any, error) {
	if _, err := chain.Holds(keys); err != nil {
		return nil, no("see `postern key list`", "add certificate %s: %w", path, err)
	}
	if o.domain == "" {
		return nil, misuse("name the server with --domain", "add certificate %s: its key is one for TLS, which belongs to no address", path)
	}
	if err := chain.Names(o.domain); err != nil {
		return nil, no("ask the authority for one of a server with this name", "add certificate %s: %w", path, err)
	}
	if at := c.now(); at.After(chain.Leaf.NotAfter) {
		return nil, no("get a new one", "add certificate %s: it expired on %s", path, day(stamp(chain.Leaf.NotAfter)))
	}
	dir, err := c.tlsDir()
	if err != nil {
		return nil, err
	}
	place := credential.Place(dir, strings.Map(fileLetter, o.String()), chain.Kind)
	result := listening{Owner: o.String(), Certs: []shownLine{describeChain(chain, place)}, DryRun: c.dry()}
	if len(chain.DER) == 1 && chain.Leaf.Issuer.String() != chain.Leaf.Subject.String() {
		result.Notes = append(result.Notes, "the file has no chain: servers that look for a path need the authority's intermediate certificates behind the server's own")
	}
	if c.dry() {
		return result, nil
	}
	return result, putChain(place, text)
}

// listenerIdentities are the certificates in the folder of the listeners.
func (c *call) listenerIdentities() (list []identityLine, notes []string, err error) {
	dir, err := c.tlsDir()
	if err != nil {
		return nil, nil, err
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.pem"))
	if err != nil {
		return nil, nil, err
	}
	for _, f := range files {
		chain, err := credential.Read(f)
		if err != nil {
			notes = append(notes, err.Error())
			continue
		}
		list = append(list, identityLine{
			Owner:    strings.TrimSuffix(filepath.Base(f), "-"+chain.Kind+".pem"),
			certLine: certLine{Format: useTLS, Fingerprint: fingerprintOf(chain.Leaf), Addresses: []string{}, Domains: chain.Leaf.DNSNames, Created: stamp(chain.Leaf.NotBefore), Expires: stamp(chain.Leaf.NotAfter), Source: f},
			Use:      hsm.Sign.String(), KeyIDs: []string{chain.Key.String()},
		})
	}
	return list, notes, nil
}

// examineShown looks at what the listeners show: is it there, whole, for the
// name, with its key in the token, and for how long.
func examineShown(e *examined, site Site, keys []hsm.Key, keysKnown bool, now time.Time) {
	done := map[string]bool{}
	for _, s := range site.Shown {
		found := 0
		for _, path := range s.Files {
			if done[s.Name+" "+path] {
				found++
				continue
			}
			chain, err := credential.Read(path)
			if s.Some && errors.Is(err, fs.ErrNotExist) {
				continue
			}
			found++
			done[s.Name+" "+path] = true
			examineChain(e, "tls "+s.Name+" "+chain.Kind, path, s.Name, chain, err, keys, keysKnown, now)
		}
		if found == 0 {
			e.say("tls "+s.Name, broken, "`postern identity create --use tls --domain "+s.Name+"`, then `postern identity add`", "no certificate: neither of %s is there", strings.Join(s.Files, ", "))
		}
	}
}

func examineChain(e *examined, check, path, server string, chain credential.Chain, err error, keys []hsm.Key, keysKnown bool, now time.Time) {
	const renew = "`postern identity create --use tls` asks for a new one, `postern identity add` brings it in"
	if err == nil {
		err = chain.Names(server)
	}
	if err != nil {
		e.broke(strings.TrimSpace(check), fmt.Errorf("%s: %w", path, err))
		return
	}
	until := day(stamp(chain.Leaf.NotAfter))
	_, missing := chain.Holds(keys)
	switch {
	case keysKnown && missing != nil:
		e.say(check, broken, "`postern key list` shows what the token holds", "%s: %v", path, missing)
	case now.After(chain.Leaf.NotAfter):
		e.say(check, broken, renew, "%s expired on %s", path, until)
	case now.Before(chain.Leaf.NotBefore):
		e.say(check, broken, "look at the clock", "%s is valid from %s only", path, stamp(chain.Leaf.NotBefore))
	case now.Add(soon).After(chain.Leaf.NotAfter):
		e.say(check, concern, renew, "%s expires on %s", path, until)
	case !keysKnown:
		e.say(check, unknown, "", "%s: whether its key is in the token is not known", path)
	default:
		e.say(check, fine, "", "%s, expires %s", path, until)
	}
}
