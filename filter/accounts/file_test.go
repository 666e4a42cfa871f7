package accounts

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"postern/filter/transport"
)

// file is one with alice, and bob who has no keys of SCRAM.
func file(t testing.TB) (*File, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "accounts")
	if err := Add(path, "alice", "right secret", []string{"alice@company1.example", "*@sales.company1.example"}, true); err != nil {
		t.Fatal(err)
	}
	if err := Add(path, "bob", "right secret", nil, false); err != nil {
		t.Fatal(err)
	}
	f, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return f, path
}

func TestFile(t *testing.T) {
	f, path := file(t)
	check := func(name, password string, want error) {
		t.Helper()
		a, err := f.Check(t.Context(), name, password)
		if !errors.Is(err, want) || (a != nil) != (want == nil) {
			t.Errorf("%s %q: got %v, %v, want %v", name, password, a, err, want)
		}
	}
	check("alice", "right secret", nil)
	check("Alice", "right secret", nil)
	check("alice", "right secret ", transport.ErrLoginRefused)
	check("nobody", "right secret", transport.ErrLoginRefused)
	check("bob", "right secret", nil)

	// What an operator changes counts at once.
	if err := SetPassword(path, "alice", "other secret"); err != nil {
		t.Fatal(err)
	}
	check("alice", "right secret", transport.ErrLoginRefused)
	check("alice", "other secret", nil)
	if err := Remove(path, "bob"); err != nil {
		t.Fatal(err)
	}
	check("bob", "right secret", transport.ErrLoginRefused)

	// A file that is gone or broken is no empty one: nobody is told that he is wrong.
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "secret") {
		t.Errorf("the file has a password:\n%s", text)
	}
	if err := os.WriteFile(path, append(text, "x y\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	check("alice", "other secret", ErrFile)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	check("alice", "other secret", nil)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	check("alice", "other secret", fs.ErrNotExist)
}

func TestEdit(t *testing.T) {
	_, path := file(t)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	mine := "# mine\n\n" + string(text) + "# end"
	if err := errors.Join(os.WriteFile(path, []byte(mine), 0o600), os.Chmod(path, 0o604)); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		do   error
		want error
	}{
		{"there already", Add(path, "ALICE", "right secret", nil, true), ErrExists},
		{"not there", SetPassword(path, "carol", "right secret"), ErrUnknown},
		{"not there", Remove(path, "carol"), ErrUnknown},
		{"short", SetPassword(path, "alice", "short"), ErrPassword},
		{"two lines", SetPassword(path, "alice", "right\nsecret"), ErrPassword},
		{"a name with space", Add(path, "al ice", "right secret", nil, true), errName},
		{"a comment", Add(path, "#alice", "right secret", nil, true), errName},
		{"a pattern", Add(path, "*@x.example", "right secret", nil, true), errName},
	} {
		if !errors.Is(test.do, test.want) {
			t.Errorf("%s: got %v, want %v", test.name, test.do, test.want)
		}
	}
	for _, bad := range []string{"", "alice", "@x.example", "*", "*@", "*@x@y.example", "a b@x.example", "a@x.example,b@x.example", "<a@x.example>", "*@*"} {
		if err := Add(path, "carol", "right secret", []string{bad}, true); err == nil {
			t.Errorf("sender %q: got no error", bad)
		}
	}
	if now, _ := os.ReadFile(path); string(now) != mine {
		t.Errorf("got\n%s\nwant what was there", now)
	}
	if err := SetPassword(path, "bob", "other secret"); err != nil {
		t.Fatal(err)
	}
	now, _ := os.ReadFile(path)
	if a, b := strings.Split(mine, "\n"), strings.Split(string(now), "\n"); len(b) != len(a)+1 || a[0] != b[0] || a[2] != b[2] || a[3] == b[3] || b[4] != "# end" || !strings.HasPrefix(b[3], "bob $argon2id$v=19$m=19456,t=2,p=1$") || !strings.HasSuffix(b[3], " - -") {
		t.Errorf("got\n%s\nof\n%s", now, mine)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o604 {
		t.Errorf("got mode %v, %v, want it kept", info.Mode(), err)
	}
	// Two at once lose nothing.
	var group sync.WaitGroup
	for i := range 4 {
		group.Go(func() {
			if err := Add(path, fmt.Sprint("user", i), "right secret", nil, false); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	list, err := List(path)
	if err != nil || len(list) != 6 || list[0].Name != "alice" || !list[0].SCRAM() || list[1].SCRAM() {
		t.Errorf("got %d accounts, %v", len(list), err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".accounts-*")); len(left) > 0 {
		t.Errorf("left over: %q", left)
	}
}

const (
	goodHash = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0$" + "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE"
	goodKeys = "SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0$MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=:MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
)

func TestEntries(t *testing.T) {
	for _, good := range []string{
		"alice " + goodHash + " - -",
		"alice " + goodHash + " " + goodKeys + " alice@x.example,*@y.example",
		"alice@x.example\t" + goodHash + " \t - büro@x.example",
	} {
		e, err := parseEntry(good)
		if err != nil {
			t.Errorf("%s: %v", good, err)
		} else if again := e.String(); again != strings.Join(strings.Fields(good), " ") {
			t.Errorf("got %s, want %s", again, good)
		}
	}
	for name, bad := range map[string]string{
		"no hash":          "alice",
		"five words":       "alice " + goodHash + " - - -",
		"in clear":         "alice secret - -",
		"argon2i":          "alice " + strings.Replace(goodHash, "argon2id", "argon2i", 1) + " - -",
		"old version":      "alice " + strings.Replace(goodHash, "v=19", "v=16", 1) + " - -",
		"too much memory":  "alice " + strings.Replace(goodHash, "19456", "4194304", 1) + " - -",
		"no memory":        "alice " + strings.Replace(goodHash, "19456", "0", 1) + " - -",
		"too much time":    "alice " + strings.Replace(goodHash, "t=2", "t=100", 1) + " - -",
		"too many lanes":   "alice " + strings.Replace(goodHash, "p=1", "p=255", 1) + " - -",
		"short salt":       "alice " + strings.Replace(goodHash, "c2FsdHNhbHRzYWx0", "c2Fs", 1) + " - -",
		"short hash":       "alice " + strings.Replace(goodHash, "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE", "MDEy", 1) + " - -",
		"no hash in it":    "alice " + strings.Replace(goodHash, "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE", "", 1) + " - -",
		"bcrypt":           "alice $2y$10$abcdefghijklmnopqrstuv - -",
		"few iterations":   "alice " + goodHash + " " + strings.Replace(goodKeys, "4096", "1", 1) + " -",
		"many iterations":  "alice " + goodHash + " " + strings.Replace(goodKeys, "4096", "2000000000", 1) + " -",
		"SCRAM-SHA-1":      "alice " + goodHash + " " + strings.Replace(goodKeys, "256", "1", 1) + " -",
		"empty stored key": "alice " + goodHash + " SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0$: -",
		"bad sender":       "alice " + goodHash + " - alice",
	} {
		if _, err := parseEntry(bad); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
	if _, err := parse(strings.NewReader("alice " + goodHash + " - -\n# x\nALICE " + goodHash + " - -\n")); !errors.Is(err, ErrFile) || !strings.Contains(err.Error(), "line 3") {
		t.Errorf("twice: got %v", err)
	}
	if _, err := parse(strings.NewReader("alice " + goodHash + " - " + strings.Repeat("a", maxEntry))); !errors.Is(err, ErrFile) {
		t.Errorf("a long line: got %v", err)
	}
}

// Hashing many passwords at once takes the memory of a few.
func TestHashingIsBounded(t *testing.T) {
	f, _ := file(t)
	var group sync.WaitGroup
	for range 30 {
		group.Go(func() {
			if _, err := f.Check(t.Context(), "alice", "wrong secret"); err != transport.ErrLoginRefused && !errors.Is(err, transport.ErrLoginAway) {
				t.Errorf("got %v", err)
			}
			if n := len(turns); n > maxHashing {
				t.Errorf("got %d at once, want at most %d", n, maxHashing)
			}
		})
	}
	group.Wait()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	if m.HeapSys > 512<<20 {
		t.Errorf("got a heap of %d MiB", m.HeapSys>>20)
	}
}

// A name that is not there costs a hash like one that is (R27): both wait for a turn.
func TestNobodyIsHashed(t *testing.T) {
	f, _ := file(t)
	for range maxHashing {
		turns <- struct{}{}
	}
	defer func() {
		for range maxHashing {
			<-turns
		}
	}()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, name := range []string{"alice", "nobody"} {
		if _, err := f.Check(ctx, name, "wrong secret"); !errors.Is(err, transport.ErrLoginAway) {
			t.Errorf("%s: got %v, want a wait for a turn", name, err)
		}
	}
	if f.nobody.memory != argonMemory || f.nobody.time != argonTime || f.nobody.lanes != argonLanes {
		t.Errorf("got a hash of %d KiB for nobody", f.nobody.memory)
	}
}

func FuzzEntry(f *testing.F) {
	f.Add("alice " + goodHash + " " + goodKeys + " alice@x.example,*@y.example")
	f.Add("alice " + goodHash + " - -")
	f.Fuzz(func(t *testing.T, line string) {
		e, err := parseEntry(line)
		if err != nil {
			return
		}
		again, err := parseEntry(e.String())
		if err != nil || again.String() != e.String() {
			t.Errorf("%q: got %v, %v", line, again, err)
		}
	})
}
