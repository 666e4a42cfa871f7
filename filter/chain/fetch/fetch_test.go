package fetch_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"postern/appliance/clock/clocktest"
	"postern/filter/chain"
	"postern/filter/chain/fetch"
)

var _ chain.Fetcher = (*fetch.Client)(nil)

func newClient(t *testing.T, c fetch.Config) (*fetch.Client, *clocktest.Clock) {
	t.Helper()
	clock := clocktest.At(time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC))
	c.Now = clock.Now
	f, err := fetch.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return f, clock
}

// server counts what it is asked.
func server(t *testing.T, f http.HandlerFunc) (url string, asked *atomic.Int64) {
	t.Helper()
	asked = new(atomic.Int64)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		f(w, r)
	}))
	t.Cleanup(s.Close)
	return s.URL, asked
}

func forever([]byte) time.Time { return time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC) }
func never([]byte) time.Time   { return time.Time{} }

func wants(t *testing.T, f *fetch.Client, url string, body []byte, until func([]byte) time.Time, want string, wantErr error) {
	t.Helper()
	got, err := f.Fetch(t.Context(), url, body, until)
	if !errors.Is(err, wantErr) || string(got) != want {
		t.Errorf("%s: got %.40q, %v, want %.40q, %v", url, got, err, want, wantErr)
	}
}

func TestFetch(t *testing.T) {
	url, asked := server(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if len(r.Cookies()) > 0 || r.Header.Get("Referer") != "" || r.Header.Get("Authorization") != "" {
			t.Errorf("got the header %v, want nothing that tells of us", r.Header)
		}
		http.SetCookie(w, &http.Cookie{Name: "a", Value: "b"})
		switch r.URL.Path {
		case "/redirect":
			http.Redirect(w, r, "/list", http.StatusFound)
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		case "/file":
			http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
		case "/password":
			http.Redirect(w, r, "http://a:b@"+r.Host+"/list", http.StatusFound)
		case "/missing":
			http.NotFound(w, r)
		case "/long":
			w.Write(bytes.Repeat([]byte("x"), 2000))
		case "/endless":
			for r.Context().Err() == nil {
				if _, err := w.Write(bytes.Repeat([]byte("x"), 2000)); err != nil {
					return
				}
			}
		case "/cut":
			w.Header().Set("Content-Length", "100")
			w.Write([]byte("x"))
		default:
			io.WriteString(w, r.Method+" "+r.Header.Get("Content-Type")+" "+string(body))
		}
	})
	f, _ := newClient(t, fetch.Config{Private: true, MaxSize: 1000, Timeout: 5 * time.Second})
	wants(t, f, url+"/list", nil, never, "GET  ", nil)
	wants(t, f, url+"/ocsp", []byte("ask"), never, "POST application/ocsp-request ask", nil)
	wants(t, f, url+"/redirect", nil, never, "GET  ", nil)
	wants(t, f, url+"/list", nil, never, "GET  ", nil) // with no cookie
	before := asked.Load()
	wants(t, f, url+"/loop", nil, never, "", fetch.ErrAnswer)
	if n := asked.Load() - before; n > 4 {
		t.Errorf("got %d questions in a loop, want at most 4", n)
	}
	wants(t, f, url+"/file", nil, never, "", fetch.ErrURL)
	wants(t, f, url+"/password", nil, never, "", fetch.ErrURL)
	wants(t, f, url+"/missing", nil, never, "", fetch.ErrAnswer)
	wants(t, f, url+"/long", nil, never, "", fetch.ErrAnswer)
	wants(t, f, url+"/endless", nil, never, "", fetch.ErrAnswer)
	wants(t, f, url+"/cut", nil, never, "", fetch.ErrAnswer)
	for _, bad := range []string{"ldap://x.test/cn=a", "file:///etc/passwd", "http:///x", "//x.test/", "gopher://x.test/", "http://a:b@x.test/", "http://[::1", "\x00", ""} {
		wants(t, f, bad, nil, never, "", fetch.ErrURL)
	}
}

// TestInside is a certificate whose URLs lead into the site's own networks.
func TestInside(t *testing.T) {
	url, asked := server(t, func(http.ResponseWriter, *http.Request) {})
	t.Setenv("HTTP_PROXY", url)
	t.Setenv("http_proxy", url)
	f, _ := newClient(t, fetch.Config{})
	port := url[strings.LastIndex(url, ":"):]
	for _, host := range []string{"127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "127.1", "2130706433", "[::]", "10.0.0.1", "192.168.1.1",
		"172.16.0.1", "169.254.169.254", "100.64.0.1", "[fe80::1%25lo]", "[fd00::1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "224.0.0.1", "255.255.255.255"} {
		if _, err := f.Fetch(t.Context(), "http://"+host+port+"/", nil, never); err == nil {
			t.Errorf("%s: got an answer, want a refusal", host)
		} else if _, literal := netip.ParseAddr(strings.Trim(strings.Split(host, "%")[0], "[]")); literal == nil && !errors.Is(err, fetch.ErrURL) {
			t.Errorf("%s: got %v, want %v", host, err, fetch.ErrURL)
		}
	}
	wants(t, f, "http://localhost"+port+"/", nil, never, "", fetch.ErrURL) // by what the name leads to
	if n := asked.Load(); n != 0 {
		t.Errorf("got %d questions to the inside, want none", n)
	}
}

// TestProxy is a proxy that is set, and a redirect from outside to the inside.
func TestProxy(t *testing.T) {
	inside, reached := server(t, func(http.ResponseWriter, *http.Request) {})
	proxy, asked := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/in" {
			http.Redirect(w, r, inside, http.StatusFound)
			return
		}
		io.WriteString(w, "for "+r.URL.Host)
	})
	f, _ := newClient(t, fetch.Config{Proxy: proxy})
	wants(t, f, "http://crl.test/list", nil, never, "for crl.test", nil)
	wants(t, f, "http://crl.test/in", nil, never, "", fetch.ErrURL)
	if asked.Load() != 2 || reached.Load() != 0 {
		t.Errorf("got %d questions by the proxy and %d to the inside, want 2 and none", asked.Load(), reached.Load())
	}
	for _, bad := range []string{"proxy.test:3128", "socks5://proxy.test", "\x00"} {
		if _, err := fetch.New(fetch.Config{Proxy: bad}); err == nil {
			t.Errorf("proxy %q: got a client, want an error", bad)
		}
	}
}

func TestKeep(t *testing.T) {
	url, asked := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/missing" {
			http.NotFound(w, r)
			return
		}
		w.Write(bytes.Repeat([]byte("x"), 100))
	})
	f, clock := newClient(t, fetch.Config{Private: true, Keep: time.Hour, Again: time.Minute, MaxKept: 3, MaxBytes: 1000})
	in := func(d time.Duration) func([]byte) time.Time {
		return func([]byte) time.Time { return clock.Now().Add(d) }
	}
	step := func(what, path string, until func([]byte) time.Time, want int64) {
		t.Helper()
		before := asked.Load()
		f.Fetch(t.Context(), url+path, nil, until)
		if got := asked.Load() - before; got != want {
			t.Errorf("%s: got %d questions, want %d", what, got, want)
		}
	}
	step("first", "/a", in(10*time.Minute), 1)
	step("kept", "/a", in(10*time.Minute), 0)
	clock.Pass(9 * time.Minute)
	step("still", "/a", in(10*time.Minute), 0)
	clock.Pass(2 * time.Minute)
	step("over", "/a", in(10*time.Minute), 1)
	step("never", "/b", never, 1)
	step("never, again", "/b", never, 0)
	clock.Pass(61 * time.Second)
	step("never, later", "/b", never, 1)
	step("in the past", "/c", in(-time.Minute), 1)
	step("in the past, again", "/c", in(-time.Minute), 1)
	step("far off", "/d", in(1000*time.Hour), 1)
	clock.Pass(59 * time.Minute)
	step("far off, within an hour", "/d", in(1000*time.Hour), 0)
	clock.Pass(2 * time.Minute)
	step("far off, after it", "/d", in(1000*time.Hour), 1)
	step("failed", "/missing", forever, 1)
	step("failed, again", "/missing", forever, 0)
	clock.Pass(61 * time.Second)
	step("failed, later", "/missing", forever, 1)
	clock.Pass(2 * time.Hour)
	step("1 of 3", "/1", in(10*time.Minute), 1)
	step("2 of 3", "/2", in(20*time.Minute), 1)
	step("3 of 3", "/3", in(30*time.Minute), 1)
	step("4 of 3", "/4", in(40*time.Minute), 1)
	step("2 is there", "/2", in(20*time.Minute), 0)
	step("1 had to go", "/1", in(10*time.Minute), 1)
}

// TestOneAtATime asks one URL from many sides at once.
func TestOneAtATime(t *testing.T) {
	var inFlight, most atomic.Int64
	enter, leave := make(chan struct{}), make(chan struct{})
	url, asked := server(t, func(w http.ResponseWriter, r *http.Request) {
		if n := inFlight.Add(1); n > most.Load() {
			most.Store(n)
		}
		if r.URL.Path == "/slow" {
			enter <- struct{}{}
			<-leave
		}
		inFlight.Add(-1)
		io.WriteString(w, "list")
	})
	f, _ := newClient(t, fetch.Config{Private: true})
	results := make(chan error, 20)
	for range 20 {
		go func() {
			got, err := f.Fetch(context.Background(), url+"/slow", nil, forever)
			if err == nil && string(got) != "list" {
				err = errors.New("got " + string(got))
			}
			results <- err
		}()
	}
	<-enter
	close(leave)
	for range 20 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if asked.Load() != 1 || most.Load() != 1 {
		t.Errorf("got %d questions, %d at once, want one", asked.Load(), most.Load())
	}
}

// TestBudget is somebody who stops waiting: the answer is there for the next.
func TestBudget(t *testing.T) {
	leave := make(chan struct{})
	url, asked := server(t, func(w http.ResponseWriter, r *http.Request) {
		<-leave
		io.WriteString(w, "list")
	})
	f, _ := newClient(t, fetch.Config{Private: true})
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer stop()
	begin := time.Now()
	if _, err := f.Fetch(ctx, url, nil, forever); !errors.Is(err, fetch.ErrAnswer) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want %v for the deadline", err, fetch.ErrAnswer)
	}
	if d := time.Since(begin); d > 2*time.Second {
		t.Errorf("got an answer after %v, want one when the budget of 20 ms is gone", d)
	}
	close(leave)
	wants(t, f, url, nil, forever, "list", nil)
	if n := asked.Load(); n != 1 {
		t.Errorf("got %d questions, want one", n)
	}
}

func TestBusy(t *testing.T) {
	leave := make(chan struct{})
	url, asked := server(t, func(http.ResponseWriter, *http.Request) { <-leave })
	f, _ := newClient(t, fetch.Config{Private: true})
	ctx, stop := context.WithCancel(t.Context())
	stop()
	for i := range 16 {
		f.Fetch(ctx, url+"/"+string(rune('a'+i)), nil, never)
	}
	wants(t, f, url+"/more", nil, never, "", fetch.ErrBusy)
	close(leave)
	if n := asked.Load(); n > 16 {
		t.Errorf("got %d questions, want at most 16", n)
	}
}
