package provisioning

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"postern/hsm"
	"postern/hsm/client"
	"postern/image"
)

// Uses of the keys that releases stand on. Their owner is who releases: the log
// is named by it.
const (
	useRelease = "release"
	useLog     = "log"
)

var (
	optKeys  = option{name: "keys", value: "DIR", about: "folder of the keys to trust, " + image.Folder + " by default"}
	optOwner = option{name: "domain", value: "D", about: "whose keys, where the token has those of several"}
)

// imageCommands are about releases of the box.
var imageCommands = []command{
	{noun: "image", here: true, verb: "verify", args: "FILE", min: 1, max: 1, about: "say whether a release is what it says, and who says so",
		more: "FILE is a manifest, or a disk image or another part of a release with the manifest beside it. Looked at are the signature under the manifest, the key that made it, the proof that the release stands in the log of all releases, and size and hash of the files. Of a manifest every file that is in its folder. Nothing is asked over the network.",
		flags: []option{optKeys, {name: "all", about: "every file of the manifest must be there"},
			{name: "seen", value: "FILE", about: "checkpoint of the log that was seen before; the log beside the release must continue it"}}, run: imageVerify},
	{noun: "image", here: true, verb: "manifest", args: "DIR", min: 1, max: 1, about: "write the manifest of what a build has made",
		more: "Every file postern_VERSION.* in DIR becomes part of the release, by the end of its name: .raw, .root.raw, .verity.raw, .efi, each with .gz beside it or not, .qcow2, .vmdk, .vhdx, .cdx.json and .spdx.json. The same files and flags give the same bytes.",
		flags: []option{{name: "release", value: "V", about: "the version"}, {name: "follows", value: "V", about: "the oldest version that may be updated to it; 0 by default, which is any"},
			{name: "profile", value: "release|debug", about: "release by default"}, {name: "commit", value: "HASH", about: "commit of the source"},
			{name: "at", value: "TIME", about: "time of the commit, RFC 3339"}, {name: "roothash", value: "HASH", about: "root hash of the root file system"},
			{name: "tool", value: "NAME=VERSION", about: "a program that made it", many: true},
			{name: "packages", value: "FILE", about: "mkosi's manifest of what it has installed"},
			{name: "debs", value: "DIR", about: "where the package files are that it was installed from, to name their hashes"}}, run: imageManifest},
	{noun: "image", here: true, verb: "sign", args: "MANIFEST", min: 1, max: 1, about: "sign a manifest with the release key in the token",
		more:  "Writes MANIFEST.sig. The key is that of `postern key generate --use release`.",
		flags: []option{optOwner}, run: imageSign},
	{noun: "image", here: true, verb: "log", args: "MANIFEST", min: 1, max: 1, about: "put a signed release into the log, with the log's key in the token",
		more:  "Writes MANIFEST.tlog-proof, and continues the log: files that are published as they are. The key is that of `postern key generate --use log`. A version stands in the log once; to say it again gives its proof anew.",
		flags: []option{optOwner, {name: "log", value: "DIR", about: "folder of the log; log beside the manifest by default"}}, run: imageLog},
	{noun: "image", here: true, verb: "keys", args: "DIR", min: 1, max: 1, about: "write the public keys of the token by which its releases are trusted",
		flags: []option{optOwner}, run: imageKeys},
}

// verified is the result of image verify.
type verified struct {
	Version string         `json:"version"`
	Profile string         `json:"profile"`
	Commit  string         `json:"commit"`
	Time    string         `json:"time"`
	Log     string         `json:"log"`
	Entry   int64          `json:"entry"`
	Files   []verifiedFile `json:"files"`
}

type verifiedFile struct {
	Name   string `json:"name"`
	Kind   string `json:"kind"`
	SHA256 string `json:"sha256"`
	State  string `json:"state"` // good, absent
}

func (v verified) text(w io.Writer) {
	table(w, nil, [][]string{{"release", v.Version + ", profile " + v.Profile}, {"source", v.Commit + " of " + v.Time},
		{"signature", "good, of a trusted key"}, {"log", fmt.Sprintf("entry %d of %s", v.Entry, v.Log)}})
	var rows [][]string
	for _, f := range v.Files {
		rows = append(rows, []string{f.State, f.Kind, f.Name})
	}
	table(w, nil, rows)
}

// LogFolder is the log beside a release.
const logFolder = "log"

func imageVerify(ctx context.Context, c *call) (any, error) {
	file := c.args[0]
	keys, err := image.LoadKeys(cmpOr(c.get("keys"), image.Folder))
	if err != nil {
		return nil, err
	}
	files, err := image.ReadFiles(file)
	if err != nil {
		return nil, err
	}
	dir := filepath.Dir(file)
	j := image.Judge{Keys: keys, Log: image.LogFolder(filepath.Join(dir, logFolder))}
	if seen := c.get("seen"); seen != "" {
		if j.Seen, err = os.ReadFile(seen); err != nil {
			return nil, err
		}
	}
	r, err := j.Believe(files)
	if err != nil {
		return nil, err
	}
	only := filepath.Base(file)
	if strings.HasSuffix(only, image.ManifestEnd) {
		only = ""
	}
	list, err := r.Folder(ctx, dir, only, c.on["all"])
	if err != nil {
		return nil, err
	}
	origin, _, _ := strings.Cut(string(r.Head), "\n")
	v := verified{Version: string(r.Version), Profile: r.Profile, Commit: r.Commit, Time: r.Time, Log: origin, Entry: r.Index, Files: []verifiedFile{}}
	for _, f := range list {
		state := "good"
		if !f.There {
			state = "absent"
		}
		v.Files = append(v.Files, verifiedFile{f.Artifact.Name, string(f.Artifact.Kind), f.Artifact.SHA256, state})
	}
	return v, nil
}

// wrote is the result of a command that writes one file.
func (c *call) wrote(path string, b []byte) (any, error) {
	if old, err := os.ReadFile(path); err == nil && string(old) == string(b) {
		return c.already("%s is so already", path), nil
	}
	if !c.dry() {
		if err := os.WriteFile(path, b, 0o644); err != nil {
			return nil, err
		}
	}
	return c.did("write %s", path), nil
}

func imageManifest(ctx context.Context, c *call) (any, error) {
	dir := c.args[0]
	for _, flag := range []string{"release", "commit", "at", "roothash"} {
		if c.get(flag) == "" {
			return nil, misuse(c.cmd.synopsis(), "image manifest wants --%s", flag)
		}
	}
	m := image.Manifest{Format: 1, Product: image.Product, Version: image.Version(c.get("release")), From: image.Version(cmpOr(c.get("follows"), "0")),
		Profile: cmpOr(c.get("profile"), "release"), Time: c.get("at"), Commit: c.get("commit"), RootHash: c.get("roothash"),
		Tools: []image.Tool{}, Packages: []image.Package{}}
	for _, t := range c.text["tool"] {
		name, version, _ := strings.Cut(t, "=")
		m.Tools = append(m.Tools, image.Tool{Name: name, Version: version})
	}
	slices.SortFunc(m.Tools, func(a, b image.Tool) int { return strings.Compare(a.Name, b.Name) })
	var err error
	if m.Artifacts, err = image.Artifacts(ctx, dir, m.Version); err != nil {
		return nil, err
	}
	if list := c.get("packages"); list != "" {
		if m.Packages, err = packagesOf(list, c.get("debs")); err != nil {
			return nil, err
		}
	}
	b, err := m.Encode()
	if err != nil {
		return nil, err
	}
	return c.wrote(filepath.Join(dir, image.Name(m.Version)+image.ManifestEnd), b)
}

// packagesOf reads the manifest of mkosi; the hashes are those of the package
// files that are there.
func packagesOf(path, debs string) ([]image.Package, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var list struct {
		Packages []struct{ Name, Version, Architecture string }
	}
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, fmt.Errorf("read packages %s: %w", path, err)
	}
	all := []image.Package{}
	for _, p := range list.Packages {
		one := image.Package{Name: p.Name, Version: p.Version, Architecture: p.Architecture}
		if debs != "" {
			// apt names its files so, with the colon of an epoch escaped.
			name := fmt.Sprintf("%s_%s_%s.deb", p.Name, strings.ReplaceAll(p.Version, ":", "%3a"), p.Architecture)
			if one.SHA256, _, err = image.Sum(filepath.Join(debs, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
		}
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b image.Package) int {
		return strings.Compare(a.Name+" "+a.Architecture, b.Name+" "+b.Architecture)
	})
	return all, nil
}

// releaseKey is the key of the token for a use, as a signer, and its owner.
func (c *call) releaseKey(ctx context.Context, use string) (crypto.Signer, string, error) {
	k, keys, err := c.keys(ctx)
	if err != nil {
		return nil, "", err
	}
	var found []hsm.Key
	for _, key := range keys {
		if parts := strings.Split(key.Label, "/"); len(parts) == 3 && parts[0] == use && !key.Retired && (c.get("domain") == "" || parts[1] == c.get("domain")) {
			found = append(found, key)
		}
	}
	switch len(found) {
	case 0:
		return nil, "", no(fmt.Sprintf("`postern key generate --use %s --domain D` makes one", use), "no key for the use %s: %w", use, hsm.ErrNoKey)
	case 1:
		s, err := client.Signer(ctx, k, found[0])
		return s, strings.Split(found[0].Label, "/")[1], err
	}
	return nil, "", no("name its owner with --domain, and retire the older one of two", "%d keys for the use %s", len(found), use)
}

// logName is what the log of an owner is called.
func logName(owner string) string { return owner + "/releases" }

func imageSign(ctx context.Context, c *call) (any, error) {
	b, err := os.ReadFile(c.args[0])
	if err != nil {
		return nil, err
	}
	m, err := image.Decode(b)
	if err != nil {
		return nil, err
	}
	key, _, err := c.releaseKey(ctx, useRelease)
	if err != nil {
		return nil, err
	}
	if c.dry() {
		return c.did("sign release %s", m.Version), nil
	}
	sig, err := image.Sign(b, key)
	if err != nil {
		return nil, err
	}
	return c.wrote(c.args[0]+strings.TrimPrefix(image.SignatureEnd, image.ManifestEnd), sig)
}

func imageLog(ctx context.Context, c *call) (any, error) {
	sig, err := os.ReadFile(c.args[0] + strings.TrimPrefix(image.SignatureEnd, image.ManifestEnd))
	if err != nil {
		return nil, err
	}
	key, owner, err := c.releaseKey(ctx, useLog)
	if err != nil {
		return nil, err
	}
	release, _, err := c.releaseKey(ctx, useRelease)
	if err != nil {
		return nil, err
	}
	keys, err := image.KeysOf(release.Public())
	if err != nil {
		return nil, err
	}
	log, err := image.OpenLog(cmpOr(c.get("log"), filepath.Join(filepath.Dir(c.args[0]), logFolder)), logName(owner), key)
	if err != nil {
		return nil, err
	}
	if c.dry() {
		return c.did("continue the log %s with %s", logName(owner), c.args[0]), nil
	}
	proof, err := log.Append(sig, keys)
	if err != nil {
		return nil, err
	}
	return c.wrote(c.args[0]+strings.TrimPrefix(image.ProofEnd, image.ManifestEnd), proof)
}

func imageKeys(ctx context.Context, c *call) (any, error) {
	release, owner, err := c.releaseKey(ctx, useRelease)
	if err != nil {
		return nil, err
	}
	log, logOwner, err := c.releaseKey(ctx, useLog)
	if err != nil {
		return nil, err
	}
	pem, err := image.ReleaseKeyFile(release.Public())
	if err != nil {
		return nil, err
	}
	vkey, err := image.LogKey(logName(logOwner), log.Public())
	if err != nil {
		return nil, err
	}
	if !c.dry() {
		if err := os.MkdirAll(c.args[0], 0o755); err != nil {
			return nil, err
		}
	}
	d := did{Done: []string{}, DryRun: c.dry()}
	for _, f := range []struct{ path, text string }{{filepath.Join(c.args[0], owner+".pem"), string(pem)}, {filepath.Join(c.args[0], logOwner+".vkey"), vkey + "\n"}} {
		if !c.dry() {
			if err := os.WriteFile(f.path, []byte(f.text), 0o644); err != nil {
				return d, err
			}
		}
		d.Done = append(d.Done, "write "+f.path)
	}
	return d, nil
}
