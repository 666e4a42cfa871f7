package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// Error is one thing that is wrong in a file.
type Error struct {
	File string
	Line int // from 1; 0 where the file could not be read
	What string
	hint string

	cause error
}

// Error is "file:line: what is wrong".
func (e *Error) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %s", e.File, e.What)
	}
	return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.What)
}

// Hint says what to do about it, or is "".
func (e *Error) Hint() string { return e.hint }

// Unwrap gives the error of the file system.
func (e *Error) Unwrap() error { return e.cause }

// decodeError words what go-toml says.
func decodeError(path string, err error) error {
	e := &Error{File: path, Line: 1, What: err.Error()}
	if s, ok := errors.AsType[*toml.StrictMissingError](err); ok && len(s.Errors) > 0 {
		e.What = "unknown field " + display(s.Errors[0].Key())
		e.Line, _ = s.Errors[0].Position()
	} else if d, ok := errors.AsType[*toml.DecodeError](err); ok {
		e.Line, _ = d.Position()
	}
	e.What = strings.Join(strings.Fields(printable(strings.TrimPrefix(e.What, "toml: "))), " ")
	return e
}

// printable keeps what a file says from breaking the line it is quoted in.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

// reading is one file on its way into a struct, and what was found wrong.
type reading struct {
	file  string
	root  *node
	found []*Error
}

// first is the error that stands first in the file.
func (r *reading) first() error {
	if len(r.found) == 0 {
		return nil
	}
	return slices.MinFunc(r.found, func(a, b *Error) int { return a.Line - b.Line })
}

// wrong notes an error at a line; hint may be "".
func (r *reading) wrong(line int, what, hint string) {
	r.found = append(r.found, &Error{File: r.file, Line: max(1, line), What: printable(what), hint: printable(hint)})
}

// line is where a path stands, or the nearest table above it.
func (r *reading) line(path ...any) int {
	n := r.root
	line := 1
	for _, step := range path {
		if n = n.at(step); n == nil {
			break
		}
		line = n.line
	}
	return line
}
