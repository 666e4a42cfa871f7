package message

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestCopy(t *testing.T) {
	for _, size := range []int{0, 1, block - 1, block, block + 1, 3*block + 7} {
		want := strings.Repeat("secret", size/6+1)[:size]
		for name, r := range map[string]io.Reader{
			"whole":     strings.NewReader(want),
			"piecemeal": iotest.HalfReader(strings.NewReader(want)),
			"with EOF":  iotest.DataErrReader(strings.NewReader(want)),
		} {
			var got bytes.Buffer
			n, err := Copy(&got, r)
			if err != nil || n != int64(size) || got.String() != want {
				t.Errorf("%s, %d bytes: got %d, %v", name, size, n, err)
			}
		}
	}
	buffer := blocks.Get().(*[block]byte)
	defer blocks.Put(buffer)
	if !bytes.Equal(buffer[:], make([]byte, block)) {
		t.Error("got a buffer with bytes of a mail in it")
	}
	if _, err := Copy(io.Discard, iotest.ErrReader(io.ErrClosedPipe)); err != io.ErrClosedPipe {
		t.Errorf("got %v, want the reader's error", err)
	}
}
