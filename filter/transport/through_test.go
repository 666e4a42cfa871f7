package transport

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
)

// afar is a connection to another machine, as far as its address says.
type afar struct{ net.Conn }

func (afar) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 587} }

// TestLoginThrough: what a mail server says to a name and a password, and what
// it is never told.
func TestLoginThrough(t *testing.T) {
	secret := "AUTH PLAIN " + b64("\x00alice\x00right secret")
	for _, test := range []struct {
		name    string
		offers  string
		answers []string
		far     bool
		want    error  // nil: logged in
		heard   string // of AUTH and what follows
	}{
		{name: "right", offers: "AUTH LOGIN PLAIN", answers: []string{"235 2.7.0 ok"}, heard: secret},
		{name: "by LOGIN", offers: "AUTH LOGIN", answers: []string{"334 VXNlcm5hbWU6", "334 UGFzc3dvcmQ6", "235 ok"}, heard: "AUTH LOGIN|" + b64("alice") + "|" + b64("right secret")},
		{name: "wrong", offers: "AUTH PLAIN", answers: []string{"535 5.7.8 no"}, want: ErrLoginRefused, heard: secret},
		{name: "wrong name", offers: "AUTH LOGIN", answers: []string{"334 x", "535 no"}, want: ErrLoginRefused, heard: "AUTH LOGIN|" + b64("alice")},
		{name: "away", offers: "AUTH PLAIN", answers: []string{"454 4.7.0 right secret"}, want: ErrNextHop, heard: secret},
		{name: "not yet", offers: "AUTH PLAIN", answers: []string{"530 5.7.0 right secret"}, want: ErrNextHop, heard: secret},
		{name: "a yes before its time", offers: "AUTH LOGIN", answers: []string{"235 ok"}, want: ErrNextHop, heard: "AUTH LOGIN"},
		{name: "a yes to something else", offers: "AUTH PLAIN", answers: []string{"250 ok"}, want: ErrNextHop, heard: secret},
		{name: "a question too many", offers: "AUTH PLAIN", answers: []string{"334 "}, want: ErrNextHop, heard: secret},
		{name: "lost", offers: "AUTH PLAIN", want: ErrNextHop, heard: secret},
		{name: "no AUTH", offers: "SIZE", want: ErrNextHop},
		{name: "other mechanisms", offers: "AUTH CRAM-MD5 XPLAIN", want: ErrNextHop},
		{name: "in clear to another machine", offers: "AUTH PLAIN LOGIN", answers: []string{"235 ok"}, far: true, want: ErrNextHop},
	} {
		f := playing(t, func(l *line) {
			l.say("220 mail.example")
			l.hear()
			l.say("250-mail.example\n250 " + test.offers)
			for _, a := range test.answers {
				if l.hear() == "" {
					return
				}
				l.say(a)
			}
			l.hear()
		})
		h := &Hop{Address: f.addr, Name: "gw.example"}
		if test.far {
			h.dial = func(ctx context.Context) (net.Conn, error) {
				c, err := (&net.Dialer{}).DialContext(ctx, "tcp", f.addr)
				return afar{c}, err
			}
		}
		err := h.Login(t.Context(), "alice", "right secret")
		if !errors.Is(err, test.want) || err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: got %v, want %v", test.name, err, test.want)
		}
		eventually(t, test.name+": "+test.heard, func() bool { return strings.Contains(f.all(), strings.ReplaceAll(test.heard, "|", "\r\n")) })
		if heard := f.all(); test.heard == "" && strings.Contains(heard, "AUTH") || strings.Contains(heard, "MAIL") {
			t.Errorf("%s: heard %q", test.name, heard)
		}
	}
	if err := (&Hop{Address: "127.0.0.1:1"}).Login(t.Context(), "al\x00ice", "x"); err != ErrLoginRefused {
		t.Errorf("NUL: got %v", err)
	}
}
