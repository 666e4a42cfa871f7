package config

import (
	"encoding"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

var (
	textType = reflect.TypeFor[encoding.TextUnmarshaler]()
	sizeType = reflect.TypeFor[Size]()
)

// field is one line of a struct: how a file calls it and what rules it has.
type field struct {
	reflect.StructField
	name string
}

// fields are those of t, with those of a struct inside it that has no name in
// the file in its place.
func fields(t reflect.Type) []field {
	var all []field
	for i := range t.NumField() {
		f := t.Field(i)
		if !f.Anonymous || f.Tag.Get("toml") != "" || !isTable(f.Type) {
			all = append(all, field{f, f.Tag.Get("toml")})
			continue
		}
		for _, inner := range fields(f.Type) {
			inner.Index = append(slices.Clip(f.Index), inner.Index...)
			all = append(all, inner)
		}
	}
	return all
}

// isTable reports whether t is a struct that a file writes as a table.
func isTable(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && !reflect.PointerTo(t).Implements(textType)
}

// fits reports unknown fields and values of the wrong type, in our own words.
func (r *reading) fits(n *node, t reflect.Type, path []string) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case isTable(t):
		if n.kind != unstable.Table {
			r.wrong(n.line, display(path)+": want a table", "")
			return
		}
		known := fields(t)
		for _, k := range n.order {
			i := slices.IndexFunc(known, func(f field) bool { return f.name == k })
			if i < 0 {
				r.wrong(n.keys[k].line, "unknown field "+display(append(slices.Clip(path), k)), nearest(k, known))
				continue
			}
			r.fits(n.keys[k], known[i].Type, append(slices.Clip(path), k))
		}
	case t.Kind() == reflect.Map:
		if n.kind != unstable.Table {
			r.wrong(n.line, display(path)+": want a table", "")
			return
		}
		for _, k := range n.order {
			r.fits(n.keys[k], t.Elem(), append(slices.Clip(path), k))
		}
	case t.Kind() == reflect.Slice:
		if n.kind != unstable.Array {
			want := "a list in brackets"
			if isTable(t.Elem()) {
				want = "[[" + display(path) + "]]"
			}
			r.wrong(n.line, display(path)+": want "+want, "")
			return
		}
		for _, e := range n.list {
			r.fits(e, t.Elem(), path)
		}
	default:
		if want := mismatch(n, t); want != "" {
			r.wrong(n.line, display(path)+": want "+want, "")
		} else if u, ok := reflect.New(t).Interface().(encoding.TextUnmarshaler); ok && n.kind == unstable.String {
			if err := u.UnmarshalText([]byte(n.text)); err != nil {
				r.wrong(n.line, display(path)+" = "+err.Error(), "")
			}
		}
	}
}

// mismatch says what a scalar should have been, or "".
func mismatch(n *node, t reflect.Type) string {
	switch {
	case t == sizeType && n.kind == unstable.Integer:
		return bounds(n, 63)
	case reflect.PointerTo(t).Implements(textType), t.Kind() == reflect.String:
		if n.kind != unstable.String {
			return "a text in quotes"
		}
	case t.Kind() == reflect.Bool:
		if n.kind != unstable.Bool {
			return "true or false"
		}
	case n.kind != unstable.Integer:
		return "a whole number"
	case t.Kind() == reflect.Uint32:
		return bounds(n, 32)
	default:
		return bounds(n, 31)
	}
	return ""
}

// bounds refuses negative numbers and those that do not fit.
func bounds(n *node, bits int) string {
	if _, err := strconv.ParseUint(strings.TrimPrefix(n.text, "+"), 0, bits); err != nil {
		return "a whole number from 0 to " + strconv.FormatUint(1<<bits-1, 10)
	}
	return ""
}

// nearest is a hint for a field that nobody knows.
func nearest(k string, known []field) string {
	best, score := "", 3
	var names []string
	for _, f := range known {
		names = append(names, f.name)
		if d := distance(k, f.name); d < score {
			best, score = f.name, d
		}
	}
	if best != "" {
		return "do you mean " + best + "?"
	}
	return "known here: " + strings.Join(names, ", ")
}

// distance is the number of letters to add, drop or change between a and b.
func distance(a, b string) int {
	if len(a) > 64 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// rules fills in defaults and applies the tags, to every table of v. n is nil
// where the file has no such table.
func (r *reading) rules(n *node, v reflect.Value, path []any) {
	for _, f := range fields(v.Type()) {
		fv := v.FieldByIndex(f.Index)
		fpath := append(slices.Clip(path), f.name)
		var fn *node
		if n != nil {
			fn = n.keys[f.name]
		}
		switch t := f.Type; {
		case t.Kind() == reflect.Pointer: // a table that may be absent
			if !fv.IsNil() {
				r.rules(fn, fv.Elem(), fpath)
			}
		case isTable(t):
			r.rules(fn, fv, fpath)
		case t.Kind() == reflect.Slice && isTable(t.Elem()):
			for j := range fv.Len() {
				r.rules(fn.at(j), fv.Index(j), append(slices.Clip(fpath), j))
			}
		case t.Kind() == reflect.Map && isTable(t.Elem()):
			r.tables(f, fn, fv, fpath)
		default:
			r.scalar(f, fn, fv, fpath)
		}
	}
}

// tables applies the rules to a map of tables, whose form is that of its keys.
func (r *reading) tables(f field, n *node, v reflect.Value, path []any) {
	if n == nil {
		return
	}
	for _, k := range n.order {
		if problem := form(f.Tag.Get("form"), k); problem != "" {
			r.wrong(n.keys[k].line, fmt.Sprintf("%s: %s", name(append(slices.Clip(path), k)), problem), "")
		}
		e := reflect.New(v.Type().Elem()).Elem()
		e.Set(v.MapIndex(reflect.ValueOf(k)))
		r.rules(n.keys[k], e, append(slices.Clip(path), k))
		v.SetMapIndex(reflect.ValueOf(k), e)
	}
}

// scalar applies the rules to one value, or a list or map of values.
func (r *reading) scalar(f field, n *node, v reflect.Value, path []any) {
	if n == nil || v.Kind() == reflect.String && v.String() == "" && f.Tag.Get("enum") == "" && f.Tag.Get("need") == "" {
		if f.Tag.Get("need") == "yes" {
			r.wrong(r.line(path...), name(path)+" is missing", "")
		}
		if d, ok := f.Tag.Lookup("default"); ok {
			if err := set(v, d); err != nil {
				r.wrong(1, name(path)+": default: "+err.Error(), "")
			}
		}
		return
	}
	bad := func(n *node, v reflect.Value, problem, hint string) {
		r.wrong(n.line, fmt.Sprintf("%s = %s: %s", name(path), literal(v), problem), hint)
	}
	each := func(n *node, v reflect.Value) {
		if p, hint := f.judge(v); p != "" {
			bad(n, v, p, hint)
		}
	}
	if v.Kind() == reflect.Slice {
		for i := range v.Len() {
			each(n.at(i), v.Index(i))
		}
		return
	}
	if v.Kind() != reflect.Map {
		each(n, v)
	}
}

// judge is what the tags of f say against v, and a hint.
func (f field) judge(v reflect.Value) (problem, hint string) {
	if words := f.Tag.Get("enum"); words != "" {
		if all := strings.Split(words, "|"); !slices.Contains(all, v.String()) {
			return "want " + either(all), ""
		}
	}
	if problem := form(f.Tag.Get("form"), literalText(v)); problem != "" {
		return problem, ""
	}
	if later := f.Tag.Get("later"); later != "" {
		const no = "not available in this version"
		switch words := strings.Split(f.Tag.Get("enum"), "|"); {
		case later == "*" && !v.IsZero():
			return no, "leave " + f.name + " out"
		case slices.Contains(strings.Split(later, "|"), v.String()):
			now := slices.DeleteFunc(words, func(w string) bool { return slices.Contains(strings.Split(later, "|"), w) })
			return no, "this version knows " + either(now)
		}
	}
	for _, bound := range []string{"min", "max"} {
		text, ok := f.Tag.Lookup(bound)
		if !ok {
			continue
		}
		limit := reflect.New(v.Type()).Elem()
		if err := set(limit, text); err != nil {
			return err.Error(), ""
		}
		switch got, limit := v.Int(), limit.Int(); {
		case bound == "min" && got < limit:
			return "want " + text + " or more", ""
		case bound == "max" && got > limit:
			return "want " + text + " or less", ""
		}
	}
	return "", ""
}

// either words a choice.
func either(words []string) string {
	if len(words) == 1 {
		return words[0]
	}
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

// set gives v the value that a tag writes.
func set(v reflect.Value, text string) error {
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(text))
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		v.SetBool(text == "true")
	default:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return err
		}
		v.SetInt(n)
	}
	return nil
}

// literal is a value as a file writes it.
func literal(v reflect.Value) string {
	if v.Kind() == reflect.Slice {
		var all []string
		for i := range v.Len() {
			all = append(all, literal(v.Index(i)))
		}
		return "[" + strings.Join(all, ", ") + "]"
	}
	if v.Kind() == reflect.Map {
		return "{}"
	}
	text := literalText(v)
	if v.Kind() == reflect.String || reflect.PointerTo(v.Type()).Implements(textType) {
		return quote(text)
	}
	return text
}

func literalText(v reflect.Value) string { return fmt.Sprint(v.Interface()) }

// name is display for a path with indices.
func name(path []any) string {
	var keys []string
	for _, p := range path {
		if k, ok := p.(string); ok {
			keys = append(keys, k)
		}
	}
	return display(keys)
}
