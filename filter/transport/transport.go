// Package transport is SMTP and LMTP (RFC 2033) on both sides of the gateway: the server behind
// its guard, and the client towards the next hop. It knows envelopes and
// replies, and nothing of what a mail says.
//
// Where it departs from RFC 5321: source routes are refused rather than
// ignored, lines that end otherwise than in CRLF end the connection, and so
// does every error inside DATA. CHUNKING (RFC 3030) is not offered, and AUTH
// (RFC 4954) over TLS only. AUTH= of MAIL is read, and believed of nobody.
package transport

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"net/netip"
	"strings"
	"time"

	"postern/filter/message"
)

// The ways in which a session or a next hop fails.
var (
	ErrTooMany = errors.New("too many recipients")
	ErrNextHop = errors.New("next hop in trouble")    // not reached, not safe enough, or lost on the way
	ErrLost    = errors.New("lost before its answer") // with ErrNextHop: the mail was handed over whole, and may have been taken
	ErrPanic   = errors.New("handler panicked")
)

// Envelope is what MAIL and RCPT said, and who said it.
type Envelope struct {
	Trace      string         // names the mail in every log and reply
	Client     netip.AddrPort // who is connected, as far as proxies and XCLIENT say; not valid: not known
	Origin     netip.AddrPort // who gave the mail to the client, where XFORWARD says so
	Hello      string
	LMTP       bool                 // each recipient gets an answer of his own
	TLS        *tls.ConnectionState // nil: in clear
	Cert       ClientCert           // that the client showed
	User       string               // the account that has logged in
	Senders    []string             // as whom it may write
	From       message.Address
	Null       bool // MAIL FROM:<>
	Recipients []Recipient
	Refused    []Refusal // at RCPT, maxRefused of them at most
	Body       string    // BODY=: "", "7BIT" or "8BITMIME"
	Size       int64     // SIZE=, or 0
	UTF8       bool      // SMTPUTF8
	Return     string    // RET=
	ID         string    // ENVID=, as received
	RequireTLS bool
	// Heard is told at once what became of some of the recipients, by a hop whose
	// mail goes several ways; nil: nobody listens. It may be called by many at once.
	Heard func(of []Recipient, replies []Reply)
	Floor string // lowest level of TLS towards the recipients' servers, where this mail asks for more than their domains' own; "" where not
}

// Source is who gave the mail to us, or to the server of ours that is the client.
func (e *Envelope) Source() netip.AddrPort {
	if e.Origin.IsValid() {
		return e.Origin
	}
	return e.Client
}

// Recipient is one RCPT.
type Recipient struct {
	Address  message.Address
	Notify   string // NOTIFY=, as received
	Original string // ORCPT=, as received
}

// Refusal is a recipient that is none.
type Refusal struct {
	To    message.Address
	Reply Reply
}

// maxRefused is how many of them an envelope tells of.
const maxRefused = 100

// Handler is the mail path as the server sees it. It puts every error into words.
type Handler interface {
	// Sender says whether e may begin, before any recipient; nil, or a Reply.
	Sender(ctx context.Context, e *Envelope) error
	// Recipient says whether one recipient may follow those of e; nil, or a Reply.
	Recipient(ctx context.Context, e *Envelope, to Recipient) error
	// Data takes one mail. The answer is one for all, or where e.LMTP is set
	// one for each of its recipients. A body that ends before its time ends in
	// an error, never in io.EOF.
	Data(ctx context.Context, e *Envelope, body io.Reader) []Reply
	// Refuse words an error of the server itself.
	Refuse(e *Envelope, err error) Reply
}

// Result is what a next hop said.
type Result struct {
	Replies []Reply // one for each recipient of the envelope; nil when Err is set
	Err     error   // nothing was accepted: a Reply, or trouble on the way
	Sent    bool    // the mail went out whole: where Err is trouble, nobody knows who has it
	// Carriage is how it went. Where recipients went different ways it is Each's
	// first, and Each has one for each of the Replies.
	Carriage Carriage
	Each     []Carriage
	Trial    error // what Need.Trial would have refused the connection for
}

// Timeouts of a session (RFC 5321 §4.5.3.2). Zero fields mean the defaults.
type Timeouts struct {
	Connect   time.Duration // to reach the next hop: 30 s
	Handshake time.Duration // of TLS: 1 min
	Command   time.Duration // for one command line, or the reply to it: 5 min
	Block     time.Duration // for each block of the mail, rolling: 3 min
	Final     time.Duration // for the reply to the final dot: 10 min
	Whole     time.Duration // from MAIL to the end of the mail: 1 h
	Idle      time.Duration // for an unused connection to the next hop: 30 s
}

func (t Timeouts) filled() Timeouts {
	for _, d := range []struct {
		is *time.Duration
		or time.Duration
	}{
		{&t.Connect, 30 * time.Second}, {&t.Handshake, time.Minute}, {&t.Command, 5 * time.Minute},
		{&t.Block, 3 * time.Minute}, {&t.Final, 10 * time.Minute}, {&t.Whole, time.Hour}, {&t.Idle, 30 * time.Second},
	} {
		if *d.is == 0 {
			*d.is = d.or
		}
	}
	return t
}

// Carried words how a connection was protected: version and cipher, or "clear".
func Carried(s *tls.ConnectionState) string {
	if s == nil {
		return "clear"
	}
	return strings.ReplaceAll(tls.VersionName(s.Version), " ", "v") + ":" + tls.CipherSuiteName(s.CipherSuite)
}

// NewTrace makes the id of a mail: 16 characters that stand in logs, replies
// and headers, 80 bits of chance in the alphabet of RFC 4648 §6, which leaves
// out what looks like something else.
func NewTrace() string { return rand.Text()[:16] }
