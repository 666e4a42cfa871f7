package backup

import (
	"archive/tar"
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"filippo.io/age"

	"postern/hsm/certtest"
)

var content = fstest.MapFS{
	"box.toml":           {Data: []byte("[box]\nname = \"gw\"\n")},
	"keyring.db":         {Data: bytes.Repeat([]byte("public "), 20000)},
	"record/record.db":   {Data: []byte{}},
	"tls/mx.example.pem": {Data: []byte("-----BEGIN CERTIFICATE-----\n")},
}

// key is a box's, with its pin.
func key(t testing.TB) (crypto.Signer, string) {
	t.Helper()
	k := certtest.Key(t)
	der, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	return k, fmt.Sprintf("sha256:%x", sha256.Sum256(der))
}

func reader(t testing.TB) *age.X25519Identity {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func archive(t testing.TB, from fs.FS, k crypto.Signer, to ...*age.X25519Identity) []byte {
	t.Helper()
	var b bytes.Buffer
	var names []string
	for _, id := range to {
		names = append(names, id.Recipient().String())
	}
	if err := Write(&b, names, from, Manifest{Box: "gw", Made: time.Unix(1, 0).UTC(), Program: "1"}, k); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// restore reads an archive into a fresh folder.
func restore(t testing.TB, sealed []byte, id *age.X25519Identity, pin string) (string, *Manifest, error) {
	t.Helper()
	inside, err := Open(bytes.NewReader(sealed), strings.NewReader(id.String()))
	if err != nil {
		return "", nil, err
	}
	return unpack(t, inside, pin)
}

func unpack(t testing.TB, inside io.Reader, pin string) (string, *Manifest, error) {
	t.Helper()
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	m, err := Read(inside, pin, root)
	return dir, m, err
}

func TestRoundTrip(t *testing.T) {
	k, pin := key(t)
	one, two := reader(t), reader(t)
	sealed := archive(t, content, k, one, two)
	for _, name := range []string{"box.toml", "public public", "CERTIFICATE"} {
		if bytes.Contains(sealed, []byte(name)) {
			t.Errorf("the archive shows %q to everybody", name)
		}
	}
	for _, id := range []*age.X25519Identity{one, two} {
		dir, m, err := restore(t, sealed, id, pin)
		if err != nil {
			t.Fatal(err)
		}
		if m.Box != "gw" || len(m.Files) != len(content) {
			t.Errorf("got %+v, want the manifest of gw with %d files", m, len(content))
		}
		for name, want := range content {
			got, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil || !bytes.Equal(got, want.Data) {
				t.Errorf("%s: got %d bytes, %v, want %d", name, len(got), err, len(want.Data))
			}
		}
	}
	if _, _, err := restore(t, sealed, reader(t), pin); !errors.Is(err, ErrNobody) {
		t.Errorf("another identity: got %v, want %v", err, ErrNobody)
	}
	_, other := key(t)
	if _, _, err := restore(t, sealed, one, other); !errors.Is(err, ErrOrigin) {
		t.Errorf("another box: got %v, want %v", err, ErrOrigin)
	}
}

// Every byte counts, and so does the end.
func TestBrokenArchives(t *testing.T) {
	k, pin := key(t)
	id := reader(t)
	sealed := archive(t, fstest.MapFS{"box.toml": content["box.toml"]}, k, id)
	step := max(1, len(sealed)/300)
	for i := 0; i < len(sealed); i += step {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		if _, _, err := restore(t, bad, id, pin); err == nil {
			t.Errorf("byte %d changed: got no error", i)
		}
		if _, _, err := restore(t, sealed[:i], id, pin); err == nil {
			t.Errorf("cut at %d: got no error", i)
		}
	}
}

// A file that looks like a private key is not let out, wherever the marker falls.
func TestNoPrivateKeys(t *testing.T) {
	k, _ := key(t)
	for _, m := range Markers {
		for _, at := range []int{0, 1, 32<<10 - 19, 64<<10 - 15} { // also across the pieces that are read
			from := fstest.MapFS{"a": {Data: append(bytes.Repeat([]byte{'x'}, at), []byte("-----BEGIN EC "+m)...)}}
			var b bytes.Buffer
			err := Write(&b, []string{reader(t).Recipient().String()}, from, Manifest{}, k)
			if !errors.Is(err, ErrSecret) || b.Len() > 0 {
				t.Errorf("%q at %d: got %v and %d bytes, want %v and none", m, at, err, b.Len(), ErrSecret)
			}
		}
	}
}

func TestRefusedFolders(t *testing.T) {
	k, _ := key(t)
	for name, from := range map[string]fs.FS{
		"a link":     fstest.MapFS{"a": {Mode: fs.ModeSymlink, Data: []byte("/etc/shadow")}},
		"a device":   fstest.MapFS{"a": {Mode: fs.ModeDevice}},
		"a deep one": fstest.MapFS{"a/b/c/d/e/f/g": {}},
		"a space":    fstest.MapFS{"a b": {}},
		"its own":    fstest.MapFS{"manifest.json": {}},
	} {
		if err := Write(io.Discard, []string{reader(t).Recipient().String()}, from, Manifest{}, k); !errors.Is(err, ErrForm) {
			t.Errorf("%s: got %v, want %v", name, err, ErrForm)
		}
	}
	if err := Write(io.Discard, []string{"age1nonsense"}, content, Manifest{}, k); err == nil {
		t.Error("a recipient that is none: got no error")
	}
}

// entry is one of a crafted archive.
type entry struct {
	tar.Header
	data []byte
}

func plain(name string, data []byte) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, Size: int64(len(data))}, data}
}

// craft is the inside of an archive whose signature holds, whatever it says.
func craft(t testing.TB, k crypto.Signer, change func(m *Manifest), entries ...entry) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	m := Manifest{Version: 1, Box: "gw", Key: der}
	for _, e := range entries {
		m.Files = append(m.Files, File{e.Name, int64(len(e.data)), fmt.Sprintf("%x", sha256.Sum256(e.data))})
	}
	if change != nil {
		change(&m)
	}
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := k.Sign(rand.Reader, digest(text), crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range append([]entry{plain(manifestName, text), plain(signatureName, sig)}, entries...) {
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		w.Write(e.data)
	}
	w.Close()
	return b.Bytes()
}

// Even who has the box's key gets nothing written outside of the folder, and
// nothing but plain files.
func TestHostileArchives(t *testing.T) {
	k, pin := key(t)
	outside := filepath.Join(t.TempDir(), "outside")
	link := entry{tar.Header{Typeflag: tar.TypeSymlink, Name: "a", Linkname: filepath.Dir(outside)}, nil}
	for name, c := range map[string]struct {
		inside []byte
		want   error
	}{
		"sound":              {craft(t, k, nil, plain("a", []byte("1")), plain("b/c", []byte("2"))), nil},
		"up":                 {craft(t, k, nil, plain("../outside", []byte("1"))), ErrForm},
		"up from below":      {craft(t, k, nil, plain("a/../../outside", []byte("1"))), ErrForm},
		"absolute":           {craft(t, k, nil, plain(outside, []byte("1"))), ErrForm},
		"a link":             {craft(t, k, nil, link), ErrForm},
		"through a link":     {craft(t, k, nil, link, plain("a/outside", []byte("1"))), ErrForm},
		"a hard link":        {craft(t, k, nil, entry{tar.Header{Typeflag: tar.TypeLink, Name: "a", Linkname: "/etc/passwd"}, nil}), ErrForm},
		"a device":           {craft(t, k, nil, entry{tar.Header{Typeflag: tar.TypeChar, Name: "a", Devmajor: 1, Devminor: 5}, nil}), ErrForm},
		"a fifo":             {craft(t, k, nil, entry{tar.Header{Typeflag: tar.TypeFifo, Name: "a"}, nil}), ErrForm},
		"a folder":           {craft(t, k, nil, entry{tar.Header{Typeflag: tar.TypeDir, Name: "a/"}, nil}), ErrForm},
		"twice":              {craft(t, k, nil, plain("a", []byte("1")), plain("a", []byte("2"))), ErrForm},
		"out of order":       {craft(t, k, nil, plain("b", []byte("1")), plain("a", []byte("2"))), ErrForm},
		"a folder of a file": {craft(t, k, nil, plain("a", []byte("1")), plain("a/b", []byte("2"))), fs.ErrInvalid},
		"one too many":       {craft(t, k, func(m *Manifest) { m.Files = m.Files[:1] }, plain("a", []byte("1")), plain("b", []byte("2"))), ErrForm},
		"one too few":        {craft(t, k, func(m *Manifest) { m.Files = append(m.Files, File{"z", 1, ""}) }, plain("a", []byte("1"))), ErrForm},
		"another size":       {craft(t, k, func(m *Manifest) { m.Files[0].Size = 2 }, plain("a", []byte("1"))), ErrForm},
		"another digest":     {craft(t, k, func(m *Manifest) { m.Files[0].SHA256 = strings.Repeat("0", 64) }, plain("a", []byte("1"))), ErrForm},
		"huge":               {craft(t, k, func(m *Manifest) { m.Files[0].Size = MaxTotal + 1 }, plain("a", []byte("1"))), ErrForm},
		"huge together":      {craft(t, k, func(m *Manifest) { m.Files[0].Size, m.Files[1].Size = 1<<62, 1<<62 }, plain("a", []byte("1")), plain("b", []byte("1"))), ErrForm},
		"negative":           {craft(t, k, func(m *Manifest) { m.Files[0].Size = -1 }, plain("a", []byte("1"))), ErrForm},
		"newer":              {craft(t, k, func(m *Manifest) { m.Version = 2 }), ErrVersion},
		"many":               {craft(t, k, func(m *Manifest) { m.Files = make([]File, MaxFiles+1) }), ErrForm},
		"nothing":            {nil, ErrForm},
		"garbage":            {bytes.Repeat([]byte("garbage"), 1000), ErrForm},
	} {
		dir, _, err := unpack(t, bytes.NewReader(c.inside), pin)
		switch {
		case c.want == nil && err != nil, c.want == ErrForm && !errors.Is(err, ErrForm), c.want != nil && err == nil, c.want == ErrVersion && !errors.Is(err, ErrVersion):
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
		if _, err := os.Lstat(outside); err == nil {
			t.Fatalf("%s: wrote outside of the folder", name)
		}
		filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() && !d.Type().IsRegular() {
				t.Errorf("%s: made %s (%v)", name, path, err)
			}
			return nil
		})
	}
	// A signature of another key, or of another manifest.
	good := craft(t, k, nil, plain("a", []byte("1")))
	other, _ := key(t)
	bad := craft(t, other, func(m *Manifest) { m.Key, _ = x509.MarshalPKIXPublicKey(k.Public()) }, plain("a", []byte("1")))
	if _, _, err := unpack(t, bytes.NewReader(bad), pin); !errors.Is(err, ErrOrigin) {
		t.Errorf("signed by another key: got %v, want %v", err, ErrOrigin)
	}
	if _, _, err := unpack(t, bytes.NewReader(bytes.Replace(good, []byte(`"gw"`), []byte(`"wg"`), 1)), pin); !errors.Is(err, ErrOrigin) {
		t.Errorf("another manifest: got %v, want %v", err, ErrOrigin)
	}
}

// Whatever comes, reading ends, and writes inside of the folder only.
func FuzzRead(f *testing.F) {
	k, pin := key(f)
	f.Add(craft(f, k, nil, plain("a", []byte("1")), plain("b/c", []byte("2"))))
	f.Add(craft(f, k, func(m *Manifest) { m.Files[0].Size = 2 }, plain("a", []byte("1"))))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := func() (*Manifest, error) { _, m, err := unpack(t, bytes.NewReader(b), pin); return m, err }()
		if (m == nil) == (err == nil) {
			t.Errorf("got %v and %v, want one of them", m, err)
		}
	})
}
