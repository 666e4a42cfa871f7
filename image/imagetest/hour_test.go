package imagetest_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postern/appliance/box/backup"
	release "postern/image"
	"postern/image/imagetest"
	"postern/provisioning"
)

// download makes a release of an image, checks it as whoever gets the file does,
// and writes it onto a disk: the page's first lines. The keys of this release are
// in memory only.
func (o *operator) download(t *testing.T, raw string) (disk string) {
	t.Helper()
	const origin = "company1.example/releases"
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, logKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	put := func(name string, b []byte, err error) {
		t.Helper()
		if err == nil {
			err = os.WriteFile(filepath.Join(o.desk, name), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(o.desk, "release-keys"), 0o700); err != nil {
		t.Fatal(err)
	}
	public, err := release.ReleaseKeyFile(key.Public())
	put("release-keys/release.pem", public, err)
	line, err := release.LogKey(origin, logKey.Public())
	put("release-keys/log.vkey", []byte(line+"\n"), err)
	keys, err := release.LoadKeys(filepath.Join(o.desk, "release-keys"))
	if err != nil {
		t.Fatal(err)
	}
	name := strings.TrimSuffix(filepath.Base(raw), ".raw")
	manifest, err := os.ReadFile(strings.TrimSuffix(raw, ".raw") + release.ManifestEnd)
	put(name+release.ManifestEnd, manifest, err)
	sig, err := release.Sign(manifest, key)
	put(name+release.SignatureEnd, sig, err)
	log, err := release.OpenLog(filepath.Join(o.desk, "log"), origin, logKey)
	if err != nil {
		t.Fatal(err)
	}
	proof, err := log.Append(sig, keys)
	put(name+release.ProofEnd, proof, err)
	file := filepath.Join(o.desk, filepath.Base(raw))
	if err := os.Link(raw, file); err != nil {
		imagetest.Copy(t, raw, file)
	}
	version := map[string]string{"VERSION": strings.TrimPrefix(name, "postern_")}
	if out := o.must(t, "postern image verify ", "", version); !strings.Contains(out, "good") {
		t.Errorf("got %q, want the release found good", out)
	}
	// Another file under that name is not taken.
	imagetest.Copy(t, raw, file+".changed").Flip(1 << 20)
	if err := os.Rename(file+".changed", file); err != nil {
		t.Fatal(err)
	}
	if out, err := o.page(t, "postern image verify ", "", version); err == nil {
		t.Errorf("a changed file: got %q, want it refused", out)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(raw, file); err != nil {
		imagetest.Copy(t, raw, file)
	}
	disk = filepath.Join(filepath.Dir(o.desk), "flashed.raw")
	version["/dev/DISK"] = disk
	o.must(t, "dd if=", "", version)
	return disk
}

// oneOperation holds that the key daemon did one thing for a mail that has
// arrived, as its operator reads it on his own machine: it unwrapped its session
// key. It returns the trace id.
func (o *operator) oneOperation(t *testing.T, mail string) (trace string) {
	t.Helper()
	trace = found(t, mail, `(?m)^Postern-Status:(?:.|\n[ \t])*trace=([0-9A-Za-z]+)`)
	with := map[string]string{"TRACE": trace}
	out := ""
	later(t, func() bool { // the record is written behind the mail
		var err error
		out, err = o.page(t, "postern box do -- trace ", "", with)
		return err != nil
	})
	if !strings.Contains(out, "bob@company1.example") || !strings.Contains(out, "openpgp") {
		t.Errorf("trace: got %s, want the mail to bob, opened", out)
	}
	if out := o.must(t, "postern box do -- key log ", "", with); strings.Count(out, trace) != 1 || !strings.Contains(out, "unwrap") {
		t.Errorf("key log: got\n%s\nwant one unwrap for %s", out, trace)
	}
	read := func(args ...string) []provisioning.Operation {
		t.Helper()
		var list struct{ Operations []provisioning.Operation }
		if err := json.Unmarshal([]byte(o.do(t, "", append([]string{"key", "log", "--json"}, args...)...)), &list); err != nil {
			t.Fatal(err)
		}
		return list.Operations
	}
	list := read(trace)
	if len(list) != 1 || list[0].Op != "unwrap" || list[0].Verdict != "ok" || list[0].Trace != trace || list[0].At.Before(time.Now().AddDate(0, 0, -1)) {
		t.Errorf("got key operations %+v for %s, want one unwrap of today that went well", list, trace)
	}
	// It is not that little is noted: making the keys is.
	ops := map[string]int{}
	for _, one := range read() {
		ops[one.Op]++
	}
	if ops["generate"] < 2 || ops["sign"] < 1 {
		t.Errorf("got key operations %v of all, want the making of two keys and a signature among them", ops)
	}
	return trace
}

// everyDay are the page's other lines for a box that works.
func (o *operator) everyDay(t *testing.T, trace string) {
	t.Helper()
	if out := o.must(t, "postern box do -- doctor", "", nil); strings.Contains(out, "broken") {
		t.Errorf("doctor: got\n%s\nwant nothing broken", out)
	}
	o.must(t, "postern box config ", "", nil)
	path := filepath.Join(o.desk, "box.toml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, "\n[partner.\"other.example\"]\nprotect = \"none\"\n"...)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	o.must(t, "postern box configure ", "", nil)
	if got := o.box(t, "", "config", "--dir", o.dir); got != string(text) {
		t.Errorf("got box.toml %q, want the one that was put in force", got)
	}
	o.must(t, "postern box backup ", "", nil)
	o.holds(t, filepath.Join(o.desk, "box.age"), trace)
	o.must(t, "postern box restore box.age --identity reader.txt", "", nil)
}

// holds reads a backup: the configuration is in it, the certificates, and the
// key operation for the mail with a trace.
func (o *operator) holds(t *testing.T, path, trace string) {
	t.Helper()
	sealed, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed, []byte("company1")) {
		t.Error("whoever fetches the backup can read it")
	}
	reader, err := os.Open(filepath.Join(o.desk, "reader.txt"))
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	plain, err := backup.Open(bytes.NewReader(sealed), reader)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if _, err := backup.Read(plain, o.known(t).Fingerprint, root); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"box.toml": "gw.company1.example", "keyring.db": "alice@partner.example", "audit.json": trace} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Contains(b, []byte(want)) {
			t.Errorf("backup: got %d bytes of %s, %v, want %s in it", len(b), name, err, want)
		}
	}
}

// usage is what the box says of its memory and its data partition, in MiB.
func (o *operator) usage(t *testing.T) (st provisioning.BoxStatus) {
	t.Helper()
	if err := json.Unmarshal([]byte(o.box(t, "", "status", "--json", "--dir", o.dir)), &st); err != nil {
		t.Fatal(err)
	}
	return st
}

// nothingLeft looks for texts of mails in the data partition of a box that is
// off: in every byte of the open file system, used or not, and in the journal,
// whose long lines are compressed. What must be there shows that it would be
// found: what the gateway remembers of a mail, and the key daemon's record.
func (l *life) nothingLeft(t *testing.T, home string, o *operator, markers ...string) {
	t.Helper()
	d := imagetest.OpenData(t, home, o.Recovery)
	journal := d.Journal()
	for _, there := range []string{"alice@partner.example", o.Trace} {
		if n := imagetest.Count(t, d.Plain, there); n == 0 {
			t.Errorf("%s is nowhere on the data partition, and must be", there)
		}
		if n := imagetest.Count(t, d.Sealed, there); n != 0 {
			t.Errorf("%s stands %d times on the disk, in clear", there, n)
		}
	}
	if !strings.Contains(journal, o.Trace) {
		t.Errorf("%s is not in the journal, and must be", o.Trace)
	}
	for _, m := range markers {
		if n := imagetest.Count(t, d.Plain, m); n != 0 {
			t.Errorf("%s, which is of a mail, stands %d times on the data partition", m, n)
		}
		if strings.Contains(journal, m) {
			t.Errorf("%s, which is of a mail, is in the journal", m)
		}
	}
}

// figures measures what the image costs, and holds it to what is promised.
func (l *life) figures(t *testing.T, raw string) {
	t.Helper()
	const mib = 1 << 20
	packed := filepath.Join(t.TempDir(), "image.zst")
	if out, err := ask("", "zstd", "-q", "-T2", "-o", packed, raw); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	sizes := map[string]int64{}
	for name, path := range map[string]string{"compressed": packed, "root": strings.TrimSuffix(raw, ".raw") + ".root.raw", "hash tree": strings.TrimSuffix(raw, ".raw") + ".verity.raw"} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		sizes[name] = info.Size()
	}
	l.figure("image, zstd", sizes["compressed"]/mib, 200, "MiB")
	l.figure("a slot: root and hash tree", (sizes["root"]+sizes["hash tree"])/mib, 1024, "MiB")
}

// figure notes one, which is not to be more than a bar.
func (l *life) figure(name string, got, bar int64, unit string) {
	l.measured = append(l.measured, fmt.Sprintf("%-50s %8d  %s (bar %d)", name, got, unit, bar))
	if got > bar {
		l.Errorf("%s: got %d %s, want %d at most", name, got, unit, bar)
	}
}
