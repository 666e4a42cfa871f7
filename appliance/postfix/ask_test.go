package postfix_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"postern/appliance/postfix"
	"postern/appliance/postfix/postfixtest"
)

// replying serves the policy socket of a configuration: every question gets the
// bytes, "" none at all.
func replying(t *testing.T, c postfix.Config, bytes string) {
	t.Helper()
	l, err := net.Listen("unix", c.Socket)
	if err == nil {
		err = os.Chmod(c.Socket, 0o666)
	}
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { close(done); l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				b := make([]byte, 4096)
				if _, err := conn.Read(b); err != nil {
					return
				}
				if bytes == "" {
					<-done
					return
				}
				io.WriteString(conn, bytes)
				io.Copy(io.Discard, conn)
			}()
		}
	}()
}

func reply(text string) string { return strconv.Itoa(len(text)) + ":" + text + "," }

// The doctor asks with Postfix's own program: only an answer that filterd gives
// is one.
func TestAsk(t *testing.T) {
	all := postfixtest.Config(t)
	prepare(t, all)
	for n, c := range []struct {
		name, says string
		want       string // "": an error
		is         error
	}{
		{"an answer", reply("OK secure match=mx.partner.example"), "secure match=mx.partner.example", nil},
		{"no level of ours", reply("OK none"), "", postfix.ErrAnswer},
		{"no level at all", reply("OK whatever you like"), "", postfix.ErrAnswer},
		{"an empty one", reply("OK "), "", nil},
		{"no entry", reply("NOTFOUND "), "", nil},
		{"not now", reply("TEMP no answer now"), "", nil},
		{"never", reply("PERM go away"), "", nil},
		{"no word of the protocol", reply("MAYBE may"), "", nil},
		{"no netstring", "OK may\r\n", "", nil},
		{"a length that is none", "99999999999999999999:OK may,", "", nil},
		{"more than Postfix takes", reply("OK " + strings.Repeat("may ", 50_000)), "", nil},
		{"two lines", reply("OK may\nencrypt"), "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			at := all
			at.Socket += strconv.Itoa(n)
			replying(t, at, c.says)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			got, err := postfix.Ask(ctx, &at, "partner.example")
			if got != c.want || (err == nil) != (c.want != "") || c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("got %q, %v, want %q", got, err, c.want)
			}
			if err != nil && len(err.Error()) > 2000 {
				t.Errorf("got an error of %d bytes", len(err.Error()))
			}
		})
	}
	t.Run("filterd is away", func(t *testing.T) {
		at := all
		if got, err := postfix.Ask(t.Context(), &at, "partner.example"); err == nil {
			t.Errorf("got %q, want an error", got)
		}
	})
	t.Run("filterd hangs", func(t *testing.T) {
		at := all
		replying(t, at, "")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if got, err := postfix.Ask(ctx, &at, "partner.example"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %q, %v, want %v", got, err, context.DeadlineExceeded)
		}
	})
}

// prepare writes the files that postmap reads, where Postfix's user can.
func prepare(t *testing.T, c postfix.Config) {
	t.Helper()
	postfixtest.Render(t, c)
	if err := os.Chmod(filepath.Dir(c.Dir), 0o755); err != nil {
		t.Fatal(err)
	}
}
