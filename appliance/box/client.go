package box

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Client is the operator's side.
type Client struct {
	address string
	http    *http.Client

	mu   sync.Mutex
	last *tls.ConnectionState
	pin  string
}

// Refused is what the box said no with.
type Refused struct {
	What   string
	hint   string
	Status int // of HTTP
}

// Error is the box's own words.
func (r *Refused) Error() string { return "the box says: " + r.What }

// Hint says what to do about it.
func (r *Refused) Hint() string { return r.hint }

// Later reports whether it may say yes in a while.
func (r *Refused) Later() bool { return r.Status == http.StatusServiceUnavailable }

// Dial is a client of the box at address, a host and a port. fingerprint is
// that of its key, or 32 digits or more from its beginning: nothing is said to
// another box. own is the operator's key. It does no I/O.
func Dial(address, fingerprint string, own tls.Certificate) (*Client, error) {
	want, err := ParseFingerprint(fingerprint)
	if err != nil {
		return nil, err
	}
	c := &Client{address: address}
	dialer := &net.Dialer{Timeout: 30 * time.Second}
	c.http = &http.Client{Transport: &http.Transport{
		MaxConnsPerHost: 1, // one connection, so that a proof is bound to the one that carries it
		DialTLSContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := (&tls.Dialer{NetDialer: dialer, Config: &tls.Config{
				MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{own}, NextProtos: []string{"http/1.1"},
				InsecureSkipVerify: true, // names and authorities say nothing here; the key does, below
				VerifyConnection: func(cs tls.ConnectionState) error {
					pin := pinOf(cs.PeerCertificates[0].RawSubjectPublicKeyInfo)
					if !strings.HasPrefix(strings.TrimPrefix(pin, "sha256:"), want) {
						return fmt.Errorf("%w: its fingerprint is %s", ErrPeer, Fingerprint(pin))
					}
					c.mu.Lock()
					defer c.mu.Unlock()
					c.pin = pin
					return nil
				},
			}}).DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			cs := conn.(*tls.Conn).ConnectionState()
			c.mu.Lock()
			defer c.mu.Unlock()
			c.last = &cs
			return conn, nil
		},
	}}
	return c, nil
}

// Close ends the connection.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Pin is the box's, once it has answered.
func (c *Client) Pin() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pin
}

// send makes one request and gives its answer when that is good.
func (c *Client) send(ctx context.Context, method, path string, header http.Header, body io.Reader) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, "https://"+c.address+"/v1/"+path, body)
	if err != nil {
		return nil, fmt.Errorf("ask the box: %w", err)
	}
	for k, v := range header {
		r.Header[k] = v
	}
	answer, err := c.http.Do(r)
	if err != nil {
		return nil, fmt.Errorf("ask the box: %w", err)
	}
	if answer.StatusCode == http.StatusOK {
		return answer, nil
	}
	defer answer.Body.Close()
	var f refusal
	text, err := io.ReadAll(io.LimitReader(answer.Body, 64<<10))
	if err == nil {
		err = json.Unmarshal(text, &f)
	}
	if err != nil || f.Error == "" {
		return nil, fmt.Errorf("ask the box: it answers %s", answer.Status)
	}
	return nil, &Refused{What: f.Error, hint: f.Hint, Status: answer.StatusCode}
}

// ask sends v as JSON and reads JSON into answer.
func (c *Client) ask(ctx context.Context, method, path string, v, answer any) error {
	var body io.Reader
	if v != nil {
		b, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("ask the box: %w", err)
		}
		defer clear(b)
		body = bytes.NewReader(b)
	}
	r, err := c.send(ctx, method, path, nil, body)
	if err != nil {
		return err
	}
	return readAnswer(r, answer)
}

func readAnswer(r *http.Response, v any) error {
	defer r.Body.Close()
	if err := json.NewDecoder(io.LimitReader(r.Body, 4*maxOutput)).Decode(v); err != nil {
		return fmt.Errorf("read answer of the box: %w", err)
	}
	return nil
}

// Status asks for the state. It also finds out whether the box is the right one.
func (c *Client) Status(ctx context.Context) (st Status, err error) {
	err = c.ask(ctx, "GET", "status", nil, &st)
	return st, err
}

// Claim claims the box with the code of its screen. The code itself never
// leaves this machine; the box shows in turn that it knows it. The claim counts
// when Confirm has given the recovery key back.
func (c *Client) Claim(ctx context.Context, code string, claim Claim) (Claimed, error) {
	var answer Claimed
	if _, err := c.Status(ctx); err != nil { // makes the connection
		return answer, err
	}
	c.mu.Lock()
	cs := c.last
	c.mu.Unlock()
	binding, err := bindingOf(cs)
	if err != nil {
		return answer, fmt.Errorf("claim box: %w", err)
	}
	body, err := json.Marshal(claim)
	if err != nil {
		return answer, fmt.Errorf("claim box: %w", err)
	}
	defer clear(body)
	r, err := c.send(ctx, "POST", "claim", http.Header{proofHeader: {hex.EncodeToString(prove(code, "claim", binding, body))}}, bytes.NewReader(body))
	if err != nil {
		return answer, err
	}
	if err := readAnswer(r, &answer); err != nil {
		return answer, err
	}
	if !hmac.Equal(answer.Proof, prove(code, "box", binding, body)) {
		return answer, fmt.Errorf("claim box: %w: it does not know the code", ErrPeer)
	}
	return answer, nil
}

// Confirm types the recovery key back.
func (c *Client) Confirm(ctx context.Context, recovery string) (st Status, err error) {
	err = c.ask(ctx, "POST", "confirm", Confirm{recovery}, &st)
	return st, err
}

// GivePIN gives the token of a box that was claimed by a file its first PIN.
func (c *Client) GivePIN(ctx context.Context, p PIN) (st Status, err error) {
	err = c.ask(ctx, "POST", "pin", p, &st)
	return st, err
}

// Unlock gives a share, or the PIN.
func (c *Client) Unlock(ctx context.Context, u Unlock) (st Status, err error) {
	err = c.ask(ctx, "POST", "unlock", u, &st)
	return st, err
}

// Config gives box.toml as it is in force.
func (c *Client) Config(ctx context.Context) ([]byte, error) {
	r, err := c.send(ctx, "GET", "config", nil, nil)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	return io.ReadAll(io.LimitReader(r.Body, maxBody))
}

// Configure puts another box.toml in force.
func (c *Client) Configure(ctx context.Context, text []byte) (st Status, err error) {
	r, err := c.send(ctx, "PUT", "config", nil, bytes.NewReader(text))
	if err != nil {
		return st, err
	}
	err = readAnswer(r, &st)
	return st, err
}

// Call runs one of the operators' commands on the box.
func (c *Client) Call(ctx context.Context, call Call) (out Called, err error) {
	err = c.ask(ctx, "POST", "call", call, &out)
	return out, err
}

// Backup writes an archive to w.
func (c *Client) Backup(ctx context.Context, w io.Writer) error {
	r, err := c.send(ctx, "POST", "backup", nil, nil)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if _, err := io.Copy(w, r.Body); err != nil {
		return fmt.Errorf("fetch backup: %w", errors.Join(err, r.Body.Close()))
	}
	return nil
}

// Restore gives the box an opened archive of the box with the pin from.
func (c *Client) Restore(ctx context.Context, archive io.Reader, from string) (st Status, err error) {
	r, err := c.send(ctx, "POST", "restore?from="+from, nil, archive)
	if err != nil {
		return st, err
	}
	err = readAnswer(r, &st)
	return st, err
}

// Recovery makes another recovery key for the data partition.
func (c *Client) Recovery(ctx context.Context) (string, error) {
	var answer Claimed
	err := c.ask(ctx, "POST", "recovery", nil, &answer)
	return answer.Recovery, err
}

// Reset wipes the box, whose name is to be given.
func (c *Client) Reset(ctx context.Context, name string) error {
	var st Status
	return c.ask(ctx, "POST", "reset", Reset{name}, &st)
}
