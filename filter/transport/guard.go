package transport

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"postern/filter/message"
)

// What one session may do.
const (
	maxLine   = 512              // of a command with its CRLF (RFC 5321 §4.5.3.1.4)
	maxPath   = 2048             // of MAIL and RCPT, whose parameters add about 1,100 (RFC 1870 §3, 3461 §4, 6531 §3.4)
	bigMail   = 64 << 10         // bytes of a mail that have come, until it gets a bigger buffer
	maxErrors = 10               // of syntax, since the last mail
	maxIdling = 100              // commands since the last mail, besides two for each recipient
	minRate   = 1024             // bytes a second a mail must come in, on the whole
	grace     = 10 * time.Second // for a mail to come faster than that, in a full house
	lingerFor = 30 * time.Second // to let a sender read why he is cut off
)

// guard stands between the socket and go-smtp, which sees commands that were
// checked and printed again, one at a time, and bodies that can't be
// misunderstood. go-smtp runs the session and calls the handler; the guard keeps
// what it can't be trusted with: line ends, lengths, deadlines, order,
// envelopes, STARTTLS, and the words of replies. It also undoes the
// dot-stuffing, which go-smtp does byte by byte.
//
// go-smtp answers a command before it reads the next one. So at every Read the
// guard knows that the last one is done with.
type guard struct {
	net.Conn  // the socket: addresses, deadlines
	server    *Server
	client    netip.AddrPort
	hello     string
	tls       *tls.ConnectionState
	cert      ClientCert
	shaking   bool         // hands, for TLS
	account   *Account     // that has logged in
	named     bool         // a host that may say for whom it speaks
	forward   *told        // of the next mail
	helloTold string       // by XCLIENT
	place     netip.Prefix // where the session is counted, if at all
	logins    int          // that failed, one after the other
	reader    *bufio.Reader
	narrow    *bufio.Reader // the usual one, while reader is the wide one of a big mail
	writer    *bufio.Writer
	out       []byte // of the line for go-smtp
	said      []byte // of the line from go-smtp
	asked     string // command that go-smtp has to answer
	env       *Envelope
	offer     Envelope  // of the MAIL that go-smtp is asked
	offerTo   Recipient // of the RCPT that go-smtp is asked
	errors    int
	idling    int
	body      *scanner // inside DATA
	dot       []byte   // the end of the mail, for go-smtp
	began     time.Time
	whole     time.Time // when the transaction must be over
	each      int       // answers that the mail gets
	answers   []Reply   // with LMTP, those of the handler
	failed    error     // ended DATA before its time
	ended     bool      // nothing more is read or said
	hangUp    bool      // after the reply

	deadline time.Time // of the command line

	mutex   sync.Mutex
	inner   net.Conn  // the socket, or TLS over it
	waiting time.Time // for the peer, since when
	mail    time.Time // waiting inside DATA, which began then
	read    int64     // of that mail
	leave   bool      // as soon as a command is waited for
	now     bool      // even inside DATA
	counted bool      // by the server
	giveUp  func()    // a login that is under way; nil: there is none
}

func newGuard(s *Server, c net.Conn) *guard {
	g := &guard{Conn: c, server: s, inner: c, asked: "CONNECT"}
	if a, err := netip.ParseAddrPort(c.RemoteAddr().String()); err == nil {
		g.client = a
	}
	g.reader = bufio.NewReader(peer{g})
	g.writer = bufio.NewWriterSize(peer{g}, 1024)
	return g
}

// peer is the other side. Before it is waited for it hears what there is to say.
type peer struct{ g *guard }

func (p peer) Read(b []byte) (int, error) {
	if err := p.g.writer.Flush(); err != nil {
		return 0, err
	}
	inner := p.g.arm()
	n, err := inner.Read(b)
	p.g.mutex.Lock()
	p.g.waiting = time.Time{}
	p.g.mutex.Unlock()
	return n, err
}

func (p peer) Write(b []byte) (int, error) {
	p.g.mutex.Lock()
	inner := p.g.inner
	p.g.mutex.Unlock()
	p.g.SetWriteDeadline(time.Now().Add(p.g.server.Timeouts.Block))
	return inner.Write(b)
}

// arm sets the deadline for a read: a command line as a whole, a block of the
// mail, or the mail as a whole.
func (g *guard) arm() net.Conn {
	now := time.Now()
	t := g.server.Timeouts
	by := g.deadline
	if g.body != nil {
		by = now.Add(t.Block)
		if slow := g.began.Add(t.Block + time.Duration(g.body.size/minRate)*time.Second); slow.Before(by) {
			by = slow
		}
	}
	if g.env != nil && g.whole.Before(by) {
		by = g.whole
	}
	g.mutex.Lock()
	defer g.mutex.Unlock()
	g.waiting, g.mail = now, time.Time{}
	if g.body != nil {
		g.mail, g.read = g.began, g.body.size
	}
	if g.dismissed() {
		by = now
	}
	g.SetReadDeadline(by)
	return g.inner
}

// dismiss ends the session as soon as it waits for a command, or for anything.
func (g *guard) dismiss(now bool) {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	g.leave, g.now = true, g.now || now
	if !g.waiting.IsZero() && g.dismissed() {
		g.SetReadDeadline(time.Now())
		if g.giveUp != nil {
			g.giveUp()
		}
	}
}

func (g *guard) dismissed() bool { return g.leave && (g.mail.IsZero() || g.now) }

// dispensable says since when the session keeps its place without need: it
// waits for a command, or for a mail that hardly comes.
func (g *guard) dispensable(now time.Time) (since time.Time, ok bool) {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	if g.waiting.IsZero() || !g.counted {
		return since, false
	}
	if spent := now.Sub(g.mail); !g.mail.IsZero() && (spent < grace || g.read > int64(spent.Seconds()*minRate)) {
		return since, false
	}
	return g.waiting, true
}

// waits reports whether the session has a place, and waits for its client: a
// mail that was given over whole is never in danger.
func (g *guard) waits() bool {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	return g.counted && !g.waiting.IsZero()
}

// Read gives go-smtp its next line, or the mail. Its only error outside DATA
// is io.EOF, on which go-smtp goes without a word.
func (g *guard) Read(p []byte) (int, error) {
	if g.body != nil {
		return g.readBody(p)
	}
	for len(g.out) == 0 {
		if g.ended || g.hangUp || g.failed != nil {
			g.finish()
			return 0, io.EOF
		}
		line, err := g.readLine()
		if err != nil {
			g.lost(err)
			continue
		}
		g.command(line)
	}
	n := copy(p, g.out)
	g.out = g.out[n:]
	return n, nil
}

// readBody lets go-smtp see the end of a mail and nothing else of it: the mail
// itself is read past it, as a letter. What of it nobody wanted is thrown away here.
func (g *guard) readBody(p []byte) (n int, err error) {
	if _, err := io.Copy(io.Discard, letter{g}); err != nil {
		return 0, err
	}
	if len(g.dot) == 0 {
		return 0, io.EOF
	}
	n = copy(p, g.dot)
	g.dot = g.dot[n:]
	return n, nil
}

// letter is the mail inside DATA, without stuffed dots, up to its end and never
// beyond it. Every error in it ends the session: what follows must not be taken
// for commands.
type letter struct{ g *guard }

func (l letter) Read(p []byte) (n int, err error) {
	g := l.g
	for n == 0 && len(p) > 0 {
		switch {
		case g.failed != nil:
			return 0, g.failed
		case g.body == nil: // DATA is over
			return 0, io.ErrUnexpectedEOF
		case g.body.state == atEnd:
			return 0, io.EOF
		}
		g.widen()
		if _, err = g.reader.Peek(1); err == nil {
			var read int
			chunk, _ := g.reader.Peek(g.reader.Buffered())
			n, read, err = g.body.take(p, chunk)
			g.reader.Discard(read)
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		g.failed = err
	}
	return n, nil
}

// widen gives a big mail a bigger buffer: most of what it costs is to ask for it
// in small pieces. The usual buffer is empty then, and stays so.
func (g *guard) widen() {
	if g.narrow == nil && g.body.size >= bigMail && g.reader.Buffered() == 0 {
		g.narrow, g.reader = g.reader, bufio.NewReaderSize(peer{g}, block)
	}
}

// narrowed takes the usual buffer again. What came behind the mail is read from
// the big one first.
func (g *guard) narrowed() {
	if g.narrow != nil && g.reader.Buffered() == 0 {
		g.reader, g.narrow = g.narrow, nil
	}
}

// readLine reads a command up to its CRLF, which it leaves out.
func (g *guard) readLine() (string, error) {
	g.narrowed()
	return g.readUpTo(maxLine, func(line []byte) int {
		verb := strings.ToUpper(string(line[:5]))
		switch {
		case verb == "MAIL " || verb == "RCPT ":
			return maxPath
		case verb == "AUTH " && g.offersLogin() && g.account == nil:
			return maxSASL
		}
		return maxLine
	})
}

// readUpTo reads a line of at most max bytes with its CRLF, or of as many as
// longer says when it has come that far.
func (g *guard) readUpTo(max int, longer func(line []byte) int) (string, error) {
	g.deadline = time.Now().Add(g.server.Timeouts.Command)
	var line []byte
	for {
		c, err := g.reader.ReadByte()
		switch {
		case err != nil:
			return "", err
		case c == 0 || (c == '\n') != (len(line) > 0 && line[len(line)-1] == '\r'):
			return "", message.ErrLineEnds
		case c == '\n':
			return string(line[:len(line)-1]), nil
		}
		line = append(line, c)
		if len(line) == max && longer != nil {
			max, longer = longer(line), nil
		}
		if len(line) >= max {
			return "", errTooLong
		}
	}
}

var errTooLong = errors.New("command line too long")

// lost ends the session that can't be read any more.
func (g *guard) lost(err error) {
	g.mutex.Lock()
	leave := g.leave
	g.mutex.Unlock()
	var timeout net.Error
	switch {
	case errors.Is(err, message.ErrLineEnds):
		g.log("bad line end")
		g.say(g.server.words(g.current(), err))
	case errors.Is(err, errTooLong):
		g.say(tooLong)
	case leave:
		g.say(leaving)
	case errors.As(err, &timeout) && timeout.Timeout():
		g.say(tooSlow)
	}
	g.ended = true
}

func (g *guard) log(what string) {
	g.server.Log.LogAttrs(g.server.ctx, slog.LevelInfo, "session", slog.String("trace", g.current().Trace),
		slog.String("client", g.client.String()), slog.String("end", what))
}

// current is the envelope so far, to name a refusal by.
func (g *guard) current() *Envelope {
	if g.env != nil {
		return g.env
	}
	e := &Envelope{Trace: NewTrace()}
	g.identify(e)
	return e
}

// part says that nothing more will come.
func (g *guard) part() error {
	g.ended = true
	if err := g.writer.Flush(); err != nil {
		return err
	}
	g.mutex.Lock()
	inner := g.inner
	g.mutex.Unlock()
	if t, ok := inner.(*tls.Conn); ok {
		t.CloseWrite()
	}
	if half, ok := g.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return net.ErrClosed
}

// finish takes leave. What is still under way is thrown away for a while, so
// that the last reply is not lost with it.
func (g *guard) finish() {
	if g.part() != nil {
		return
	}
	g.mutex.Lock()
	g.waiting, g.mail = time.Now(), time.Time{}
	by := g.waiting.Add(lingerFor)
	if g.leave {
		by = g.waiting
	}
	g.SetReadDeadline(by)
	g.mutex.Unlock()
	io.Copy(io.Discard, io.LimitReader(g.Conn, g.server.MaxSize))
}

// Write takes what go-smtp says, and says it in the guard's words.
func (g *guard) Write(p []byte) (int, error) {
	g.said = append(g.said, p...)
	for {
		line, rest, ok := strings.Cut(string(g.said), "\r\n")
		if !ok {
			return len(p), nil
		}
		g.said = []byte(rest)
		if len(line) < 4 || line[3] == '-' {
			continue
		}
		code, err := strconv.Atoi(line[:3])
		if err != nil {
			g.ended = true
			continue
		}
		g.answered(code, line)
	}
}

// answered is the reply to the command that was asked.
func (g *guard) answered(code int, line string) {
	if g.ended {
		return
	}
	asked := g.asked
	if code != 354 {
		g.asked, g.body = "", nil
	}
	switch {
	case asked == "CONNECT" && code == 220:
		if within(g.server.ProxyFrom, g.client) && !g.proxied() {
			return
		}
		g.named = within(g.server.XClientFrom, g.client)
		if g.server.ImplicitTLS {
			g.handshake()
		}
		g.greet()
	case asked == "EHLO" && code == 250:
		g.print(g.extensions())
	case asked == "HELO" && code == 250:
		g.print("250 " + g.server.Name)
	case asked == "MAIL" && code == 250:
		g.say(okSender)
	case asked == "RCPT" && code == 250:
		g.say(okRecipient)
	case asked == "DATA" && code == 354:
		g.say(goAhead)
		g.began = time.Now()
		g.body, g.dot = &scanner{max: g.server.MaxSize}, []byte(".\r\n")
		g.each, g.answers = len(g.env.Recipients), nil
	case asked == "DATA" && g.server.LMTP && len(g.answers) == g.each:
		for _, r := range g.answers {
			g.say(r)
		}
		g.writer.Flush()
	case asked == "DATA":
		g.print(line)
		g.writer.Flush()
	case asked == "RSET" && code == 250, asked == "NOOP" && code == 250:
		g.say(okay)
	case asked == "VRFY" && code == 252:
		g.say(unverified)
	case asked == "QUIT" && code == 221:
		g.say(bye)
		g.part()
	default:
		g.print(line)
	}
	if code == 421 {
		g.hangUp = true
	}
}

func (g *guard) say(r Reply) { g.print(r.String()) }

func (g *guard) print(line string) { g.writer.WriteString(line + "\r\n") }

// extensions is the reply to EHLO (RFC 5321 §4.1.1.1).
func (g *guard) extensions() string {
	words := []string{g.server.Name, "PIPELINING", "SIZE " + strconv.FormatInt(g.server.MaxSize, 10)}
	if g.server.TLS != nil && g.tls == nil {
		words = append(words, "STARTTLS")
	}
	words = append(words, "ENHANCEDSTATUSCODES", "8BITMIME", "SMTPUTF8", "DSN")
	if g.offersRequireTLS() {
		words = append(words, "REQUIRETLS")
	}
	if auth := g.mechanisms(); auth != "" {
		words = append(words, auth)
	}
	if g.named {
		words = append(words, clientWords, forwardWords)
	}
	last := len(words) - 1
	return "250-" + strings.Join(words[:last], "\r\n250-") + "\r\n250 " + words[last]
}

func (g *guard) offersRequireTLS() bool { return g.server.OfferRequireTLS && g.tls != nil }

// Close frees the place of the session. It may be called from outside.
func (g *guard) Close() error {
	g.server.gone(g)
	return g.Conn.Close()
}
