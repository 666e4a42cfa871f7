package message

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// ErrRehead is a new header that does not describe the body that is there.
var ErrRehead = errors.New("header describes another body")

// Rehead is a mail with a header of its own before a body that stays where it
// is: head are complete fields and the blank line, entity is the part of src
// whose body, with its parts, follows to the end of src. The errors are
// ErrRehead, ErrHeaderLimit and those of src.
func Rehead(src Source, entity *Part, head []byte, l Limits) (*Message, error) {
	m, err := Parse(bytes.NewReader(head), l)
	switch {
	case err != nil:
		return nil, err
	case m.Root.Type != entity.Type || !maps.Equal(m.Root.Params, entity.Params) || m.Root.Body.Start != int64(len(head)):
		return nil, fmt.Errorf("print header: %w", ErrRehead)
	}
	whole := shifted(entity, int64(len(head))-entity.Body.Start)
	m.Source = &reheaded{head: head, tail: src, from: entity.Body.Start}
	whole.Header, whole.Params, whole.Whole = m.Root.Header, m.Root.Params, Span{End: m.Source.Size()}
	m.Root = whole
	return m, nil
}

// shifted is a part of a mail in which it begins later by some bytes.
func shifted(p *Part, by int64) *Part {
	move := func(s Span) Span { return Span{Start: s.Start + by, End: s.End + by} }
	moved := *p
	moved.Header = slices.Clone(p.Header)
	for i, f := range moved.Header {
		moved.Header[i].Whole, moved.Header[i].Value = move(f.Whole), move(f.Value)
	}
	moved.Whole, moved.Body = move(p.Whole), move(p.Body)
	if strings.HasPrefix(p.Type, "multipart/") {
		moved.Preamble, moved.Epilogue = move(p.Preamble), move(p.Epilogue)
	}
	moved.Parts = nil
	for _, part := range p.Parts {
		moved.Parts = append(moved.Parts, shifted(part, by))
	}
	return &moved
}

// reheaded is a new header before the body of another source.
type reheaded struct {
	head []byte
	tail Source
	from int64 // of tail
}

// Size is the length of both.
func (j *reheaded) Size() int64 { return int64(len(j.head)) + j.tail.Size() - j.from }

// ReadAt reads over the seam.
func (j *reheaded) ReadAt(b []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d: negative offset", off)
	}
	if off < int64(len(j.head)) {
		n = copy(b, j.head[off:])
		off += int64(n)
	}
	if n == len(b) {
		return n, nil
	}
	more, err := j.tail.ReadAt(b[n:], off-int64(len(j.head))+j.from)
	return n + more, err
}
