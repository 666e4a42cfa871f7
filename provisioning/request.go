package provisioning

import (
	"context"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"postern/filter/message"
	"postern/filter/smime"
	"postern/hsm"
)

// mailbox is who a domain's certificate names (RFC 3183 §4.1), where the
// authority wants no other one.
const mailbox = "domain-confidentiality-authority"

// What an authority is given for a key: a request, or where the key cannot
// sign its own, the bare key.
const (
	certRequest = "request"
	publicKey   = "public key"
)

// requestLine is what an authority is asked with for one key.
type requestLine struct {
	Use     string `json:"use"`  // sign or unwrap
	Kind    string `json:"kind"` // request or public key
	Address string `json:"address"`
	Key     string `json:"key"`
	File    string `json:"file"`
	PEM     string `json:"pem,omitempty"`
}

// requested is the result of identity create for S/MIME.
type requested struct {
	Owner     string        `json:"owner"`
	Generated []keyLine     `json:"generated,omitempty"`
	Requests  []requestLine `json:"requests"`
	DryRun    bool          `json:"dry_run,omitempty"`
}

func (r requested) text(w io.Writer) {
	if len(r.Generated) > 0 {
		keyList{Keys: r.Generated, DryRun: r.DryRun}.text(w)
		fmt.Fprintln(w)
	}
	d := did{DryRun: r.DryRun}
	for _, q := range r.Requests {
		d.Done = append(d.Done, fmt.Sprintf("write the %s of the key to %s, naming %s, to %s", q.Kind, q.Use, q.Address, q.File))
	}
	d.text(w)
	if !r.DryRun {
		fmt.Fprintln(w, "Two certificates are wanted: one for signatures (key usage digitalSignature), and one for\nencryption (keyEncipherment for RSA, keyAgreement for curves).")
		if slices.ContainsFunc(r.Requests, func(q requestLine) bool { return q.Kind == publicKey }) {
			fmt.Fprintln(w, "A key on a curve that opens mail signs nothing, its own request neither: its public key\ngoes to the authority.")
		}
		fmt.Fprintln(w, "Bind what comes back with `postern identity add`.")
	}
}

// requestSMIME makes the two keys of an S/MIME identity, where there are none,
// and what an authority needs to certify them.
func requestSMIME(ctx context.Context, c *call, o owner, name string) (any, error) {
	address := o.address
	if o.domain != "" {
		var err error
		if address, err = message.ParseAddress(cmpOr(c.get("mailbox"), mailbox) + "@" + o.domain); err != nil {
			return nil, misuse("a mailbox is what stands before the @", "mailbox %.80q: %w", c.get("mailbox"), err)
		}
	} else if c.get("mailbox") != "" {
		return nil, misuse("only a domain's certificate has one", "identity create: --mailbox wants --domain")
	}
	result := requested{Owner: o.String(), Requests: []requestLine{}, DryRun: c.dry()}
	k, made, generated, err := c.ownKeys(ctx, "smime", o)
	result.Generated = generated
	if err != nil {
		return result, err
	}
	dir := cmpOr(c.get("out"), ".")
	for _, u := range uses["smime"] {
		q := requestLine{Use: u.String(), Kind: certRequest, Address: address.Key(), Key: made[u].ID.String()}
		suffix := "-" + q.Use + ".csr"
		if u == hsm.Unwrap && !provable(made, generated) {
			q.Kind, suffix = publicKey, "-"+q.Use+".pub"
		}
		q.File = filepath.Join(dir, strings.Map(fileLetter, o.String())+suffix)
		if c.dry() {
			q.Key = ""
			result.Requests = append(result.Requests, q)
			continue
		}
		var text []byte
		if q.Kind == certRequest {
			der, err := smime.Request(ctx, k, smime.RequestSpec{Key: made[u], Subject: pkix.Name{CommonName: cmpOr(name, address.Key())}, Address: address, Prover: k})
			if err != nil {
				return result, err
			}
			text = pemOf("CERTIFICATE REQUEST", der)
		} else if text, err = smime.PublicKey(made[u]); err != nil {
			return result, err
		}
		if err := writeFile(q.File, 0o644, func(w io.Writer) error { _, err := w.Write(text); return err }); err != nil {
			return result, fmt.Errorf("write %s: %w", q.Kind, err)
		}
		q.PEM = string(text)
		result.Requests = append(result.Requests, q)
	}
	return result, nil
}

// provable reports whether the key that opens can sign its own request: an RSA
// key. With -n it may be one that is not there yet.
func provable(made map[hsm.Usage]hsm.Key, generated []keyLine) bool {
	algorithm := string(hsm.AlgorithmOf(made[hsm.Unwrap].Public))
	for _, line := range generated {
		if line.Usage == hsm.Unwrap.String() {
			algorithm = line.Algorithm
		}
	}
	return strings.HasPrefix(algorithm, "rsa-")
}

// fileLetter keeps a name of somebody inside its folder.
func fileLetter(r rune) rune {
	if r == '/' || r == '\\' || r < ' ' || r == 0x7f {
		return '_'
	}
	return r
}

// ownKeys are the keys of an owner for a use: those that are there, and with
// --successor or where there are none, new ones. made is empty with -n.
func (c *call) ownKeys(ctx context.Context, use string, o owner) (k hsm.Keeper, made map[hsm.Usage]hsm.Key, generated []keyLine, err error) {
	want := map[hsm.Usage]hsm.KeySpec{}
	outside, err := c.outside(use, o)
	if err != nil {
		return nil, nil, nil, err
	}
	for _, u := range uses[use] {
		s := hsm.KeySpec{Usage: u, Wrapped: outside}
		if s.Algorithm, err = algorithmFor(c.get("algorithm"), use, u); err != nil {
			return nil, nil, nil, err
		}
		if s.Label, err = label(use, o, u, s.Algorithm); err != nil {
			return nil, nil, nil, err
		}
		want[u] = s
	}
	k, keys, err := c.keys(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	made = map[hsm.Usage]hsm.Key{}
	for _, u := range uses[use] {
		if key, ok := newest(keys, want[u].Label); ok && !c.on["successor"] {
			if a := hsm.AlgorithmOf(key.Public); c.get("algorithm") != "" && a != want[u].Algorithm {
				return k, nil, generated, no("leave out --algorithm to use that key, or retire it first", "create identity of %s: key %s is %s, not %s", o, key.Label, a, want[u].Algorithm)
			}
			if outside && key.Class != hsm.OutsideWrapped {
				return k, nil, generated, no("leave out --wrapped to use that key, or add --successor", "create identity of %s: key %s is %s, not wrapped", o, key.Label, key.Class)
			}
			made[u] = key
			continue
		}
		s := want[u]
		if s.Label, err = free(keys, s.Label, true); err != nil {
			return k, nil, generated, err
		}
		line, err := c.generate(ctx, k, s)
		if err != nil {
			return k, nil, generated, err
		}
		generated = append(generated, line)
		if c.dry() {
			continue
		}
		if keys, err = k.Keys(ctx); err != nil {
			return k, nil, generated, fmt.Errorf("list keys: %w", err)
		}
		if made[u], err = findKey(keys, line.ID); err != nil {
			return k, nil, generated, err
		}
	}
	return k, made, generated, nil
}
