package scan

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// patient is a scanner that hangs where it is told to, and counts.
type patient struct {
	hangs, dumb  bool // at mails; at the question for a sign of life
	scans, asked int
	gate         chan struct{} // of Alive; nil: open
}

func (p *patient) Name() string { return "patient" }

func (p *patient) Scan(ctx context.Context, _ Mail) (Answer, error) {
	p.scans++
	if p.hangs {
		<-ctx.Done()
		return Answer{}, away("%v", ctx.Err())
	}
	return Answer{}, nil
}

func (p *patient) Alive(ctx context.Context) error {
	p.asked++
	if p.gate != nil {
		<-p.gate
	}
	if p.dumb {
		<-ctx.Done()
		return away("%v", ctx.Err())
	}
	return nil
}

// A scanner that hangs costs one mail its whole time, and the others nothing;
// when it is back, the first mail finds out.
func TestOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &patient{}
		d := &Desk{Posts: []Post{{Scanner: s, Inbound: true, Timeout: time.Minute, MaxSize: 1 << 20}}, Budget: time.Hour, Log: slog.New(slog.DiscardHandler)}
		step := func(what string, want error, takes time.Duration, scans, asked int) {
			t.Helper()
			began := time.Now()
			s.scans, s.asked = 0, 0
			_, err := d.Ask(t.Context(), mail("x"))
			took := time.Since(began)
			synctest.Wait()
			if !errors.Is(err, want) || took != takes || s.scans != scans || s.asked != asked {
				t.Errorf("%s: got %v after %v, %d scans and asked %d times, want %v after %v, %d and %d", what, err, took, s.scans, s.asked, want, takes, scans, asked)
			}
		}
		step("well", nil, 0, 1, 0)
		s.hangs = true
		step("a mail that takes too long", ErrAway, time.Minute, 1, 1)
		step("another one: it is alive", ErrAway, time.Minute, 1, 1)
		s.dumb = true
		step("it hangs", ErrAway, time.Minute, 1, 1)
		time.Sleep(lifeWithin + time.Second) // until the answer could have been there
		step("known", ErrAway, 0, 0, 0)
		step("known", ErrAway, 0, 0, 0)
		time.Sleep(rememberFor)
		step("asked again", ErrAway, lifeWithin, 0, 1)
		step("known again", ErrAway, 0, 0, 0)
		time.Sleep(rememberFor)
		s.hangs, s.dumb = false, false
		step("back", nil, 0, 1, 1)
		step("well", nil, 0, 1, 0)

		// While one mail asks, the others do not wait for it.
		s.hangs, s.dumb = true, true
		step("it hangs", ErrAway, time.Minute, 1, 1)
		time.Sleep(lifeWithin + rememberFor)
		s.gate = make(chan struct{})
		done := make(chan error)
		go func() {
			_, err := d.Ask(t.Context(), mail("x"))
			done <- err
		}()
		synctest.Wait()
		step("beside it", ErrAway, 0, 0, 0)
		s.hangs, s.dumb = false, false
		close(s.gate)
		if err := <-done; err != nil {
			t.Errorf("got %v, want it scanned", err)
		}
		// Who goes away while he asks has learned nothing.
		s.hangs, s.dumb, s.gate = true, true, nil
		step("it hangs", ErrAway, time.Minute, 1, 1)
		time.Sleep(lifeWithin + rememberFor)
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			_, err := d.Ask(ctx, mail("x"))
			done <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want context.Canceled", err)
		}
		s.hangs, s.dumb = false, false
		step("the next one asks", nil, 0, 1, 1)
	})
}

// What passes while a scanner is away passes at once, and is marked so.
func TestOutagePasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &patient{hangs: true, dumb: true}
		d := &Desk{Posts: []Post{{Scanner: s, Inbound: true, Timeout: time.Minute, MaxSize: 1 << 20, PassAway: true}}, Budget: time.Hour, Log: slog.New(slog.DiscardHandler)}
		for range 2 {
			r, err := d.Ask(t.Context(), mail("x"))
			if err != nil || r.Whole || r.Missing != "away" {
				t.Errorf("got %+v, %v, want it not scanned", r, err)
			}
			time.Sleep(lifeWithin + time.Second)
		}
		if s.scans != 1 {
			t.Errorf("got %d scans, want 1", s.scans)
		}
	})
}

// The signs of life, and what is none.
func TestAlive(t *testing.T) {
	for answer, alive := range map[string]bool{"PONG\x00": true, "PONG": false, "stream: OK\x00": false, "": false} {
		c := &Clamd{Address: serve(t, func(c net.Conn) {
			b := make([]byte, len("zPING\x00"))
			if _, err := io.ReadFull(c, b); err == nil && string(b) == "zPING\x00" {
				io.WriteString(c, answer)
			}
		})}
		if err := c.Alive(t.Context()); (err == nil) != alive || err != nil && !errors.Is(err, ErrAway) {
			t.Errorf("clamd %q: got %v, want alive %t", answer, err, alive)
		}
	}
	for answer, alive := range map[string]bool{"pong\r\n": true, "pong": true, "no": false, "": false} {
		r := rspamd(t, func(w http.ResponseWriter, q *http.Request) {
			if q.URL.Path == "/ping" {
				io.WriteString(w, answer)
			}
		})
		if err := r.Alive(t.Context()); (err == nil) != alive || err != nil && !errors.Is(err, ErrAway) {
			t.Errorf("rspamd %q: got %v, want alive %t", answer, err, alive)
		}
	}
	if err := (&Clamd{Address: "/nowhere"}).Alive(t.Context()); !errors.Is(err, ErrAway) {
		t.Errorf("got %v, want ErrAway", err)
	}
}
