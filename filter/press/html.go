package press

import (
	"strings"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"
)

// maxHTML is how much of an HTML text is read, in bytes.
const maxHTML = 4 << 20

// apart are the elements that begin on a line of their own.
var apart = map[atom.Atom]bool{
	atom.Address: true, atom.Article: true, atom.Blockquote: true, atom.Center: true, atom.Dd: true, atom.Div: true, atom.Dl: true, atom.Dt: true, atom.Fieldset: true,
	atom.Footer: true, atom.Form: true, atom.H1: true, atom.H2: true, atom.H3: true, atom.H4: true, atom.H5: true, atom.H6: true, atom.Header: true, atom.Hr: true,
	atom.Li: true, atom.Main: true, atom.Nav: true, atom.Ol: true, atom.P: true, atom.Pre: true, atom.Section: true, atom.Table: true, atom.Tr: true, atom.Ul: true,
}

// spaced are those with an empty line before them.
var spaced = map[atom.Atom]bool{atom.P: true, atom.H1: true, atom.H2: true, atom.H3: true, atom.H4: true, atom.Table: true, atom.Ul: true, atom.Ol: true, atom.Blockquote: true}

// mute are those whose content nobody reads.
var mute = map[atom.Atom]bool{atom.Head: true, atom.Script: true, atom.Style: true, atom.Template: true, atom.Title: true, atom.Noscript: true, atom.Object: true, atom.Svg: true, atom.Math: true}

// words are those of an HTML text, in lines, and where its links lead. It is read
// as a row of tags, without what they would mean together.
func words(text string) string {
	if len(text) > maxHTML {
		text = strings.ToValidUTF8(text[:maxHTML], "")
	}
	z := html.NewTokenizer(strings.NewReader(text))
	z.SetMaxBuf(maxHTML + 1)
	var r reading
	for {
		switch z.Next() {
		case html.ErrorToken:
			return r.String()
		case html.TextToken:
			r.say(string(z.Text()))
		case html.StartTagToken, html.SelfClosingTagToken:
			t := z.Token()
			r.open(t)
		case html.EndTagToken:
			name, _ := z.TagName()
			r.close(atom.Lookup(name))
		}
	}
}

// reading is an HTML text that is being read.
type reading struct {
	strings.Builder
	line  bool // something stands on the last line
	empty int  // empty lines at the end
	blank bool // a blank is due before the next word
	pre   int
	muted atom.Atom // 0: nothing is
	depth int       // of muted
	link  string
}

// end ends the line that is begun, and leaves n empty ones.
func (r *reading) end(n int) {
	if r.line {
		r.WriteByte('\n')
		r.line, r.empty = false, 0
	}
	for ; r.Len() > 0 && r.empty < n; r.empty++ {
		r.WriteByte('\n')
	}
	r.blank = false
}

func (r *reading) open(t html.Token) {
	if r.muted != 0 {
		if t.DataAtom == r.muted && t.Type == html.StartTagToken {
			r.depth++
		}
		return
	}
	a := t.DataAtom
	switch {
	case mute[a]:
		if t.Type == html.StartTagToken {
			r.muted, r.depth = a, 1
		}
		return
	case a == atom.Body: // a head that was not closed
	case a == atom.Br:
		if r.line {
			r.end(0)
		} else {
			r.end(r.empty + 1)
		}
	case spaced[a]:
		r.end(1)
	case apart[a]:
		r.end(0)
	}
	switch a {
	case atom.Li:
		r.put("• ")
	case atom.Hr:
		r.put("———")
		r.end(0)
	case atom.Pre:
		r.pre++
	case atom.Td, atom.Th:
		r.blank = r.line
	case atom.Img:
		if alt := attribute(t, "alt"); alt != "" {
			r.say("[" + alt + "]")
		}
	case atom.A:
		r.link = ""
		if h := strings.TrimSpace(attribute(t, "href")); strings.HasPrefix(h, "http:") || strings.HasPrefix(h, "https:") {
			r.link = h
		}
	}
}

func (r *reading) close(a atom.Atom) {
	if r.muted != 0 {
		if a == r.muted {
			if r.depth--; r.depth == 0 {
				r.muted = 0
			}
		}
		return
	}
	switch {
	case a == atom.A && r.link != "":
		if !strings.HasSuffix(r.String(), r.link) {
			r.say(" <" + r.link + ">")
		}
		r.link = ""
	case a == atom.Pre && r.pre > 0:
		r.pre--
	}
	switch {
	case spaced[a]:
		r.end(1)
	case apart[a]:
		r.end(0)
	}
}

func attribute(t html.Token, name string) string {
	for _, a := range t.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

// say adds text: white space in it is one blank, but for what is preformatted.
func (r *reading) say(text string) {
	if r.muted != 0 {
		return
	}
	if r.pre > 0 {
		for i, l := range strings.Split(text, "\n") {
			if i > 0 {
				if !r.line {
					r.empty++
				}
				r.WriteByte('\n')
				r.line = false
			}
			if l != "" {
				r.put(l)
			}
		}
		return
	}
	for i, w := range strings.Fields(text) {
		if r.line && (r.blank || i > 0 || strings.TrimLeft(text, " \t\r\n\f") != text) {
			r.WriteByte(' ')
		}
		r.blank = false
		r.put(w)
	}
	if strings.TrimRight(text, " \t\r\n\f") != text {
		r.blank = r.line
	}
}

func (r *reading) put(s string) {
	r.WriteString(s)
	r.line, r.empty = true, 0
}
