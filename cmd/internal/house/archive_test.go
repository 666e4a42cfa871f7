package house

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"filippo.io/age"

	"postern/appliance/box/backup"
	"postern/filter/keyring"
)

// filled is a box with something of everything that it keeps, secrets among it.
func filled(t *testing.T, lines ...string) (*House, *recorded, string) {
	t.Helper()
	h, r, state := machine(t)
	if err := h.Apply(t.Context(), example(t, state, lines...), false); err != nil {
		t.Fatal(err)
	}
	store, err := keyring.Open(filepath.Join(state, "keyring.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() }) // it is in use while it is copied
	for name, text := range map[string]string{
		"state/tls/mx.company1.example-ecdsa.pem": "-----BEGIN CERTIFICATE-----\n", "state/tls/.new": "half", "state/box/identity.key": "-----BEGIN PRIVATE KEY-----\n",
		"state/box/pin.cred": "sealed", "state/spool/x": "mail", "state-keyd/retired": "aa\n", "state-keyd/counters": "1\n", "state-keyd/wrapped/aa.wrapped": "ciphertext\n", "state-keyd/wrapped/.bb.wrapped.new": "half", "state-keyd/token/object": "token object\n",
	} {
		path := filepath.Join(filepath.Dir(state), name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if h.Key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	// As journald has it: fields of ours begin with POSTERN_, and the unit is its own.
	r.answers = map[string]string{"journalctl --output=json --quiet --no-pager _SYSTEMD_UNIT=postern-keyd.service POSTERN_RECORD=audit": `{"POSTERN_RECORD":"audit"}` + "\n"}
	r.take()
	return h, r, state
}

// What is in a backup, file by file, and what it brings back to another box.
func TestBackupAndRestore(t *testing.T) {
	h, _, _ := filled(t)
	reader, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	var sealed bytes.Buffer
	if err := h.Backup(t.Context(), &sealed, []string{reader.Recipient().String()}); err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(h.Key.Public())
	if err != nil {
		t.Fatal(err)
	}
	pin := fmt.Sprintf("sha256:%x", sha256.Sum256(der))
	open := func() *bytes.Buffer {
		t.Helper()
		inside, err := backup.Open(bytes.NewReader(sealed.Bytes()), strings.NewReader(reader.String()))
		if err != nil {
			t.Fatal(err)
		}
		var plain bytes.Buffer
		if _, err := plain.ReadFrom(inside); err != nil {
			t.Fatal(err)
		}
		return &plain
	}
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	m, err := backup.Read(open(), pin, root)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range m.Files {
		names = append(names, f.Name)
	}
	if want := []string{"audit.json", "box.toml", "keyring.db", "retired", "tls/mx.company1.example-ecdsa.pem", "wrapped/aa.wrapped"}; !slices.Equal(names, want) {
		t.Errorf("got %q in the backup, want %q", names, want)
	}

	other, r, state := machine(t)
	if err := other.Restore(t.Context(), open(), pin); err != nil {
		t.Fatal(err)
	}
	if got, want := must(t, other.Path), must(t, h.Path); got != want {
		t.Errorf("got box.toml %q, want %q", got, want)
	}
	// The archive's box.toml has its files where the first box had them, so it
	// is that box that got them back: a list of retired keys that is the same
	// leaves the key daemon alone.
	if got := r.take(); slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, "keyd") }) || len(got) != 2 {
		t.Errorf("got %q, want the filter stopped and started, and no more", got)
	}
	retiredPath := filepath.Join(filepath.Dir(h.Path)+"-keyd", "retired")
	if err := os.WriteFile(retiredPath, []byte("bb\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := other.Restore(t.Context(), open(), pin); err != nil {
		t.Fatal(err)
	}
	if got := must(t, retiredPath); got != "aa\n" {
		t.Errorf("got retired keys %q, want those of the backup", got)
	}
	if got := r.take(); !slices.Contains(got, "systemctl stop postern-keyd.service") || !slices.Contains(got, "systemctl start postern-keyd.service") {
		t.Errorf("got %q, want the key daemon stopped and started", got)
	}
	// A key outside the token that was lost comes back, to whom the folder of the
	// key daemon belongs; one that was made since stays.
	wrappedDir := filepath.Join(filepath.Dir(retiredPath), "wrapped")
	if err := os.RemoveAll(wrappedDir); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 {
		if err := os.Chown(filepath.Dir(retiredPath), 12345, 12345); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := other.Restore(t.Context(), open(), pin); err != nil {
			t.Fatal(err)
		}
		if got := must(t, filepath.Join(wrappedDir, "aa.wrapped")); got != "ciphertext\n" {
			t.Errorf("got %q, want the ciphertext", got)
		}
		for _, path := range []string{wrappedDir, filepath.Join(wrappedDir, "aa.wrapped")} {
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if owner := info.Sys().(*syscall.Stat_t).Uid; os.Getuid() == 0 && owner != 12345 {
				t.Errorf("%s belongs to %d, want it with the key daemon", path, owner)
			}
		}
		if err := os.WriteFile(filepath.Join(wrappedDir, "cc.wrapped"), []byte("newer"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := must(t, filepath.Join(wrappedDir, "cc.wrapped")); got != "newer" {
		t.Errorf("got %q, want the newer key", got)
	}
	if got := r.take(); len(got) != 6 { // the filter twice, the key daemon for the first
		t.Errorf("got %q, want the key daemon stopped and started once", got)
	}
	// Of another box, or cut: nothing is touched.
	before := must(t, retiredPath)
	if err := other.Restore(t.Context(), open(), "sha256:"+strings.Repeat("ab", 32)); !errors.Is(err, backup.ErrOrigin) {
		t.Errorf("another box: got %v, want %v", err, backup.ErrOrigin)
	}
	if err := other.Restore(t.Context(), bytes.NewReader(open().Bytes()[:2000]), pin); !errors.Is(err, backup.ErrForm) {
		t.Errorf("cut: got %v, want %v", err, backup.ErrForm)
	}
	if got := r.take(); len(got) > 0 || must(t, retiredPath) != before {
		t.Errorf("a bad archive: got %q, want nothing touched", got)
	}
	// Into a box that is unlocked otherwise: its token would wait for nobody.
	if err := other.Apply(t.Context(), example(t, state, `unlock = "operator"`, `unlock = "tpm"`), false); err != nil {
		t.Fatal(err)
	}
	r.take()
	if err := other.Restore(t.Context(), open(), pin); !errors.Is(err, errOtherUnlock) {
		t.Errorf("unlocked otherwise: got %v, want %v", err, errOtherUnlock)
	}
	if got := r.take(); len(got) > 0 || must(t, retiredPath) != before {
		t.Errorf("unlocked otherwise: got %q, want nothing touched", got)
	}
	if left, err := filepath.Glob(filepath.Join(state, ".restore-*")); err != nil || len(left) > 0 {
		t.Errorf("got %v, %v left behind", left, err)
	}
}

func must(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
