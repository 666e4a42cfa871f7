package e2e

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	pgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"postern/appliance/trial"
	"postern/hsm"
	"postern/hsm/hsmtest"
)

const (
	corpusDomain = "corpus.example"
	unnamed      = "unnamed@elsewhere.example" // sends what names no sender of its own
	nobody       = "nobody." + corpusDomain    // has no identity
	everybody    = "all." + corpusDomain       // has all identities of a corpus
)

// world is a gateway that knows the keys of one corpus: the recipients' are in
// its token, the senders' certificates are trusted.
type world struct {
	*trial.Box
	readers pgp.EntityList // the recipients themselves
	ours    []*certificate
	trust   []*certificate

	readers509 []*reader // with S/MIME
}

// openWorld starts a gateway with a fresh token, which holds the private keys
// of the set as imported ones. Each certificate of ours is bound to a domain
// of its own, since the addresses in the corpus belong to others.
func openWorld(t testing.TB, dir string, set keyset, set509 x509set) *world {
	t.Helper()
	w := &world{}
	for _, c := range readCertificates(t, dir, set.ours) {
		c.owner = "k" + c.primary() + "." + corpusDomain
		w.ours = append(w.ours, c)
	}
	w.trust = readCertificates(t, dir, set.trust)
	for _, r := range readX509(t, dir, set509.ours) {
		r.owner = "x" + hex.EncodeToString(r.cert.SerialNumber.Bytes()) + "." + strings.ReplaceAll(strings.ToLower(r.name), "_", "-") + "." + corpusDomain
		w.readers509 = append(w.readers509, r)
	}
	w.readers = readSecret(t, dir, set.secret)

	token := hsmtest.EmptySoftHSM(t)
	token.Label, token.PIN = "postern", "4711-corpus"
	box := folder(t)
	if err := os.Symlink(token.Dir, filepath.Join(box, "tokens")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(box, "pin"), []byte(token.PIN+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var domains strings.Builder
	all := append([]string{nobody, everybody}, owners(w.ours)...)
	for _, r := range w.readers509 {
		all = append(all, r.owner)
	}
	for _, d := range all {
		fmt.Fprintf(&domains, "[domain.%q]\n", d)
	}
	w.Box = open(t, trial.Config{Dir: box, KeydFields: "allow-imported = true\n", FilterdTables: domains.String() + "[default]\nold-ciphers = true\n[smime]\nroots = \"own\"\nrevocation = \"off\"\nbare-own = true\n",
		Create: []string{"--format", "openpgp", "--domain", "company1.example", "--algorithm", "ed25519"}})

	kinds := keyKinds(t, dir)
	held := map[string]bool{}
	for _, file := range globbed(t, dir, set.token) {
		name, _ := filepath.Rel(dir, file)
		key := readPrivate(t, file, kinds[name])
		id := strings.ToUpper(strings.TrimSuffix(file[strings.LastIndexByte(file, '-')+1:], ".p8"))
		if key == nil || held[id] {
			continue
		}
		held[id] = true
		token.Import("corpus/"+id, hsm.Unwrap, key)
	}
	bring(t, dir, set509, w.readers509, token)
	if len(held)+len(w.readers509) > 0 {
		if err := w.Keyd.Stop(); err != nil {
			t.Fatal(err)
		}
		if err := w.StartKeyd(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range w.ours {
		if !slices.ContainsFunc(c.ids, func(id uint64) bool { return held[fmt.Sprintf("%016X", id)] }) {
			c.owner = ""
			continue
		}
		for _, d := range []string{c.owner, everybody} {
			if _, err := w.Postern(t.Context(), bytes.NewReader(c.raw), "identity", "add", "--domain", d, "--expired", "--cert", "-"); err != nil {
				t.Logf("%s: %v", c.files[0], err)
				c.owner = ""
				break
			}
		}
	}
	for _, c := range w.trust {
		if _, err := w.Postern(t.Context(), bytes.NewReader(c.raw), "cert", "import", "-"); err != nil {
			t.Logf("%s: %v", c.files[0], err)
		}
	}
	w.introduce(t, dir, set509)
	return w
}

func owners(certs []*certificate) (all []string) {
	for _, c := range certs {
		if !slices.Contains(all, c.owner) {
			all = append(all, c.owner)
		}
	}
	return all
}

// to is the address that stands for the recipient whom the manifest names:
// the one whose key the message is for, where several could be meant.
func (w *world) to(s *sample, message []byte) string {
	address := func(domain string) string { return "reader@" + domain }
	if s.smime() {
		if to := w.to509(s); to != "" {
			return to
		}
	}
	if s.recipient == "-" || s.recipient == "" {
		return address(nobody)
	}
	var able []*certificate
	for _, c := range w.ours {
		if c.owner != "" {
			able = append(able, c)
		}
	}
	meant := able[:0:0]
	for _, c := range able {
		if c.in(s.recipient) || strings.Contains(strings.ToLower(c.users0()), strings.ToLower(s.recipient)) {
			meant = append(meant, c)
		}
	}
	if len(meant) == 0 {
		meant = able
	}
	ids := recipientIDs(message)
	for _, from := range [][]*certificate{meant, able} {
		for _, id := range ids {
			for _, c := range from {
				// A hidden recipient may stand in the text beside the armour.
				hidden := id == 0 && c.address() != "" && bytes.Contains(message, []byte("("+c.address()+")"))
				if hidden || slices.Contains(c.ids, id) {
					return address(c.owner)
				}
			}
		}
	}
	if len(meant) == 1 {
		return address(meant[0].owner)
	}
	return address(everybody)
}

func (c *certificate) users0() string { return strings.Join(c.users, "\n") }

// signer is the trusted certificate that the manifest names, or the one that
// has the key; nil where there is none.
func (w *world) signer(s *sample) *certificate {
	for _, c := range w.trust {
		if s.signer != "" && slices.ContainsFunc(c.ids, func(id uint64) bool { return fmt.Sprintf("%016X", id) == s.signer }) {
			return c
		}
		if s.signer == "" && s.sender != "-" && c.in(s.sender) {
			return c
		}
	}
	return nil
}
