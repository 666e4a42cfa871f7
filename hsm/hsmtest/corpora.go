package hsmtest

import (
	"os"
	"path/filepath"
	"testing"
)

// Corpora is the folder of mails, keys, vectors and verdicts that others wrote;
// the repository holds none of it. $POSTERN_CORPORA names it, or it lies beside
// the checkout. Without it the test is skipped.
func Corpora(t testing.TB) string {
	t.Helper()
	dir, ok := FindCorpora()
	if !ok {
		t.Skipf("no corpus of third-party material in %s (set POSTERN_CORPORA to its folder)", dir)
	}
	return dir
}

// FindCorpora is Corpora for those who can do without.
func FindCorpora() (dir string, ok bool) {
	if dir = os.Getenv("POSTERN_CORPORA"); dir == "" {
		root, err := os.Getwd()
		for err == nil && !exists(filepath.Join(root, "go.mod")) && root != filepath.Dir(root) {
			root = filepath.Dir(root)
		}
		dir = filepath.Join(root, "../shared/corpora")
	}
	return dir, exists(filepath.Join(dir, "manifest.tsv"))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
