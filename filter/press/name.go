package press

import (
	"path"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"postern/filter/message"
)

// maxName is how long the name of a file may be, in bytes.
const maxName = 120

// fileName is what a part is called among the files of a document: as its sender
// named it, without what would lead into another folder, hide the ending or mean
// something to a program.
func fileName(src message.Source, p *message.Part) string {
	_, params := message.Disposition(src, p)
	name := params["filename"]
	if name == "" {
		name = p.Params["name"]
	}
	name = norm.NFC.String(message.DecodeWords(name))
	if i := strings.LastIndexAny(name, `/\`); i >= 0 {
		name = name[i+1:]
	}
	name = strings.Map(func(r rune) rune {
		switch {
		case unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp), r == utf8.RuneError:
			return -1
		case strings.ContainsRune(`<>:"|?*`, r):
			return '_'
		}
		return r
	}, name)
	name = strings.Trim(name, " .")
	if name == "" {
		name = "datei" + endings[p.Type]
	}
	if len(name) > maxName {
		end := path.Ext(name)
		if len(end) > 12 {
			end = ""
		}
		name = strings.Trim(strings.ToValidUTF8(name[:maxName-len(end)], ""), " .") + strings.TrimRight(end, " .")
	}
	return name
}

// endings are those of files without a name.
var endings = map[string]string{
	"message/rfc822": ".eml", "text/plain": ".txt", "text/html": ".html", "text/csv": ".csv", "text/calendar": ".ics", "application/pdf": ".pdf",
	"image/png": ".png", "image/jpeg": ".jpg", "image/gif": ".gif",
}
