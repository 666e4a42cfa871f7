// Package config reads the files of the two daemons, filterd.toml and
// keyd.toml, the one of a whole box that those are made from, box.toml, and
// plans of enrolment. A file that loads holds nothing that could have been found wrong
// without opening anything: names, addresses, sizes, enumerations, and what
// must fit together. Nothing in it is ignored in silence: a field that nobody
// knows is an error, and so is a wish that this version cannot fulfil.
//
// The structs are the documentation. The tag doc explains a field; Example
// and Reference print the annotated file and the page of the manual from it.
// The other tags are rules:
//
//	default  the value where the file has none
//	need     "yes": the file must have one
//	enum     the words allowed, between bars
//	later    the words that are known and refused in this version; "*": any
//	form     the syntax of a text (forms.go)
//	min, max the bounds of a number, size or duration
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"

	"github.com/pelletier/go-toml/v2"
)

// maxFile is the largest file that is read, in bytes.
const maxFile = 1 << 20

// Log says what is written, and how.
type Log struct {
	Level  string `toml:"level" default:"info" enum:"debug|info|warn|error" doc:"The least important messages that are written. No level writes bodies, session keys or PINs."`
	Format string `toml:"format" default:"auto" enum:"auto|text|json|journal" doc:"text and json go to standard error, journal to systemd's journal with one field for each attribute. auto is journal under systemd, else text."`
}

// LoadFilterd reads filterd.toml. Defaults are filled in. The error is an
// *Error: one line, with the file and the line in it.
func LoadFilterd(path string) (*Filterd, error) { return loadFile(path, parseFilterd) }

func parseFilterd(name string, data []byte) (*Filterd, error) {
	c := new(Filterd)
	return parse(name, data, c, c.check)
}

// LoadKeyd reads keyd.toml, as LoadFilterd does its file. The default of
// pin-file comes from $CREDENTIALS_DIRECTORY.
func LoadKeyd(path string) (*Keyd, error) {
	return loadFile(path, func(name string, data []byte) (*Keyd, error) {
		return parseKeyd(name, data, os.Getenv("CREDENTIALS_DIRECTORY"))
	})
}

func parseKeyd(name string, data []byte, credentials string) (*Keyd, error) {
	c := new(Keyd)
	return parse(name, data, c, func(r *reading) { c.check(r, credentials) })
}

// loadFile parses the file at path.
func loadFile[T any](path string, parse func(name string, data []byte) (*T, error)) (*T, error) {
	data, err := read(path)
	if err != nil {
		return nil, err
	}
	return parse(path, data)
}

// parse fills c from data. The rules of the tags come first, then check.
func parse[T any](name string, data []byte, c *T, check func(*reading)) (*T, error) {
	r, err := decode(name, data, c)
	if err != nil {
		return nil, err
	}
	check(r)
	if err := r.first(); err != nil {
		return nil, err
	}
	return c, nil
}

// read gives the bytes of a file. The error wraps fs.ErrNotExist where there
// is no such file.
func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, &Error{File: path, What: cause(err), cause: err}
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, &Error{File: path, What: cause(err), cause: err}
	}
	if len(data) > maxFile {
		return nil, &Error{File: path, Line: 1, What: fmt.Sprintf("more than %d bytes", maxFile)}
	}
	return data, nil
}

// cause is err without the operation and the path, which stand in front already.
func cause(err error) string {
	if p, ok := errors.AsType[*os.PathError](err); ok {
		return p.Err.Error()
	}
	return err.Error()
}

// decode fills c from data and applies the rules of the tags. What must fit
// together is for the caller to check, in the reading.
func decode(path string, data []byte, c any) (*reading, error) {
	var sound map[string]any
	if err := toml.Unmarshal(data, &sound); err != nil {
		return nil, decodeError(path, err)
	}
	root, err := outline(data)
	if err != nil {
		return nil, &Error{File: path, Line: 1, What: err.Error()}
	}
	r := &reading{file: path, root: root}
	v := reflect.ValueOf(c).Elem()
	r.fits(root, v.Type(), nil)
	if err := r.first(); err != nil {
		return nil, err
	}
	if err := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(c); err != nil {
		return nil, decodeError(path, err)
	}
	r.rules(root, v, nil)
	return r, r.first()
}
