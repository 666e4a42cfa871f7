package route

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"postern/filter/mtasts"
	"postern/filter/policy"
	"postern/filter/resolver/resolvertest"
	"postern/filter/transport"
	"postern/filter/transport/hoptest"
	"postern/hsm/certtest"
)

// A policy in the mode testing, fetched over HTTPS from its place: all mail
// goes, and what would be refused is one warning (RFC 8461 §5). Enforced, the
// same is refused.
func TestMTASTSTesting(t *testing.T) {
	const ip = "127.0.71.5"
	port := freePort(t, ip)
	ca, stranger := certtest.New(t, certtest.CA("Test Authority")), certtest.New(t, certtest.CA("Test Authority"))
	var text atomic.Value
	place := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			fmt.Fprint(w, text.Load())
		}),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{ca.Issue(t, certtest.Host("mta-sts.trial.example"))}},
	}
	l, err := net.Listen("tcp", ip+":443") // the port is not ours to choose
	if err != nil {
		t.Fatal(err)
	}
	go place.ServeTLS(l, "", "")
	t.Cleanup(func() { place.Close() })
	zone := resolvertest.Zone{Name: "trial.example", Unsigned: true, Records: []string{
		"@ MX 10 mx", "mx A " + ip, "mta-sts A " + ip, `_mta-sts TXT "v=STSv1; id=1"`,
	}}
	w := resolvertest.Start(t, zone)
	server := partner(t, ip, port)
	good, other, strange := ca.Issue(t, certtest.Host("mx.trial.example")), ca.Issue(t, certtest.Host("elsewhere.example")), stranger.Issue(t, certtest.Host("mx.trial.example"))
	for _, c := range []struct {
		name string
		mx   string
		how  hoptest.Habit
		way  policy.Level
		says string // of the warning; "": none
	}{
		{"good", "mx.trial.example", hoptest.Showing(good), policy.May, ""},
		{"good, by a wildcard", "*.trial.example", hoptest.Showing(good), policy.Encrypt, ""},
		{"another server", "mx.other.example", hoptest.Showing(good), policy.May, "does not name it"},
		{"no STARTTLS", "mx.trial.example", hoptest.Habit{}, policy.May, "no STARTTLS"},
		{"wrong name", "mx.trial.example", hoptest.Showing(other), policy.May, "not trusted for the name"},
		{"untrusted", "mx.trial.example", hoptest.Showing(strange), policy.Encrypt, "not trusted for the name"},
	} {
		for _, mode := range []mtasts.Mode{mtasts.Testing, mtasts.Enforce} {
			text.Store(fmt.Sprintf("version: STSv1\nmode: %s\nmx: %s\nmax_age: 86400\n", mode, c.mx))
			server.Become(c.how)
			var log bytes.Buffer
			d := direct(w, port, policy.Way{Level: c.way}, mtasts.New(mtasts.Config{Names: w.Client(), Private: true, Roots: ca.Pool(), Budget: time.Minute}), ca)
			d.Log = slog.New(slog.NewTextHandler(&log, nil))
			res := deliver(t, d, envelope(t, "b@trial.example"))
			d.Close()
			_, _, mails := server.Heard()
			at := fmt.Sprintf("%s, %s", c.name, mode)
			went := mode == mtasts.Testing || c.says == ""
			if got := mails == 1 && res.Replies[0].Code == 250; got != went || went && res.Carriage.Result != transport.LevelMet {
				t.Errorf("%s: got %d mails, %+v, want it to go: %t", at, mails, res, went)
			}
			want := 0
			if mode == mtasts.Testing && c.says != "" {
				want = 1
			}
			lines := 0
			for line := range strings.Lines(log.String()) {
				if strings.Contains(line, "mode=testing") {
					lines++
					for _, word := range []string{"level=WARN", "msg=mta-sts", "trace=TRACETRACETRACE1", "domain=trial.example", "server=mx.trial.example", c.says} {
						if !strings.Contains(line, word) {
							t.Errorf("%s: got %s, want %q in it", at, line, word)
						}
					}
				}
			}
			if lines != want {
				t.Errorf("%s: got %d warnings, want %d:\n%s", at, lines, want, &log)
			}
		}
	}
}
