package box

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

const (
	look  = 2 * time.Second // how often the screen looks whether something has changed
	rest  = time.Minute     // the same on a box that belongs to somebody: each look asks the key daemon, which records it
	again = time.Minute     // then it is drawn all the same: others write there too, as the kernel
)

// Screen shows the state of the box until ctx ends: who it is, where it is, and
// while it belongs to nobody the code. It is drawn anew when something changes.
// Nobody can type there.
func (s *Server) Screen(ctx context.Context, w io.Writer) error {
	next := time.NewTimer(0)
	defer next.Stop()
	last, drawn := "", time.Time{}
	for {
		if now := s.screen(ctx); now != last || time.Since(drawn) >= again {
			// Clears the screen; a serial line that keeps everything shows them
			// one below the other.
			if _, err := io.WriteString(w, "\x1b[2J\x1b[H"+strings.ReplaceAll(now, "\n", "\r\n")); err != nil {
				return fmt.Errorf("draw screen: %w", err)
			}
			last, drawn = now, time.Now()
		}
		wait := look
		if s.Claimed() {
			wait = rest
		}
		next.Reset(wait)
		select {
		case <-ctx.Done():
			return nil
		case <-next.C:
		case <-s.changed:
		}
	}
}

// screen is the text of now.
func (s *Server) screen(ctx context.Context) string {
	var b strings.Builder
	now := s.asks()
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "  %-12s %s\n", name, fmt.Sprintf(format, args...))
	}
	fmt.Fprintf(&b, "Postern %s\n\n", s.cfg.Version)
	addresses := s.cfg.House.Addresses()
	where := "none yet: is a cable in?"
	if len(addresses) > 0 {
		where = strings.Join(addresses, ", ")
	}
	switch {
	case now.wiped:
		b.WriteString("  This box was wiped, and begins anew, as another one.\n")
		return b.String()
	case now.claimed:
		st := s.status(ctx)
		line("name", "%s", st.Name)
		line("token", "%s", st.Token)
		if st.Need > 0 && st.Token == "locked" {
			line("shares", "%d of %d are there: postern unlock", len(st.Have), st.Need)
		}
	case now.pending:
		b.WriteString("  This box was claimed just now; its recovery key has to be typed back.\n\n")
	default:
		b.WriteString("  This box belongs to nobody yet. Who sees this screen can claim it.\n\n")
	}
	line("address", "%s", where)
	line("port", "%s", s.port())
	line("fingerprint", "%s", Fingerprint(s.pin))
	if now.code != "" {
		line("code", "%s", now.code)
		line("", "good until %s UTC, for %d more tries", now.until.UTC().Format("15:04"), now.left)
		if len(addresses) > 0 {
			fmt.Fprintf(&b, "\n  postern box claim %s --fingerprint %s --code %s --config box.toml\n",
				net.JoinHostPort(addresses[0], s.port()), strings.TrimPrefix(s.pin, "sha256:")[:leastDigits], now.code)
		}
	}
	return b.String()
}

func (s *Server) port() string {
	_, port, err := net.SplitHostPort(s.cfg.Listener.Addr().String())
	if err != nil {
		return ""
	}
	return port
}
