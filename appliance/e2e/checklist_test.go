package e2e

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The lines that appliance/docs/checklist.md has to hold, in order; others may stand there too.
var linesOfChecklist = []int{1, 2, 3, 4, 5, 6, 7, 9, 10, 12, 13, 14, 16, 17, 18, 19, 20, 21, 22, 23, 24, 27, 28, 29, 30, 39, 42}

// namedTest is how a page names a test: its folder and its name.
var namedTest = regexp.MustCompile("`([a-z0-9/]+)\\.((?:Test|Fuzz)[A-Za-z0-9]+)`")

// commentsOfTests gives the comment of a test, and whether there is one of that name.
func commentsOfTests(t *testing.T) func(folder, name string) (comment string, ok bool) {
	tests := map[string]map[string]string{} // by folder: name and comment
	return func(folder, name string) (string, bool) {
		if tests[folder] == nil {
			tests[folder] = map[string]string{}
			files, err := filepath.Glob(filepath.Join("../..", folder, "*_test.go"))
			if err != nil {
				t.Fatal(err)
			}
			for _, file := range files {
				f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments|parser.SkipObjectResolution)
				if err != nil {
					t.Fatal(err)
				}
				for _, d := range f.Decls {
					if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil {
						tests[folder][fn.Name.Name] = fn.Doc.Text()
					}
				}
			}
		}
		comment, ok := tests[folder][name]
		return comment, ok
	}
}

// linesOfWire is how many lines appliance/docs/wire.md has.
const linesOfWire = 58

// Every line about the wire names tests that are there, or says why there are none.
func TestWire(t *testing.T) {
	commentOf := commentsOfTests(t)
	n := 0
	for line := range strings.Lines(contents(t, filepath.Join(docs, "wire.md"))) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		var got int
		if _, err := fmt.Sscanf(cells[0], "%d", &got); err != nil || !strings.HasPrefix(line, "|") {
			continue
		}
		if n++; got != n || len(cells) != 4 {
			t.Errorf("line %d: got number %d and %d cells, want each number once, and 4 cells", n, got, len(cells))
			continue
		}
		held := namedTest.FindAllStringSubmatch(cells[2], -1)
		if len(held) == 0 && len(strings.TrimSpace(cells[3])) < 10 {
			t.Errorf("line %d names no test, and does not say why", n)
		}
		if strings.Count(cells[2], "`") != 2*len(held) {
			t.Errorf("line %d names what is no test: %s", n, cells[2])
		}
		for _, m := range held {
			if _, ok := commentOf(m[1], m[2]); !ok {
				t.Errorf("line %d: there is no %s in %s", n, m[2], m[1])
			}
		}
	}
	if n != linesOfWire {
		t.Errorf("got %d lines, want %d", n, linesOfWire)
	}
}

// Every line of the checklist names tests that are there and name the line in
// turn, and says what was broken to see them red.
func TestChecklist(t *testing.T) {
	commentOf := commentsOfTests(t)
	var lines []int
	for line := range strings.Lines(contents(t, filepath.Join(docs, "checklist.md"))) {
		cells := strings.Split(strings.TrimSpace(line), " | ")
		var n int
		if _, err := fmt.Sscanf(cells[0], "| R%d", &n); err != nil {
			continue
		}
		lines = append(lines, n)
		if len(cells) != 4 || !strings.HasSuffix(cells[3], " |") || len(cells[3]) < 10 {
			t.Errorf("R%d: got %d cells, want the line, what it asks, its tests and what was broken", n, len(cells))
			continue
		}
		held := namedTest.FindAllStringSubmatch(cells[2], -1)
		if len(held) == 0 {
			t.Errorf("R%d names no test", n)
		}
		for _, m := range held {
			comment, ok := commentOf(m[1], m[2])
			if !ok {
				t.Errorf("R%d: there is no %s in %s", n, m[2], m[1])
			} else if strings.HasPrefix(m[2], "Test") && !regexp.MustCompile(fmt.Sprintf(`\bR%d\b`, n)).MatchString(comment) {
				t.Errorf("R%d: the comment of %s in %s does not name the line", n, m[2], m[1])
			}
		}
	}
	if !slices.IsSorted(lines) || len(slices.Compact(slices.Clone(lines))) != len(lines) {
		t.Errorf("got lines %v, want each once and in order", lines)
	}
	for _, n := range linesOfChecklist {
		if !slices.Contains(lines, n) {
			t.Errorf("R%d is missing", n)
		}
	}
}
