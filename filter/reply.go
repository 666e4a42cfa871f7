package filter

import (
	"context"
	"errors"
	"slices"

	"postern/filter/message"
	"postern/filter/protect"
	"postern/filter/transport"
	"postern/hsm"
)

// The ways in which a mail does not pass. Each has a row in Replies.
var (
	ErrConfig        = errors.New("own configuration broken")
	ErrOverload      = errors.New("too much in flight")
	ErrUndecryptable = errors.New("mail does not open and policy refuses it")
	ErrMustProtect   = errors.New("protection required and no usable certificate")
	ErrPolicy        = errors.New("policy says no")
	ErrClear         = errors.New("partner's mail in clear")
	ErrClient        = errors.New("partner's client not as agreed")
	ErrLoop          = errors.New("mail loop")
)

// Row is one line of the reply table: the one place where an error becomes
// SMTP (RFC 5321 §4.2, RFC 3463). The text is fixed; the trace id is added.
// The page appliance/docs/replies.md is printed from it.
type Row struct {
	When  string
	Word  string // in the log and the decision object, where the decision has none
	Reply transport.Reply
	Look  string // where an operator looks first
	is    func(error) bool
}

func is(targets ...error) func(error) bool {
	return func(err error) bool {
		for _, t := range targets {
			if errors.Is(err, t) {
				return true
			}
		}
		return false
	}
}

func reply(code int, enhanced [3]int, text string) transport.Reply {
	return transport.Reply{Code: code, Enhanced: enhanced, Text: text}
}

// Replies is the table, first match first. The last row takes everything that
// was not foreseen, and defers.
var Replies = []Row{
	{"token or key daemon away", "token-away", reply(451, [3]int{4, 7, 5}, "cryptographic service not available, try again later"),
		"`postern token status`; the mail comes back by itself",
		is(hsm.ErrAway, hsm.ErrLocked, hsm.ErrEmpty, hsm.ErrBudget, hsm.ErrBusy, hsm.ErrPIN, hsm.ErrOpaque)},
	{"own configuration broken", "configuration", reply(451, [3]int{4, 3, 5}, "gateway not configured for this mail, try again later"),
		"`postern policy check` and `postern key audit`",
		is(ErrConfig, hsm.ErrNoKey, hsm.ErrRefused, hsm.ErrInvalid)},
	{"next hop away, or not as safe as it must be", "next-hop", reply(451, [3]int{4, 4, 1}, "next hop not reachable, try again later"),
		"`postern doctor`; whoever had his copy already does not get it again",
		is(transport.ErrNextHop)},
	{"too much in flight", "overload", reply(451, [3]int{4, 3, 2}, "gateway busy, try again later"),
		"how long the next hop takes to answer",
		is(ErrOverload, context.DeadlineExceeded)},
	{"message too big", "too-big", reply(552, [3]int{5, 3, 4}, "message too big"),
		"the size limit in filterd.toml",
		is(message.ErrTooBig)},
	{"too many recipients", "too-many", reply(452, [3]int{4, 5, 3}, "too many recipients"),
		"nothing: the sender splits the mail",
		is(transport.ErrTooMany)},
	{"bare CR or LF", "line-ends", reply(554, [3]int{5, 6, 0}, "line ends other than CRLF"),
		"the program that sent it",
		is(message.ErrLineEnds)},
	{"hopeless MIME", "structure", reply(554, [3]int{5, 6, 0}, "message structure beyond limits"),
		"the program that sent it",
		is(message.ErrLimit, message.ErrHeaderLimit, message.ErrSigned8Bit)},
	{"cannot be opened, and `undecryptable = \"reject\"`", "undecryptable", reply(554, [3]int{5, 7, 5}, "message cannot be accepted as protected"),
		"the log has no cause either: whether a mail opens is told to nobody outside",
		is(ErrUndecryptable)},
	{"must be protected, no usable certificate", "no-cert", reply(550, [3]int{5, 7, 3}, "no certificate to protect mail to this recipient"),
		"`postern cert find ADDRESS`",
		is(ErrMustProtect, protect.ErrNoCert)},
	{"partner's mail in clear, and `inbound` asks for TLS", "clear", reply(530, [3]int{5, 7, 0}, "must issue a STARTTLS command first"),
		"`inbound` of the partner; the partner's server must use STARTTLS",
		is(ErrClear)},
	{"partner's mail over TLS, and not from a client or in a version that was agreed on", "client", reply(550, [3]int{5, 7, 1}, "client certificate or TLS version not as agreed"),
		"`min` and `inbound-pins` of the partner; the log names the key that was shown",
		is(ErrClient)},
	{"policy says no", "policy", reply(550, [3]int{5, 7, 1}, "refused by policy"),
		"`postern explain` names the rule",
		is(ErrPolicy)},
	{"mail loop", "loop", reply(554, [3]int{5, 4, 6}, "mail loop"),
		"the Received fields of the mail",
		is(ErrLoop)},
	{"anything not foreseen", "unforeseen", reply(451, [3]int{4, 3, 0}, "internal trouble, try again later"),
		"the log line with the trace id",
		func(error) bool { return true }},
}

// replyTo puts err into the words of SMTP. A next hop's own answer stays what
// it is where it is a no: what is neither 4xx nor 5xx can't stand for an
// error, and 421 would close a channel that is not the next hop's (RFC 5321
// §3.8). Every other text is fixed, so that nothing of the cause gets out.
func replyTo(err error, trace string) transport.Reply {
	var r transport.Reply
	if !errors.As(err, &r) || r.Code/100 != 4 && r.Code/100 != 5 {
		r = rowOf(err).Reply
	}
	if r.Code == 421 {
		r.Code = 451
	}
	r.Text += " " + trace
	return r
}

// quiet keeps the codes of a next hop's answer, and none of its words: they may
// quote what was opened, and go to whoever sent the mail. Sealed mail that did
// not open gets the same, or the words would tell which did.
func quiet(res transport.Result) transport.Result {
	wordless := func(r transport.Reply) transport.Reply {
		r.Text = "taken"
		if r.Code/100 != 2 {
			r.Text = "next hop does not take it"
		}
		return r
	}
	replies := make([]transport.Reply, len(res.Replies))
	for i, r := range res.Replies {
		replies[i] = wordless(r)
	}
	res.Replies = replies
	if r := (transport.Reply{}); errors.As(res.Err, &r) {
		res.Err = wordless(r)
	}
	return res
}

// wordOf is the reason why a mail did not pass, in a word.
func wordOf(err error) string {
	var r transport.Reply
	if errors.As(err, &r) {
		return "next-hop"
	}
	return rowOf(err).Word
}

// rowOf is the row of the table for err.
func rowOf(err error) Row {
	i := slices.IndexFunc(Replies, func(row Row) bool { return row.is(err) })
	return Replies[i] // the last row takes all
}
