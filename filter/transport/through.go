package transport

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

var (
	errNoLogin    = errors.New("neither AUTH PLAIN nor AUTH LOGIN is offered")
	errLoginClear = errors.New("no TLS, and not on this machine")
)

// Login logs in with a name and a password, and takes leave (RFC 4954). They are
// said over TLS, or to this machine itself, and to nobody else. The error is
// ErrLoginRefused where the server says that they are wrong.
func (h *Hop) Login(ctx context.Context, name, password string) error {
	if strings.ContainsRune(name+password, 0) {
		return ErrLoginRefused
	}
	l, err := h.connect(ctx)
	if err != nil {
		return err
	}
	defer l.close()
	defer l.bind(ctx)()
	if l.tls == nil && !onThisMachine(l.conn.RemoteAddr()) {
		return trouble("log in", errLoginClear)
	}
	mechanisms := strings.Fields(strings.ToUpper(l.extensions["AUTH"]))
	lines := []string{"AUTH PLAIN " + base64.StdEncoding.EncodeToString([]byte("\x00"+name+"\x00"+password))}
	switch {
	case slices.Contains(mechanisms, "PLAIN"):
		if len(lines[0])+2 > maxSASL {
			return ErrLoginRefused
		}
	case slices.Contains(mechanisms, "LOGIN"):
		lines = []string{"AUTH LOGIN", base64.StdEncoding.EncodeToString([]byte(name)), base64.StdEncoding.EncodeToString([]byte(password))}
	default:
		return trouble("log in", errNoLogin)
	}
	for i, line := range lines {
		r, err := l.ask(line, h.timeouts().Command)
		switch {
		case err != nil:
			return trouble("log in", err)
		case r.Code == 235 && i == len(lines)-1:
			l.quit()
			return nil
		case r.Code == 334 && i < len(lines)-1:
		case r.Code == 535:
			return ErrLoginRefused
		default: // its words may quote what it was told
			return trouble("log in", fmt.Errorf("reply %d", r.Code))
		}
	}
	return trouble("log in", errReply)
}

// onThisMachine reports whether a connection does not leave it.
func onThisMachine(a net.Addr) bool {
	p, err := netip.ParseAddrPort(a.String())
	return err == nil && p.Addr().Unmap().IsLoopback()
}
