package press

import (
	"strings"
	"unicode"

	"postern/filter/pdf"
)

// How a page is set, in points.
const (
	margin  = 56.0
	size    = 10.5
	leading = 14.5
	small   = 8.5
	column  = 110.0 // of the names of fields
	tab     = 8     // columns
)

// Bounds on what is shown. The mail itself is among the files, whole.
const (
	maxPages = 300
	maxWord  = 200 // letters that are measured together
)

// sheet is the page that is being set, and those before it.
type sheet struct {
	doc    *pdf.Writer
	lines  []pdf.Line
	y      float64
	pages  int
	full   bool // no more pages
	lacks  bool // a letter is not shown
	broken error
}

// top begins a page.
func (s *sheet) top() { s.lines, s.y = nil, pdf.Height-margin }

// turn ends a page, and begins another.
func (s *sheet) turn() {
	if err := s.doc.Page(s.lines); err != nil && s.broken == nil {
		s.broken = err
	}
	s.pages++
	s.top()
}

// put sets a text, and gives it the place of one line where it begins one.
func (s *sheet) put(x float64, font pdf.Font, points float64, text string) {
	s.lines = append(s.lines, pdf.Line{X: x, Y: s.y, Font: font, Size: points, Text: text})
}

// down goes to the next line, on the next page where this one is full.
func (s *sheet) down(by float64) {
	if s.y -= by; s.y < margin+leading {
		if s.pages+1 >= maxPages {
			s.full = true
			return
		}
		s.turn()
	}
}

// rule is a gap between what is said of a mail and the mail.
func (s *sheet) rule() {
	if !s.full {
		s.down(leading)
	}
}

// field shows a name and what stands under it.
func (s *sheet) field(name, value string) {
	for i, l := range s.wrap(pdf.Text, size, pdf.Width-2*margin-column, value) {
		if s.full {
			return
		}
		if i == 0 {
			s.put(margin, pdf.Bold, small, name)
		}
		s.put(margin+column, pdf.Text, size, l)
		s.down(leading)
	}
}

// note says something of ours.
func (s *sheet) note(german, english string) {
	for _, text := range []string{german, english} {
		for _, l := range s.wrap(pdf.Bold, small, pdf.Width-2*margin, text) {
			if !s.full {
				s.put(margin, pdf.Bold, small, l)
				s.down(leading)
			}
		}
	}
}

// text shows lines as they are, those that are too long in several.
func (s *sheet) text(text string) {
	text = strings.TrimRight(strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(text), "\n")
	for line := range strings.SplitSeq(text, "\n") {
		for _, l := range s.wrap(pdf.Text, size, pdf.Width-2*margin, line) {
			if s.full {
				return
			}
			if l != "" {
				s.put(margin, pdf.Text, size, l)
			}
			s.down(leading)
		}
	}
}

// finish ends the last page. What could not be shown is said on it.
func (s *sheet) finish() error {
	if s.full {
		s.turn()
		s.full = false
		s.note("Der Rest der Nachricht steht nur in der Datei nachricht.eml.", "The rest of the message is in the file nachricht.eml only.")
	}
	if s.lacks {
		s.rule()
		s.note("Einige Zeichen dieser Nachricht lassen sich hier nicht zeigen ("+string(pdf.Missing)+"). In der Datei nachricht.eml stehen sie richtig.",
			"Some characters of this message cannot be shown here ("+string(pdf.Missing)+"). The file nachricht.eml has them.")
	}
	s.turn()
	return s.broken
}

// wrap breaks one line into as many as it takes, at blanks where there are some.
func (s *sheet) wrap(font pdf.Font, points, width float64, line string) (out []string) {
	line = s.shown(font, line)
	var now strings.Builder
	long := 0.0
	end := func() {
		out = append(out, strings.TrimRight(now.String(), " "))
		now.Reset()
		long = 0
	}
	for _, w := range pieces(line) {
		n := s.doc.Measure(font, points, w)
		if long+n > width && now.Len() > 0 && strings.TrimSpace(w) != "" {
			end()
		}
		if n <= width {
			now.WriteString(w)
			long += n
			continue
		}
		for _, r := range w { // a word that is longer than a line
			n := s.doc.Measure(font, points, string(r))
			if long+n > width && now.Len() > 0 {
				end()
			}
			now.WriteRune(r)
			long += n
		}
	}
	end()
	return out
}

// pieces are the words of a line and what stands between them.
func pieces(line string) (list []string) {
	start, letters, blank := 0, 0, false
	for i, r := range line {
		if letters > 0 && (blank != (r == ' ') || letters >= maxWord) {
			list = append(list, line[start:i])
			start, letters = i, 0
		}
		blank = r == ' '
		letters++
	}
	if start < len(line) {
		list = append(list, line[start:])
	}
	return list
}

// shown is a line with what the font has: tabs are blanks, what is not to be seen
// is left out, and what is not there is replaced.
func (s *sheet) shown(font pdf.Font, line string) string {
	var b strings.Builder
	at := 0
	for _, r := range line {
		switch {
		case r == '\t':
			n := tab - at%tab
			b.WriteString(strings.Repeat(" ", n))
			at += n
			continue
		case unicode.Is(unicode.Zs, r):
			r = ' '
		case unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Variation_Selector):
			continue
		case !s.doc.Has(font, r):
			s.lacks = true
			r = pdf.Missing
		}
		b.WriteRune(r)
		at++
	}
	return b.String()
}
