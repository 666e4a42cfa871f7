package provisioning

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"postern/filter/keyring"
	"postern/filter/openpgp"
	"postern/hsm"
)

// reasons are the words of --reason.
var reasons = map[string]openpgp.Reason{"unspecified": openpgp.Unspecified, "superseded": openpgp.Superseded, "compromised": openpgp.Compromised, "retired": openpgp.Retired}

const reasonWords = "unspecified, superseded, compromised, retired"

// identityRevokeCommand stands beside the other verbs of identity.
var identityRevokeCommand = command{noun: "identity", verb: "revoke", args: "ADDRESS|DOMAIN|FPR", min: 1, max: 1, about: "take an OpenPGP certificate of ours back",
	more:  "Asks for the address or domain of the identity. The revocation is the one that was made with the certificate and is kept sealed to it; with --reason, or where none is kept, the token signs one now. With superseded and retired, what was signed before stays good. `postern identity export` gives the revoked certificate for partners and directories. An S/MIME certificate is revoked by its authority.",
	flags: []option{optYes, {name: "reason", value: "R", about: reasonWords}, {name: "out", value: "FILE", about: "write the revoked certificate there"}}, run: identityRevoke}

// maxRevocation is the largest file that is read, in bytes.
const maxRevocation = 256 << 10

// revocationFile is where the revocation of a certificate is kept: beside the
// keyring, sealed to the certificate itself, so that it is nothing without the token.
func (c *call) revocationFile(fingerprint string) (string, error) {
	s, err := c.site()
	return filepath.Join(filepath.Dir(s.Keyring), "revocation", fingerprint+".eml"), err
}

// keepRevocation makes the revocation of a new certificate while its key is
// there to sign it: later the key may be retired or destroyed, and the
// certificate in the hands of others all the same.
func (c *call) keepRevocation(ctx context.Context, k hsm.Keeper, cert keyring.Cert) error {
	revocation, err := openpgp.Revocation(ctx, k, cert, openpgp.Unspecified, cert.Created)
	if err != nil {
		return err
	}
	sealed, err := openpgp.LockRevocation(ctx, cert, revocation, cert.Created)
	if err != nil {
		return err
	}
	path, err := c.revocationFile(cert.Fingerprint)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("keep revocation: %w", err)
	}
	if err := writeFile(path, 0o600, func(w io.Writer) error { _, err := w.Write(sealed); return err }); err != nil {
		return fmt.Errorf("keep revocation: %w", err)
	}
	return nil
}

// keptRevocation is what keepRevocation made, opened by the token.
func (c *call) keptRevocation(ctx context.Context, k hsm.Keeper, id keyring.Identity) ([]byte, error) {
	path, err := c.revocationFile(id.Fingerprint)
	if err != nil {
		return nil, err
	}
	file, err := c.read(path, maxRevocation)
	if err != nil {
		return nil, err
	}
	return openpgp.UnlockRevocation(ctx, k, id, file)
}

// revocationOf is the one that is kept, or with a reason, and where none is
// kept, one that the token signs now.
func (c *call) revocationOf(ctx context.Context, k hsm.Keeper, id keyring.Identity) (revocation []byte, how string, err error) {
	why := c.get("reason")
	if why == "" {
		revocation, err = c.keptRevocation(ctx, k, id)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return revocation, "kept since it was made", err
		}
	}
	revocation, err = openpgp.Revocation(ctx, k, id.Cert, reasons[cmpOr(why, "unspecified")], c.now().UTC().Truncate(time.Second))
	if errors.Is(err, hsm.ErrNoKey) || errors.Is(err, hsm.ErrRefused) {
		hint := "its key is retired or gone; without --reason the revocation is taken that was made with the certificate"
		if why == "" {
			hint = "its key is retired or gone, and no revocation was kept: tell partners"
		}
		return nil, "", no(hint, "revoke %s: %w", id.Fingerprint, err)
	}
	return revocation, "signed now", err
}

func identityRevoke(ctx context.Context, c *call) (any, error) {
	if why := c.get("reason"); why != "" {
		if _, ok := reasons[why]; !ok {
			return nil, misuse("reasons: "+reasonWords, "no reason %.40q", why)
		}
	}
	store, list, err := c.ours(ctx, true)
	if err != nil {
		return nil, err
	}
	var own []keyring.Identity
	for _, i := range list {
		if i.Format == keyring.OpenPGP && !openpgp.Revoked(i.Cert, c.now()) {
			own = append(own, i)
		}
	}
	switch {
	case len(own) == 0 && list[0].Format == keyring.OpenPGP:
		return c.already("%s is revoked", list[0].Fingerprint), nil
	case len(own) == 0:
		return nil, no("ask the authority that made it to revoke it, then `postern identity remove`, or keep it to open old mail", "revoke %s: an S/MIME certificate is revoked by its authority", list[0].Fingerprint)
	case len(own) > 1:
		return nil, no("name one by its fingerprint, see `postern identity list`", "revoke %.80q: it names %d certificates", c.args[0], len(own))
	}
	id := own[0]
	k, err := c.keeper(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.confirm("nobody uses a revoked certificate any more, whatever is said later", ownerOf(id).String()); err != nil {
		return nil, err
	}
	if c.dry() {
		return c.did("revoke %s of %s", id.Fingerprint, ownerOf(id)), nil
	}
	revocation, how, err := c.revocationOf(ctx, k, id)
	if err != nil {
		return nil, err
	}
	if id.Cert, err = openpgp.Revoke(id.Cert, revocation); err != nil {
		return nil, err
	}
	id.Trust, id.LastSeen = keyring.Trusted, c.now()
	if err := store.Bind(ctx, id); err != nil {
		return nil, err
	}
	result := c.did("revoke %s of %s with a revocation %s; it opens old mail, and does nothing else", id.Fingerprint, ownerOf(id), how)
	path := c.get("out")
	if path == "" {
		return result, nil
	}
	var text bytes.Buffer
	if err := openpgp.Armor(&text, id.Cert); err != nil {
		return result, err
	}
	if err := putFile(path, text.Bytes()); err != nil {
		return result, err
	}
	result.Done = append(result.Done, "write it to "+path+", for partners and directories")
	return result, nil
}
