package accounts

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"postern/filter/state"
)

func TestExamine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "accounts")
	if _, err := Examine(path, state.Nobody); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(hintOf(err), "account add") {
		t.Errorf("none: got %v, hint %q", err, hintOf(err))
	}
	if err := Add(path, "alice", "a good password", nil, true); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, text string
		mode       fs.FileMode
		n          int
		want       error
	}{
		{"good", string(good), 0o640, 1, nil},
		{"empty", "# nobody\n", 0o600, 0, nil},
		{"three words", string(good) + "bob - -\n", 0o600, 0, ErrFile},
		{"a hash of another kind", "bob $2y$12$abcdefghijklmnopqrstuv - -\n", 0o600, 0, ErrFile},
		{"a password", "bob secret - -\n", 0o600, 0, ErrFile},
		{"too dear", strings.Replace(string(good), "m=", "m=9", 1), 0o600, 0, ErrFile},
		{"twice", string(good) + string(good), 0o600, 0, ErrFile},
		{"everybody reads", string(good), 0o644, 0, state.ErrOpen},
		{"the group writes", string(good), 0o660, 0, state.ErrOpen},
	} {
		if err := errors.Join(os.WriteFile(path, []byte(c.text), 0o600), os.Chmod(path, c.mode)); err != nil {
			t.Fatal(err)
		}
		n, err := Examine(path, state.Nobody)
		if n != c.n || !errors.Is(err, c.want) || (hintOf(err) == "") != (c.want == nil) {
			t.Errorf("%s: got %d, %v, hint %q, want %d, %v", c.name, n, err, hintOf(err), c.n, c.want)
		}
		if err != nil && (strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "$")) {
			t.Errorf("%s: got %v: it shows what nobody should read", c.name, err)
		}
	}
}

func hintOf(err error) string {
	if f, ok := errors.AsType[*state.Fault](err); ok {
		return f.Hint()
	}
	return ""
}
