package config

import (
	"fmt"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// node is a value of the file and the line it stands in: go-toml gives the
// position of what it refuses itself, and this is for what we refuse.
type node struct {
	line  int
	kind  unstable.Kind // Table, Array, String, Integer, Bool or another scalar
	text  string        // of a scalar
	keys  map[string]*node
	order []string
	list  []*node
}

// at is the child with a key (string) or an index (int), or nil.
func (n *node) at(step any) *node {
	switch s := step.(type) {
	case string:
		return n.keys[s]
	case int:
		if s < len(n.list) {
			return n.list[s]
		}
	}
	return nil
}

func table(line int) *node {
	return &node{line: line, kind: unstable.Table, keys: map[string]*node{}}
}

// child is the table under key, made where it is missing; of a list of
// tables, the last one.
func (n *node) child(key string, line int) *node {
	c := n.keys[key]
	if c == nil {
		c = table(line)
		n.put(key, c)
	}
	if c.kind == unstable.Array && len(c.list) > 0 {
		c = c.list[len(c.list)-1]
	}
	return c
}

func (n *node) put(key string, c *node) {
	if n.keys == nil { // not a table: go-toml has refused such a file already
		return
	}
	if _, ok := n.keys[key]; !ok {
		n.order = append(n.order, key)
	}
	n.keys[key] = c
}

// outline reads the structure of a file that go-toml has found sound.
func outline(data []byte) (*node, error) {
	var p unstable.Parser
	p.Reset(data)
	root := table(1)
	here := root
	for p.NextExpression() {
		e := p.Expression()
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			keys, line := keysOf(&p, e)
			if len(keys) == 0 {
				continue
			}
			last := len(keys) - 1
			at := root
			for _, k := range keys[:last] {
				at = at.child(k, line)
			}
			if e.Kind == unstable.ArrayTable {
				list := at.keys[keys[last]]
				if list == nil {
					list = &node{line: line, kind: unstable.Array}
					at.put(keys[last], list)
				}
				here = table(line)
				list.list = append(list.list, here)
				continue
			}
			here = at.child(keys[last], line)
			here.line = line
		case unstable.KeyValue:
			keyValue(&p, here, e)
		}
	}
	if err := p.Error(); err != nil {
		return nil, fmt.Errorf("read outline: %w", err)
	}
	return root, nil
}

func keyValue(p *unstable.Parser, at *node, e *unstable.Node) {
	keys, line := keysOf(p, e)
	if len(keys) == 0 {
		return
	}
	for _, k := range keys[:len(keys)-1] {
		at = at.child(k, line)
	}
	at.put(keys[len(keys)-1], value(p, e.Value(), line))
}

func value(p *unstable.Parser, v *unstable.Node, line int) *node {
	switch v.Kind {
	case unstable.InlineTable:
		t := table(line)
		for it := v.Children(); it.Next(); {
			keyValue(p, t, it.Node())
		}
		return t
	case unstable.Array:
		a := &node{line: line, kind: unstable.Array}
		for it := v.Children(); it.Next(); {
			n := it.Node()
			at := line
			if n.Raw.Length > 0 {
				at = p.Shape(n.Raw).Start.Line
			}
			a.list = append(a.list, value(p, n, at))
		}
		return a
	}
	return &node{line: line, kind: v.Kind, text: string(v.Data)}
}

// keysOf is the dotted key of an expression, and its line.
func keysOf(p *unstable.Parser, e *unstable.Node) (keys []string, line int) {
	for it := e.Key(); it.Next(); {
		if line == 0 {
			line = p.Shape(it.Node().Raw).Start.Line
		}
		keys = append(keys, string(it.Node().Data))
	}
	return keys, line
}

// display writes a path as a person would in the file, without indices.
func display(path []string) string {
	var b strings.Builder
	for _, k := range path {
		if b.Len() > 0 {
			b.WriteByte('.')
		}
		b.WriteString(quoteKey(k))
	}
	return b.String()
}

// quoteKey puts quotes around a key that needs them.
func quoteKey(k string) string {
	bare := k != "" && !strings.ContainsFunc(k, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
	})
	if bare {
		return k
	}
	return quote(k)
}

// quote writes a TOML basic string.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range strings.ToValidUTF8(s, "\ufffd") {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&b, "\\u%04X", r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
