package config

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"reflect"
	"slices"
	"strings"
)

// sample is the site of the annotated examples: what it says itself stands
// there as a line, everything else as a comment with its default.
func sample(daemon string) (any, error) {
	switch daemon {
	case "filterd":
		return sampleFilterd(), nil
	case "keyd":
		return sampleKeyd(), nil
	case "box":
		return sampleBox(), nil
	case "plan":
		return samplePlan(), nil
	}
	return nil, fmt.Errorf("print configuration: no file %q (hint: filterd, keyd, box or plan)", daemon)
}

func sampleFilterd() *Filterd {
	return &Filterd{
		AuthservID: "gw.company1.example",
		Listeners: []Listener{
			{Name: "outside", Address: ":25", Direction: "inbound", TLS: ListenerTLS{Mode: "offer", Identity: "mx.company1.example"}},
			{Name: "inside", Address: "10.0.0.2:10025", Direction: "outbound", Allow: []Network{{netip.MustParsePrefix("10.0.0.0/24")}}, TLS: ListenerTLS{Mode: "force", Identity: "mx.company1.example"}},
		},
		NextHop: NextHops{
			Inbound:  &Hop{Address: "mail.company1.example:25"},
			Outbound: &Hop{Address: "127.0.0.1:10026"},
		},
		Postfix: &Postfix{},
		Domains: map[string]Domain{"company1.example": {}},
		Partners: map[string]Partner{
			"partner.example":     {Protect: "require"},
			"grid.energy.example": {Protect: "require", Format: []string{"smime"}, SMIME: Agreed{Cipher: "aes-128-gcm", OAEP: true, PSS: true}},
		},
		Recipients: map[string]Recipient{"someone@freemail.example": {Protect: "require"}},
	}
}

func sampleKeyd() *Keyd {
	return &Keyd{
		Module:      "/usr/lib/softhsm/libsofthsm2.so",
		Socket:      Sockets{Use: Socket{Group: "postern-filter"}, Keep: Socket{Group: "postern"}},
		Rules:       []Rule{{Label: "ledger/*", UIDs: []uint32{990}}},
		Environment: map[string]string{"SOFTHSM2_CONF": "/etc/postern/softhsm2.conf"},
	}
}

func sampleBox() *Box {
	f := sampleFilterd()
	f.AuthservID = "gw.company1.example"
	return &Box{
		Box: TheBox{Name: "gw.company1.example", Unlock: "operator", ManageFrom: []Network{{netip.MustParsePrefix("10.0.0.0/24")}}},
		Network: Ground{Interfaces: []Interface{
			{Name: "outside", Device: "enp1s0", Addresses: []string{"192.0.2.25/24", "2001:db8::25/64"}, Gateways: []string{"192.0.2.1", "2001:db8::1"}},
			{Name: "inside", Device: "enp2s0", Addresses: []string{"10.0.0.2/24"}},
		}},
		Filterd: *f,
	}
}

// Example prints the annotated example of a file, "filterd", "keyd", "box" or
// "plan". It loads as it stands, and means the same with every commented
// field uncommented.
func Example(w io.Writer, daemon string) error { return example(w, daemon, false) }

func example(w io.Writer, daemon string, all bool) error {
	said, err := sample(daemon)
	if err != nil {
		return err
	}
	full, err := complete(said)
	if err != nil {
		return fmt.Errorf("print configuration: %w", err)
	}
	p := printer{w: bufio.NewWriter(w), docs: true, all: all}
	p.line("# " + daemon + ".toml, printed by `postern config doc " + daemon + "`.")
	p.line("# What is a comment here is the default.")
	p.table(reflect.ValueOf(said).Elem(), reflect.ValueOf(full).Elem(), nil)
	return p.w.Flush()
}

// Write writes a *Filterd, *Keyd, *Box or *Plan as a file, only the fields that are set.
func Write(w io.Writer, c any) error {
	p := printer{w: bufio.NewWriter(w)}
	v := reflect.ValueOf(c).Elem()
	p.table(v, v, nil)
	return p.w.Flush()
}

// complete is said with the defaults, by reading what Write makes of it.
func complete(said any) (any, error) {
	var b bytes.Buffer
	if err := Write(&b, said); err != nil {
		return nil, err
	}
	switch said.(type) {
	case *Filterd:
		return parseFilterd("example", b.Bytes())
	case *Box:
		return ParseBox("example", b.Bytes())
	case *Plan:
		return parsePlan("example", b.Bytes())
	}
	return parseKeyd("example", b.Bytes(), "")
}

// printer writes TOML from structs. said holds what the file says, full the
// same with all defaults.
type printer struct {
	w    *bufio.Writer
	docs bool // explain each field, and show defaults as comments
	all  bool // show defaults as lines
	any  bool // something was printed
}

func (p *printer) line(s string) {
	p.any = true
	p.w.WriteString(s + "\n")
}

func (p *printer) comment(doc string) {
	if p.docs {
		for _, l := range wrap(doc, 76) {
			p.line("# " + l)
		}
	}
}

func (p *printer) gap() {
	if p.any {
		p.line("")
	}
}

// table prints the scalars of a struct and then its tables.
func (p *printer) table(said, full reflect.Value, path []string) {
	all := fields(said.Type())
	for _, f := range all {
		if isScalar(f.Type) {
			p.scalar(f, said.FieldByIndex(f.Index), full.FieldByIndex(f.Index))
		}
	}
	for _, f := range all {
		if !isScalar(f.Type) {
			p.tables(f, said.FieldByIndex(f.Index), full.FieldByIndex(f.Index), append(slices.Clip(path), f.name))
		}
	}
}

func isScalar(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Pointer, reflect.Map:
		return false
	case reflect.Slice:
		return !isTable(t.Elem())
	}
	return !isTable(t)
}

func (p *printer) scalar(f field, said, full reflect.Value) {
	empty := said.IsZero() || said.Kind() == reflect.Slice && said.Len() == 0
	if !p.docs && empty {
		return
	}
	if p.docs {
		p.gap()
		p.comment(f.Tag.Get("doc"))
	}
	mark := ""
	if empty && !p.all {
		mark = "# "
	}
	p.line(mark + f.name + " = " + literal(full))
}

func (p *printer) tables(f field, said, full reflect.Value, path []string) {
	doc := f.Tag.Get("doc")
	switch t := f.Type; {
	case t.Kind() == reflect.Pointer:
		if !said.IsNil() {
			p.one("[*]", doc, said.Elem(), full.Elem(), path)
		}
	case t.Kind() == reflect.Slice:
		for i := range said.Len() {
			q := *p
			q.docs = p.docs && i == 0 // once is enough
			q.one("[[*]]", doc, said.Index(i), full.Index(i), path)
			p.any = q.any
		}
	case t.Kind() == reflect.Map && t.Elem().Kind() == reflect.String:
		if said.Len() > 0 {
			p.gap()
			p.comment(doc)
			p.line("[" + display(path) + "]")
			for _, k := range sorted(said) {
				p.line(quoteKey(k.String()) + " = " + literal(said.MapIndex(k)))
			}
		}
	case t.Kind() == reflect.Map:
		for i, k := range sorted(said) {
			q := *p
			q.docs = p.docs && i == 0
			q.one("[*]", doc, said.MapIndex(k), full.MapIndex(k), append(slices.Clip(path), k.String()))
			p.any = q.any
		}
	case p.docs || !said.IsZero():
		p.one("[*]", doc, said, full, path)
	}
}

func (p *printer) one(brackets, doc string, said, full reflect.Value, path []string) {
	// A table of tables only has no line of its own.
	head := slices.ContainsFunc(fields(said.Type()), func(f field) bool { return isScalar(f.Type) })
	if head || p.docs {
		p.gap()
	}
	p.comment(doc)
	if head {
		p.line(strings.Replace(brackets, "*", display(path), 1))
	}
	p.table(said, full, path)
}

func sorted(m reflect.Value) []reflect.Value {
	keys := m.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
	return keys
}

// wrap breaks a sentence into lines of at most width bytes.
func wrap(s string, width int) (lines []string) {
	var line string
	for word := range strings.FieldsSeq(s) {
		if line != "" && len(line)+1+len(word) > width {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}
