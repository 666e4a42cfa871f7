package config

import (
	"bufio"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
)

// Reference prints the fields of a daemon's file as Markdown without a title,
// one list for each table: for the manual.
func Reference(w io.Writer, daemon string) error {
	c, err := sample(daemon)
	if err != nil {
		return err
	}
	b := bufio.NewWriter(w)
	if reference(b, reflect.TypeOf(c).Elem(), "", "") {
		b.WriteString("\n¹ not available in this version: the file is refused.\n")
	}
	return b.Flush()
}

// reference prints one table after gap, and reports whether the footnote is wanted.
func reference(w *bufio.Writer, t reflect.Type, at, gap string) (later bool) {
	all := fields(t)
	if slices.ContainsFunc(all, func(f field) bool { return isScalar(f.Type) }) {
		w.WriteString(gap + "| field | value | default | meaning |\n|---|---|---|---|\n")
	}
	for _, f := range all {
		if isScalar(f.Type) {
			later = later || f.Tag.Get("later") != ""
			fmt.Fprintf(w, "| `%s` | %s | %s | %s |\n", f.name, f.kind(), f.fallback(), cell(f.Tag.Get("doc")))
		}
	}
	for _, f := range all {
		if isScalar(f.Type) {
			continue
		}
		path, title := f.name, ""
		if at != "" {
			path = at + "." + f.name
		}
		inner := f.Type
		switch inner.Kind() {
		case reflect.Pointer:
			inner, title = inner.Elem(), "["+path+"]"
		case reflect.Slice:
			inner, title = inner.Elem(), "[["+path+"]]"
		case reflect.Map:
			inner = inner.Elem()
			title = "[" + path + "]"
			if isTable(inner) {
				path += `."…"`
				title = "[" + path + "]"
			}
		default:
			title = "[" + path + "]"
		}
		fmt.Fprintf(w, "\n### `%s`\n\n%s\n", title, f.Tag.Get("doc"))
		if isTable(inner) {
			later = reference(w, inner, path, "\n") || later
		}
	}
	return later
}

// kind words what a field takes.
func (f field) kind() string {
	t := f.Type
	list := t.Kind() == reflect.Slice
	if list {
		t = t.Elem()
	}
	var what string
	switch {
	case f.Tag.Get("enum") != "":
		later := strings.Split(f.Tag.Get("later"), "|")
		var words []string
		for w := range strings.SplitSeq(f.Tag.Get("enum"), "|") {
			if slices.Contains(later, w) {
				w += "¹"
			}
			words = append(words, w)
		}
		what = either(words)
	case t == reflect.TypeFor[Duration]():
		what = "duration"
	case t == sizeType:
		what = "size"
	case t == reflect.TypeFor[Mode]():
		what = "octal mode"
	case t == reflect.TypeFor[Network]():
		what = "network"
	case t == reflect.TypeFor[Rate]():
		what = "number/duration"
	case t.Kind() == reflect.Bool:
		what = "true or false"
	case t.Kind() == reflect.String:
		what = map[string]string{
			"": "text", "text": "text", "path": "absolute path", "socket": "absolute path", "listen": "address:port", "dial": "host:port",
			"domain": "domain", "ours": "domain", "name": "name", "pin": "sha256:…", "label": "text", "pattern": "pattern", "group": "group", "tls-version": "1.2 or 1.3", "escrow": "address or fingerprint", "fingerprint": "fingerprint", "address": "address", "url": "URL", "https": "URL", "ldap": "URL", "attribute": "attribute", "prefix": "address/length", "device": "device", "mac": "hardware address", "age": "age recipient", "ip": "address", "host": "host",
			"lifetime": "lifetime", "scanner": "absolute path or host:port", "certificates": "certificates in PEM", "header": "name of a field",
		}[f.Tag.Get("form")]
	default:
		what = "number"
	}
	if f.Tag.Get("later") == "*" {
		what += "¹"
	}
	if list {
		what = "list: " + what
	}
	return what + f.limits()
}

// limits words the bounds of a number.
func (f field) limits() string {
	low, high := f.Tag.Get("min"), f.Tag.Get("max")
	switch {
	case low != "" && high != "":
		return ", " + low + " to " + high
	case low != "":
		return ", " + low + " or more"
	}
	return ""
}

func (f field) fallback() string {
	if f.Tag.Get("need") == "yes" {
		return "required"
	}
	if d, ok := f.Tag.Lookup("default"); ok {
		return "`" + d + "`"
	}
	if f.Type.Kind() == reflect.Bool {
		return "`false`"
	}
	return ""
}

// cell keeps a text inside its cell of a Markdown table.
func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
