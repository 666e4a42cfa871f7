package transport

import (
	"context"
	"crypto/tls"
	"net"
	"time"
)

// startTLS forgets all that was said in clear (RFC 3207 §4.2), what the peer
// sent ahead of its handshake among it.
func (g *guard) startTLS() {
	g.say(readyForTLS)
	if g.writer.Flush() != nil {
		g.ended = true
		return
	}
	g.reader.Reset(peer{g})
	g.env, g.hello = nil, ""
	g.handshake()
}

// handshake brings TLS about, or ends the session: it never goes on in clear.
func (g *guard) handshake() {
	ctx, cancel := context.WithTimeout(g.server.ctx, g.server.Timeouts.Handshake)
	defer cancel()
	g.SetDeadline(time.Time{})
	g.server.tickets.renew(g.server.TLS)
	t := tls.Server(socket{g.Conn, g}, g.server.TLS)
	g.shaking = true
	err := t.HandshakeContext(ctx)
	g.shaking = false
	if err != nil {
		g.log("TLS: " + err.Error())
		g.ended = true
		g.Conn.Close()
		return
	}
	state := t.ConnectionState()
	g.tls, g.cert = &state, g.server.Clients.know(&state)
	g.mutex.Lock()
	g.inner = t
	g.mutex.Unlock()
}

// socket is what TLS reads from. Who is slow with his handshake can lose his
// place like everybody who is waited for.
type socket struct {
	net.Conn
	g *guard
}

func (s socket) Read(b []byte) (int, error) {
	g := s.g
	if !g.shaking {
		return s.Conn.Read(b)
	}
	g.mutex.Lock()
	g.waiting, g.mail = time.Now(), time.Time{}
	if g.dismissed() {
		g.SetReadDeadline(g.waiting)
	}
	g.mutex.Unlock()
	n, err := s.Conn.Read(b)
	g.mutex.Lock()
	g.waiting = time.Time{}
	g.mutex.Unlock()
	return n, err
}
