package config

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// pages are printed from the structs and stand in the tree, where people read.
func pages() (map[string][]byte, error) {
	all := map[string][]byte{}
	page := bytes.NewBufferString(`# Configuration

One file for each daemon, in TOML. This page is printed from the structs of ` + "`appliance/config` by `go test ./appliance/config -run TestPage -update`" + `; a test fails when it is stale. The annotated examples beside it, [filterd.toml](filterd.toml) and [keyd.toml](keyd.toml), are what ` + "`postern config doc filterd` and `postern config doc keyd`" + ` print.

A daemon that is started with ` + "`--check`" + ` reads its file and stops: status 0, or one line with file and line of what is wrong. An unknown field is an error, and so is a value that this version does not know how to honour.

Values: a duration is written 250ms, 10s or 1h30m; a size 256KiB, 50MiB or 1GiB; a network 10.0.0.0/8, 2001:db8::/32, or one address.

`)
	for i, daemon := range []string{"filterd", "keyd"} {
		var b bytes.Buffer
		if err := Example(&b, daemon); err != nil {
			return nil, err
		}
		all[daemon+".toml"] = b.Bytes()
		if i > 0 {
			fmt.Fprintln(page)
		}
		if err := Reference(page, daemon); err != nil {
			return nil, err
		}
	}
	all["configuration.md"] = page.Bytes()
	return all, nil
}

func TestPages(t *testing.T) {
	all, err := pages()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range all {
		path := filepath.Join("../docs", name)
		if *update {
			if err := os.WriteFile(path, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is stale: go test ./appliance/config -run TestPage -update", path)
		}
	}
}
