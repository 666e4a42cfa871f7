package transport

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"reflect"
	"strings"
	"testing"

	"postern/filter/message"
)

// plain is a next hop without extensions that takes everything.
func plain(l *line) {
	l.say("220 hop.example")
	for {
		verb, _, _ := strings.Cut(l.hear(), " ")
		switch verb {
		case "":
			return
		case "DATA":
			l.say("354 go")
			if !l.mail() {
				return
			}
			l.say("250 2.0.0 taken")
		case "QUIT":
			l.say("221 bye")
			return
		default:
			l.say("250 ok")
		}
	}
}

// answering is a next hop that knows its answers by the start of a command. A
// DATA that is answered 354 is followed by the answer to "".
func answering(answers map[string]string) func(*line) {
	return func(l *line) {
		l.say("220 hop.example")
		for {
			s := l.hear()
			if s == "" {
				return
			}
			answer, best := "250 ok", 0
			for prefix, a := range answers {
				if strings.HasPrefix(s, prefix) && len(prefix) > best {
					answer, best = a, len(prefix)
				}
			}
			if s == "DATA" && best == 0 {
				answer = "354 go"
			}
			l.say(answer)
			if s == "DATA" && strings.HasPrefix(answer, "354") {
				if !l.mail() {
					return
				}
				a := answers[""]
				if a == "" {
					a = "250 2.6.0 taken"
				}
				l.say(a)
			}
			if s == "QUIT" {
				return
			}
		}
	}
}

const everything = "250-hop.example\n250-PIPELINING\n250-SIZE 1000000\n250-8BITMIME\n250-SMTPUTF8\n250 DSN"

func deliver(t *testing.T, h *Hop, e *Envelope, body string) Result {
	t.Helper()
	return h.Deliver(t.Context(), e, int64(len(body)), text(body))
}

func TestDeliver(t *testing.T) {
	for name, ehlo := range map[string]string{"one by one": "250 hop.example", "pipelined": everything} {
		t.Run(name, func(t *testing.T) {
			f := playing(t, answering(map[string]string{"EHLO": ehlo}))
			h := &Hop{Address: f.addr, Name: "gw.example"}
			defer h.Close()
			for _, body := range []string{"", "x\r\n", ".\r\n", "..\r\n.x\r\n", "no end", strings.Repeat("x", 5000) + "\r\n"} {
				res := deliver(t, h, envelope(t, "b@to.example", "c@to.example"), body)
				want := []Reply{{250, [3]int{2, 6, 0}, "taken"}, {250, [3]int{2, 6, 0}, "taken"}}
				if res.Err != nil || !reflect.DeepEqual(res.Replies, want) || res.Carriage.TLS != "clear" {
					t.Fatalf("%.20q: got %+v", body, res)
				}
			}
			if f.times() != 1 {
				t.Errorf("got %d connections, want 1", f.times())
			}
			heard := f.all()
			for _, want := range []string{"\r\nDATA\r\n.\r\nMAIL FROM:", "\r\nDATA\r\nx\r\n.\r\n", "\r\nDATA\r\n..\r\n.\r\n", "\r\nDATA\r\n...\r\n..x\r\n.\r\n", "\r\nDATA\r\nno end\r\n.\r\n"} {
				if !strings.Contains(heard, want) {
					t.Errorf("not heard: %q", want)
				}
			}
		})
	}
}

func TestDeliverPrintsEnvelope(t *testing.T) {
	full := func(e *Envelope) {
		e.From, e.Body, e.UTF8, e.Return, e.ID = message.Address{Local: "a b", Domain: "from.example"}, "8BITMIME", true, "HDRS", "id+2B"
		e.Recipients[0].Notify, e.Recipients[0].Original = "NEVER", "rfc822;o@x.example"
	}
	for name, test := range map[string]struct {
		ehlo   string
		change func(*Envelope)
		want   string
	}{
		"all of it":   {everything, full, "MAIL FROM:<\"a b\"@from.example> SIZE=3 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=id+2B\r\nRCPT TO:<b@to.example> NOTIFY=NEVER ORCPT=rfc822;o@x.example\r\n"},
		"without DSN": {"250-hop\n250-8BITMIME\n250 SMTPUTF8", full, "MAIL FROM:<\"a b\"@from.example> BODY=8BITMIME SMTPUTF8\r\nRCPT TO:<b@to.example>\r\n"},
		"null":        {"250 hop", func(e *Envelope) { e.Null, e.From = true, message.Address{} }, "MAIL FROM:<>\r\n"},
		"quotes":      {"250 hop", func(e *Envelope) { e.From.Local = `a"b\c` }, `MAIL FROM:<"a\"b\\c"@from.example>` + "\r\n"},
		"a domain":    {"250 hop", func(e *Envelope) { e.Recipients[0].Address.Domain = "bücher.example" }, "RCPT TO:<b@xn--bcher-kva.example>\r\n"},
		"7BIT":        {"250 hop", func(e *Envelope) { e.Body = "7BIT" }, "MAIL FROM:<a@from.example>\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			f := playing(t, answering(map[string]string{"EHLO": test.ehlo}))
			h := &Hop{Address: f.addr, Name: "gw.example", MaxIdle: -1}
			e := envelope(t, "b@to.example")
			test.change(e)
			if res := deliver(t, h, e, "x\r\n"); res.Err != nil {
				t.Fatalf("got %v", res.Err)
			}
			if !strings.Contains(f.all(), test.want) {
				t.Errorf("got %q, want %q", f.all(), test.want)
			}
		})
	}
}

// What the next hop can't take, or we can't say, is not begun.
func TestDeliverRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		ehlo   string
		change func(*Envelope)
		want   string
	}{
		"8-bit":            {"250 hop", func(e *Envelope) { e.Body = "8BITMIME" }, "554 5.6.3"},
		"SMTPUTF8":         {"250-hop\n250 8BITMIME", func(e *Envelope) { e.UTF8 = true }, "553 5.6.7"},
		"a local part":     {"250-hop\n250 8BITMIME", func(e *Envelope) { e.Recipients[0].Address.Local = "büro" }, "553 5.6.7"},
		"size":             {"250-hop\n250 SIZE 2", func(*Envelope) {}, "552 5.3.4"},
		"REQUIRETLS":       {"250-hop\n250 REQUIRETLS", func(e *Envelope) { e.RequireTLS = true }, "550 5.7.30"},
		"injection":        {everything, func(e *Envelope) { e.Recipients[0].Address.Local = "victim@evil> ORCPT=rfc822;x" }, ""},
		"line end":         {everything, func(e *Envelope) { e.From.Domain = "x.example>\r\nRCPT TO:<evil" }, ""},
		"parameter":        {everything, func(e *Envelope) { e.ID = "x SIZE=1" }, ""},
		"second parameter": {everything, func(e *Envelope) { e.Recipients[0].Original = "rfc822;x\r\nDATA" }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := playing(t, answering(map[string]string{"EHLO": test.ehlo}))
			h := &Hop{Address: f.addr, Name: "gw.example", MaxIdle: -1}
			e := envelope(t, "b@to.example")
			test.change(e)
			res := deliver(t, h, e, "x\r\n")
			var r Reply
			if got := errors.As(res.Err, &r); res.Err == nil || got != (test.want != "") || !strings.HasPrefix(r.String(), test.want) && got {
				t.Errorf("got %v, want %q", res.Err, test.want)
			}
			if strings.Contains(f.all(), "MAIL") {
				t.Errorf("heard %q", f.all())
			}
		})
	}
}

func TestDeliverAnswers(t *testing.T) {
	const taken, no, later = "250 2.6.0 taken", "550 5.1.1 no such user", "450 4.2.0 later"
	for name, test := range map[string]struct {
		answers map[string]string
		replies []string // nil: an error
		err     string   // "": ErrNextHop
		again   bool     // the connection is used for the next mail
		data    bool     // a mail is sent
	}{
		"all":                 {nil, []string{taken, taken}, "", true, true},
		"some recipients":     {map[string]string{"RCPT TO:<c": no}, []string{taken, no}, "", true, true},
		"no recipients":       {map[string]string{"RCPT": no, "DATA": "554 5.5.1 no valid recipients"}, []string{no, no}, "", true, false},
		"no recipients, 354":  {map[string]string{"RCPT": no, "DATA": "354 go"}, []string{no, no}, "", false, false},
		"each for himself":    {map[string]string{"RCPT TO:<b": later, "RCPT TO:<c": no, "DATA": "503 no"}, []string{later, no}, "", true, false},
		"251":                 {map[string]string{"RCPT": "251 2.1.5 forwarded"}, []string{taken, taken}, "", true, true},
		"mail":                {map[string]string{"MAIL": "550-5.7.1 go\n550 5.7.1 away", "RCPT": "503 no", "DATA": "503 no"}, nil, "550 5.7.1 go away", true, false},
		"mail, and 354":       {map[string]string{"MAIL": later, "DATA": "354 go"}, nil, later, false, false},
		"data":                {map[string]string{"DATA": "451 4.3.0 not now"}, nil, "451 4.3.0 not now", true, false},
		"250 for data":        {map[string]string{"DATA": "250 ok"}, nil, "", false, false},
		"334 for mail":        {map[string]string{"MAIL": "334 more"}, nil, "", false, false},
		"354 for a recipient": {map[string]string{"RCPT": "354 go"}, nil, "", false, false},
		"mail refused":        {map[string]string{"": "554 5.7.1 spam"}, []string{"554 5.7.1 spam", "554 5.7.1 spam"}, "", true, true},
		"other class":         {map[string]string{"": "554 2.0.0 odd"}, []string{"554 2.0.0 odd", "554 2.0.0 odd"}, "", true, true},
		"421 for mail":        {map[string]string{"MAIL": "421 4.3.2 closing"}, nil, "451 4.3.2 closing", false, false},
		"421 in the end":      {map[string]string{"": "421 4.3.2 closing"}, []string{"451 4.3.2 closing", "451 4.3.2 closing"}, "", false, true},
		"garbage in the end":  {map[string]string{"": "thanks"}, nil, "", false, true},
		"354 in the end":      {map[string]string{"": "354 more"}, nil, "", false, true},
		"mixed codes":         {map[string]string{"": "250-a\n251 b"}, nil, "", false, true},
	} {
		for _, ehlo := range []string{"250 hop", everything} {
			t.Run(name+" "+ehlo[:7], func(t *testing.T) {
				answers := map[string]string{"EHLO": ehlo}
				for k, v := range test.answers {
					answers[k] = v
				}
				f := playing(t, answering(answers))
				h := &Hop{Address: f.addr, Name: "gw.example"}
				defer h.Close()
				res := deliver(t, h, envelope(t, "b@to.example", "c@to.example"), "secret\r\n")
				var got []string
				for _, r := range res.Replies {
					got = append(got, r.String())
				}
				if !reflect.DeepEqual(got, test.replies) {
					t.Errorf("got %q, want %q", got, test.replies)
				}
				var r Reply
				switch {
				case test.replies != nil:
					if res.Err != nil {
						t.Errorf("got error %v", res.Err)
					}
				case test.err != "":
					if !errors.As(res.Err, &r) || r.String() != test.err {
						t.Errorf("got error %v, want %s", res.Err, test.err)
					}
				case !errors.Is(res.Err, ErrNextHop) || errors.As(res.Err, &r) || errors.Is(res.Err, ErrLost) != test.data:
					t.Errorf("got error %v, want ErrNextHop, and ErrLost %v", res.Err, test.data)
				}
				h.mutex.Lock()
				idle := len(h.idle) == 1
				h.mutex.Unlock()
				// One by one, DATA is not said for nobody.
				if want := test.again || ehlo != everything && !test.data && test.answers["DATA"] == "354 go"; idle != want {
					t.Errorf("kept the connection: got %v, want %v", idle, want)
				}
				if got := strings.Contains(f.all(), "secret"); got != test.data {
					t.Errorf("mail sent: got %v, want %v: %q", got, test.data, f.all())
				}
			})
		}
	}
}

func TestDeliverManyRecipients(t *testing.T) {
	m := &mailbox{recipient: func(r Recipient) error {
		if strings.HasSuffix(r.Address.Local, "7") {
			return Reply{550, [3]int{5, 1, 1}, "no seven"}
		}
		return nil
	}}
	h := &Hop{Address: serve(t, &Server{Handler: m}), Name: "gw.example"}
	defer h.Close()
	e := envelope(t)
	for i := range 500 {
		e.Recipients = append(e.Recipients, Recipient{Address: address(t, fmt.Sprintf("r%d@to.example", i))})
	}
	res := deliver(t, h, e, "x\r\n")
	if res.Err != nil || len(res.Replies) != 500 {
		t.Fatalf("got %v, %d replies", res.Err, len(res.Replies))
	}
	for i, r := range res.Replies {
		if want := i%10 != 7; r.ok() != want {
			t.Fatalf("recipient %d: got %v", i, r)
		}
	}
	if got := m.got(); len(got) != 1 || len(got[0].env.Recipients) != 450 {
		t.Errorf("got %d mails", len(got))
	}
}

func TestLMTP(t *testing.T) {
	play := func(last string) func(*line) {
		return func(l *line) {
			l.say("220 hop")
			l.hear()
			l.say("250-hop\n250 PIPELINING")
			for range 4 {
				l.hear()
			}
			l.say("250 ok\n250 ok\n550 5.1.1 no\n250 ok")
			l.hear()
			l.say("354 go")
			l.mail()
			l.say("250 2.1.5 first")
			if last != "" {
				l.say(last)
				l.hear()
			}
		}
	}
	for name, test := range map[string]struct{ last, want string }{
		"each":          {"452 4.2.2 full", "452 4.2.2 full"},
		"lost half way": {"", "451 4.4.2 next hop lost before its answer"},
	} {
		t.Run(name, func(t *testing.T) {
			f := playing(t, play(test.last))
			h := &Hop{Address: f.addr, Name: "gw.example", LMTP: true}
			defer h.Close()
			res := deliver(t, h, envelope(t, "a@to.example", "b@to.example", "c@to.example"), "x\r\n")
			if res.Err != nil || len(res.Replies) != 3 {
				t.Fatalf("got %+v", res)
			}
			for i, want := range []string{"250 2.1.5 first", "550 5.1.1 no", test.want} {
				if got := res.Replies[i].String(); got != want {
					t.Errorf("recipient %d: got %s, want %s", i, got, want)
				}
			}
			if !strings.HasPrefix(f.all(), "LHLO gw.example\r\n") {
				t.Errorf("heard %q", f.all())
			}
		})
	}
}

// broken is a mail that fails, or is not as long as it should be.
type broken struct{ err error }

func (b broken) WriteTo(w io.Writer) (int64, error) {
	n, err := io.WriteString(w, strings.Repeat("half\r\n", 20_000))
	if err == nil {
		err = b.err
	}
	return int64(n), err
}

// A mail that is broken off is closed, never ended with a dot.
func TestAbort(t *testing.T) {
	for name, test := range map[string]struct {
		mail io.WriterTo
		size int64
	}{
		"read error": {broken{io.ErrUnexpectedEOF}, 1000},
		"too short":  {broken{}, 130_000},
		"too long":   {broken{}, 1000},
	} {
		t.Run(name, func(t *testing.T) {
			ended := make(chan bool, 1)
			f := playing(t, func(l *line) {
				l.say("220 hop")
				for _, answer := range []string{"250 hop", "250 ok", "250 ok", "354 go"} {
					l.hear()
					l.say(answer)
				}
				ended <- l.mail()
			})
			h := &Hop{Address: f.addr, Name: "gw.example"}
			res := h.Deliver(t.Context(), envelope(t, "b@to.example"), test.size, test.mail)
			if res.Err == nil || errors.Is(res.Err, ErrNextHop) || errors.As(res.Err, new(Reply)) {
				t.Errorf("got %v, want an error of our own", res.Err)
			}
			if <-ended {
				t.Error("the next hop took it for a whole mail")
			}
		})
	}
}

// What a next hop says while it hangs up in the middle of a mail is heard.
func TestRefusedInTheMiddle(t *testing.T) {
	f := playing(t, func(l *line) {
		l.say("220 hop")
		for _, answer := range []string{"250 hop", "250 ok", "250 ok", "354 go"} {
			l.hear()
			l.say(answer)
		}
		for range 100 {
			l.hear()
		}
		l.say("552 5.3.4 enough")
		l.conn.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, io.LimitReader(l.conn, 1<<20))
	})
	h := &Hop{Address: f.addr, Name: "gw.example"}
	body := strings.Repeat(strings.Repeat("x", 62)+"\r\n", 1<<20)
	res := deliver(t, h, envelope(t, "b@to.example"), body)
	var r Reply
	if !errors.As(res.Err, &r) && !errors.Is(res.Err, ErrNextHop) {
		t.Errorf("got %v, want the reply or ErrNextHop", res.Err)
	}
}

func TestUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	res := deliver(t, &Hop{Address: addr, Name: "gw.example"}, envelope(t, "b@to.example"), "x\r\n")
	if !errors.Is(res.Err, ErrNextHop) || errors.As(res.Err, new(Reply)) {
		t.Errorf("got %v, want ErrNextHop", res.Err)
	}
	for _, play := range []func(*line){
		func(*line) {},
		func(l *line) { l.say("554 5.7.1 go away"); l.hear() },
		func(l *line) { l.say("421 4.3.2 later"); l.hear() },
		func(l *line) { l.say("SSH-2.0-x"); l.hear() },
		func(l *line) { l.say("220 " + strings.Repeat("x", 10_000)); l.hear() },
		func(l *line) { l.say(strings.Repeat("220-x\n", 1000) + "220 x"); l.hear() },
		func(l *line) { io.WriteString(l.conn, "220 bare\n"); l.hear() },
		func(l *line) {
			l.say("220 hop")
			l.hear()
			l.say("550 no")
			l.hear()
			l.say("550 no")
			l.hear()
		},
	} {
		f := playing(t, play)
		res := deliver(t, &Hop{Address: f.addr, Name: "gw.example"}, envelope(t, "b@to.example"), "x\r\n")
		if !errors.Is(res.Err, ErrNextHop) || errors.As(res.Err, new(Reply)) || strings.Contains(f.all(), "MAIL") {
			t.Errorf("got %v, heard %q", res.Err, f.all())
		}
	}
}

func TestOldNextHop(t *testing.T) {
	f := playing(t, answering(map[string]string{"EHLO": "502 what", "HELO": "250 hop"}))
	res := deliver(t, &Hop{Address: f.addr, Name: "gw.example", MaxIdle: -1}, envelope(t, "b@to.example"), "x\r\n")
	if res.Err != nil || !strings.Contains(f.all(), "HELO gw.example\r\nMAIL FROM:<a@from.example>\r\n") {
		t.Errorf("got %v, heard %q", res.Err, f.all())
	}
}

// A kept connection that does not answer any more costs nothing. Once it has
// answered there is no second try, and a mail that was begun and not ended is
// taken back before the next one.
func TestReuse(t *testing.T) {
	for name, test := range map[string]struct {
		first  string   // answer to the first mail's RCPT
		second []string // what the first connection answers then; "" ends it
		ok     bool     // of the second mail
		conns  int
		heard  string
	}{
		"in order":                   {"250 ok", []string{"250 ok", "250 ok", "354 go"}, true, 1, "\r\n.\r\nMAIL FROM"},
		"gone":                       {"250 ok", []string{""}, true, 2, ""},
		"takes leave":                {"250 ok", []string{"421 4.4.2 idle for too long"}, true, 2, ""},
		"talks nonsense":             {"250 ok", []string{"garbage"}, true, 2, ""},
		"refuses":                    {"250 ok", []string{"451 4.3.2 later"}, false, 1, ""},
		"gone after MAIL":            {"250 ok", []string{"250 ok", ""}, false, 1, ""},
		"takes leave after MAIL":     {"250 ok", []string{"250 ok", "421 4.3.2 going down"}, false, 1, ""},
		"gone after DATA":            {"250 ok", []string{"250 ok", "250 ok", ""}, false, 1, ""},
		"reset":                      {"550 5.1.1 nobody", []string{"250 reset", "250 ok", "250 ok", "354 go"}, true, 1, "RSET\r\nMAIL FROM"},
		"gone before the reset":      {"550 5.1.1 nobody", []string{""}, true, 2, ""},
		"does not reset":             {"550 5.1.1 nobody", []string{"500 what"}, true, 2, ""},
		"gone after a good reset":    {"550 5.1.1 nobody", []string{"250 reset", ""}, true, 2, ""},
		"refuses after a good reset": {"550 5.1.1 nobody", []string{"250 reset", "451 4.3.2 later"}, false, 1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := playing(t, func(l *line) {
				if l.n > 1 {
					plain(l)
					return
				}
				first := []string{"250 hop", "250 ok", test.first, "354 go"}
				if test.first[0] != '2' {
					first = first[:3]
				}
				l.say("220 hop")
				for _, answers := range [][]string{first, test.second} {
					for _, a := range answers {
						if l.hear() == "" || a == "" {
							return
						}
						l.say(a)
					}
					if answers[len(answers)-1][:3] == "354" {
						if !l.mail() {
							return
						}
						l.say("250 ok")
					}
				}
				l.hear()
			})
			h := &Hop{Address: f.addr, Name: "gw.example"}
			defer h.Close()
			res := deliver(t, h, envelope(t, "b@to.example"), "x\r\n")
			if got, want := res.Err == nil && res.Replies[0].ok(), test.first[0] == '2'; got != want {
				t.Fatalf("first mail: got %+v", res)
			}
			res = deliver(t, h, envelope(t, "b@to.example"), "x\r\n")
			if got := res.Err == nil && res.Replies[0].ok(); got != test.ok {
				t.Errorf("second mail: got %+v, want success %v", res, test.ok)
			}
			if got := f.times(); got != test.conns {
				t.Errorf("got %d connections, want %d", got, test.conns)
			}
			if !strings.Contains(f.all(), test.heard) {
				t.Errorf("got %q, want %q in it", f.all(), test.heard)
			}
		})
	}
}

// Nothing is kept by a hop that was closed.
func TestReuseClosed(t *testing.T) {
	h := &Hop{Address: playing(t, plain).addr, Name: "gw.example"}
	h.Close()
	if res := deliver(t, h, envelope(t, "b@to.example"), "x\r\n"); res.Err != nil || len(h.idle) != 0 {
		t.Errorf("got %v, %d idle", res.Err, len(h.idle))
	}
}

func FuzzReply(f *testing.F) {
	for _, s := range []string{"250 ok\r\n", "250-a\r\n250 2.0.0 b\r\n", "550 5.7.1 x\x00\xff\r\n", "421\r\n", "250-", "\n", "999 x\r\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, lines, err := readReply(bufio.NewReader(bytes.NewReader(data)))
		if err != nil {
			if r != (Reply{}) {
				t.Fatalf("got %+v with an error", r)
			}
			return
		}
		s := r.String()
		if len(s) > maxReply || len(r.Text) > maxWords || len(lines) > maxReplyLines || r.Code < 200 || r.Code > 599 {
			t.Fatalf("got %q", s)
		}
		for _, c := range []byte(s) {
			if c < ' ' || c > '~' {
				t.Fatalf("got %q", s)
			}
		}
		again, _, err := readReply(bufio.NewReader(strings.NewReader(s + "\r\n")))
		if err != nil || again.Code != r.Code || again.Enhanced != r.Enhanced && r.Enhanced != [3]int{} {
			t.Fatalf("%q came back as %+v, %v", s, again, err)
		}
	})
}
