package e2e

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"postern/appliance/config"
)

var update = flag.Bool("update", false, "write the pages that are printed from the code")

const docs = "../docs"

// Pages that are printed from the code are those in appliance/docs.
func TestPages(t *testing.T) {
	for name, print := range map[string]func(io.Writer) error{
		"configuration.md": func(w io.Writer) error {
			fmt.Fprint(w, "# Configuration\n\nPrinted from the code by `make docs`. The annotated examples are [filterd.toml](filterd.toml) and [keyd.toml](keyd.toml), and for a whole box [box.toml](box.toml), which the two others are made from; [plan.toml](plan.toml) is what `postern enrol` reads. `postern config doc filterd`, `keyd`, `box` and `plan` print them.\n")
			for _, daemon := range []string{"filterd", "keyd", "box", "plan"} {
				fmt.Fprintf(w, "\n## %s.toml\n\n", daemon)
				if err := config.Reference(w, daemon); err != nil {
					return err
				}
			}
			return nil
		},
		"filterd.toml": func(w io.Writer) error { return config.Example(w, "filterd") },
		"keyd.toml":    func(w io.Writer) error { return config.Example(w, "keyd") },
		"box.toml":     func(w io.Writer) error { return config.Example(w, "box") },
		"plan.toml":    func(w io.Writer) error { return config.Example(w, "plan") },
		"commands.md": func(w io.Writer) error {
			fmt.Fprint(w, "# Commands\n\nPrinted from the code by `make docs`; `postern manual` prints it as a manual page, `postern help COMMAND` one command.\n\n```\n")
			w.Write(run(t, nil, filepath.Join(programs(t), "postern"), "help"))
			_, err := fmt.Fprint(w, "```\n")
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			var want bytes.Buffer
			if err := print(&want); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(docs, name)
			if *update {
				if err := os.WriteFile(path, want.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			got, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want.Bytes()) {
				t.Errorf("%s is not what the code prints; `make docs` writes it", path)
			}
		})
	}
}

// Every link between the pages leads somewhere.
func TestLinks(t *testing.T) {
	pages, err := filepath.Glob(docs + "/*.md")
	if err != nil || len(pages) < 6 {
		t.Fatalf("got %d pages, %v", len(pages), err)
	}
	link := regexp.MustCompile(`\]\(([^):#]+)(#[^)]*)?\)`)
	for _, page := range append(pages, "../../README.md", "../../hsm/wire/protocol.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllSubmatch(text, -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), string(m[1]))); err != nil {
				t.Errorf("%s: %v", page, err)
			}
		}
	}
}

// Every target that the README names is one of the Makefile.
func TestTargets(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	var targets []string
	for _, m := range regexp.MustCompile(`(?m)^([a-z -]+):`).FindAllSubmatch(makefile, -1) {
		targets = append(targets, strings.Fields(string(m[1]))...)
	}
	for _, m := range regexp.MustCompile("make ([a-z-]+)").FindAllSubmatch(readme, -1) {
		if !slices.Contains(targets, string(m[1])) {
			t.Errorf("make %s is in the README and not in the Makefile", m[1])
		}
	}
}
