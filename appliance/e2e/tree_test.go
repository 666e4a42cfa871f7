package e2e_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// pkg is one folder of Go files, as they stand in the source: whatever build
// constraints say, a file counts.
type pkg struct {
	path     string              // below the module; "." is its root
	imports  map[string][]string // of all but the tests: import path and the files that have it
	tests    map[string][]string // of the tests alone
	comments []string            // files with a package comment
	onlyTest bool
}

// tree is a module's packages by path.
type tree map[string]*pkg

// module is the name of the Go module; what is imported below it is ours.
const module = "postern"

// local is the path below the module of an import, or "".
func local(imported string) string {
	if imported == module {
		return "."
	}
	rest, ok := strings.CutPrefix(imported, module+"/")
	if !ok {
		return ""
	}
	return rest
}

// standard reports whether an import is of the standard library.
func standard(imported string) bool {
	first, _, _ := strings.Cut(imported, "/")
	return imported != "C" && !strings.Contains(first, ".") && local(imported) == ""
}

// within reports whether p is dir or below it.
func within(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

// skipped are folders that hold no package of ours.
func skipped(name string) bool {
	return strings.HasPrefix(name, ".") && name != "." || strings.HasPrefix(name, "_") ||
		name == "testdata" || name == "node_modules" || name == "vendor"
}

// sources calls f with every Go file. The files are read here and not by a
// `go list`, so that go test knows them and never answers from its cache after
// one of them has changed.
func sources(fsys fs.FS, f func(name string, text []byte) error) error {
	return fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && skipped(d.Name()):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(name, ".go"):
			return nil
		}
		text, err := fs.ReadFile(fsys, name)
		if err != nil {
			return err
		}
		return f(name, text)
	})
}

func readTree(t testing.TB, fsys fs.FS) tree {
	t.Helper()
	all := tree{}
	err := sources(fsys, func(name string, text []byte) error {
		file, err := parser.ParseFile(token.NewFileSet(), name, text, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		return all.add(name, file)
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func (all tree) add(name string, file *ast.File) error {
	dir := path.Dir(name)
	p := all[dir]
	if p == nil {
		p = &pkg{path: dir, imports: map[string][]string{}, tests: map[string][]string{}, onlyTest: true}
		all[dir] = p
	}
	imports := p.tests
	if !strings.HasSuffix(name, "_test.go") {
		imports, p.onlyTest = p.imports, false
	}
	for _, spec := range file.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return fmt.Errorf("%s: import %s: %w", name, spec.Path.Value, err)
		}
		imports[imported] = append(imports[imported], name)
	}
	if file.Doc != nil && strings.TrimSpace(file.Doc.Text()) != "" {
		p.comments = append(p.comments, name)
	}
	return nil
}

// sorted are the packages in order of their paths.
func (all tree) sorted() []*pkg {
	return slices.SortedFunc(maps.Values(all), func(a, b *pkg) int { return strings.Compare(a.path, b.path) })
}

// chain is the shortest way of imports from a package to one that bad names,
// or nil. The ways go through packages of ours; their last step may leave them.
func (all tree) chain(from string, bad func(imported string) bool) []string {
	ways := [][]string{{from}}
	seen := map[string]bool{from: true}
	for len(ways) > 0 {
		way := ways[0]
		ways = ways[1:]
		p := all[way[len(way)-1]]
		if p == nil {
			continue
		}
		for _, imported := range slices.Sorted(maps.Keys(p.imports)) {
			next := append(slices.Clone(way), strings.TrimPrefix(imported, module+"/"))
			if bad(imported) {
				return next
			}
			if l := local(imported); l != "" && !seen[l] {
				seen[l] = true
				ways = append(ways, next)
			}
		}
	}
	return nil
}
