// Package render makes what a box has in /etc out of its one file, box.toml:
// both daemons' files, sockets, Postfix, resolver, and what lies below them. It
// decides nothing: each file is printed by the package that knows its program.
package render

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"postern/appliance/config"
	"postern/appliance/ground"
	"postern/appliance/postfix"
	"postern/cmd/internal/gateway"
)

// header stands in the files that are printed here.
const header = "# Written by `postern box render` from box.toml; what is changed here is lost.\n"

// mode is that of every file: there is nothing secret in them.
const mode = fs.FileMode(0o644)

// File is one file of the box.
type File struct {
	Path string // as the box calls it
	Text string
}

// Files are all of them, in the order of their paths. The same box.toml and the
// same Postfix give the same bytes.
func Files(ctx context.Context, c *config.Box) ([]File, error) {
	var list []File
	add := func(path, text string) { list = append(list, File{path, text}) }
	for path, file := range map[string]any{"/etc/postern/filterd.toml": &c.Filterd, "/etc/postern/keyd.toml": c.Keyd()} {
		text, err := config.Text(file)
		if err != nil {
			return nil, fmt.Errorf("render %s: %w", path, err)
		}
		add(path, text)
	}
	add("/etc/hostname", c.Box.Name+"\n")
	if c.Token.Kind == "softhsm" {
		add(config.SoftHSMConfig, c.SoftHSM())
	}
	token, err := tokenDropIns(c)
	if err != nil {
		return nil, err
	}
	list = slices.Concat(list, token, sockets(c))
	mail, err := mailAgent(ctx, c)
	if err != nil {
		return nil, err
	}
	list = append(list, mail...)
	stands, err := ground.Render(below(c))
	if err != nil {
		return nil, fmt.Errorf("render ground: %w", err)
	}
	for _, f := range stands {
		add(f.Path, f.Text)
	}
	slices.SortFunc(list, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	for i := range list[1:] {
		if list[i].Path == list[i+1].Path {
			return nil, fmt.Errorf("render %s: two parts of box.toml want to write it", list[i].Path)
		}
	}
	return list, nil
}

// mailAgent is Postfix, and the resolver beside it.
func mailAgent(ctx context.Context, c *config.Box) (list []File, err error) {
	if p := gateway.Postfix(&c.Filterd); p != nil {
		have, err := postfix.Probe(ctx)
		if err != nil {
			return nil, err
		}
		files, err := postfix.Render(*p, have)
		if err != nil {
			return nil, fmt.Errorf("render Postfix: %w", err)
		}
		for _, f := range files {
			list = append(list, File{filepath.Join(p.Dir, f.Name), f.Text})
		}
	}
	if dir := gateway.ResolverDir(&c.Filterd); dir != "" {
		f, err := postfix.Resolver(c.Resolver.Address)
		if err != nil {
			return nil, fmt.Errorf("render resolver: %w", err)
		}
		list = append(list, File{filepath.Join(dir, f.Name), f.Text})
	}
	return list, nil
}

// Write puts files below out, each whole or not at all, and names those that
// were not so already; with dry it only names them. Nothing is removed.
func Write(out string, files []File, dry bool) (changed []string, err error) {
	root, err := os.OpenRoot(out)
	if errors.Is(err, fs.ErrNotExist) && !dry {
		if err := os.MkdirAll(out, 0o755); err != nil {
			return nil, fmt.Errorf("make folder: %w", err)
		}
		root, err = os.OpenRoot(out)
	}
	if err != nil && !(dry && errors.Is(err, fs.ErrNotExist)) {
		return nil, fmt.Errorf("open folder: %w", err)
	}
	if root != nil {
		defer root.Close()
	}
	for _, f := range files {
		name := strings.TrimPrefix(f.Path, "/")
		if root != nil {
			old, err := root.ReadFile(name)
			info, err2 := root.Lstat(name)
			if err == nil && err2 == nil && string(old) == f.Text && info.Mode() == mode {
				continue
			}
		}
		if !dry {
			if err := replace(root, name, f.Text); err != nil {
				return changed, fmt.Errorf("write %s: %w", filepath.Join(out, name), err)
			}
		}
		changed = append(changed, filepath.Join(out, name))
	}
	return changed, nil
}

// folder makes what is missing of a path, for everybody to look into.
func folder(root *os.Root, name string) error {
	if info, err := root.Stat(name); err == nil && info.IsDir() {
		return nil
	}
	if err := folder(root, filepath.Dir(name)); err != nil {
		return err
	}
	if err := root.Mkdir(name, 0o755); err != nil {
		return err
	}
	return root.Chmod(name, 0o755)
}

// replace writes a file beside its place and moves it there.
func replace(root *os.Root, name, text string) error {
	if err := folder(root, filepath.Dir(name)); err != nil {
		return err
	}
	fresh := filepath.Join(filepath.Dir(name), "."+filepath.Base(name)+".new")
	f, err := root.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	// For everybody to read, whatever the umask of this program.
	if err := errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	return root.Rename(fresh, name)
}
