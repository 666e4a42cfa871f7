package headers

import (
	netmail "net/mail"
	"strings"

	"postern/filter/message"
)

// Denied reports whether the header of a mail that anybody could read says
// other than what was signed: its signed payload protects fields (RFC 9788
// §2.1.1, or the draft form before it), and one of them stands outside with
// another value. Under encryption the two differ by design, here nobody hides
// anything.
func Denied(mail, payload *message.Message) bool {
	if payload.Root.Params[parameter] == "" && payload.Root.Params[draft] == "" {
		return false
	}
	for _, name := range []string{"From", "Subject", "Date", "Message-ID"} {
		inside, outside := payload.Get(name), mail.Get(name)
		if payload.Count(name) == 0 || plainly(inside) == plainly(outside) {
			continue
		}
		was, err := netmail.ParseDate(inside)
		is, outer := netmail.ParseDate(outside)
		if name != "Date" || err != nil || outer != nil || !was.Equal(is) {
			return true
		}
	}
	return false
}

// plainly is the value of a field without its folding and encoding.
func plainly(value string) string {
	return strings.Join(strings.Fields(message.DecodeWords(value)), " ")
}
