package image

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"postern/hsm/certtest"
)

// house is who releases: two keys, a folder of those to trust, a log.
type house struct {
	release, log crypto.Signer
	keys         *Keys
	dir          string
}

const origin = "company1.example/releases"

func newHouse(t testing.TB) *house {
	t.Helper()
	r, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return houseOf(t, r)
}

func houseOf(t testing.TB, release crypto.Signer) *house {
	t.Helper()
	_, l, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	h := &house{release: release, log: l, dir: t.TempDir()}
	pem, err := ReleaseKeyFile(release.Public())
	if err != nil {
		t.Fatal(err)
	}
	vkey, err := LogKey(origin, l.Public())
	if err != nil {
		t.Fatal(err)
	}
	trusted := t.TempDir()
	put(t, filepath.Join(trusted, "release.pem"), pem)
	put(t, filepath.Join(trusted, "log.vkey"), []byte(vkey+"\n"))
	if h.keys, err = LoadKeys(trusted); err != nil {
		t.Fatal(err)
	}
	return h
}

func put(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// build makes the files of a version, and its manifest.
func (h *house) build(t testing.TB, v, from string) []byte {
	t.Helper()
	for _, end := range []string{".raw", ".root.raw", ".verity.raw", ".efi", ".cdx.json"} {
		put(t, filepath.Join(h.dir, Name(Version(v))+end), []byte(v+strings.Repeat(end, 1000)))
	}
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	w.Write([]byte(v + strings.Repeat(".root.raw", 1000)))
	w.Close()
	put(t, filepath.Join(h.dir, Name(Version(v))+".root.raw.gz"), z.Bytes())
	m := Manifest{Format: 1, Product: Product, Version: Version(v), From: Version(from), Profile: "release", Time: "2026-11-25T10:00:00Z",
		Commit: strings.Repeat("0123456789", 4), RootHash: strings.Repeat("0123456789abcdef", 4),
		Tools: []Tool{{"go", "go1.26.8"}, {"mkosi", "25.3"}}, Packages: []Package{{"postfix", "3.10.4-1+b1", "amd64", strings.Repeat("ab", 32)}}}
	var err error
	if m.Artifacts, err = Artifacts(t.Context(), h.dir, m.Version); err != nil {
		t.Fatal(err)
	}
	b, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// publish builds, signs and logs a version.
func (h *house) publish(t testing.TB, v, from string) Files {
	t.Helper()
	f := Files{Manifest: h.build(t, v, from)}
	var err error
	if f.Signature, err = Sign(f.Manifest, h.release); err != nil {
		t.Fatal(err)
	}
	l, err := OpenLog(filepath.Join(h.dir, "log"), origin, h.log)
	if err != nil {
		t.Fatal(err)
	}
	if f.Proof, err = l.Append(f.Signature, h.keys); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(h.dir, Name(Version(v)))
	put(t, name+ManifestEnd, f.Manifest)
	put(t, name+SignatureEnd, f.Signature)
	put(t, name+ProofEnd, f.Proof)
	return f
}

func (h *house) judge() Judge {
	return Judge{Keys: h.keys, Log: LogFolder(filepath.Join(h.dir, "log"))}
}

func TestVersions(t *testing.T) {
	order := []string{"", "0", "0.1.9", "0.1.10", "1", "1.2", "1.2.0", "1.10", "2", "10.0.0.1"}
	for i, a := range order {
		for j, b := range order {
			want := 0
			if i < j {
				want = -1
			} else if i > j {
				want = 1
			}
			if got := Version(a).Compare(Version(b)); got != want {
				t.Errorf("%q to %q: got %d, want %d", a, b, got, want)
			}
		}
	}
	for _, s := range []string{"", "01", "1.", ".1", "1..2", "a", "1.2.3.4.5", "-1", "+1", "1 ", "1234567890", "１"} {
		if v, err := ParseVersion(s); err == nil {
			t.Errorf("%q: got %q, want an error", s, v)
		}
	}
}

// A release that is as it was made is believed, with a key of either kind, and
// all of its files are found.
func TestReleaseIsBelieved(t *testing.T) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, h := range map[string]*house{"p-384": newHouse(t), "ed25519": houseOf(t, ed)} {
		h.publish(t, "1", "0")
		h.publish(t, "2", "1")
		f, err := ReadFiles(filepath.Join(h.dir, "postern_2.raw"))
		if err != nil {
			t.Fatal(err)
		}
		r, err := h.judge().Believe(f)
		if err != nil || r.Version != "2" || r.Index != 1 {
			t.Fatalf("%s: got %s at %d, %v, want 2 at 1", name, r.Version, r.Index, err)
		}
		list, err := r.Folder(t.Context(), h.dir, "", true)
		if err != nil || len(list) != 6 {
			t.Errorf("%s: got %d files, %v, want 6", name, len(list), err)
		}
		root, verity := r.Partitions()
		if root != "01234567-89ab-cdef-0123-456789abcdef" || verity != root {
			t.Errorf("got partitions %s, %s", root, verity)
		}
	}
}

// openssl, which shares no code with us, says the same of a signature.
func TestSignatureByOpenSSL(t *testing.T) {
	h := newHouse(t)
	f := h.publish(t, "7", "0")
	at := bytes.LastIndex(f.Signature, []byte("signature "))
	pem, err := ReleaseKeyFile(h.release.Public())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	put(t, filepath.Join(dir, "key.pem"), pem)
	put(t, filepath.Join(dir, "text"), f.Signature[:at])
	script := `tail -n1 sig | cut -d' ' -f2 | base64 -d > raw && openssl dgst -sha384 -verify key.pem -signature raw text`
	put(t, filepath.Join(dir, "sig"), f.Signature)
	for _, c := range []struct {
		text string
		good bool
	}{{string(f.Signature[:at]), true}, {strings.Replace(string(f.Signature[:at]), "version 7", "version 8", 1), false}} {
		put(t, filepath.Join(dir, "text"), []byte(c.text))
		cmd := exec.Command("sh", "-c", script)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if (err == nil) != c.good || c.good != strings.Contains(string(out), "Verified OK") {
			t.Errorf("%q: got %v %s, want good %v", c.text, err, out, c.good)
		}
	}
}

// Every byte of the three files matters: whichever is changed, the release is
// not believed, and by the line of the file that was changed.
func TestEveryByteOfTheFilesMatters(t *testing.T) {
	h := newHouse(t)
	h.publish(t, "1", "0")
	f := h.publish(t, "2", "0")
	for _, c := range []struct {
		name string
		of   func(*Files) *[]byte
		want []error
	}{
		{"manifest", func(f *Files) *[]byte { return &f.Manifest }, []error{ErrManifest}},
		{"signature", func(f *Files) *[]byte { return &f.Signature }, []error{ErrSignature, ErrKey}},
		{"proof", func(f *Files) *[]byte { return &f.Proof }, []error{ErrProof, ErrLog}},
	} {
		whole := *c.of(&f)
		for i := range whole {
			bent := f
			b := bytes.Clone(whole)
			b[i] ^= 1
			*c.of(&bent) = b
			_, err := h.judge().Believe(bent)
			if !among(err, c.want) {
				t.Fatalf("%s, byte %d: got %v, want one of %v", c.name, i, err, c.want)
			}
		}
		for _, b := range [][]byte{nil, whole[:len(whole)-1], append(bytes.Clone(whole), '\n'), append(bytes.Clone(whole), whole...)} {
			bent := f
			*c.of(&bent) = b
			if _, err := h.judge().Believe(bent); !among(err, c.want) {
				t.Errorf("%s of %d bytes: got %v, want one of %v", c.name, len(b), err, c.want)
			}
		}
	}
}

func among(err error, list []error) bool {
	for _, e := range list {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// A byte of an artifact that is changed is named by the artifact's own line.
func TestEveryArtifactHasItsLine(t *testing.T) {
	h := newHouse(t)
	f := h.publish(t, "3", "0")
	r, err := h.judge().Believe(f)
	if err != nil {
		t.Fatal(err)
	}
	for end, want := range map[string]error{".raw": ErrDisk, ".root.raw": ErrRoot, ".verity.raw": ErrVerity, ".efi": ErrKernel, ".cdx.json": ErrOther, ".root.raw.gz": ErrRoot} {
		path := filepath.Join(h.dir, "postern_3"+end)
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		flipped := bytes.Clone(good)
		flipped[len(good)/2] ^= 0x10
		for what, b := range map[string][]byte{"flipped": flipped, "longer": append(bytes.Clone(good), 0), "shorter": good[:len(good)-1]} {
			put(t, path, b)
			if _, err := r.Folder(t.Context(), h.dir, "", true); !errors.Is(err, want) {
				t.Errorf("%s %s: got %v, want %v", end, what, err, want)
			}
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Folder(t.Context(), h.dir, "", true); !errors.Is(err, ErrAbsent) {
			t.Errorf("%s away: got %v, want %v", end, err, ErrAbsent)
		}
		if _, err := r.Folder(t.Context(), h.dir, "postern_3"+end, false); !errors.Is(err, ErrAbsent) {
			t.Errorf("%s away, and asked for: got %v, want %v", end, err, ErrAbsent)
		}
		put(t, path, good)
	}
	if _, err := r.Folder(t.Context(), h.dir, "postern_3.iso", false); !errors.Is(err, ErrUnnamed) {
		t.Errorf("a file that the manifest has not: got %v, want %v", err, ErrUnnamed)
	}
}

// What is packed comes out as it went in, and nothing else does.
func TestUnpack(t *testing.T) {
	h := newHouse(t)
	f := h.publish(t, "3", "0")
	m, err := Decode(f.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	root, _ := m.Artifact(Root)
	packed, err := os.ReadFile(filepath.Join(h.dir, root.Packed.Name))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := root.Unpack(t.Context(), bytes.NewReader(packed), &out); err != nil || out.String() != "3"+strings.Repeat(".root.raw", 1000) {
		t.Fatalf("got %d bytes, %v", out.Len(), err)
	}
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	io.CopyN(z, zero{}, 64<<20)
	z.Close()
	for name, b := range map[string][]byte{"bomb": bomb.Bytes(), "no gzip": []byte("hello"), "none": nil, "cut off": packed[:len(packed)/2], "followed": append(bytes.Clone(packed), packed...), "garbage behind": append(bytes.Clone(packed), 1, 2, 3)} {
		out.Reset()
		if err := root.Unpack(t.Context(), bytes.NewReader(b), &out); !errors.Is(err, ErrRoot) {
			t.Errorf("%s: got %v, want %v", name, err, ErrRoot)
		}
		if out.Len() > int(root.Size)+1 {
			t.Errorf("%s: got %d bytes out of it, want at most %d", name, out.Len(), root.Size+1)
		}
	}
	// As the manifest has it, but another file comes out.
	other := root
	other.SHA256 = strings.Repeat("0", 64)
	if err := other.Unpack(t.Context(), bytes.NewReader(packed), io.Discard); !errors.Is(err, ErrRoot) {
		t.Errorf("another file comes out: got %v, want %v", err, ErrRoot)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := root.Unpack(ctx, bytes.NewReader(packed), io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("ended: got %v, want %v", err, context.Canceled)
	}
}

type zero struct{}

func (zero) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// A manifest has one spelling.
func TestManifestHasOneForm(t *testing.T) {
	h := newHouse(t)
	good := string(h.build(t, "4", "2"))
	if _, err := Decode([]byte(good)); err != nil {
		t.Fatal(err)
	}
	swap := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("the manifest has no %s", old)
		}
		return strings.Replace(good, old, new, 1)
	}
	for name, text := range map[string]string{
		"empty":               "",
		"no JSON":             "hello",
		"trailing":            good + "{}",
		"trailing blank":      good + " ",
		"unknown field":       swap(` "format": 1,`, ` "format": 1,`+"\n"+` "more": 1,`),
		"field twice":         swap(` "version": "4",`, ` "version": "4",`+"\n"+` "version": "4",`),
		"case":                swap(`"version"`, `"Version"`),
		"escaped":             swap(`"postern"`, `"p\u006fstern"`),
		"blank":               swap(` "format": 1,`, `  "format": 1,`),
		"other order":         swap(" \"format\": 1,\n \"product\": \"postern\",", " \"product\": \"postern\",\n \"format\": 1,"),
		"format 2":            swap(`"format": 1`, `"format": 2`),
		"null":                swap(`"tools": [`, `"tools": null, "x": [`),
		"path as a name":      swap(`postern_4.efi`, `../postern_4.efi`),
		"other version":       swap(`postern_4.efi`, `postern_5.efi`),
		"same name":           swap(`postern_4.efi`, `postern_4.cdx.json`),
		"no size":             swap(`"kind": "kernel",`+"\n"+`   "size": 4001`, `"kind": "kernel",`+"\n"+`   "size": 0`),
		"no kind":             swap(`"kind": "kernel"`, `"kind": "colonel"`),
		"a second root":       swap(`"kind": "kernel"`, `"kind": "root"`),
		"no kernel":           swap(`"kind": "kernel"`, `"kind": "contents"`),
		"follows a later one": swap(`"from": "2"`, `"from": "5"`),
		"local time":          swap(`10:00:00Z`, `10:00:00+01:00`),
		"short root hash":     swap(`"roothash": "0`, `"roothash": "`),
		"no commit":           swap(`"commit": "0123`, `"commit": "HEAD`),
		"long":                strings.Repeat(" ", maxManifest+1),
		"deep":                strings.Repeat("[", 100000),
	} {
		if _, err := Decode([]byte(text)); !errors.Is(err, ErrForm) {
			t.Errorf("%s: got %v, want %v", name, err, ErrForm)
		}
	}
}

// An update never goes back, nor where it cannot come from.
func TestWhatMayFollow(t *testing.T) {
	h := newHouse(t)
	for _, c := range []struct {
		version, from  string
		running, floor Version
		want           error
	}{
		{"5", "0", "", "", nil},
		{"5", "0", "4", "4", nil},
		{"5", "4", "4", "", nil},
		{"5", "0", "5", "5", nil}, // again: what was not blessed is put there anew
		{"5", "0", "6", "", ErrDowngrade},
		{"5", "0", "4", "6", ErrDowngrade}, // 6 was here, and fell back or was taken back
		{"5", "0", "", "5.0", ErrDowngrade},
		{"5", "4", "3", "3", ErrFrom},
	} {
		f := Files{Manifest: h.build(t, c.version, c.from)}
		var err error
		if f.Signature, err = Sign(f.Manifest, h.release); err != nil {
			t.Fatal(err)
		}
		l, err := OpenLog(t.TempDir(), origin, h.log)
		if err != nil {
			t.Fatal(err)
		}
		if f.Proof, err = l.Append(f.Signature, h.keys); err != nil {
			t.Fatal(err)
		}
		j := h.judge()
		j.Running, j.Floor = c.running, c.floor
		if _, err := j.Believe(f); !errors.Is(err, c.want) {
			t.Errorf("%s from %s on %q with floor %q: got %v, want %v", c.version, c.from, c.running, c.floor, err, c.want)
		}
	}
}

// A key that is not trusted signs nothing, and a folder that trusts nobody is an
// error rather than a folder that trusts everybody.
func TestKeys(t *testing.T) {
	h, other := newHouse(t), newHouse(t)
	f := h.publish(t, "1", "0")
	j := h.judge()
	j.Keys = other.keys
	if _, err := j.Believe(f); !errors.Is(err, ErrKey) {
		t.Errorf("strange key: got %v, want %v", err, ErrKey)
	}
	j.Keys = &Keys{release: h.keys.release, logs: other.keys.logs}
	if _, err := j.Believe(f); !errors.Is(err, ErrLog) {
		t.Errorf("strange log: got %v, want %v", err, ErrLog)
	}
	pem, err := ReleaseKeyFile(h.release.Public())
	if err != nil {
		t.Fatal(err)
	}
	vkey, err := LogKey(origin, h.log.Public())
	if err != nil {
		t.Fatal(err)
	}
	p256 := certtest.Key(t)
	if _, err := ReleaseKeyFile(p256.Public()); err == nil {
		t.Error("p-256: got no error for a release key")
	}
	if _, err := Sign(h.build(t, "1", "0"), p256); err == nil {
		t.Error("p-256: got a signature")
	}
	if _, err := LogKey(origin, h.release.Public()); err == nil {
		t.Error("p-384: got no error for the key of a log")
	}
	for name, files := range map[string]map[string]string{
		"empty":     {},
		"no log":    {"a.pem": string(pem)},
		"no key":    {"a.vkey": vkey},
		"bad pem":   {"a.pem": "hello", "a.vkey": vkey},
		"two in it": {"a.pem": string(pem) + string(pem), "a.vkey": vkey},
		"bad vkey":  {"a.pem": string(pem), "a.vkey": vkey + "A"},
	} {
		dir := t.TempDir()
		for name, text := range files {
			put(t, filepath.Join(dir, name), []byte(text))
		}
		if _, err := LoadKeys(dir); !errors.Is(err, ErrKeys) {
			t.Errorf("%s: got %v, want %v", name, err, ErrKeys)
		}
	}
	if _, err := LoadKeys(filepath.Join(t.TempDir(), "away")); !errors.Is(err, ErrKeys) {
		t.Errorf("no folder: got %v, want %v", err, ErrKeys)
	}
}

// lying is a token that signs something else.
type lying struct{ crypto.Signer }

func (l lying) Sign(r io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	b := bytes.Clone(digest)
	b[0] ^= 1
	return l.Signer.Sign(r, b, o)
}

func TestSignaturesOfTheTokenAreChecked(t *testing.T) {
	h := newHouse(t)
	m := h.build(t, "1", "0")
	if _, err := Sign(m, lying{h.release}); !errors.Is(err, ErrSignature) {
		t.Errorf("release: got %v, want %v", err, ErrSignature)
	}
	sig, err := Sign(m, h.release)
	if err != nil {
		t.Fatal(err)
	}
	l, err := OpenLog(t.TempDir(), origin, lying{h.log})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(sig, h.keys); !errors.Is(err, ErrLog) {
		t.Errorf("log: got %v, want %v", err, ErrLog)
	}
	if _, err := os.Stat(filepath.Join(l.dir, "checkpoint")); err == nil {
		t.Error("a checkpoint with a wrong signature was published")
	}
}

// Every fault has words of its own, and says what to do.
func TestFaultsAreTold(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range []*Fault{ErrForm, ErrManifest, ErrSignature, ErrKey, ErrKeys, ErrRoot, ErrVerity, ErrKernel, ErrDisk, ErrOther, ErrUnnamed, ErrAbsent,
		ErrDowngrade, ErrFrom, ErrProof, ErrLog, ErrFork, ErrUnknown, ErrLogFile} {
		if f.Hint() == "" || seen[f.Error()] {
			t.Errorf("%q: got hint %q, want words of its own and a hint", f, f.Hint())
		}
		seen[f.Error()] = true
	}
	for k, f := range faults {
		if f == nil {
			t.Errorf("kind %s has no fault", fmt.Sprint(k))
		}
	}
}
