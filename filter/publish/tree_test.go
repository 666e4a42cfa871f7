package publish

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"postern/filter/directory"
)

// A tree is there for both methods, and takes the place of an older one whole.
func TestTree(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "openpgpkey")
	first, second := NewTree("company1.example"), NewTree("company1.example")
	if a, b := first.Add("company1.example", "Alice", []byte("a")), first.Add("company1.example", "alice", []byte("a")); a != b {
		t.Errorf("got %s and %s for one local part", a, b)
	}
	second.Add("company1.example", "bob", []byte("b"))
	for _, tree := range []Tree{first, second, second} {
		if err := tree.Write(dir); err != nil {
			t.Fatal(err)
		}
		if same, err := tree.Same(dir); !same || err != nil {
			t.Errorf("got %t, %v, want the tree", same, err)
		}
	}
	if same, err := first.Same(dir); same || err != nil {
		t.Errorf("got %t, %v, want another tree", same, err)
	}
	for name, want := range map[string]string{
		"policy": "", "company1.example/policy": "",
		"hu/" + directory.HashLocal("bob"): "b", "company1.example/hu/" + directory.HashLocal("bob"): "b",
	} {
		at := filepath.Join(dir, name)
		if got, err := os.ReadFile(at); err != nil || string(got) != want {
			t.Errorf("%s: got %q, %v, want %q", name, got, err, want)
		}
		if info, err := os.Stat(at); err != nil || info.Mode().Perm() != 0o644 {
			t.Errorf("%s: got %v, %v, want it for everybody to read", name, info, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "hu", directory.HashLocal("alice"))); err == nil {
		t.Error("got what stood there before, too")
	}
	if left, err := os.ReadDir(parent); err != nil || len(left) != 1 {
		t.Errorf("got %v, %v beside it, want nothing", left, err)
	}

	// What is no tree stays.
	for _, foreign := range []string{"index.html", "company1.example/hu/x", "a/b/c/policy/d"} {
		at := filepath.Join(parent, "foreign")
		if err := os.MkdirAll(filepath.Dir(filepath.Join(at, foreign)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(at, foreign), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := first.Write(at); !errors.Is(err, ErrForeign) {
			t.Errorf("%s: got %v, want ErrForeign", foreign, err)
		}
		if _, err := os.Stat(filepath.Join(at, foreign)); err != nil {
			t.Error(err)
		}
		os.RemoveAll(at)
	}
	if err := first.Write(filepath.Join(parent, "nowhere", "x")); err == nil {
		t.Error("no folder to stand in: got no error")
	}
}
