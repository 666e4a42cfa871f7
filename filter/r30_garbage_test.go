package filter

import (
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	"postern/filter/policy"
)

// Garbage through all stages, both ways, ends in a reply of the table, without
// a panic, and leaves no goroutine behind (R30).
func TestGarbage(t *testing.T) {
	const alice, bob = "alice@company1.example", "bob@partner.example"
	w := newWorld(t)
	seeds := []string{in, out, w.sealed(in, bob, alice), w.sealed(in, bob), w.sealed(in, "", "mallory@evil.example"),
		crlf("From: bob@partner.example\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"a\"\n\n--a\nContent-Type: message/rfc822\n\nSubject: x\n\ny\n--a--\n")}
	chance := rand.New(rand.NewPCG(30, 30)) // the same garbage each time
	mutate := func(s string) string {
		b := []byte(s)
		for range 1 + chance.IntN(20) {
			at := chance.IntN(len(b))
			switch chance.IntN(4) {
			case 0:
				b[at] = byte(chance.IntN(256))
			case 1:
				b = append(b[:at], b[min(len(b), at+chance.IntN(200)):]...)
			case 2:
				from := chance.IntN(len(b))
				b = append(b[:at:at], append(append([]byte{}, b[from:min(len(b), from+chance.IntN(300))]...), b[at:]...)...)
			case 3:
				b = append(b[:at:at], append([]byte("\r\n"), b[at:]...)...)
			}
			if len(b) == 0 {
				return "\r\n"
			}
		}
		return string(b)
	}
	runtime.GC()
	before := runtime.NumGoroutine()
	for range 2000 {
		mail := mutate(seeds[chance.IntN(len(seeds))])
		direction, from, to := policy.Inbound, bob, alice
		if chance.IntN(2) == 0 {
			direction, from, to = policy.Outbound, alice, bob
		}
		w.hop.got = nil
		r := w.send(direction, mail, from, to)
		if c := r.Code / 100; c != 2 && c != 4 && c != 5 || !strings.HasSuffix(r.Text, traceID) || r.Code == 451 && r.Enhanced == [3]int{4, 3, 0} {
			t.Errorf("%s: got %v for\n%q", direction, r, mail)
		}
		if len(w.hop.got) > 0 != (r.Code == 250) {
			t.Errorf("%s: got %v and %d mails for\n%q", direction, r, len(w.hop.got), mail)
		}
	}
	if strings.Contains(w.log.String(), "panic") {
		t.Error("a stage panicked")
	}
	for end := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("got %d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
}
