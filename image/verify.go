package image

import (
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Ends of the names of files that make a release believed.
const (
	ManifestEnd  = ".manifest.json"
	SignatureEnd = ManifestEnd + ".sig"
	ProofEnd     = ManifestEnd + ".tlog-proof"
)

// Files are the three files that make a release believed, as they came.
type Files struct{ Manifest, Signature, Proof []byte }

// ReadFiles takes them from beside a file of the release: its manifest or any of
// its artifacts.
func ReadFiles(path string) (Files, error) {
	dir, base := filepath.Split(path)
	return FilesOf(base, func(name string, most int64) ([]byte, error) { return readFile(filepath.Join(dir, name), most) })
}

// FilesOf gets them from wherever the release is; base is the name of a file of
// it, and get reads one that has at most so many bytes.
func FilesOf(base string, get func(name string, most int64) ([]byte, error)) (f Files, err error) {
	name, found := strings.CutSuffix(base, ManifestEnd)
	if !found {
		v, ok := versionOf(base)
		if !ok {
			return f, fmt.Errorf("%s: %w", base, ErrUnnamed)
		}
		name = Name(v)
	}
	for _, one := range []struct {
		to   *[]byte
		end  string
		most int64
	}{{&f.Manifest, ManifestEnd, maxManifest}, {&f.Signature, SignatureEnd, maxSignature}, {&f.Proof, ProofEnd, maxProof}} {
		if *one.to, err = get(name+one.end, one.most); errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w: %w", ErrAbsent, err)
		}
		if err != nil {
			return f, err
		}
	}
	return f, nil
}

// versionOf reads the version in the name of an artifact: postern_1.2.root.raw.
func versionOf(base string) (Version, bool) {
	rest, ok := strings.CutPrefix(base, Product+"_")
	words := strings.Split(rest, ".")
	n := 0
	for n < len(words) && words[n] != "" && strings.Trim(words[n], "0123456789") == "" {
		n++
	}
	v, err := ParseVersion(strings.Join(words[:n], "."))
	return v, ok && err == nil
}

// Release is one that is believed.
type Release struct {
	Manifest
	Index int64 // of the log
	Head  []byte
}

// Judge says which releases are believed.
type Judge struct {
	Keys *Keys
	// Running and Floor are the version that runs and the latest that ever ran
	// here; empty where there is no box.
	Running, Floor Version
	// Seen is the newest checkpoint that was seen before; nil: none.
	Seen []byte
	// Log reads the log where the release is, to compare it with Seen.
	Log Fetch
}

// Believe judges a release by its three files, its artifacts not yet looked at:
// signature, key, manifest, log, and whether it may follow what is here.
func (j Judge) Believe(f Files) (Release, error) {
	s, err := signed(f.Signature, j.Keys)
	if err != nil {
		return Release{}, err
	}
	if s.manifest != sha256.Sum256(f.Manifest) {
		return Release{}, fmt.Errorf("release %s: %w", s.version, ErrManifest)
	}
	m, err := Decode(f.Manifest)
	if err != nil {
		return Release{}, err
	}
	if m.Version != s.version {
		return Release{}, fmt.Errorf("release %s: %w: it is of %s", s.version, ErrManifest, m.Version)
	}
	head, err := included(s, f.Proof, j.Keys)
	if err != nil {
		return Release{}, err
	}
	if j.Seen != nil {
		seen, err := openCheckpoint(j.Seen, j.Keys.logs)
		if err != nil {
			return Release{}, fmt.Errorf("read the checkpoint that was seen last: %w", err)
		}
		if err := continues(seen, head, j.Log); err != nil {
			return Release{}, fmt.Errorf("release %s: %w", m.Version, err)
		}
		if seen.tree.N > head.tree.N {
			head = seen
		}
	}
	r := Release{Manifest: m, Head: head.note}
	if p, err := parseProof(f.Proof); err == nil {
		r.Index = p.index
	}
	return r, j.follows(m)
}

// follows refuses a downgrade, and a leap that the release cannot make.
func (j Judge) follows(m Manifest) error {
	for _, v := range []Version{j.Running, j.Floor} {
		if m.Version.Compare(v) < 0 {
			return fmt.Errorf("release %s: %w: %s", m.Version, ErrDowngrade, v)
		}
	}
	if j.Running != "" && j.Running.Compare(m.From) < 0 {
		return fmt.Errorf("release %s: %w: it follows %s and later, and this is %s", m.Version, ErrFrom, m.From, j.Running)
	}
	return nil
}

// Check compares the bytes of an artifact with the manifest.
func (a Artifact) Check(ctx context.Context, r io.Reader) error {
	return a.compare(ctx, r, io.Discard)
}

// Unpack writes an artifact out of its packed form, and compares both. What was
// written is of use only when there is no error.
func (a Artifact) Unpack(ctx context.Context, r io.Reader, w io.Writer) error {
	if a.Packed == nil {
		return a.compare(ctx, r, w)
	}
	packed := Artifact{Name: a.Packed.Name, Kind: a.Kind, Size: a.Packed.Size, SHA256: a.Packed.SHA256}
	in, out := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := packed.compare(ctx, r, out)
		out.CloseWithError(err)
		done <- err
	}()
	err := func() error {
		z, err := gzip.NewReader(in)
		if err != nil {
			return err
		}
		if err := a.compare(ctx, z, w); err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, in) // to the end, so that all of it was compared
		return err
	}()
	in.CloseWithError(io.ErrClosedPipe)
	if perr := <-done; perr != nil && !errors.Is(perr, io.ErrClosedPipe) {
		return perr // what came is wrong, and not only what comes out of it
	}
	if err != nil && faultOf(err) == nil {
		err = fmt.Errorf("%s %s: %w: %w", a.Kind, packed.Name, faults[a.Kind], err)
	}
	return err
}

func faultOf(err error) *Fault {
	f, _ := errors.AsType[*Fault](err)
	return f
}

// compare copies r to w and judges what passed.
func (a Artifact) compare(ctx context.Context, r io.Reader, w io.Writer) error {
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("%s %s: %w: %s", a.Kind, a.Name, faults[a.Kind], fmt.Sprintf(format, args...))
	}
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(h, w), io.LimitReader(ending{ctx, r}, a.Size+1))
	switch sum := hex.EncodeToString(h.Sum(nil)); {
	case err != nil:
		return fmt.Errorf("%s %s: %w", a.Kind, a.Name, err)
	case n > a.Size:
		return wrong("it has more than %d bytes", a.Size)
	case n < a.Size:
		return wrong("it has %d bytes of %d", n, a.Size)
	case sum != a.SHA256:
		return wrong("its hash is %s", sum)
	}
	return nil
}

// ending is a reader that ends with its context.
type ending struct {
	ctx context.Context
	r   io.Reader
}

func (e ending) Read(b []byte) (int, error) {
	if err := e.ctx.Err(); err != nil {
		return 0, err
	}
	return e.r.Read(b)
}

// Verified is what was found of one artifact.
type Verified struct {
	Artifact Artifact
	There    bool // false: it is not in the folder
}

// Folder looks at the artifacts beside a manifest. With only, a name, just that
// one, which must be there; with all every one must be there.
func (m Manifest) Folder(ctx context.Context, dir, only string, all bool) ([]Verified, error) {
	var list []Verified
	for _, a := range m.Artifacts {
		if a.Packed != nil {
			list = append(list, Verified{Artifact: Artifact{Name: a.Packed.Name, Kind: a.Kind, Size: a.Packed.Size, SHA256: a.Packed.SHA256}})
			a.Packed = nil
		}
		list = append(list, Verified{Artifact: a})
	}
	kept := list[:0]
	for _, v := range list {
		if only != "" && v.Artifact.Name != only {
			continue
		}
		f, err := os.Open(filepath.Join(dir, v.Artifact.Name))
		switch {
		case errors.Is(err, fs.ErrNotExist) && (all || only != ""):
			return kept, fmt.Errorf("%s %s: %w", v.Artifact.Kind, v.Artifact.Name, ErrAbsent)
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return kept, err
		default:
			err := v.Artifact.Check(ctx, f)
			if err = errors.Join(err, f.Close()); err != nil {
				return kept, err
			}
			v.There = true
		}
		kept = append(kept, v)
	}
	if only != "" && len(kept) == 0 {
		return kept, fmt.Errorf("%s: %w", only, ErrUnnamed)
	}
	return kept, nil
}
