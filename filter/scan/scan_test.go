package scan

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// patience is how long anything may take that answers at all.
const patience = time.Minute

// text is a mail as a WriterTo that may break.
type text struct {
	s   string
	err error
}

func (t text) WriteTo(w io.Writer) (int64, error) {
	n, err := io.WriteString(w, t.s)
	if err == nil {
		err = t.err
	}
	return int64(n), err
}

func mail(s string) Mail {
	return Mail{Trace: "TRACE", From: "bob@partner.example", To: []string{"alice@company1.example"}, Size: int64(len(s)), Body: text{s: s}}
}

// serve runs f for each connection to a socket, and gives its path.
func serve(t *testing.T, f func(net.Conn)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); f(c) }()
		}
	}()
	return path
}

// stream reads what INSTREAM gives.
func stream(c net.Conn) (string, error) {
	command := make([]byte, len("zINSTREAM\x00"))
	if _, err := io.ReadFull(c, command); err != nil || string(command) != "zINSTREAM\x00" {
		return "", fmt.Errorf("command %q, %v", command, err)
	}
	var all bytes.Buffer
	for {
		var head [4]byte
		if _, err := io.ReadFull(c, head[:]); err != nil {
			return all.String(), err
		}
		n := binary.BigEndian.Uint32(head[:])
		if n == 0 {
			return all.String(), nil
		}
		if _, err := io.CopyN(&all, c, int64(n)); err != nil {
			return all.String(), err
		}
	}
}

// clamd answers with what f says of the mail.
func clamd(t *testing.T, f func(mail string) string) *Clamd {
	return &Clamd{Found: Reject, Encrypted: Mark, Address: serve(t, func(c net.Conn) {
		m, err := stream(c)
		if err != nil {
			return
		}
		io.WriteString(c, f(m))
	})}
}

func TestClamd(t *testing.T) {
	long := strings.Repeat("0123456789abcde\n", 20000)
	for _, c := range []struct {
		name, answer string
		verdict      Verdict
		found        []string
		err          error
	}{
		{"clean", "stream: OK\x00", Clean, nil, nil},
		{"found", "stream: Eicar-Test-Signature FOUND\x00", Reject, []string{"Eicar-Test-Signature"}, nil},
		{"a name with all sorts of things", "stream: A b;\r\nc FOUND FOUND\x00", Reject, []string{"A_b___c_FOUND"}, nil},
		{"a password", "stream: Heuristics.Encrypted.Zip FOUND\x00", Mark, []string{"Heuristics.Encrypted.Zip"}, nil},
		{"too big", "INSTREAM size limit exceeded. ERROR\x00", Clean, nil, ErrTooBig},
		{"an error", "stream: lstat() failed ERROR\x00", Clean, nil, ErrAway},
		{"without an end", "stream: OK", Clean, nil, ErrAway},
		{"nothing", "", Clean, nil, ErrAway},
		{"an empty answer", "\x00", Clean, nil, ErrAway},
		{"found nothing", "stream:  FOUND\x00", Clean, nil, ErrAway},
		{"another word", "stream: OKAY\x00", Clean, nil, ErrAway},
		{"another file", "/tmp/x: OK\x00", Clean, nil, ErrAway},
		{"without measure", strings.Repeat("stream: OK ", 1000) + "\x00", Clean, nil, ErrAway},
		{"garbage", "\xff\xfe\x01\x00", Clean, nil, ErrAway},
	} {
		s := clamd(t, func(got string) string {
			if got != long {
				t.Errorf("%s: got a mail of %d bytes, want %d", c.name, len(got), len(long))
			}
			return c.answer
		})
		a, err := s.Scan(t.Context(), mail(long))
		if a.Verdict != c.verdict || !slices.Equal(a.Found, c.found) || !errors.Is(err, c.err) {
			t.Errorf("%s: got %+v, %v, want %v %v, %v", c.name, a, err, c.verdict, c.found, c.err)
		}
	}
}

// What clamd says before it has all counts only where it is no yes: it breaks
// off what is too big, and so does one that dies.
func TestClamdMidStream(t *testing.T) {
	big := strings.Repeat("x", 8<<20)
	for _, c := range []struct {
		name, answer string
		err          error
		found        int
	}{
		{"too big", "INSTREAM size limit exceeded. ERROR\x00", ErrTooBig, 0},
		{"clean", "stream: OK\x00", ErrAway, 0},
		{"found", "stream: Worm FOUND\x00", nil, 1},
		{"killed", "", ErrAway, 0},
	} {
		s := &Clamd{Found: Reject, Address: serve(t, func(conn net.Conn) {
			io.CopyN(io.Discard, conn, 100_000)
			io.WriteString(conn, c.answer)
		})}
		a, err := s.Scan(t.Context(), mail(big))
		if !errors.Is(err, c.err) || len(a.Found) != c.found {
			t.Errorf("%s: got %+v, %v, want %d found, %v", c.name, a, err, c.found, c.err)
		}
	}
}

// A scanner that hangs is away when its time is over: while it takes the mail,
// and while it should answer.
func TestHanging(t *testing.T) {
	hang := serve(t, func(c net.Conn) { // reads nothing
		<-t.Context().Done()
	})
	mute := serve(t, func(c net.Conn) { io.Copy(io.Discard, c) })
	big := strings.Repeat("x", 8<<20)
	for _, s := range []Scanner{&Clamd{Address: hang}, &Clamd{Address: mute}, &Rspamd{Address: hang}, &Rspamd{Address: mute}} {
		d := desk(Post{Scanner: s, Inbound: true, Timeout: 50 * time.Millisecond, MaxSize: 1 << 30})
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		if _, err := d.Ask(ctx, mail(big)); !errors.Is(err, ErrAway) || ctx.Err() != nil {
			t.Errorf("%+v: got %v, want %v", s, err, ErrAway)
		}
		cancel()
	}
}

// Trouble with the mail itself is nobody's absence: no policy lets it pass.
func TestBrokenMail(t *testing.T) {
	disk := errors.New("disk gone")
	whole := func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, `{"action":"no action"}`)
	}
	for _, s := range []Scanner{clamd(t, func(string) string { return "stream: OK\x00" }), rspamd(t, whole)} {
		m := mail("half")
		m.Size, m.Body = 8, text{"half", disk}
		r, err := desk(Post{Scanner: s, Inbound: true, Timeout: patience, MaxSize: 1 << 20, PassAway: true, PassBig: true}).Ask(t.Context(), m)
		if !errors.Is(err, disk) || errors.Is(err, ErrAway) {
			t.Errorf("%s: got %+v, %v, want %v", s.Name(), r, err, disk)
		}
	}
}

func desk(posts ...Post) *Desk { return &Desk{Posts: posts, Log: slog.New(slog.DiscardHandler)} }

// rspamd serves f at a loopback port.
func rspamd(t *testing.T, f http.HandlerFunc) *Rspamd {
	t.Helper()
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	return &Rspamd{Address: strings.TrimPrefix(s.URL, "http://"), Reject: Reject, Soft: Defer, Fields: []string{"X-Spam-Level", "X-Spam"}}
}

func TestRspamd(t *testing.T) {
	for _, c := range []struct {
		name, answer string
		want         string // the answer, printed
		err          error
	}{
		{"clean", `{"is_skipped":false,"score":-1.25,"required_score":15,"action":"no action","symbols":{"A":{"name":"A","score":-1.25}}}`, "0 [] -1.2/15.0 [] false", nil},
		{"marked", `{"score":6.5,"required_score":15,"action":"add header","symbols":{"B":{"score":2},"A":{"score":4.5},"C":{"score":0}}}`, "1 [A B] 6.5/15.0 [] false", nil},
		{"another subject", `{"score":6,"required_score":15,"action":"rewrite subject","subject":"*** SPAM"}`, "1 [] 6.0/15.0 [] false", nil},
		{"greylisted", `{"score":5,"required_score":15,"action":"greylist"}`, "2 [] 5.0/15.0 [] false", nil},
		{"softly refused", `{"score":5,"required_score":15,"action":"soft reject","messages":{"smtp_message":"go away"}}`, "2 [] 5.0/15.0 [] false", nil},
		{"refused", `{"score":99,"required_score":15,"action":"reject","symbols":{"GTUBE; x":{"score":99}}}`, "3 [GTUBE__x] 99.0/15.0 [] false", nil},
		{"skipped", `{"is_skipped":true,"action":"no action"}`, "0 [] 0.0/0.0 [] true", nil},
		{"refused without a look at the rules", `{"is_skipped":true,"score":15,"required_score":15,"action":"reject","symbols":{"GTUBE":{"score":0.0}}}`, "3 [] 15.0/15.0 [] false", nil},
		{"fields", `{"action":"no action","milter":{"add_headers":{"x-spam-level":{"value":"**\r\nBcc: x","order":0},"X-Other":"y","X-Spam":["a",{"value":"ü"},7]},"remove_headers":{"Subject":0}}}`,
			"0 [] 0.0/0.0 [{X-Spam-Level ** Bcc: x} {X-Spam a} {X-Spam ?}] false", nil},
		{"an action of the site", `{"action":"quarantine"}`, "", ErrAway},
		{"no action at all", `{}`, "", ErrAway},
		{"no JSON", `OK`, "", ErrAway},
		{"cut off", `{"action":"no action"`, "", ErrAway},
		{"two answers", `{"action":"reject"}{"action":"no action"}`, "", ErrAway},
		{"an error", `{"error":"bad"}`, "", ErrAway},
		{"without measure", `{"action":"no action","x":"` + strings.Repeat("x", 2<<20) + `"}`, "", ErrAway},
		{"deep", strings.Repeat(`{"x":`, 20000) + strings.Repeat("}", 20000), "", ErrAway},
	} {
		s := rspamd(t, func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			if r.Method != "POST" || r.URL.Path != "/checkv2" || string(b) != "the mail" {
				t.Errorf("%s: got %s %s with %q", c.name, r.Method, r.URL, b)
			}
			io.WriteString(w, c.answer)
		})
		a, err := s.Scan(t.Context(), mail("the mail"))
		got := ""
		if err == nil {
			got = fmt.Sprintf("%d %v %s %v %v", a.Verdict, a.Found, a.Score, a.Fields, a.Skipped)
		}
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("%s: got %q, %v, want %q, %v", c.name, got, err, c.want, c.err)
		}
	}
}

// What it is told of a mail; nothing of that can add a line.
func TestRspamdIsTold(t *testing.T) {
	var got http.Header
	s := rspamd(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		got = r.Header
		io.WriteString(w, `{"action":"no action"}`)
	})
	m := mail("x")
	m.Client, m.Hello, m.User = netip.MustParseAddr("::ffff:192.0.2.7"), "mx\r\nIP: 10.0.0.1", "bob"
	m.To = append(m.To, "jürgen@company1.example")
	for i := range 200 {
		m.To = append(m.To, fmt.Sprintf("u%d@company1.example", i))
	}
	if _, err := s.Scan(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"Ip": "192.0.2.7", "Helo": "mx__IP: 10.0.0.1", "User": "bob", "From": "<bob@partner.example>", "Queue-Id": "TRACE", "Rcpt": "alice@company1.example"} {
		if got.Get(name) != want {
			t.Errorf("%s: got %q, want %q", name, got.Get(name), want)
		}
	}
	if list := got["Rcpt"]; len(list) != rspamdTo || list[1] != "jürgen@company1.example" {
		t.Errorf("got %d recipients, %q", len(list), list[:2])
	}
	m = mail("x")
	m.From = ""
	if _, err := s.Scan(t.Context(), m); err != nil || got.Get("From") != "<>" || got.Get("IP") != "" || got.Get("User") != "" {
		t.Errorf("null sender: got %v, %v", got, err)
	}
}

// A yes that comes before all was given is none, nor one with another status,
// or from elsewhere.
func TestRspamdThatLies(t *testing.T) {
	elsewhere := rspamd(t, func(w http.ResponseWriter, r *http.Request) { t.Error("a redirection was followed") })
	for name, s := range map[string]*Rspamd{
		"early": {Address: serve(t, func(c net.Conn) {
			io.CopyN(io.Discard, c, 1000)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 22\r\n\r\n{\"action\":\"no action\"}")
			<-t.Context().Done()
		})},
		"status": rspamd(t, func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			w.WriteHeader(http.StatusForbidden)
			io.WriteString(w, `{"action":"no action"}`)
		}),
		"redirection": rspamd(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://"+elsewhere.Address, http.StatusTemporaryRedirect)
		}),
		"no HTTP": {Address: serve(t, func(c net.Conn) { io.WriteString(c, "* OK IMAP\r\n"); io.Copy(io.Discard, c) })},
		"header without end": {Address: serve(t, func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\n"+strings.Repeat("X: "+strings.Repeat("x", 1000)+"\r\n", 1000))
			io.Copy(io.Discard, c)
		})},
		"nobody": {Address: filepath.Join(t.TempDir(), "none")},
	} {
		if a, err := s.Scan(t.Context(), mail(strings.Repeat("x", 8<<20))); !errors.Is(err, ErrAway) {
			t.Errorf("%s: got %+v, %v, want %v", name, a, err, ErrAway)
		}
	}
}

// said is a scanner that says what it is told to.
type said struct {
	name string
	a    Answer
	err  error
	n    *int
}

func (s said) Name() string                { return s.name }
func (s said) Alive(context.Context) error { return s.err }
func (s said) Scan(context.Context, Mail) (Answer, error) {
	if s.n != nil {
		*s.n++
	}
	return s.a, s.err
}

func TestDesk(t *testing.T) {
	in := func(s said) Post { return Post{Scanner: s, Inbound: true, Timeout: patience, MaxSize: 10} }
	lax := func(s said) Post { p := in(s); p.PassAway, p.PassBig = true, true; return p }
	small := func(p Post) Post { p.MaxSize = 2; return p }
	asked := 0
	for _, c := range []struct {
		name  string
		posts []Post
		want  string // verdict, whole, by, against, found, missing
		err   error
	}{
		{"both clean", []Post{in(said{name: "a"}), in(said{name: "b"})}, "0 true [a b]  [] ", nil},
		{"the worse one counts", []Post{in(said{name: "a", a: Answer{Verdict: Defer, Found: []string{"x"}}}), in(said{name: "b", a: Answer{Verdict: Mark, Found: []string{"y"}}})}, "2 true [a b] a [x y] ", nil},
		{"a refusal ends it", []Post{in(said{name: "a", a: Answer{Verdict: Reject}}), in(said{name: "b", n: &asked})}, "3 true [a] a [] ", nil},
		{"away", []Post{in(said{name: "a", err: ErrAway})}, "", ErrAway},
		{"away, and passes", []Post{lax(said{name: "a", err: ErrAway}), in(said{name: "b"})}, "0 false [b]  [] away", nil},
		{"too big", []Post{small(in(said{name: "a"}))}, "", ErrTooBig},
		{"too big, and passes", []Post{small(lax(said{name: "a", n: &asked}))}, "0 false []  [] too-big", nil},
		{"too big for the scanner", []Post{lax(said{name: "a", err: ErrTooBig})}, "0 false []  [] too-big", nil},
		{"skipped", []Post{in(said{name: "a", a: Answer{Verdict: Reject, Skipped: true}})}, "0 false []  [] skipped", nil},
		{"not its direction", []Post{{Scanner: said{name: "a", n: &asked}, Outbound: true}}, "0 true []  [] ", nil},
		{"unforeseen never passes", []Post{lax(said{name: "a", err: io.ErrUnexpectedEOF})}, "", io.ErrUnexpectedEOF},
	} {
		r, err := desk(c.posts...).Ask(t.Context(), mail("mail"))
		got := ""
		if err == nil {
			got = fmt.Sprintf("%d %v %v %s %v %s", r.Verdict, r.Whole, r.By, r.Against, r.Found, r.Missing)
		}
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("%s: got %q, %v, want %q, %v", c.name, got, err, c.want, c.err)
		}
	}
	if asked > 0 {
		t.Errorf("got %d questions that nobody should have asked", asked)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := desk(lax(said{name: "a", err: ErrAway})).Ask(ctx, mail("mail")); !errors.Is(err, context.Canceled) || errors.Is(err, ErrAway) {
		t.Errorf("the daemon ends: got %v, want %v: nothing passes by that", err, context.Canceled)
	}
}

func TestAsks(t *testing.T) {
	var none *Desk
	in := desk(Post{Inbound: true})
	in.Fields = []string{"X-Spam"}
	if none.Asks(true) || none.Writes("X-Spam") || in.Asks(true) || !in.Asks(false) || !in.Writes("x-spam ") || in.Writes("X-Spa") {
		t.Error("who is asked, and what may be written, is not what was said")
	}
}

// Whatever clamd says (R30): it is understood, or it is away; and a name is a word.
func FuzzClamdAnswer(f *testing.F) {
	for _, s := range []string{"stream: OK", "stream: X FOUND", "INSTREAM size limit exceeded. ERROR", "stream: a\r\nb FOUND", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		name, found, err := readClamd(s)
		switch {
		case err != nil && !errors.Is(err, ErrAway) && !errors.Is(err, ErrTooBig), err != nil && found:
			t.Errorf("%q: got %v, %v", s, found, err)
		case err == nil && !found && s != "stream: OK":
			t.Errorf("%q: got clean", s)
		}
		wordly(t, word(name))
	})
}

// Whatever rspamd says (R30): nothing of it is more than a word, or a line.
func FuzzRspamdAnswer(f *testing.F) {
	for _, s := range []string{`{"action":"no action"}`, `{"score":1e300,"action":"reject","symbols":{"A\n":{"score":1}}}`,
		`{"action":"add header","milter":{"add_headers":{"X-Spam":[{"value":"a\r\nb"},"c"]}}}`, `{"action":5}`, `[]`, ``} {
		f.Add([]byte(s))
	}
	r := &Rspamd{Reject: Reject, Soft: Defer, Fields: []string{"X-Spam"}}
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := r.read(b)
		if err != nil {
			if !errors.Is(err, ErrAway) {
				t.Errorf("%q: got %v", b, err)
			}
			return
		}
		if len(a.Fields) > maxFields || len(a.Found) > rspamdSymbols {
			t.Errorf("got %d fields, %d symbols", len(a.Fields), len(a.Found))
		}
		for _, w := range append(a.Found, a.Score) {
			wordly(t, w)
		}
		for _, v := range a.Fields {
			if v.Name != "X-Spam" || len(v.Value) > maxValue || strings.ContainsFunc(v.Value, func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Errorf("got %q", v)
			}
		}
	})
}

func wordly(t *testing.T, w string) {
	t.Helper()
	if w == "" || len(w) > maxWord || strings.ContainsAny(w, " ;,=\r\n\"") || strings.ContainsFunc(w, func(r rune) bool { return r < '!' || r > '~' }) {
		t.Errorf("got %q, want a word", w)
	}
}
