package provisioning

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"postern/filter/record"
)

// join puts those into the plan whom filterd has noted at their first mail: of
// the domains that the plan names, who stand nowhere in it and have no
// certificate of their own, so many as one run may take. They are written into
// the file of their group before anything is made for them, and are in the plan
// from then on, whatever becomes of this run or of filterd's memory. filterd
// forgets whom it finds with a certificate.
//
// filterd parses strangers' mail: nothing that stands in its file is believed but
// that there may be such an address.
func (e *enrolment) join(ctx context.Context, p Plan, list []wanted) ([]wanted, error) {
	if !slices.ContainsFunc(p.Groups, func(g Group) bool { return len(g.Joiners) > 0 }) {
		return list, nil
	}
	noted, err := e.noted(ctx)
	if err != nil {
		return nil, err
	}
	known := map[string]bool{}
	for _, w := range list {
		known[w.owner.String()] = true
	}
	for _, i := range e.ours {
		known[ownerOf(i).String()] = true
	}
	var fresh []wanted
	for _, g := range p.Groups {
		var of []record.Joiner
		left := 0
		for _, j := range noted {
			if known[j.Address.Key()] || !slices.Contains(g.Joiners, strings.ToLower(j.Address.Domain)) || !plain(j) {
				continue
			}
			if len(of) == g.AtOnce {
				left++
				continue
			}
			of = append(of, j)
		}
		if len(of) == 0 {
			continue
		}
		if left > 0 {
			e.result.Notes = append(e.result.Notes, fmt.Sprintf("%d more have joined, and are left for the next run", left))
		}
		if err := e.enter(g.File, of); err != nil {
			return nil, fmt.Errorf("write joiners into %s: %w", g.File, err)
		}
		for _, j := range of {
			for _, w := range g.forMail(owner{address: j.Address}, "") {
				w.joined = j.At.Format(time.DateOnly)
				fresh = append(fresh, w)
			}
		}
	}
	return append(list, fresh...), nil
}

// noted are the joiners whom filterd has noted; nobody before it has run.
func (e *enrolment) noted(ctx context.Context) ([]record.Joiner, error) {
	site, err := e.site()
	if err != nil {
		return nil, err
	}
	r, err := record.OpenForeign(site.Record)
	if errors.Is(err, record.ErrNoRecord) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read joiners: %w", err)
	}
	list, err := r.Joiners(ctx)
	return list, errors.Join(err, r.Close())
}

// plain reports whether an address can stand in a file of users, and is read there
// as itself: one with a space would be another. Nobody of ours has one in quotes.
func plain(j record.Joiner) bool {
	people, err := readUsers("", []byte(j.Address.Key()+"\n"))
	return err == nil && len(people) == 1 && j.Address.Key()[0] != '"' && people[0].name == "" && people[0].address.Key() == j.Address.Key()
}

// enter writes joiners into a file of users, whole or not at all, with the mode
// that it has.
func (e *enrolment) enter(path string, of []record.Joiner) error {
	if e.dry() {
		return nil
	}
	mode := fs.FileMode(0o640)
	if info, err := os.Stat(path); err == nil {
		mode = info.Mode().Perm()
	}
	old, err := e.read(path, maxUserFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var b bytes.Buffer
	if b.Write(old); len(old) > 0 && old[len(old)-1] != '\n' {
		b.WriteByte('\n')
	}
	fmt.Fprintf(&b, "# joined by %s\n", e.now().UTC().Format(time.DateOnly))
	for _, j := range of {
		fmt.Fprintln(&b, j.Address.Key())
	}
	return writeFile(path, mode, func(w io.Writer) error { _, err := w.Write(b.Bytes()); return err })
}
