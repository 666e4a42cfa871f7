package gateway

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"postern/filter"
	"postern/filter/message"
	"postern/filter/policy"
	"postern/filter/transport"
)

// counted is a server that says no to everybody, and counts them.
func counted(t *testing.T) (address string, count func() int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	n := make(chan int, 1)
	n <- 0
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n <- 1 + <-n
			c.SetDeadline(time.Now().Add(time.Minute))
			io.WriteString(c, "421 4.3.2 not now\r\n")
			c.Close()
		}
	}()
	return l.Addr().String(), func() int {
		v := <-n
		n <- v
		return v
	}
}

// A mail that asks for more leaves by the strict port, or not at all.
func TestFloorChoosesThePort(t *testing.T) {
	usual, usuals := counted(t)
	hard, hards := counted(t)
	e := func(floor policy.Level) *transport.Envelope {
		return &transport.Envelope{Floor: string(floor), Null: true, Recipients: []transport.Recipient{{Address: message.Address{Local: "b", Domain: "to.example"}}}}
	}
	for _, c := range []struct {
		floor         policy.Level
		usual, strict int
	}{
		{"", 1, 0}, {policy.NextHop, 1, 0}, {policy.May, 1, 0},
		{policy.Encrypt, 0, 1}, {policy.DANE, 0, 1}, {policy.Verify, 0, 1},
		{policy.DANEOnly, 0, 0}, {policy.Pin, 0, 0}, {"best", 0, 0},
	} {
		for _, strict := range []*transport.Hop{{Address: hard, Name: "gw.example"}, nil} {
			before, hardBefore := usuals(), hards()
			o := onward{&transport.Hop{Address: usual, Name: "gw.example"}, strict}
			res := o.Deliver(t.Context(), e(c.floor), 1, strings.NewReader("x"))
			want := c.strict
			if strict == nil {
				want = 0
			}
			if u, h := usuals()-before, hards()-hardBefore; u != c.usual || h != want || res.Err == nil {
				t.Errorf("%q, strict port %t: got %d, %d connections, %v, want %d, %d and an error", c.floor, strict != nil, u, h, res.Err, c.usual, want)
			}
			if c.usual+want == 0 && !errors.Is(res.Err, filter.ErrConfig) {
				t.Errorf("%q: got %v, want %v", c.floor, res.Err, filter.ErrConfig)
			}
		}
	}
}

// What [postfix] says reaches what is rendered.
func TestPostfixConfig(t *testing.T) {
	c := load(t, domain+`
[postfix]
submission = "127.0.0.1:11026"
bind = ["192.0.2.7"]
delay-warning = "2h"
`)
	got := Postfix(c)
	if got.Listen != "127.0.0.1:11026" || got.Warn != 2*time.Hour || len(got.Bind) != 1 || got.Name != c.AuthservID || got.Hello != c.AuthservID ||
		got.MaxSize <= int64(c.Limits.MessageSize) || got.Root == "" || len(got.Domains) != 1 || got.Inside.Address == "" {
		t.Errorf("got %+v", got)
	}
	if Postfix(load(t, domain)) != nil {
		t.Error("without the table: got a Postfix, want none")
	}
}
