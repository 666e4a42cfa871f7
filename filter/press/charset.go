package press

import (
	"strings"

	"golang.org/x/text/encoding/htmlindex"
	"golang.org/x/text/unicode/norm"
)

// decoded is a text as UTF-8. A charset that nobody knows is taken for UTF-8.
func decoded(charset string, raw []byte) string {
	text := string(raw)
	if e, err := htmlindex.Get(charset); err == nil {
		if b, err := e.NewDecoder().Bytes(raw); err == nil {
			text = string(b)
		}
	}
	return norm.NFC.String(strings.ToValidUTF8(text, "\uFFFD"))
}
