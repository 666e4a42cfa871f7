package headers

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"postern/filter/message"
)

// parameters are those of this package.
var parameters = []string{parameter, draft}

// mark gives an entity's header a Content-Type that says that it protects
// others, and how. One that can't be read is replaced by what it is read as
// (RFC 2045 §5.2), since a mark on it would not be seen.
func mark(header []byte, hp string) ([]byte, error) {
	m, err := parseHeader(header)
	if err != nil {
		return nil, fmt.Errorf("mark payload: %w", err)
	}
	marks := ";\r\n " + parameter + "=\"" + hp + "\"; " + draft + "=\"" + draftOne + "\"\r\n"
	fields := m.All("Content-Type")
	if len(fields) == 0 {
		return append([]byte("Content-Type: text/plain; charset=us-ascii"+marks), header...), nil
	}
	bare, ok, err := unmarked(m, fields[0])
	if err != nil {
		return nil, fmt.Errorf("mark payload: %w", err)
	}
	marked := append(bytes.TrimRight(bare, "; \t\r\n"), marks...)
	want := maps.Clone(m.Root.Params)
	if want == nil {
		want = map[string]string{}
	}
	want[parameter], want[draft] = hp, draftOne
	if got, err := parseHeader(marked); err != nil || !ok || len(fields) > 1 || got.Root.Type != m.Root.Type || !maps.Equal(got.Root.Params, want) {
		marked = []byte("Content-Type: " + m.Root.Type + marks)
	}
	var out []byte
	for _, f := range m.Root.Header {
		switch {
		case !strings.EqualFold(f.Name, "Content-Type"):
			out = append(out, header[f.Whole.Start:f.Whole.End]...)
		case f == fields[0]:
			out = append(out, marked...)
		}
	}
	return out, nil
}

// parseHeader reads complete lines as the header of a mail without a body.
func parseHeader(lines []byte) (*message.Message, error) {
	return message.Parse(bytes.NewReader(slices.Concat(lines, []byte("\r\n"))), message.Limits{HeaderBytes: int64(len(lines)) + 2, Fields: len(lines) + 1})
}

// unmarked is a Content-Type field without the parameters of this package, and
// otherwise to the byte as it was. Where they can't be told from the rest it
// comes back with them, and ok is false.
func unmarked(m *message.Message, f message.Field) (field []byte, ok bool, err error) {
	raw := make([]byte, f.Whole.Len())
	if _, err := io.ReadFull(message.SectionReader(m.Source, f.Whole), raw); err != nil {
		return nil, false, fmt.Errorf("read Content-Type: %w", err)
	}
	var kept []byte
	for i, piece := range pieces(raw[:f.Value.End-f.Whole.Start]) {
		name, _, _ := strings.Cut(strings.ToLower(string(piece)), "=")
		if i > 0 && slices.Contains(parameters, strings.Trim(name, "; \t\r\n")) {
			continue
		}
		kept = append(kept, piece...)
	}
	kept = append(kept, raw[f.Value.End-f.Whole.Start:]...)
	was, err := parseHeader(raw)
	if err != nil {
		return nil, false, err
	}
	want := maps.Clone(was.Root.Params)
	maps.DeleteFunc(want, func(name, _ string) bool { return slices.Contains(parameters, name) })
	if is, err := parseHeader(kept); err != nil || is.Root.Type != was.Root.Type || !maps.Equal(is.Root.Params, want) {
		return raw, false, nil
	}
	return kept, true, nil
}

// pieces divides a field before each semicolon that stands in no quotes and no comment.
func pieces(field []byte) (list [][]byte) {
	start, depth, quoted := 0, 0, false
	for i := 0; i < len(field); i++ {
		switch c := field[i]; {
		case c == '\\':
			i++
		case c == '"' && depth == 0:
			quoted = !quoted
		case quoted:
		case c == '(':
			depth++
		case c == ')' && depth > 0:
			depth--
		case c == ';' && depth == 0:
			list = append(list, field[start:i])
			start = i
		}
	}
	return append(list, field[start:])
}
