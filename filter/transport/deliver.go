package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"postern/filter/message"
)

// What a next hop can't take is refused for good: it will not learn it.
var (
	no8Bit       = Reply{554, [3]int{5, 6, 3}, "next hop takes no 8-bit mail"}
	noUTF8       = Reply{553, [3]int{5, 6, 7}, "next hop takes no internationalised addresses"}
	noRequireTLS = Reply{550, [3]int{5, 7, 30}, "next hop does not support REQUIRETLS"}
	tooBig       = Reply{552, [3]int{5, 3, 4}, "message too big for next hop"}
	lostReply    = Reply{451, [3]int{4, 4, 2}, "next hop lost before its answer"}
)

var errSize = errors.New("mail is not as long as it was said to be")

// maxBatch is how many commands are sent before their replies are read: few
// enough to fit into the buffers of the way (RFC 2920 §3.1).
const maxBatch = 50

// deliver carries one mail over l. Unless all is well with it, l is broken.
// stale says that l was kept from an earlier mail and did not answer any more.
func (l *link) deliver(ctx context.Context, e *Envelope, size int64, mail io.WriterTo) (r Result, stale bool) {
	defer l.bind(ctx)()
	l.sent = false
	lines, err := l.envelope(e, size)
	if err != nil {
		return Result{Err: err}, false
	}
	if l.begun {
		if r, err := l.ask("RSET", l.hop.timeouts().Connect); err != nil || !r.ok() {
			l.broken = true
			return Result{Err: trouble("send envelope", errors.Join(err, errReply))}, ctx.Err() == nil
		}
	}
	l.begun = true
	answers, err := l.converse(lines)
	if err != nil {
		l.broken = true
		return Result{Err: err}, l.uses > 0 && len(answers) == 0 && ctx.Err() == nil
	}
	return l.transfer(e, answers, size, mail), false
}

// transfer carries the mail whose envelope was answered so.
func (l *link) transfer(e *Envelope, answers []Reply, size int64, mail io.WriterTo) Result {
	if !answers[0].ok() {
		l.unexpected(answers)
		return Result{Err: answers[0]}
	}
	replies := answers[1 : len(e.Recipients)+1]
	var to []int // who was accepted
	for i, r := range replies {
		if r.ok() {
			to = append(to, i)
		}
	}
	if len(to) == 0 {
		l.unexpected(answers)
		return Result{Replies: replies}
	}
	if data := answers[len(answers)-1]; data.Code != 354 {
		return Result{Err: data}
	}
	if r, err := l.write(size, mail); err != nil {
		l.broken = true
		if r.no() {
			return Result{Err: own(r)}
		}
		return Result{Err: err}
	}
	return l.final(replies, to)
}

// unexpected is a 354 although there is nothing to send: the connection can
// only be closed.
func (l *link) unexpected(answers []Reply) {
	if answers[len(answers)-1].Code == 354 {
		l.broken = true
	}
}

// own makes 421, which speaks of a connection, a reply that speaks of a mail.
func own(r Reply) Reply {
	if r.Code == 421 {
		r.Code = 451
	}
	return r
}

// envelope prints the commands up to DATA, or says why the next hop can't be
// given this mail.
func (l *link) envelope(e *Envelope, size int64) ([]string, error) {
	_, utf8 := l.extensions["SMTPUTF8"]
	_, eight := l.extensions["8BITMIME"]
	_, dsn := l.extensions["DSN"]
	_, require := l.extensions["REQUIRETLS"]
	limit, sized := l.extensions["SIZE"]
	wide := e.UTF8 || !ascii(e.From.Local)
	for _, r := range e.Recipients {
		wide = wide || !ascii(r.Address.Local)
	}
	switch {
	case wide && !utf8:
		return nil, noUTF8
	case e.Body == "8BITMIME" && !eight:
		return nil, no8Bit
	case e.RequireTLS && !(require && l.tls != nil && l.hop.authenticates()):
		return nil, noRequireTLS
	}
	if max, err := strconv.ParseInt(limit, 10, 64); sized && err == nil && max > 0 && size > max {
		return nil, tooBig
	}
	from := "<>"
	if !e.Null {
		var err error
		if from, err = path(e.From, wide); err != nil {
			return nil, err
		}
	}
	var w strings.Builder
	w.WriteString("MAIL FROM:" + from)
	add := func(name, value string) error {
		if value != "" && !parameter(value) {
			return fmt.Errorf("print envelope: parameter %s not valid", name)
		}
		w.WriteString(" " + name)
		if value != "" {
			w.WriteString("=" + value)
		}
		return nil
	}
	var errs []error
	if sized {
		errs = append(errs, add("SIZE", strconv.FormatInt(size, 10)))
	}
	if e.Body != "" && eight {
		errs = append(errs, add("BODY", e.Body))
	}
	if wide {
		errs = append(errs, add("SMTPUTF8", ""))
	}
	if e.RequireTLS {
		errs = append(errs, add("REQUIRETLS", ""))
	}
	if dsn && e.Return != "" {
		errs = append(errs, add("RET", e.Return))
	}
	if dsn && e.ID != "" {
		errs = append(errs, add("ENVID", e.ID))
	}
	lines := []string{w.String()}
	for _, r := range e.Recipients {
		to, err := path(r.Address, wide)
		w.Reset()
		w.WriteString("RCPT TO:" + to)
		errs = append(errs, err)
		if dsn && r.Notify != "" {
			errs = append(errs, add("NOTIFY", r.Notify))
		}
		if dsn && r.Original != "" && (wide || ascii(r.Original)) {
			errs = append(errs, add("ORCPT", r.Original))
		}
		lines = append(lines, w.String())
	}
	return append(lines, "DATA"), errors.Join(errs...)
}

// path prints an address between its brackets. Whatever made the address, it
// reads back as itself, or is not sent.
func path(a message.Address, wide bool) (string, error) {
	text, ok := a.String(), sound(a)
	if ok && !wide {
		text, ok = a.ASCII()
	}
	if !ok {
		return "", fmt.Errorf("print envelope: %w", message.ErrAddress)
	}
	return "<" + text + ">", nil
}

// converse says the commands, many at once where the next hop takes that (RFC
// 2920). Their answers are as many, unless MAIL or every RCPT failed before
// DATA was said. An answer that is neither yes nor no is an error; with it come
// those heard before. A connection that was kept may have gone silent: it has
// as long for its first answer as a new one has to come about.
func (l *link) converse(lines []string) (answers []Reply, err error) {
	batch := 1
	if _, ok := l.extensions["PIPELINING"]; ok {
		batch = maxBatch
	}
	within := l.hop.timeouts().Command
	if l.uses > 0 {
		within = l.hop.timeouts().Connect
	}
	accepted := false
	for i := 0; i < len(lines); i += batch {
		next := lines[i:min(i+batch, len(lines))]
		if i > 0 && (!answers[0].ok() || len(next) == 1 && next[0] == "DATA" && !accepted) {
			break
		}
		for _, line := range next {
			if err := l.send(line); err != nil {
				return answers, trouble("send envelope", err)
			}
		}
		if err := l.writer.Flush(); err != nil {
			return answers, trouble("send envelope", err)
		}
		for j, line := range next {
			r, _, err := l.read(within)
			within = l.hop.timeouts().Command
			if err != nil {
				return answers, trouble("send envelope", err)
			}
			if r.Code == 421 {
				return answers, own(r)
			}
			yes := r.ok()
			if line == "DATA" {
				yes = r.Code == 354
			}
			if !yes && !r.no() {
				return answers, trouble("send envelope", errReply)
			}
			if i+j > 0 && r.ok() {
				accepted = true
			}
			answers = append(answers, r)
		}
	}
	return answers, nil
}

// write sends the mail and its final dot. A next hop that ends it has often
// said why; the reply is that, or zero.
func (l *link) write(size int64, mail io.WriterTo) (Reply, error) {
	out := &tally{w: l.writer}
	s := &stuffer{w: out}
	n, err := mail.WriteTo(s)
	switch {
	case out.err != nil:
		return l.lastWords(), trouble("send mail", out.err)
	case err != nil:
		return Reply{}, fmt.Errorf("read mail: %w", err)
	case l.ctx.Err() != nil:
		return Reply{}, trouble("send mail", l.ctx.Err())
	case n != size:
		return Reply{}, fmt.Errorf("send mail: %w", errSize)
	}
	l.sent = true // or will be, as far as anybody can tell
	if err = s.end(); err != nil && out.err == nil {
		return Reply{}, fmt.Errorf("send mail: %w", err)
	}
	if err == nil {
		err = l.writer.Flush()
	}
	if err != nil {
		return l.lastWords(), trouble("send mail", err)
	}
	return Reply{}, nil
}

// tally tells errors of the next hop from those of the mail.
type tally struct {
	w   io.Writer
	err error
}

func (t *tally) Write(p []byte) (int, error) {
	n, err := t.w.Write(p)
	if err != nil {
		t.err = err
	}
	return n, err
}

func (l *link) lastWords() Reply {
	if l.ctx.Err() != nil {
		return Reply{}
	}
	r, _, err := l.read(time.Second)
	if err != nil {
		return Reply{}
	}
	return r
}

// final hears what became of the mail: one reply for all, or with LMTP one for
// each accepted recipient, in order (RFC 2033 §4.2).
func (l *link) final(replies []Reply, to []int) Result {
	within := l.hop.timeouts().Final
	for n, i := range to {
		r, _, err := l.read(within)
		if err == nil && !r.ok() && !r.no() {
			l.broken, err = true, errReply
		}
		if err != nil && n == 0 {
			return Result{Err: trouble("hear the answer", fmt.Errorf("%w: %w", ErrLost, err))}
		}
		if err != nil { // the others' answers stand
			for _, j := range to[n:] {
				replies[j] = lostReply
			}
			break
		}
		r = own(r)
		if !l.hop.LMTP {
			for _, j := range to {
				replies[j] = r
			}
			break
		}
		replies[i] = r
	}
	l.begun = l.broken
	return Result{Replies: replies}
}
