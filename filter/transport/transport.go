// Package transport is SMTP on both sides of the gateway: the server behind
// its guard, and the client towards the next hop. It knows envelopes and
// replies, and nothing of what a mail says.
package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/netip"

	"postern/filter/message"
)

// ErrTooMany is a recipient beyond the server's limit.
var ErrTooMany = errors.New("too many recipients")

// Reply is an SMTP reply (RFC 5321 §4.2, RFC 3463). It is an error, so that a
// next hop's own words travel up unchanged.
type Reply struct {
	Code     int
	Enhanced [3]int
	Text     string // one line, printable ASCII
}

func (r Reply) String() string { return "" }
func (r Reply) Error() string  { return r.String() }

// Envelope is what MAIL and RCPT said, and who said it.
type Envelope struct {
	Trace      string // names the mail in every log and reply
	Client     netip.AddrPort
	Hello      string
	TLS        *tls.ConnectionState // nil: in clear
	User       string               // after AUTH
	From       message.Address
	Null       bool // MAIL FROM:<>
	Recipients []Recipient
	Body       string // BODY=: "", "7BIT" or "8BITMIME"
	Size       int64  // SIZE=, or 0
	UTF8       bool   // SMTPUTF8
	Return     string // RET=
	ID         string // ENVID=, as received
	RequireTLS bool
}

// Recipient is one RCPT.
type Recipient struct {
	Address  message.Address
	Notify   string // NOTIFY=, as received
	Original string // ORCPT=, as received
}

// Handler is the mail path as the server sees it. It puts every error into words.
type Handler interface {
	// Recipient says whether one recipient may follow those of e; nil, or a Reply.
	Recipient(ctx context.Context, e *Envelope, to Recipient) error
	// Data takes one mail. The answer is the sender's.
	Data(ctx context.Context, e *Envelope, body io.Reader) Reply
	// Refuse words an error of the server itself.
	Refuse(e *Envelope, err error) Reply
}

// Result is what a next hop said.
type Result struct {
	Replies []Reply // one for each recipient of the envelope; nil when Err is set
	Err     error   // nothing was accepted: a Reply, or trouble on the way
	TLS     string  // as Carried
}

// Carried words how a connection was protected: version and cipher, or "clear".
func Carried(s *tls.ConnectionState) string { return "clear" }

// NewTrace makes the id of a mail: 16 characters that stand in logs, replies and headers.
func NewTrace() string { return "" }
