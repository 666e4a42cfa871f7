package message

import (
	"io"
	"sync"
)

// block is how much of a mail is copied at a time, in bytes.
const block = 32 << 10

var blocks = sync.Pool{New: func() any { return new([block]byte) }}

// Copy is io.Copy with a buffer that serves many mails, one after the other:
// for small ones making it costs more than copying. Nothing of a mail stays in it.
func Copy(w io.Writer, r io.Reader) (int64, error) {
	buffer := blocks.Get().(*[block]byte)
	used := &most{r: r}
	defer func() {
		clear(buffer[:used.n])
		blocks.Put(buffer)
	}()
	return io.CopyBuffer(plain{w}, used, buffer[:])
}

// plain hides that a writer can read, which would go round the buffer.
type plain struct{ io.Writer }

// most knows how much of a buffer was ever written to.
type most struct {
	r io.Reader
	n int
}

func (m *most) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	m.n = max(m.n, n)
	return n, err
}
