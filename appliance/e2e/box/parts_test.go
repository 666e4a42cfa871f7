package box

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"

	"postern/appliance/box/backup"
	"postern/appliance/e2e/housetest"
)

// reader opens the backups of these tests.
var reader, _ = age.GenerateX25519Identity()

var recipient = reader.Recipient().String()

// remote shows what operators elsewhere may have the box do.
func (b *boxed) remote() {
	b.t.Helper()
	do := func(stdin string, args ...string) (string, string, int) {
		return b.postern(stdin, append([]string{"box", "do", "--dir", b.owner, "--"}, args...)...)
	}
	if out, _, status := do("", "identity", "list"); status != 0 || !strings.Contains(out, "company1.example") {
		b.t.Errorf("identity list: got %q, status %d", out, status)
	}
	if _, complaint, status := do("no certificate\n", "cert", "import", "-"); status != 1 || !strings.Contains(complaint, "hint:") {
		b.t.Errorf("cert import: got %q, status %d, want the complaint of the box", complaint, status)
	}
	// A request for a certificate is written by the box, and comes here.
	if _, complaint, status := do("", "identity", "create", "--use", "tls", "--domain", "mx.company1.example"); status != 0 {
		b.t.Errorf("identity create: status %d: %s", status, complaint)
	}
	found, err := filepath.Glob(b.path("out", "*"))
	if err != nil || len(found) == 0 || !strings.Contains(housetest.Contents(b.t, found[0]), "CERTIFICATE REQUEST") {
		b.t.Errorf("got files %v, %v, want the requests", found, err)
	}
	for _, args := range [][]string{
		{"cert", "import", "/etc/shadow"}, {"identity", "add", "--domain", "company1.example", "--cert", "/etc/passwd"},
		{"identity", "export", "company1.example", "--out", "/tmp/x"}, {"identity", "list", "--config", "/etc/shadow"}, {"token", "unlock", "--pin-file", "/etc/shadow"},
		{"box", "reset", "--yes", "gw.company1.example"}, {"box", "call", "--", "status"}, {"postfix", "render"}, {"identity", "list", "--socket", "/run/x"},
	} {
		if _, complaint, status := do("", args...); status != 1 || !strings.Contains(complaint, "names a file of the box") && !strings.Contains(complaint, "not for operators elsewhere") {
			b.t.Errorf("%v: got %q, status %d, want it refused", args, complaint, status)
		}
	}
}

// noPIN looks for PIN and shares wherever the box keeps or says something. The
// PIN is known here because the shares give it.
func (b *boxed) noPIN() {
	b.t.Helper()
	var secrets []string
	for _, n := range []string{"1", "2", "3"} {
		secrets = append(secrets, strings.TrimSpace(housetest.Contents(b.t, b.path("shares", "share-"+n+".txt"))))
	}
	for _, s := range append(secrets, pinOf(b.t, b.path("state", "box", "shares.json"), secrets)) {
		for _, r := range []*running{b.serve, b.keyd, b.filterd} {
			if strings.Contains(r.said(), s) {
				b.t.Errorf("%s says a secret", r.cmd.Path)
			}
		}
		for _, dir := range []string{"state", "state-keyd", "root", "run", "token", "screen"} {
			err := filepath.WalkDir(b.path(dir), func(path string, d fs.DirEntry, err error) error {
				if err != nil || !d.Type().IsRegular() {
					return err
				}
				text, err := os.ReadFile(path)
				if bytes.Contains(text, []byte(s)) {
					b.t.Errorf("%s holds a secret", path)
				}
				return err
			})
			if err != nil {
				b.t.Error(err)
			}
		}
	}
}

// backup fetches an archive, and looks for private keys in it.
func (b *boxed) backup() string {
	b.t.Helper()
	path := b.path("backup.age")
	b.must("", "box", "backup", "--dir", b.owner, "--out", path)
	b.write("reader.txt", reader.String()+"\n")
	sealed := []byte(housetest.Contents(b.t, path))
	inside, err := backup.Open(bytes.NewReader(sealed), strings.NewReader(reader.String()))
	if err != nil {
		b.t.Fatal(err)
	}
	var plain bytes.Buffer
	if _, err := plain.ReadFrom(inside); err != nil {
		b.t.Fatal(err)
	}
	if !bytes.Contains(plain.Bytes(), []byte("[domain.\"company1.example\"]")) || !bytes.Contains(plain.Bytes(), []byte("SQLite format 3")) {
		b.t.Error("the backup lacks box.toml or the keyring")
	}
	marks := [][]byte{[]byte("PRIVATE KEY"), []byte("AGE-SECRET-KEY")}
	// And the private objects of the token, and the box's own key, byte for byte:
	// in a file of SoftHSM CKA_PRIVATE (2) is a truth value (1), true.
	private := []byte("\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x01\xff")
	for _, dir := range []string{b.path("token"), b.path("state", "box")} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || strings.HasSuffix(path, ".crt") {
				return err
			}
			text, err := os.ReadFile(path)
			if bytes.Contains(text, private) || filepath.Base(path) == "identity.key" {
				marks = append(marks, text[len(text)/2:len(text)/2+32])
			}
			return err
		})
		if err != nil {
			b.t.Fatal(err)
		}
	}
	if len(marks) < 7 { // two words, four keys, the box's own
		b.t.Fatalf("got %d marks, want those of the token's keys among them", len(marks))
	}
	for _, m := range marks {
		if bytes.Contains(plain.Bytes(), m) {
			b.t.Errorf("the backup holds %q", m)
		}
	}
	if bytes.Contains(sealed, []byte("company1")) {
		b.t.Error("who fetches the backup can read it")
	}
	return path
}

// restoreElsewhere gives the backup to a box that was claimed anew, in the
// place of this one.
func (b *boxed) restoreElsewhere(archive string) {
	b.t.Helper()
	other := blank(b.t)
	other.claim(other.path("box.toml"))
	if out := other.must("", "box", "do", "--dir", other.owner, "--", "identity", "list"); strings.Contains(out, "company1.example") {
		b.t.Fatalf("the other box has an identity already: %q", out)
	}
	_, fingerprint, _ := b.known()
	// Without saying whose it is: not its own.
	if _, complaint, status := other.postern("", "box", "restore", archive, "--dir", other.owner, "--identity", b.path("reader.txt")); status != 1 || !strings.Contains(complaint, "another box") {
		b.t.Errorf("a backup of another box: got %q, status %d, want it refused", complaint, status)
	}
	// box.toml of the archive names places of the first box; those are kept apart here.
	before := housetest.Contents(b.t, b.path("state", "keyring.db"))
	if _, complaint, status := other.postern("", "box", "restore", archive, "--dir", other.owner, "--identity", b.path("reader.txt"), "--from", fingerprint); status != 0 {
		b.t.Fatalf("restore: status %d: %s", status, complaint)
	}
	if got, want := housetest.Contents(b.t, other.path("state", "box.toml")), housetest.Contents(b.t, b.path("state", "box.toml")); got != want {
		b.t.Errorf("got %q, want the box.toml of the archive", got)
	}
	if before == "" {
		b.t.Error("the keyring was empty")
	}
}

// known is what the owner noted of the box.
func (b *boxed) known() (address, fingerprint, name string) {
	b.t.Helper()
	text := b.file("owner", "box.json")
	return b.await(text, `"address": "([^"]+)"`), b.await(text, `"fingerprint": "([^"]+)"`), ""
}

// reset wipes the box: what it was is gone, and it is another one afterwards.
func (b *boxed) reset() {
	b.t.Helper()
	_, before, _ := b.known()
	if _, complaint, status := b.postern("", "box", "reset", "--dir", b.owner, "--yes", "gw"); status != 1 || !strings.Contains(complaint, "nothing was done") {
		b.t.Errorf("another name: got %q, status %d", complaint, status)
	}
	b.must("", "box", "reset", "--dir", b.owner, "--yes", "gw.company1.example")
	if err := <-b.serve.done; err != nil {
		b.t.Errorf("the box ends with %v, want it to end well and begin anew", err)
	}
	b.serve.done <- nil
	left, err := os.ReadDir(b.path("state"))
	if err != nil || len(left) > 0 {
		b.t.Errorf("got %v, %v, want an empty state", left, err)
	}
	b.write("screen", "")
	b.begin()
	if _, after, _ := b.asked(); strings.ReplaceAll(after, " ", "") == strings.TrimPrefix(before, "sha256:") {
		b.t.Error("the box is the same one as before")
	}
	if out, _, status := b.postern("", "box", "status", "--dir", b.owner); status != 1 || strings.Contains(out, "ready") {
		b.t.Errorf("status: got %q, %d, want nothing known", out, status)
	}
}
