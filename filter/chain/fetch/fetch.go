// Package fetch asks distribution points and OCSP responders over HTTP, for a
// chain.Judge. The URLs are those of certificates, so they are asked with
// suspicion: bounded in size and time, never inside the site's own networks,
// with no cookies, no credentials and no proxy but the one that is set; each
// URL by one question at a time, and what was answered is kept for a while.
package fetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"syscall"
	"time"

	"postern/filter/resolver"
)

var (
	// ErrURL is a URL that is never asked: not http or https, with a name and
	// password, or inside the site's networks.
	ErrURL = errors.New("not a URL to ask")
	// ErrAnswer is an answer that is none: another status than 200, too large, too late.
	ErrAnswer = errors.New("no usable answer")
	// ErrBusy says that as much is in flight as may be.
	ErrBusy = errors.New("too many questions in flight")
)

// Config has working zero values.
type Config struct {
	// Private allows addresses that the Internet does not route: loopback,
	// link-local, RFC 1918 and the like. A site with an authority of its own
	// may want it.
	Private bool
	// Proxy is the URL of an HTTP proxy, which then resolves names itself and
	// has to mind where it goes. Empty: none, whatever the environment says.
	Proxy string
	// MaxSize is the longest answer in bytes; 0 means 10 MiB.
	MaxSize int64
	// Timeout ends one question; 0 means 10 s. Who asked may have stopped
	// waiting before; the answer is then there for the next.
	Timeout time.Duration
	// Keep is the longest time for which an answer is kept; 0 means 12 h.
	Keep time.Duration
	// Again is for how long a URL that failed, or gave what is of no use, is
	// not asked; 0 means 1 min.
	Again time.Duration
	// MaxKept bounds the answers that are kept, and MaxBytes what they take
	// together; 0 means 512 and 64 MiB.
	MaxKept  int
	MaxBytes int64
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// maxFlights is how many questions are in flight at once, of all URLs.
const maxFlights = 16

// maxRedirects is how many redirects are followed.
const maxRedirects = 3

// Client asks and remembers. It is safe for concurrent use.
type Client struct {
	config Config
	http   http.Client

	mu      sync.Mutex
	kept    map[question]answer
	bytes   int64
	flights map[string]chan struct{} // by URL; closed when the question is answered
}

// question is a URL and, for OCSP, what it is sent.
type question struct{ url, body string }

// answer is what came, or why nothing did, and how long that counts.
type answer struct {
	body  []byte
	err   error
	until time.Time
}

// New gives a client.
func New(c Config) (*Client, error) {
	if c.MaxSize <= 0 {
		c.MaxSize = 10 << 20
	}
	if c.Timeout <= 0 {
		c.Timeout = 10 * time.Second
	}
	if c.Keep <= 0 {
		c.Keep = 12 * time.Hour
	}
	if c.Again <= 0 {
		c.Again = time.Minute
	}
	if c.MaxKept <= 0 {
		c.MaxKept = 512
	}
	if c.MaxBytes <= 0 {
		c.MaxBytes = 64 << 20
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	dialer := &net.Dialer{Timeout: c.Timeout}
	transport := &http.Transport{
		DialContext:            dialer.DialContext,
		DisableCompression:     true, // an answer is as long as it is
		MaxIdleConnsPerHost:    1,
		IdleConnTimeout:        30 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		TLSHandshakeTimeout:    c.Timeout,
	}
	if c.Proxy != "" {
		proxy, err := url.Parse(c.Proxy)
		if err != nil || proxy.Host == "" || proxy.Scheme != "http" && proxy.Scheme != "https" {
			return nil, fmt.Errorf("read proxy %.100q: not a URL of http or https", c.Proxy)
		}
		transport.Proxy = http.ProxyURL(proxy)
	} else if !c.Private {
		// The address that is dialled is looked at, not the name: names may
		// lead anywhere, and elsewhere the second time.
		dialer.Control = func(_, address string, _ syscall.RawConn) error {
			to, err := netip.ParseAddrPort(address)
			if err != nil || !resolver.Public(to.Addr()) {
				return fmt.Errorf("dial %s: inside: %w", address, ErrURL)
			}
			return nil
		}
	}
	f := &Client{config: c, kept: map[question]answer{}, flights: map[string]chan struct{}{}}
	f.http = http.Client{Transport: transport, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		if len(via) > maxRedirects {
			return fmt.Errorf("more than %d redirects: %w", maxRedirects, ErrAnswer)
		}
		r.Header.Del("Referer")
		return f.allowed(r.URL)
	}}
	return f, nil
}

// allowed checks what a URL itself says.
func (f *Client) allowed(u *url.URL) error {
	if u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil {
		return fmt.Errorf("%.200q: %w", u.Redacted(), ErrURL)
	}
	if ip, err := netip.ParseAddr(u.Hostname()); err == nil && !f.config.Private && !resolver.Public(ip) {
		return fmt.Errorf("%.200q: inside: %w", u.Redacted(), ErrURL)
	}
	return nil
}

// Fetch gives what is at a URL, or what is answered to body there; until says
// how long it may be kept, zero where it is of no use. It is what chain.Fetcher
// asks for. What it gives must not be changed.
func (f *Client) Fetch(ctx context.Context, address string, body []byte, until func([]byte) time.Time) ([]byte, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("fetch %.200q: %w", address, ErrURL)
	}
	if err := f.allowed(u); err != nil {
		return nil, err
	}
	q := question{address, string(body)}
	for {
		f.mu.Lock()
		if a, ok := f.kept[q]; ok && f.config.Now().Before(a.until) {
			f.mu.Unlock()
			return a.body, a.err
		}
		if flight := f.flights[address]; flight != nil {
			f.mu.Unlock()
			select {
			case <-flight:
				continue
			case <-ctx.Done():
				return nil, fmt.Errorf("fetch %.200q: %w (%w)", address, ErrAnswer, ctx.Err())
			}
		}
		if len(f.flights) >= maxFlights {
			f.mu.Unlock()
			return nil, fmt.Errorf("fetch %.200q: %w", address, ErrBusy)
		}
		flight := make(chan struct{})
		f.flights[address] = flight
		f.mu.Unlock()

		// The question goes on when nobody waits for it any more: a slow
		// answer is there for the next mail.
		landed := make(chan answer, 1)
		go func() {
			a := f.ask(context.WithoutCancel(ctx), q, until)
			f.mu.Lock()
			f.keep(q, a)
			delete(f.flights, address)
			f.mu.Unlock()
			landed <- a
			close(flight)
		}()
		select {
		case a := <-landed:
			return a.body, a.err
		case <-ctx.Done():
			return nil, fmt.Errorf("fetch %.200q: %w (%w)", address, ErrAnswer, ctx.Err())
		}
	}
}

// ask asks once.
func (f *Client) ask(ctx context.Context, q question, until func([]byte) time.Time) answer {
	failed := func(err error) answer {
		return answer{nil, fmt.Errorf("fetch %.200q: %w", q.url, err), f.config.Now().Add(f.config.Again)}
	}
	ctx, stop := context.WithTimeout(ctx, f.config.Timeout)
	defer stop()
	method, body := http.MethodGet, io.Reader(http.NoBody)
	if q.body != "" {
		method, body = http.MethodPost, bytes.NewReader([]byte(q.body))
	}
	r, err := http.NewRequestWithContext(ctx, method, q.url, body)
	if err != nil {
		return failed(ErrURL)
	}
	if q.body != "" {
		r.Header.Set("Content-Type", "application/ocsp-request")
	}
	r.Header.Set("User-Agent", "postern")
	response, err := f.http.Do(r)
	switch {
	case errors.Is(err, ErrURL):
		return failed(ErrURL)
	case err != nil:
		return failed(fmt.Errorf("%w (%w)", ErrAnswer, err))
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return failed(fmt.Errorf("status %d: %w", response.StatusCode, ErrAnswer))
	}
	got, err := io.ReadAll(io.LimitReader(response.Body, f.config.MaxSize+1))
	switch {
	case err != nil:
		return failed(fmt.Errorf("%w (%w)", ErrAnswer, err))
	case int64(len(got)) > f.config.MaxSize:
		return failed(fmt.Errorf("longer than %d bytes: %w", f.config.MaxSize, ErrAnswer))
	}
	end, now := until(got), f.config.Now()
	switch last := now.Add(f.config.Keep); {
	case end.After(last):
		end = last
	case end.IsZero():
		end = now.Add(f.config.Again)
	}
	return answer{got, nil, end}
}

// keep remembers an answer within the bounds; what ends first goes first.
func (f *Client) keep(q question, a answer) {
	if old, ok := f.kept[q]; ok {
		f.drop(q, old)
	}
	now := f.config.Now()
	if !a.until.After(now) || int64(len(a.body)) > f.config.MaxBytes/4 {
		return
	}
	for len(f.kept) >= f.config.MaxKept || f.bytes+int64(len(a.body)) > f.config.MaxBytes {
		var first question
		var end time.Time
		for k, v := range f.kept {
			if end.IsZero() || v.until.Before(end) {
				first, end = k, v.until
			}
		}
		f.drop(first, f.kept[first])
	}
	f.kept[q] = a
	f.bytes += int64(len(a.body))
}

func (f *Client) drop(q question, a answer) {
	delete(f.kept, q)
	f.bytes -= int64(len(a.body))
}
