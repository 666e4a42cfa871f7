// Package e2e judges the house as a whole: who may import whom, and what the
// programs do together.
package e2e_test

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

// root is the module's folder.
const root = "../.."

// The floors: imports go down only.
const (
	ground   = iota // what both processes speak of
	nouns           // mail and certificates
	crafts          // one standard each
	rooms           // what a program is made of; never each other
	programs        // flags and wiring
)

// floors has every package below the rooms by name, so that a new one is
// placed on purpose.
var floors = map[string]int{
	"hsm": ground, "hsm/wire": ground, "hsm/internal/folder": ground, "hsm/internal/shelf": ground,
	"filter/message": nouns, "filter/keyring": nouns, "filter/protect": nouns, "filter/database": nouns, "filter/state": nouns, "filter/protect/headers": nouns, "filter/protect/entity": nouns,
	"filter/credential": crafts, "filter/chain": crafts, "filter/chain/fetch": crafts, "filter/openpgp": crafts, "filter/smime": crafts, "filter/cms": crafts, "filter/cms/ber": crafts, "filter/policy": crafts, "filter/directory": crafts,
	"filter/dkim": crafts, "filter/transport": crafts, "filter/socketmap": crafts, "filter/record": crafts, "filter/authres": crafts, "hsm/internal/p11": crafts, "hsm/module": crafts, "hsm/client": crafts,
	"filter/resolver": crafts, "filter/web": crafts, "filter/publish": crafts, "filter/mtasts": crafts, "filter/route": crafts,
	"filter/accounts": crafts, "filter/ldaphost": crafts, "filter/arc": crafts, "filter/dmarc": crafts, "filter/autocrypt": crafts, "filter/zone": crafts,
	"filter/autoconfig": crafts,
	"filter/challenge":  crafts,
	"filter/scan":       crafts,
	"filter/paper":      crafts, "filter/pdf": crafts, "filter/press": crafts,
	"image":  crafts, // one verifier for the build, the update and whoever downloads
	"filter": rooms, "hsm/keyd": rooms,
}

// neighbours are the imports allowed on one floor below the rooms.
var neighbours = map[string][]string{
	"hsm/wire":               {"hsm"},
	"hsm/internal/shelf":     {"hsm", "hsm/internal/folder"},
	"filter/keyring":         {"filter/message", "filter/database"},
	"filter/protect":         {"filter/keyring", "filter/message"},
	"filter/protect/headers": {"filter/message"},
	"filter/protect/entity":  {"filter/protect", "filter/message"},
	"filter/record":          {"filter/transport"},
	"filter/openpgp":         {"hsm/client"},
	"filter/cms":             {"filter/cms/ber"},
	"filter/credential":      {"hsm/client"},
	"filter/smime":           {"filter/chain", "filter/cms", "hsm/client"},
	"filter/dkim":            {"hsm/client"},
	"filter/arc":             {"filter/dkim"},                    // forms, tags and keys
	"filter/zone":            {"filter/dkim", "filter/resolver"}, // keys by their selectors, and who is asked
	"filter/dmarc":           {"filter/dkim", "filter/resolver"}, // what it judges together
	"filter/accounts":        {"filter/transport", "filter/ldaphost"},
	"filter/challenge":       {"filter/dkim"},     // whose signatures make such a mail count
	"filter/chain/fetch":     {"filter/resolver"}, // one word for what the Internet routes
	"filter/web":             {"filter/resolver"},
	"filter/directory":       {"filter/resolver", "filter/web", "filter/ldaphost"},
	"filter/mtasts":          {"filter/resolver", "filter/web"},
	"filter/publish":         {"filter/directory"},                                                      // where a certificate stands, for who asks and who is asked
	"filter/route":           {"filter/policy", "filter/resolver", "filter/mtasts", "filter/transport"}, // who decides, out of what they know
	"filter/press":           {"filter/paper", "filter/pdf"},                                            // what makes a document, out of what it is given
	"hsm/module":             {"hsm/internal/p11"},                                                      // the door for cmd/keyd: Go lets nothing outside of hsm import it
}

// floorOf is where a package stands, and in which room.
func floorOf(p string) (floor int, room string, known bool) {
	switch parts := strings.Split(p, "/"); parts[0] {
	case "cmd":
		return programs, p, true
	case "provisioning":
		return rooms, parts[0], true
	case "appliance":
		if len(parts) > 1 {
			return rooms, parts[0] + "/" + parts[1], true
		}
	}
	floor, known = floors[p]
	return floor, p, known
}

// helper reports whether a package is there for tests only: hsmtest, protecttest.
func helper(p string) bool { return strings.HasSuffix(path.Base(p), "test") }

// wall is a way of imports that must not exist, however long.
type wall struct {
	from func(p string) bool
	to   func(imported string) bool
	name string
	why  string
}

func one(names ...string) func(string) bool {
	return func(p string) bool { return slices.Contains(names, p) }
}

func ours(dirs ...string) func(string) bool {
	return func(imported string) bool {
		l := local(imported)
		return l != "" && slices.ContainsFunc(dirs, func(d string) bool { return within(l, d) })
	}
}

// tokenCode is what opens a token.
func tokenCode(imported string) bool {
	return imported == "C" || imported == "github.com/miekg/pkcs11" || strings.HasPrefix(imported, "github.com/ThalesGroup/crypto11")
}

var walls = []wall{
	{one("cmd/keyd"), ours("filter"), "cmd/keyd never reaches filter",
		"the process that knows the PIN must not contain a mail parser"},
	{one("cmd/filterd", "cmd/postern", "cmd/trial"), func(i string) bool { return tokenCode(i) || ours("hsm/internal/p11", "hsm/keyd")(i) },
		"no program but cmd/keyd reaches hsm/internal/p11, hsm/keyd or cgo",
		"the process that parses hostile mail has no module and no PIN; it builds with CGO_ENABLED=0"},
	{one("cmd/filterd", "cmd/keyd", "cmd/trial"), func(i string) bool {
		return ours("filter/press", "filter/pdf")(i) || strings.HasPrefix(i, "golang.org/x/image")
	},
		"no program but cmd/postern reaches filter/press or filter/pdf",
		"documents of hostile mail are made by a process of its own, which has no key, no network and no files"},
	{one("filter/pdf"), one("net", "net/http", "os", "os/exec"), "filter/pdf reaches no net and no files",
		"what writes a document has what it is given, and nothing else"},
	{one("filter/policy"), one("net", "net/http", "net/smtp", "crypto/tls", "os/exec"), "filter/policy never reaches net",
		"a decision does no I/O"},
	{func(p string) bool { return within(p, "hsm") }, ours("filter", "provisioning", "appliance", "image"), "hsm never reaches filter",
		"keys know nothing of mail"},
}

// judge lists what is wrong with who imports whom.
func judge(all tree) (wrong []string) {
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	for _, p := range all.sorted() {
		if _, _, known := floorOf(p.path); !known && !helper(p.path) && !p.onlyTest {
			say("%s stands on no floor: place it in walls_test.go", p.path)
			continue
		}
		for _, imported := range slices.Sorted(maps.Keys(p.imports)) {
			files := strings.Join(p.imports[imported], ", ")
			if l := local(imported); l != "" {
				if why := forbidden(p.path, l); why != "" {
					say("%s imports %s: %s (%s)", p.path, l, why, files)
				}
			}
			if tokenCode(imported) && p.path != "hsm/internal/p11" && p.path != "hsm/hsmtest" {
				say("%s imports %s: only hsm/internal/p11 opens tokens (%s)", p.path, imported, files)
			}
			if p.path == "hsm" && !standard(imported) {
				say("hsm imports %s: the vocabulary has the standard library only (%s)", imported, files)
			}
			if p.path == "filter/policy" && one("os", "time", "io", "io/fs", "bufio", "log", "log/slog", "database/sql", "math/rand", "crypto/rand")(imported) {
				say("filter/policy imports %s: a decision is facts in, one answer out (%s)", imported, files)
			}
		}
		for _, imported := range slices.Sorted(maps.Keys(p.tests)) {
			if within(p.path, "hsm") && ours("filter")(imported) {
				say("%s imports %s: keys know nothing of mail, in their tests too (%s)", p.path, imported, strings.Join(p.tests[imported], ", "))
			}
		}
		for _, w := range walls {
			if w.from(p.path) {
				if way := all.chain(p.path, w.to); way != nil {
					say("%s: %s: %s", w.name, strings.Join(way, " → "), w.why)
				}
			}
		}
	}
	return wrong
}

// forbidden says why a must not import b, or "".
func forbidden(a, b string) string {
	switch {
	case helper(a):
		return ""
	case helper(b):
		return "it is for tests"
	}
	floorA, roomA, knownA := floorOf(a)
	floorB, roomB, knownB := floorOf(b)
	switch {
	case !knownA || !knownB:
		return "it stands on no floor"
	case floorB > floorA:
		return "arrows go down only"
	case floorB < floorA:
		return ""
	case floorA == programs:
		if within(b, "cmd/internal") {
			return ""
		}
		return "programs never import each other"
	case roomA == roomB && floorA == rooms:
		return ""
	case floorA == rooms:
		return "rooms never import each other"
	case slices.Contains(neighbours[a], b):
		return ""
	}
	return "they are neighbours on one floor, and it is no pair of walls_test.go"
}

// commented lists packages without exactly one package comment.
func commented(all tree) (wrong []string) {
	for _, p := range all.sorted() {
		files := slices.DeleteFunc(slices.Clone(p.comments), func(name string) bool {
			return strings.HasSuffix(name, "_test.go") && !p.onlyTest
		})
		if len(files) != 1 {
			wrong = append(wrong, fmt.Sprintf("%s: package comments in %d files %v, want 1", p.path, len(files), files))
		}
	}
	return wrong
}

func TestWalls(t *testing.T) {
	all := readTree(t, os.DirFS(root))
	for _, p := range []string{"hsm", "hsm/internal/p11", "filter", "filter/policy", "provisioning", "appliance/config"} {
		if all[p] == nil {
			t.Fatalf("package %s was not found: the walls are not where they look", p)
		}
	}
	for _, line := range judge(all) {
		t.Error(line)
	}
}

func TestOnePackageComment(t *testing.T) {
	for _, line := range commented(readTree(t, os.DirFS(root))) {
		t.Error(line)
	}
}

// Every package but programs and what tests are made of has its row in
// architecture.md.
func TestTreeIsDescribed(t *testing.T) {
	page, err := os.ReadFile(root + "/appliance/docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range readTree(t, os.DirFS(root)).sorted() {
		program := within(p.path, "cmd") && !within(p.path, "cmd/internal")
		if p.onlyTest || program || helper(p.path) || within(p.path, "appliance/e2e") {
			continue
		}
		parent, name := path.Split(p.path)
		// A row may name what lies below its folder in brackets: appliance/box (`tpm`).
		row := regexp.MustCompile("(?m)^\\| .*`" + regexp.QuoteMeta(p.path) + "`.*\\|$|^\\| `" + regexp.QuoteMeta(strings.TrimSuffix(parent, "/")) + "` .*\\(`" + regexp.QuoteMeta(name) + "`\\).*\\|$")
		if !row.Match(page) {
			t.Errorf("package %s has no row in architecture.md", p.path)
		}
	}
}

// Each planted breach is found, by the words of its rule, and a sound house
// passes.
func TestWallsFindBreaches(t *testing.T) {
	sound := map[string]string{
		"hsm/hsm.go":                "// Package hsm speaks.\npackage hsm\nimport \"crypto\"",
		"hsm/wire/wire.go":          "package wire\nimport \"postern/hsm\"",
		"hsm/internal/p11/p.go":     "package p11\nimport (\n\"C\"\n\"github.com/miekg/pkcs11\"\n\"postern/hsm\"\n)",
		"hsm/keyd/keyd.go":          "package keyd\nimport \"postern/hsm/wire\"",
		"hsm/hsmtest/h.go":          "package hsmtest\nimport \"postern/hsm\"",
		"filter/message/m.go":       "package message\nimport \"os\"",
		"filter/keyring/k.go":       "package keyring\nimport \"postern/filter/message\"",
		"filter/policy/p.go":        "package policy\nimport \"postern/filter/keyring\"",
		"filter/filter.go":          "package filter\nimport \"postern/filter/policy\"",
		"filter/filter_test.go":     "package filter\nimport \"postern/hsm/hsmtest\"",
		"appliance/config/c.go":     "package config",
		"appliance/service/s.go":    "package service",
		"cmd/keyd/main.go":          "package main\nimport (\n\"postern/hsm/keyd\"\n\"postern/hsm/internal/p11\"\n\"postern/appliance/config\"\n\"postern/appliance/service\"\n)",
		"cmd/filterd/main.go":       "package main\nimport (\n\"postern/filter\"\n\"postern/cmd/internal/gateway\"\n)",
		"cmd/internal/gateway/g.go": "package gateway\nimport \"postern/filter\"",
		"filter/testdata/bad.go":    "package bad\nimport \"C\"",
	}
	for _, c := range []struct{ name, file, text, want string }{
		{"sound", "", "", ""},
		{"keyd has a mail parser", "cmd/keyd/more.go", "package main\nimport \"postern/filter/message\"", "cmd/keyd never reaches filter: cmd/keyd → filter/message"},
		{"keyd has one through a room", "appliance/service/more.go", "package service\nimport \"postern/filter/message\"", "cmd/keyd never reaches filter: cmd/keyd → appliance/service → filter/message"},
		{"filterd has a module, far down", "filter/message/more.go", "package message\nimport \"C\"", "no program but cmd/keyd reaches hsm/internal/p11, hsm/keyd or cgo: cmd/filterd → filter → filter/policy → filter/keyring → filter/message → C"},
		{"filterd has the key daemon", "cmd/internal/gateway/more.go", "package gateway\nimport \"postern/hsm/keyd\"", "cmd/filterd → cmd/internal/gateway → hsm/keyd"},
		{"policy asks the net", "filter/keyring/more.go", "package keyring\nimport \"net\"", "filter/policy never reaches net: filter/policy → filter/keyring → net"},
		{"policy looks at files", "filter/policy/more.go", "package policy\nimport \"os\"", "filter/policy imports os"},
		{"keys know mail", "hsm/keyd/more.go", "package keyd\nimport \"postern/filter/message\"", "hsm never reaches filter: hsm/keyd → filter/message"},
		{"keys know mail in a test", "hsm/keyd/more_test.go", "package keyd\nimport \"postern/filter/message\"", "keys know nothing of mail, in their tests too"},
		{"vocabulary has a dependency", "hsm/more.go", "package hsm\nimport \"golang.org/x/sys/unix\"", "hsm imports golang.org/x/sys/unix"},
		{"vocabulary has cgo", "hsm/more.go", "package hsm\nimport \"C\"", "hsm imports C"},
		{"up", "filter/message/more.go", "package message\nimport \"postern/filter/policy\"", "filter/message imports filter/policy: arrows go down only"},
		{"noun up", "filter/message/more.go", "package message\nimport \"postern/filter/keyring\"", "filter/message imports filter/keyring: they are neighbours"},
		{"rooms", "filter/more.go", "package filter\nimport \"postern/appliance/config\"", "filter imports appliance/config: rooms never import each other"},
		{"rooms of the appliance", "appliance/service/more.go", "package service\nimport \"postern/appliance/config\"", "appliance/service imports appliance/config: rooms"},
		{"programs", "cmd/keyd/more.go", "package main\nimport \"postern/cmd/filterd\"", "programs never import each other"},
		{"crafts", "filter/policy/more.go", "package policy\nimport \"postern/filter/transport\"", "filter/policy imports filter/transport: they are neighbours"},
		{"a helper in a program", "filter/more.go", "package filter\nimport \"postern/hsm/hsmtest\"", "filter imports hsm/hsmtest: it is for tests"},
		{"filterd makes documents", "filter/more.go", "package filter\nimport \"golang.org/x/image/font\"", "no program but cmd/postern reaches filter/press or filter/pdf: cmd/filterd → filter → golang.org/x/image/font"},
		{"no floor", "filter/util/u.go", "package util", "filter/util stands on no floor"},
		{"another package opens tokens", "provisioning/p.go", "package provisioning\nimport \"github.com/miekg/pkcs11\"", "only hsm/internal/p11 opens tokens"},
	} {
		fsys := fstest.MapFS{}
		for name, text := range sound {
			fsys[name] = &fstest.MapFile{Data: []byte(text)}
		}
		if c.file != "" {
			fsys[c.file] = &fstest.MapFile{Data: []byte(c.text)}
		}
		got := judge(readTree(t, fsys))
		if c.want == "" && len(got) > 0 || c.want != "" && !slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, c.want) }) {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func TestCommentsAreCounted(t *testing.T) {
	fsys := fstest.MapFS{}
	for name, text := range map[string]string{
		"one/a.go": "// Package one is fine.\npackage one", "one/b.go": "package one", "one/a_test.go": "// Package one again.\npackage one",
		"none/a.go": "package none", "two/a.go": "// Package two.\npackage two", "two/b.go": "// Package two.\npackage two",
		"test/a_test.go": "// Package test is tests.\npackage test", "cgo/a.go": "//go:build linux\n\npackage cgo\n// int x;\nimport \"C\"",
	} {
		fsys[name] = &fstest.MapFile{Data: []byte(text)}
	}
	want := []string{
		"cgo: package comments in 0 files [], want 1",
		"none: package comments in 0 files [], want 1",
		"two: package comments in 2 files [two/a.go two/b.go], want 1",
	}
	if got := commented(readTree(t, fsys)); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// What filterd is linked from, by the go command itself: what it imports from
// other modules counts too.
func TestFilterdHasNoCgo(t *testing.T) {
	readTree(t, os.DirFS(root)) // so that go test asks again when a source changes
	for _, name := range []string{"go.mod", "go.sum"} {
		if _, err := os.ReadFile(path.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, program := range []string{"filterd", "postern", "trial"} {
		cmd := exec.Command("go", "list", "-deps", "./cmd/"+program)
		cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Errorf("%v: %v\n%s", cmd, err, stderr.String())
			continue
		}
		deps := strings.Fields(string(out))
		if !slices.Contains(deps, "runtime") || !slices.Contains(deps, module+"/cmd/"+program) {
			t.Errorf("%s: got %d packages without itself, want its closure", program, len(deps))
		}
		for _, d := range deps {
			if d == "runtime/cgo" || tokenCode(d) {
				t.Errorf("%s is linked from %s", program, d)
			}
		}
	}
}

// cited finds standards where a line may break inside them.
var cited = regexp.MustCompile(`RFC(?:\s|//)+([0-9]{3,5})\b`)

// Every standard that the code cites is in the list of those it keeps, and how.
func TestEveryCitedRFCIsListed(t *testing.T) {
	where := map[int][]string{}
	err := sources(os.DirFS(root), func(name string, text []byte) error {
		for _, m := range cited.FindAllSubmatch(text, -1) {
			n, err := strconv.Atoi(string(m[1]))
			if err != nil {
				return err
			}
			if !slices.Contains(where[n], name) {
				where[n] = append(where[n], name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(where[5321]) == 0 {
		t.Fatal("RFC 5321 is cited nowhere: the search does not look")
	}
	list, err := os.ReadFile(path.Join(root, "appliance/docs/standards.md"))
	if err != nil {
		t.Error(err)
	}
	listed := map[int]bool{}
	for _, m := range cited.FindAllSubmatch(list, -1) {
		n, _ := strconv.Atoi(string(m[1]))
		listed[n] = true
	}
	for _, n := range slices.Sorted(maps.Keys(where)) {
		if !listed[n] {
			t.Errorf("RFC %d is not in appliance/docs/standards.md; cited in %s", n, strings.Join(where[n], ", "))
		}
	}
}
