// Package headers protects the header of a mail together with its body, and
// shows the fields that a partner protected (RFC 9788). Both ways of protecting
// mail use it: it knows nothing of keys and signatures.
//
// Outgoing, the payload holds a copy of the header, and a sealed mail shows
// less of it outside. Beside the parameter of the standard stands that of the
// draft before it, by which Thunderbird and others find the subject to this
// day. A payload that is signed or sealed by itself is not touched, so its mail
// keeps the header that it has. There is no legacy display (RFC 9788 §5.2.2).
//
// Incoming, only what stands at the root of an opened payload counts, and only
// fields that people read are taken from there: spam filters and mail servers
// trust others, and have looked at those outside already. A legacy display in
// the text stays where it is: RFC 9788 §4.5.3 has the reader's program take it
// out, and this is none. The form of RFC 8551 §3.1, a whole message as the
// payload (RFC 9788 §4.10), is read only where it says that nobody forwarded it.
package headers

import (
	"slices"
	"strings"
)

// Policy says what of a sealed mail's header everybody on the way may read
// (RFC 9788 §3.2). The zero value is Baseline.
type Policy string

const (
	// Baseline hides the subject, comments and keywords.
	Baseline Policy = "baseline"
	// Shy also hides the display names of From, To and Cc, and the sender's time zone.
	Shy Policy = "shy"
	// None hides nothing.
	None Policy = "none"
)

// The parameters of a payload's Content-Type (RFC 9788 §2.1, and the draft).
const (
	parameter = "hp"
	inClear   = "clear"
	inCipher  = "cipher"
	draft     = "protected-headers"
	draftOne  = "v1"
)

// record is the field that says what stands outside (RFC 9788 §2.2).
const record = "HP-Outer"

// obscured is the subject that everybody may read (RFC 9788 §3.2.1).
const obscured = "[...]"

// structural reports whether a field describes a body (RFC 9787 §1.1.1).
func structural(name string) bool {
	return name == "mime-version" || strings.HasPrefix(name, "content-")
}

// ofTheWay are fields that servers add on a mail's way, and those that say to
// whom it goes in secret (RFC 9788 §11.4): no copy of them is made.
var ofTheWay = []string{
	"authentication-results", "bcc", "delivered-to", "dkim-signature", "domainkey-signature", "errors-to",
	"received", "received-spf", "return-path", "x-original-to", "x-received",
}

// protects reports whether a copy of the field belongs into the payload. name is in lower case.
func protects(name string) bool {
	for _, prefix := range []string{"arc-", "hp-", "postern-", "resent-"} {
		if strings.HasPrefix(name, prefix) {
			return false
		}
	}
	return isName(name) && !structural(name) && !slices.Contains(ofTheWay, name)
}

// isName reports whether s may be the name of a field (RFC 5322 §2.2).
func isName(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == ':' })
}

// rule is how a field inside is taken.
type rule struct {
	many bool // it may stand there more than once (RFC 5322 §3.6)
	only bool // where the payload has none, one outside was put there by somebody else
}

// read are the fields that people read, or that their programs answer and
// sort by. Of From, Date and Message-ID a mail must have one, so that outside stays.
var read = map[string]rule{
	"cc":               {only: true},
	"comments":         {many: true, only: true},
	"date":             {},
	"followup-to":      {only: true},
	"from":             {},
	"importance":       {},
	"in-reply-to":      {only: true},
	"keywords":         {many: true, only: true},
	"mail-followup-to": {only: true},
	"mail-reply-to":    {only: true},
	"message-id":       {},
	"organization":     {},
	"priority":         {},
	"references":       {only: true},
	"reply-to":         {only: true},
	"sender":           {only: true},
	"sensitivity":      {},
	"subject":          {only: true},
	"thread-topic":     {only: true},
	"to":               {only: true},
	"x-priority":       {},
}

// isLayer reports whether an entity is protected by itself, and so no payload.
func isLayer(mediaType string) bool {
	switch mediaType {
	case "multipart/signed", "multipart/encrypted", "application/pkcs7-mime", "application/x-pkcs7-mime":
		return true
	}
	return false
}
