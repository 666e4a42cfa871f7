package image

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Kind of an artifact.
type Kind string

// The kinds. An update takes Root, Verity and Kernel; whoever makes a box, Disk.
const (
	Disk     Kind = "disk"     // to be flashed, raw
	Root     Kind = "root"     // root file system of a slot
	Verity   Kind = "verity"   // its hash tree
	Kernel   Kind = "kernel"   // what firmware starts, with the root hash in it
	Format   Kind = "format"   // the disk for a hypervisor
	Contents Kind = "contents" // list of what is in it
)

// faults are the lines of artifacts that are not as they must be.
var faults = map[Kind]*Fault{Disk: ErrDisk, Root: ErrRoot, Verity: ErrVerity, Kernel: ErrKernel, Format: ErrOther, Contents: ErrOther}

// Artifact is a file of a release.
type Artifact struct {
	Name   string `json:"name"` // in the folder of the manifest
	Kind   Kind   `json:"kind"`
	Size   int64  `json:"size"`   // bytes
	SHA256 string `json:"sha256"` // lower-case hexadecimal
	// Packed is the same file compressed by gzip, which may be there in its
	// place. Both are named, so that what comes out is as certain as what came.
	Packed *Packed `json:"packed,omitempty"`
}

// Packed is a file compressed by gzip (RFC 1952).
type Packed struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Tool is a program that made the release.
type Tool struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// Package is what of others is in the image.
type Package struct {
	Name         string `json:"name"`
	Version      string `json:"version"`
	Architecture string `json:"architecture"`
	SHA256       string `json:"sha256"` // of the file it was installed from; "" where that is not known
}

// Manifest says what a release consists of. Its JSON has one form only: what
// Encode writes. Whatever else says the same is no manifest.
type Manifest struct {
	Format    int        `json:"format"`  // 1
	Product   string     `json:"product"` // "postern"
	Version   Version    `json:"version"`
	From      Version    `json:"from"`    // the oldest version it can follow
	Profile   string     `json:"profile"` // release or debug
	Time      string     `json:"time"`    // of the commit, RFC 3339, UTC
	Commit    string     `json:"commit"`  // of the source
	RootHash  string     `json:"roothash"`
	Artifacts []Artifact `json:"artifacts"` // by name
	Tools     []Tool     `json:"tools"`     // by name
	Packages  []Package  `json:"packages"`  // by name
}

// Product is the name of what is released.
const Product = "postern"

// Name of the files of a version, without what comes behind it.
func Name(v Version) string { return Product + "_" + string(v) }

// Encode is the one form of a manifest; it fails on what Decode would refuse.
func (m Manifest) Encode() ([]byte, error) {
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("write manifest: %w: %w", ErrForm, err)
	}
	return m.print()
}

func (m Manifest) print() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	if err := e.Encode(m); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// Decode reads a manifest. Fields that are unknown, written twice or in another
// order, and bytes behind it are ErrForm: what it reads is printed anew and must
// be the same.
func Decode(b []byte) (Manifest, error) {
	bad := func(why error) (Manifest, error) {
		return Manifest{}, fmt.Errorf("read manifest: %w: %w", ErrForm, why)
	}
	if len(b) > maxManifest {
		return bad(fmt.Errorf("more than %d bytes", maxManifest))
	}
	var m Manifest
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return bad(err)
	}
	if err := m.check(); err != nil {
		return bad(err)
	}
	again, err := m.print()
	if err != nil {
		return bad(err)
	}
	if !bytes.Equal(again, b) {
		return bad(fmt.Errorf("it is not spelled as manifests are, from byte %d on", differs(again, b)))
	}
	return m, nil
}

func differs(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// Artifact of a kind; for Disk, Root, Verity and Kernel there is at most one.
func (m Manifest) Artifact(k Kind) (Artifact, bool) {
	for _, a := range m.Artifacts {
		if a.Kind == k {
			return a, true
		}
	}
	return Artifact{}, false
}

// Partitions are the identities of the partitions of a slot: halves of the root
// hash, by which the initrd finds them (systemd's discoverable partitions).
func (m Manifest) Partitions() (root, verity string) {
	uuid := func(h string) string {
		return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:32]
	}
	return uuid(m.RootHash[:32]), uuid(m.RootHash[32:])
}

var (
	hashForm    = regexp.MustCompile(`^[0-9a-f]{64}$`)
	fileForm    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,119}$`)
	commitForm  = regexp.MustCompile(`^[0-9a-f]{40,64}(-dirty)?$`)
	packageForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.:+~_/@ -]{0,199}$`)
)

// check refuses what no release can be.
func (m Manifest) check() error {
	if m.Format != 1 || m.Product != Product {
		return fmt.Errorf("format %d of %.40q, want 1 of %q", m.Format, m.Product, Product)
	}
	for _, v := range []Version{m.Version, m.From} {
		if _, err := ParseVersion(string(v)); err != nil {
			return err
		}
	}
	if m.From.Compare(m.Version) > 0 {
		return fmt.Errorf("version %s cannot follow %s, which is later", m.Version, m.From)
	}
	if m.Profile != "release" && m.Profile != "debug" {
		return fmt.Errorf("profile %.40q, want release or debug", m.Profile)
	}
	if at, err := time.Parse(time.RFC3339, m.Time); err != nil || at.UTC().Format(time.RFC3339) != m.Time {
		return fmt.Errorf("time %.40q, want RFC 3339 in UTC", m.Time)
	}
	if !commitForm.MatchString(m.Commit) {
		return fmt.Errorf("commit %.80q", m.Commit)
	}
	if !hashForm.MatchString(m.RootHash) {
		return fmt.Errorf("root hash %.80q, want 64 hexadecimal digits", m.RootHash)
	}
	if len(m.Artifacts) > 64 || len(m.Packages) > 20000 || len(m.Tools) > 64 {
		return fmt.Errorf("%d artifacts, %d packages, %d tools are too many", len(m.Artifacts), len(m.Packages), len(m.Tools))
	}
	if err := m.checkArtifacts(); err != nil {
		return err
	}
	for _, t := range m.Tools {
		if !packageForm.MatchString(t.Name) || !packageForm.MatchString(t.Version) {
			return fmt.Errorf("tool %.80q %.80q", t.Name, t.Version)
		}
	}
	for _, p := range m.Packages {
		for _, s := range []string{p.Name, p.Version, p.Architecture} {
			if !packageForm.MatchString(s) {
				return fmt.Errorf("package %.80q: %.80q is no word for it", p.Name, s)
			}
		}
		if p.SHA256 != "" && !hashForm.MatchString(p.SHA256) {
			return fmt.Errorf("package %s: hash %.80q", p.Name, p.SHA256)
		}
	}
	if !slices.IsSortedFunc(m.Tools, func(a, b Tool) int { return strings.Compare(a.Name, b.Name) }) ||
		!slices.IsSortedFunc(m.Packages, func(a, b Package) int { return strings.Compare(a.Name, b.Name) }) {
		return fmt.Errorf("tools and packages are not in order of their names")
	}
	return nil
}

func (m Manifest) checkArtifacts() error {
	one := map[Kind]bool{}
	names := map[string]bool{}
	sound := func(name string, size int64, hash string) error {
		if !fileForm.MatchString(name) || !strings.HasPrefix(name, Name(m.Version)+".") || names[name] {
			return fmt.Errorf("artifact %.140q: want a name of its own that begins with %s", name, Name(m.Version)+".")
		}
		names[name] = true
		if size < 1 || size > maxArtifact || !hashForm.MatchString(hash) {
			return fmt.Errorf("artifact %s: size %d, hash %.80q", name, size, hash)
		}
		return nil
	}
	for i, a := range m.Artifacts {
		if faults[a.Kind] == nil {
			return fmt.Errorf("artifact %.140q: no kind %.40q", a.Name, a.Kind)
		}
		if one[a.Kind] && a.Kind != Format && a.Kind != Contents {
			return fmt.Errorf("artifact %.140q: a second %s", a.Name, a.Kind)
		}
		one[a.Kind] = true
		if err := sound(a.Name, a.Size, a.SHA256); err != nil {
			return err
		}
		if a.Packed != nil {
			if err := sound(a.Packed.Name, a.Packed.Size, a.Packed.SHA256); err != nil {
				return err
			}
		}
		if i > 0 && m.Artifacts[i-1].Name >= a.Name {
			return fmt.Errorf("artifacts are not in order of their names")
		}
	}
	for _, k := range []Kind{Root, Verity, Kernel} {
		if !one[k] {
			return fmt.Errorf("there is no %s", k)
		}
	}
	return nil
}
