package filter

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/text/unicode/norm"
)

// Texts are the words in which refusals reach people: a mail program shows
// them to whoever wrote the mail.
type Texts struct {
	Language string            // "en", or "" for it; "de"; or "both"
	Own      map[string]string // the site's own, by Row.Word; in place of ours in every language
}

// maxText is how long a text of the site may be, in bytes as a reply has it.
const maxText = 300

// Check finds texts that nobody would ever see, or not whole.
func (t Texts) Check() error {
	for word, text := range t.Own {
		if !slices.ContainsFunc(Replies, func(r Row) bool { return r.Word == word }) {
			var words []string
			for _, r := range Replies {
				words = append(words, r.Word)
			}
			return fmt.Errorf("text for %.40q: no reply has that word (hint: one of %s)", word, strings.Join(words, ", "))
		}
		if n := len(ascii(text)); n == 0 || n > maxText {
			return fmt.Errorf("text for %q: %d characters, want 1 to %d (hint: umlauts count as two)", word, n, maxText)
		}
	}
	return nil
}

// of is the text of a row, in ASCII.
func (t Texts) of(r Row) string {
	own, ok := t.Own[r.Word]
	switch {
	case ok:
		return ascii(own)
	case t.Language == "de":
		return ascii(r.German)
	case t.Language == "both":
		return ascii(r.German) + " / " + r.Reply.Text
	}
	return r.Reply.Text
}

var umlauts = strings.NewReplacer("ä", "ae", "ö", "oe", "ü", "ue", "Ä", "Ae", "Ö", "Oe", "Ü", "Ue", "ß", "ss", "ẞ", "SS",
	"„", `"`, "“", `"`, "”", `"`, "‚", "'", "‘", "'", "’", "'", "–", "-", "—", "-", "…", "...")

// ascii writes s as every client of SMTP can read it, SMTPUTF8 or not: umlauts
// as two letters, other letters without their accents, on one line.
func ascii(s string) string {
	s = umlauts.Replace(norm.NFC.String(s))
	var b strings.Builder
	for _, r := range norm.NFD.String(s) {
		switch {
		case r >= ' ' && r <= '~':
			b.WriteRune(r)
		case r < ' ':
			b.WriteByte(' ')
		case r >= 0x300 && r < 0x370: // what was on top of a letter
		default:
			b.WriteByte('?')
		}
	}
	return strings.Join(strings.Fields(b.String()), " ")
}
