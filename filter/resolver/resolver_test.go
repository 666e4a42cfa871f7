package resolver

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// liar answers as answer has it, in datagrams and on streams, at one address.
func liar(t *testing.T, answer func(w dns.ResponseWriter, q *dns.Msg, stream bool)) *Client {
	t.Helper()
	var l net.Listener
	var p net.PacketConn
	for range 100 {
		var err error
		if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		if p, err = net.ListenPacket("udp", l.Addr().String()); err == nil {
			break
		}
		l.Close()
	}
	for _, s := range []*dns.Server{
		{Listener: l, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { answer(w, q, true) })},
		{PacketConn: p, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { answer(w, q, false) })},
	} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go s.ActivateAndServe()
		<-started
		t.Cleanup(func() { s.Shutdown() })
	}
	return &Client{Address: l.Addr().String(), Trust: true, Timeout: 2 * time.Second}
}

// reply answers q with records, validated.
func reply(t *testing.T, q *dns.Msg, records ...string) *dns.Msg {
	r := new(dns.Msg)
	r.SetReply(q)
	r.AuthenticatedData = true
	for _, s := range records {
		rr, err := dns.NewRR(s)
		if err != nil {
			t.Error(err)
			continue
		}
		r.Answer = append(r.Answer, rr)
	}
	return r
}

// What is no answer to the question is passed over, and the true one is heard;
// where there is none, nothing is made up.
func TestFalseAnswers(t *testing.T) {
	const mx = "to.example. 60 IN MX 10 mx.to.example."
	for name, c := range map[string]struct {
		answer func(w dns.ResponseWriter, q *dns.Msg, stream bool)
		found  int // -1: ErrAway
	}{
		"good": {func(w dns.ResponseWriter, q *dns.Msg, _ bool) { w.WriteMsg(reply(t, q, mx)) }, 1},
		"another id first": {func(w dns.ResponseWriter, q *dns.Msg, _ bool) {
			r := reply(t, q, "to.example. 60 IN MX 10 evil.example.", mx)
			r.Id++
			w.WriteMsg(r)
			w.WriteMsg(reply(t, q, mx))
		}, 1},
		"another question first": {func(w dns.ResponseWriter, q *dns.Msg, stream bool) {
			r := reply(t, q, "to.example. 60 IN MX 10 evil.example.", mx)
			r.Question[0].Name = "two.example."
			if !stream {
				w.WriteMsg(r)
			}
			w.WriteMsg(reply(t, q, mx))
		}, 1},
		"letters changed": {func(w dns.ResponseWriter, q *dns.Msg, _ bool) {
			r := reply(t, q, mx)
			r.Question = []dns.Question{{Name: swap(q.Question[0].Name), Qtype: q.Question[0].Qtype, Qclass: q.Question[0].Qclass}}
			w.WriteMsg(r)
		}, -1},
		"the question itself": {func(w dns.ResponseWriter, q *dns.Msg, _ bool) { w.WriteMsg(q) }, -1},
		"garbage first": {func(w dns.ResponseWriter, q *dns.Msg, stream bool) {
			if !stream {
				w.Write([]byte("xyz"))
				w.Write([]byte(strings.Repeat("\xff", 100)))
			}
			w.WriteMsg(reply(t, q, mx))
		}, 1},
		"cut short, whole on a stream": {func(w dns.ResponseWriter, q *dns.Msg, stream bool) {
			r := reply(t, q, mx, "to.example. 60 IN MX 20 two.to.example.")
			if !stream {
				r.Truncated, r.Answer = true, r.Answer[:1]
			}
			w.WriteMsg(r)
		}, 2},
		"failure": {func(w dns.ResponseWriter, q *dns.Msg, _ bool) {
			r := reply(t, q, mx)
			r.Rcode = dns.RcodeServerFailure
			w.WriteMsg(r)
		}, -1},
		"refusal": {func(w dns.ResponseWriter, q *dns.Msg, _ bool) {
			r := reply(t, q)
			r.Rcode = dns.RcodeRefused
			w.WriteMsg(r)
		}, -1},
		"silence": {func(dns.ResponseWriter, *dns.Msg, bool) {}, -1},
		"no such name": {func(w dns.ResponseWriter, q *dns.Msg, _ bool) {
			r := reply(t, q)
			r.Rcode = dns.RcodeNameError
			w.WriteMsg(r)
		}, 0},
		"of another": {func(w dns.ResponseWriter, q *dns.Msg, _ bool) {
			w.WriteMsg(reply(t, q, "two.example. 60 IN MX 10 evil.example."))
		}, 0},
		"alias": {func(w dns.ResponseWriter, q *dns.Msg, _ bool) {
			w.WriteMsg(reply(t, q, "to.example. 60 IN CNAME a.example.", "a.example. 60 IN MX 1 b.example."))
		}, 1},
		"aliases round": {func(w dns.ResponseWriter, q *dns.Msg, _ bool) {
			w.WriteMsg(reply(t, q, "to.example. 60 IN CNAME a.example.", "a.example. 60 IN CNAME to.example."))
		}, -1},
		"too many": {func(w dns.ResponseWriter, q *dns.Msg, stream bool) {
			r := reply(t, q)
			if r.Truncated = !stream; stream {
				for i := range maxRecords + 1 {
					rr, _ := dns.NewRR(fmt.Sprintf("to.example. 60 IN MX %d mx.to.example.", i))
					r.Answer = append(r.Answer, rr)
				}
			}
			w.WriteMsg(r)
		}, -1},
	} {
		c2 := liar(t, c.answer)
		a, err := c2.MX(t.Context(), "to.example")
		switch {
		case c.found < 0 && !errors.Is(err, ErrAway):
			t.Errorf("%s: got %+v, %v, want ErrAway", name, a, err)
		case c.found >= 0 && (err != nil || len(a.Found) != c.found || !a.Secure):
			t.Errorf("%s: got %+v, %v, want %d", name, a, err, c.found)
		}
		for _, m := range a.Found {
			if strings.Contains(m.Host, "evil") {
				t.Errorf("%s: got %+v", name, a)
			}
		}
	}
}

// swap changes the case of every letter.
func swap(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r ^ 0x20
		}
		return r
	}, s)
}

// Questions ask for validation and can't be guessed; what cannot be asked is not.
func TestQuestions(t *testing.T) {
	var mutex sync.Mutex
	n := 0
	ids, spellings, ports := map[uint16]bool{}, map[string]bool{}, map[string]bool{}
	c := liar(t, func(w dns.ResponseWriter, q *dns.Msg, _ bool) {
		if !q.AuthenticatedData || q.CheckingDisabled || !q.RecursionDesired || q.IsEdns0() == nil || q.IsEdns0().UDPSize() != udpSize {
			t.Errorf("got %v", q)
		}
		mutex.Lock()
		n++
		ids[q.Id], spellings[q.Question[0].Name], ports[w.RemoteAddr().String()] = true, true, true
		mutex.Unlock()
		w.WriteMsg(reply(t, q))
	})
	const times = 20
	for range times {
		if _, err := c.TXT(t.Context(), "some-long-name.with.many.letters.example"); err != nil {
			t.Fatal(err)
		}
	}
	mutex.Lock()
	defer mutex.Unlock()
	if n != times || len(ids) < times-2 || len(spellings) < times-2 || len(ports) < times/2 {
		t.Errorf("got %d questions with %d ids, %d spellings, %d ports", n, len(ids), len(spellings), len(ports))
	}
	for _, name := range []string{"", "a..b", strings.Repeat("a.", 130), strings.Repeat("a", 64) + ".example", `a\.b`, "a b", ".a"} {
		if _, err := c.MX(t.Context(), name); !errors.Is(err, ErrName) {
			t.Errorf("%.20q: got %v, want ErrName", name, err)
		}
	}
}

// Whatever comes as an answer: no more is found than may be, and only what
// stands where the aliases end.
func FuzzChase(f *testing.F) {
	for _, records := range [][]string{
		{"to.example. 60 IN MX 10 mx.to.example."}, {"to.example. 60 IN CNAME a.example.", "a.example. 60 IN MX 1 b.example."},
	} {
		m := new(dns.Msg)
		m.SetQuestion("to.example.", dns.TypeMX)
		m.Response = true
		for _, s := range records {
			rr, err := dns.NewRR(s)
			if err != nil {
				f.Fatal(err)
			}
			m.Answer = append(m.Answer, rr)
		}
		raw, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		m := new(dns.Msg)
		if m.Unpack(raw) != nil {
			return
		}
		reason(m)
		for _, kind := range []uint16{dns.TypeMX, dns.TypeTLSA, dns.TypeTXT, dns.TypeCNAME, dns.TypeA} {
			records, end, err := chase(m, "to.example", kind)
			if err != nil && !errors.Is(err, ErrAway) || len(records) > maxRecords {
				t.Errorf("got %d records, %v", len(records), err)
			}
			for _, r := range records {
				if r.Header().Rrtype != kind || canonical(r.Header().Name) != end {
					t.Errorf("got %v at %q", r, end)
				}
			}
		}
	})
}
