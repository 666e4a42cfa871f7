// Package backup is the archive of a box: everything but private keys, for those
// alone whom box.toml names.
//
// Outside it is an age file for their recipients, so that whoever fetches it
// reads nothing of it and changes nothing in it. age says nothing about who made
// it: inside stands a manifest with the digest of every file, signed by the
// box's own key. The inside is a tar of plain files: manifest, signature, and the
// files in the order of the manifest.
//
// An archive that is read back is hostile until its signature holds, and bounded
// after that as well: no name leaves the folder, nothing but plain files is made,
// and no more is read than the manifest says.
package backup

import (
	"archive/tar"
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"filippo.io/age"
)

// What can be wrong with an archive.
var (
	ErrForm    = errors.New("no backup of this kind, or a broken one")
	ErrVersion = errors.New("a backup of a newer version")
	ErrOrigin  = errors.New("a backup of another box")
	ErrSecret  = errors.New("holds a private key")
	ErrNobody  = errors.New("for none of these keys")
)

// Bounds of an archive.
const (
	MaxFiles    = 16_384  // of which 10,000 may be keys outside the token
	MaxTotal    = 8 << 30 // bytes of all files
	maxManifest = 4 << 20
	maxName     = 255
	maxDepth    = 6
	version     = 1
)

// Names of the first two entries.
const (
	manifestName  = "manifest.json"
	signatureName = "manifest.sig"
)

// File is a line of the manifest.
type File struct {
	Name   string `json:"name"` // with slashes, below the folder
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Manifest says what is in an archive, and whose it is.
type Manifest struct {
	Version int       `json:"version"`
	Box     string    `json:"box"`
	Made    time.Time `json:"made"`
	Program string    `json:"program"` // its version
	Key     []byte    `json:"key"`     // SubjectPublicKeyInfo of the box
	Files   []File    `json:"files"`
}

// Write archives the folder from, every plain file of it, for the recipients
// to. The manifest is signed by key; its Files and Key are filled in.
func Write(w io.Writer, to []string, from fs.FS, m Manifest, key crypto.Signer) error {
	var list []age.Recipient
	for _, r := range to {
		one, err := age.ParseRecipients(strings.NewReader(r))
		if err != nil {
			return fmt.Errorf("write backup: recipient %.80q: %w", r, err)
		}
		list = append(list, one...)
	}
	m.Version = version
	var err error
	if m.Key, err = x509.MarshalPKIXPublicKey(key.Public()); err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	if m.Files, err = survey(from); err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	text, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	sig, err := key.Sign(rand.Reader, digest(text), crypto.SHA256)
	if err != nil {
		return fmt.Errorf("sign backup: %w", err)
	}
	out, err := age.Encrypt(w, list...)
	if err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	t := tar.NewWriter(out)
	err = errors.Join(put(t, manifestName, int64(len(text)), bytes.NewReader(text)), put(t, signatureName, int64(len(sig)), bytes.NewReader(sig)))
	for _, f := range m.Files {
		if err == nil {
			err = copyFile(t, from, f)
		}
	}
	if err != nil {
		return fmt.Errorf("write backup: %w", err) // without its end nobody opens it
	}
	if err := errors.Join(t.Close(), out.Close()); err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	return nil
}

// digest is what is signed.
func digest(manifest []byte) []byte {
	h := sha256.New()
	io.WriteString(h, "postern backup 1\x00")
	h.Write(manifest)
	return h.Sum(nil)
}

// survey lists the files, in the order of their names, and refuses private keys.
func survey(from fs.FS) (list []File, err error) {
	err = fs.WalkDir(from, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if !d.Type().IsRegular() || !sound(name) || len(list) == MaxFiles {
			return fmt.Errorf("%s: %w", name, ErrForm)
		}
		f, err := from.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		h, look := sha256.New(), &finder{}
		n, err := io.Copy(io.MultiWriter(h, look), f)
		if err != nil {
			return err
		}
		if look.found != "" {
			return fmt.Errorf("%s: %w (%s)", name, ErrSecret, look.found)
		}
		list = append(list, File{name, n, hex.EncodeToString(h.Sum(nil))})
		return nil
	})
	return list, err
}

// sound reports whether a name may stand in an archive.
func sound(name string) bool {
	return fs.ValidPath(name) && name != "." && len(name) <= maxName && strings.Count(name, "/") < maxDepth &&
		name != manifestName && name != signatureName && !strings.ContainsFunc(name, func(r rune) bool { return r < 0x21 || r > 0x7e || r == '\\' })
}

func put(t *tar.Writer, name string, size int64, r io.Reader) error {
	if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o600, Format: tar.FormatPAX}); err != nil {
		return err
	}
	_, err := io.Copy(t, r)
	return err
}

// copyFile writes what the manifest says; a file that changed meanwhile breaks
// the archive off.
func copyFile(t *tar.Writer, from fs.FS, f File) error {
	r, err := from.Open(f.Name)
	if err != nil {
		return err
	}
	defer r.Close()
	h := sha256.New()
	if err := put(t, f.Name, f.Size, io.TeeReader(r, h)); err != nil {
		return fmt.Errorf("%s: %w", f.Name, err)
	}
	if hex.EncodeToString(h.Sum(nil)) != f.SHA256 {
		return fmt.Errorf("%s: changed while it was read", f.Name)
	}
	return nil
}

// Open is the inside of an archive for whoever has one of the identities, as
// age-keygen writes them. What it gives is whole only when it ends without an
// error.
func Open(r io.Reader, identities io.Reader) (io.Reader, error) {
	keys, err := age.ParseIdentities(identities)
	if err != nil {
		return nil, fmt.Errorf("read identity of age: %w", err)
	}
	inside, err := age.Decrypt(r, keys...)
	if _, nobody := errors.AsType[*age.NoIdentityMatchError](err); nobody {
		return nil, fmt.Errorf("open backup: %w", ErrNobody)
	}
	if err != nil {
		return nil, fmt.Errorf("open backup: %w: %w", ErrForm, err)
	}
	return inside, nil
}

// Read takes the inside of an archive of the box whose key has the pin from
// (sha256: and 64 digits), and writes its files into root, which is empty.
// Where it gives an error, what stands in root is not to be used.
func Read(r io.Reader, from string, root *os.Root) (*Manifest, error) {
	// Bounds what tar itself reads: headers, and the padding of each file.
	t := tar.NewReader(io.LimitReader(r, MaxTotal+MaxFiles*4096+2*maxManifest))
	text, err := take(t, manifestName, maxManifest)
	if err != nil {
		return nil, err
	}
	sig, err := take(t, signatureName, 512)
	if err != nil {
		return nil, err
	}
	m, err := check(text, sig, from)
	if err != nil {
		return nil, err
	}
	for _, f := range m.Files {
		if err := extract(t, root, f); err != nil {
			return nil, fmt.Errorf("read backup: %s: %w", f.Name, err)
		}
	}
	if _, err := t.Next(); err != io.EOF {
		return nil, fmt.Errorf("read backup: more than its manifest says: %w", ErrForm)
	}
	// The rest of the stream is the end mark; age checks its own end there.
	if _, err := io.Copy(io.Discard, io.LimitReader(r, 1<<20)); err != nil {
		return nil, fmt.Errorf("read backup: %w: %w", ErrForm, err)
	}
	return m, nil
}

// next is the entry that has to come now.
func next(t *tar.Reader, name string) (*tar.Header, error) {
	h, err := t.Next()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrForm, err)
	}
	if h.Typeflag != tar.TypeReg || h.Name != name {
		return nil, fmt.Errorf("entry %.80q in its place: %w", h.Name, ErrForm)
	}
	return h, nil
}

func take(t *tar.Reader, name string, limit int64) ([]byte, error) {
	h, err := next(t, name)
	if err == nil && h.Size > limit {
		err = fmt.Errorf("more than %d bytes: %w", limit, ErrForm)
	}
	if err != nil {
		return nil, fmt.Errorf("read backup: %s: %w", name, err)
	}
	b, err := io.ReadAll(io.LimitReader(t, limit))
	if err != nil {
		return nil, fmt.Errorf("read backup: %s: %w: %w", name, ErrForm, err)
	}
	return b, nil
}

// check reads a manifest whose signature holds.
func check(text, sig []byte, from string) (*Manifest, error) {
	m := new(Manifest)
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(m); err != nil {
		return nil, fmt.Errorf("read manifest: %w", ErrForm)
	}
	if m.Version != version {
		return nil, fmt.Errorf("read manifest: version %d: %w", m.Version, ErrVersion)
	}
	if sum := sha256.Sum256(m.Key); !strings.EqualFold("sha256:"+hex.EncodeToString(sum[:]), from) {
		return nil, fmt.Errorf("its key is sha256:%x: %w", sum, ErrOrigin)
	}
	key, err := x509.ParsePKIXPublicKey(m.Key)
	public, ok := key.(*ecdsa.PublicKey)
	if err != nil || !ok || !ecdsa.VerifyASN1(public, digest(text), sig) {
		return nil, fmt.Errorf("its signature does not hold: %w", ErrOrigin)
	}
	if len(m.Files) > MaxFiles {
		return nil, fmt.Errorf("read manifest: %d files: %w", len(m.Files), ErrForm)
	}
	var total int64
	last := ""
	for _, f := range m.Files {
		if !sound(f.Name) || f.Name <= last && last != "" || f.Size < 0 || f.Size > MaxTotal-total {
			return nil, fmt.Errorf("read manifest: file %.80q: %w", f.Name, ErrForm)
		}
		total += f.Size
		last = f.Name
	}
	return m, nil
}

func extract(t *tar.Reader, root *os.Root, f File) error {
	h, err := next(t, f.Name)
	if err != nil {
		return err
	}
	if h.Size != f.Size {
		return fmt.Errorf("size of %d, not %d: %w", h.Size, f.Size, ErrForm)
	}
	if err := root.MkdirAll(path.Dir(f.Name), 0o700); err != nil {
		return err
	}
	out, err := root.OpenFile(f.Name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(out, sum), io.LimitReader(t, f.Size))
	if err := errors.Join(err, out.Sync(), out.Close()); err != nil {
		return err
	}
	if n != f.Size || hex.EncodeToString(sum.Sum(nil)) != f.SHA256 {
		return fmt.Errorf("not the bytes of the manifest: %w", ErrForm)
	}
	return nil
}
