package imagetest

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// What stands on the edge between two looks is found, once.
func TestCount(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	text := []byte("marker")
	for _, at := range []int{0, block - 3, block, block + 1, 2*block - 1, 3*block - len(text)} {
		b := bytes.Repeat([]byte{'m'}, 3*block)
		copy(b[at:], text)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := Count(t, path, string(text)); got != 1 {
			t.Errorf("at %d: got it %d times, want once", at, got)
		}
	}
	if got := Count(t, path, "absent"); got != 0 {
		t.Errorf("got %d times what is not there", got)
	}
}
