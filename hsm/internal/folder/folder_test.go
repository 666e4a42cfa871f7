package folder

import (
	"os"
	"path/filepath"
	"testing"
)

// A file is there as it was written last, for its owner alone, with nothing
// beside it; what cannot be written leaves the old one.
func TestFolder(t *testing.T) {
	dir := t.TempDir()
	content := func() string {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(dir, "file"))
		if err != nil {
			return err.Error()
		}
		return string(b)
	}
	half := filepath.Join(dir, ".file.new")
	if err := os.WriteFile(half, []byte("half of an earlier one, longer than what comes"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"one", "two"} {
		if err := Write(dir, "file", []byte(text)); err != nil || content() != text {
			t.Errorf("got %q, %v want %q", content(), err, text)
		}
	}
	if st, err := os.Stat(filepath.Join(dir, "file")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v want mode 0600", st, err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("got %v, %v want one file", entries, err)
	}
	if err := os.Mkdir(half, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Write(dir, "file", []byte("three")); err == nil || content() != "two" {
		t.Errorf("got %q, %v want the old file and an error", content(), err)
	}
	for range 2 {
		if err := Remove(dir, "file"); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "file")); !os.IsNotExist(err) {
		t.Errorf("got %v want it removed", err)
	}
	if err := Write(filepath.Join(dir, "none"), "file", nil); err == nil {
		t.Error("written to a folder that is not there")
	}
	for _, err := range []error{Write("", "file", []byte("x")), Remove("", "file")} {
		if err != nil {
			t.Error(err)
		}
	}
}
