package config

import (
	"fmt"
	"maps"
	"slices"
	"unicode/utf8"
)

// PDF is the table [pdf].
type PDF struct {
	Socket  string   `toml:"socket" default:"/run/postern/pdf.sock" form:"socket" doc:"Socket of the press: behind it, for each mail, a process that makes its document and ends (postern pdf make)."`
	Timeout Duration `toml:"timeout" default:"60s" min:"5s" max:"5m" doc:"How long it may take for one mail. Later it counts as away, and the mail waits with 451."`
	MaxSize Size     `toml:"max-size" default:"20MiB" min:"64KiB" max:"64MiB" doc:"Largest mail that becomes a document; a larger one is refused with 552 5.3.4."`
	Subject string   `toml:"subject" form:"text" doc:"Subject of the mail around a document, which everybody on the way reads. Default: Vertrauliche Nachricht / Confidential message."`
	Cover   string   `toml:"cover" form:"text" doc:"What that mail says. {author} is its author, {file} the name of the document. Default: in German and English, that the author tells the password."`
	Advice  string   `toml:"advice" form:"text" doc:"What the author is told beside the password. Default: in the language of [texts], how to pass it on."`
}

// maxWords is how long a text of [pdf] may be, in letters.
const maxWords = 4000

// checkPDF finds what is asked of [pdf] in vain, and what it lacks.
func (c *Filterd) checkPDF(r *reading) {
	var rules []any // the path of the first one
	note := func(value string, path ...any) {
		if value == "pdf" && rules == nil {
			rules = path
		}
	}
	note(c.Default.NoKey, "default", "no-key")
	for _, d := range slices.Sorted(maps.Keys(c.Partners)) {
		note(c.Partners[d].NoKey, "partner", d, "no-key")
	}
	for _, a := range slices.Sorted(maps.Keys(c.Recipients)) {
		note(c.Recipients[a].NoKey, "recipient", a, "no-key")
	}
	if rules != nil && c.NextHop.Inbound == nil {
		r.wrong(r.line(rules...), name(rules)+` = "pdf": there is no [next-hop.inbound]`, "authors are told passwords by it")
	}
	for _, t := range []struct{ name, text string }{{"subject", c.PDF.Subject}, {"cover", c.PDF.Cover}, {"advice", c.PDF.Advice}} {
		if t.text != "" && rules == nil {
			r.wrong(r.line("pdf", t.name), fmt.Sprintf("pdf.%s: has no effect, no rule asks for documents", t.name), `set no-key = "pdf" in [default], a [partner] or a [recipient]`)
		}
		if n := utf8.RuneCountInString(t.text); n > maxWords || t.name == "subject" && n > 100 {
			r.wrong(r.line("pdf", t.name), fmt.Sprintf("pdf.%s: %d letters are too many", t.name, n), "want at most 100 in subject, 4000 elsewhere")
		}
	}
}
