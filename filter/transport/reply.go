package transport

import (
	"fmt"
	"strings"
)

// How long a reply may be. RFC 5321 §4.5.3.1.5 gives 512 bytes to the line
// with its CRLF; a next hop's text leaves room for the trace id.
const (
	maxReply = 500
	maxWords = 400
)

// Reply is an SMTP reply (RFC 5321 §4.2, RFC 3463). It is an error, so that a
// next hop's own words travel up unchanged.
type Reply struct {
	Code     int
	Enhanced [3]int
	Text     string // one line, printable ASCII
}

// String is the reply as one line without its CRLF: printable ASCII and at most
// 500 bytes, whatever Text holds.
func (r Reply) String() string {
	s := fmt.Sprintf("%03d ", r.Code)
	if r.Enhanced != [3]int{} {
		s += fmt.Sprintf("%d.%d.%d ", r.Enhanced[0], r.Enhanced[1], r.Enhanced[2])
	}
	return s + printable(r.Text, maxReply-len(s))
}

func (r Reply) Error() string { return r.String() }

// ok tells acceptance (RFC 5321 §4.2.1).
func (r Reply) ok() bool { return r.Code/100 == 2 }

// no tells refusal, for now or for good.
func (r Reply) no() bool { return r.Code/100 == 4 || r.Code/100 == 5 }

// printable is s as one line of at most max bytes: white space is one space,
// and what is no printable ASCII a question mark.
func printable(s string, max int) string {
	var b strings.Builder
	space := false
	for _, r := range s {
		switch {
		case r == ' ' || r == '\t' || r == '\r' || r == '\n':
			space = b.Len() > 0
			continue
		case r < ' ' || r > '~':
			r = '?'
		}
		if space {
			b.WriteByte(' ')
			space = false
		}
		if b.Len() >= max {
			break
		}
		b.WriteByte(byte(r))
	}
	out := b.String()
	if len(out) > max {
		out = out[:max]
	}
	return strings.TrimRight(out, " ")
}

// The fixed words of the server.
var (
	okay           = Reply{250, [3]int{2, 0, 0}, "ok"}
	okSender       = Reply{250, [3]int{2, 1, 0}, "sender ok"}
	okRecipient    = Reply{250, [3]int{2, 1, 5}, "recipient ok"}
	goAhead        = Reply{Code: 354, Text: "end the mail with <CR><LF>.<CR><LF>"}
	bye            = Reply{221, [3]int{2, 0, 0}, "bye"}
	readyForTLS    = Reply{220, [3]int{2, 0, 0}, "ready to start TLS"}
	unverified     = Reply{252, [3]int{2, 5, 0}, "not verified, send the mail"}
	crowded        = Reply{421, [3]int{4, 3, 2}, "too many connections, try again later"}
	leaving        = Reply{421, [3]int{4, 3, 2}, "closing the connection, try again later"}
	tooSlow        = Reply{421, [3]int{4, 4, 2}, "waited too long"}
	tooManyErrors  = Reply{421, [3]int{4, 7, 0}, "too many errors"}
	tooLong        = Reply{500, [3]int{5, 5, 2}, "line too long"}
	unknown        = Reply{500, [3]int{5, 5, 1}, "command not known"}
	notOffered     = Reply{502, [3]int{5, 5, 1}, "command not offered"}
	noArgument     = Reply{501, [3]int{5, 5, 4}, "command takes no argument"}
	badHello       = Reply{501, [3]int{5, 5, 4}, "host name expected"}
	badCharacter   = Reply{500, [3]int{5, 5, 2}, "character not allowed in a command"}
	badMail        = Reply{501, [3]int{5, 5, 4}, "expected MAIL FROM:<address>"}
	badRcpt        = Reply{501, [3]int{5, 5, 4}, "expected RCPT TO:<address>"}
	badSender      = Reply{501, [3]int{5, 1, 7}, "sender address not accepted"}
	badRecipient   = Reply{501, [3]int{5, 1, 3}, "recipient address not accepted"}
	badParameter   = Reply{501, [3]int{5, 5, 4}, "parameter not understood"}
	otherParameter = Reply{555, [3]int{5, 5, 4}, "parameter not known"}
	needUTF8       = Reply{553, [3]int{5, 6, 7}, "address needs SMTPUTF8"}
	needTLS        = Reply{530, [3]int{5, 7, 0}, "STARTTLS first"}
	needHello      = Reply{503, [3]int{5, 5, 1}, "EHLO first"}
	needMail       = Reply{503, [3]int{5, 5, 1}, "MAIL first"}
	needRecipient  = Reply{503, [3]int{5, 5, 1}, "no valid recipients"}
	nested         = Reply{503, [3]int{5, 5, 1}, "MAIL inside a transaction"}
	loggedIn       = Reply{235, [3]int{2, 7, 0}, "logged in"}
	needLogin      = Reply{530, [3]int{5, 7, 0}, "AUTH first"}
	loginNeedsTLS  = Reply{538, [3]int{5, 7, 11}, "AUTH over TLS only"}
	noMechanism    = Reply{504, [3]int{5, 5, 4}, "mechanism not offered"}
	badLogin       = Reply{501, [3]int{5, 5, 2}, "login exchange not understood"}
	loginCancelled = Reply{501, [3]int{5, 7, 0}, "login cancelled"}
	loginRefused   = Reply{535, [3]int{5, 7, 8}, "login refused"}
	loginAway      = Reply{454, [3]int{4, 7, 0}, "accounts not available, try again later"}
	tooManyLogins  = Reply{454, [3]int{4, 7, 0}, "too many failed logins, try again later"}
	secondLogin    = Reply{503, [3]int{5, 5, 1}, "already logged in"}
	nestedLogin    = Reply{503, [3]int{5, 5, 1}, "AUTH inside a transaction"}
	notYours       = Reply{553, [3]int{5, 7, 1}, "sender address is not of this account"}
	tooOften       = Reply{450, [3]int{4, 7, 1}, "too many mails, try again later"}
	notNamed       = Reply{550, [3]int{5, 7, 0}, "command not allowed for this host"}
	badTold        = Reply{501, [3]int{5, 5, 4}, "attribute not understood"}
	nestedTold     = Reply{503, [3]int{5, 5, 1}, "command inside a transaction"}
	secondTLS      = Reply{503, [3]int{5, 5, 1}, "TLS is active"}
)
