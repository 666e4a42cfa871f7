package accounts

import (
	"crypto/tls"
	"net"
	"path/filepath"
	"slices"
	"testing"

	"github.com/xdg-go/scram"

	"postern/filter/ldaphost/slapdtest"
	"postern/filter/transport"
)

// connected are the two ends of a TLS connection.
func connected(t *testing.T, version uint16) (server, client *tls.ConnectionState) {
	t.Helper()
	dir := t.TempDir()
	roots := slapdtest.SelfSigned(t, dir)
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	a, b := net.Pipe()
	t.Cleanup(func() { a.Close(); b.Close() })
	s := tls.Server(a, &tls.Config{Certificates: []tls.Certificate{cert}, SessionTicketsDisabled: true})
	c := tls.Client(b, &tls.Config{RootCAs: roots, ServerName: "localhost", MaxVersion: version})
	done := make(chan error, 1)
	go func() { done <- s.Handshake() }()
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	of, with := s.ConnectionState(), c.ConnectionState()
	return &of, &with
}

// TestSCRAMPlus: a login is bound to its TLS connection (RFC 9266); who sits in
// between two connections gets nowhere, and can't hide that -PLUS was offered.
func TestSCRAMPlus(t *testing.T) {
	f, _ := file(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		server, client := connected(t, version)
		_, other := connected(t, version)
		w := open(t, f)
		if got := w.Mechanisms(server); !slices.Equal(got, []string{"SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "PLAIN", "LOGIN"}) {
			t.Fatalf("%s: got %q", tls.VersionName(version), got)
		}
		bound := func(s *tls.ConnectionState) func(*scram.Client) *scram.ClientConversation {
			return func(c *scram.Client) *scram.ClientConversation {
				return c.NewConversationWithChannelBinding(scram.ChannelBinding{Type: scram.ChannelBindingTLSExporter, Data: binding(s)})
			}
		}
		for _, test := range []struct {
			name, mechanism string
			talk            func(*scram.Client) *scram.ClientConversation
			want            error
		}{
			{"bound", "SCRAM-SHA-256-PLUS", bound(client), nil},
			{"not bound", "SCRAM-SHA-256", (*scram.Client).NewConversation, nil},
			{"bound to another connection", "SCRAM-SHA-256-PLUS", bound(other), transport.ErrLoginRefused},
			{"-PLUS without a binding", "SCRAM-SHA-256-PLUS", (*scram.Client).NewConversation, transport.ErrLoginMalformed},
			{"a client that was not shown -PLUS", "SCRAM-SHA-256", (*scram.Client).NewConversationAdvertisingChannelBinding, transport.ErrLoginMalformed},
		} {
			c, err := scram.SHA256.NewClient("alice", "right secret", "")
			if err != nil {
				t.Fatal(err)
			}
			talk, x := test.talk(c), w.Begin(test.mechanism, office, server)
			var said []byte
			var a *transport.Account
			for range 4 {
				answer, cerr := talk.Step(string(said))
				if cerr != nil {
					t.Fatalf("%s: %v", test.name, cerr)
				}
				if said, a, err = x.Next(t.Context(), []byte(answer)); err != nil || a != nil {
					break
				}
			}
			if err != test.want || (a != nil) != (test.want == nil) {
				t.Errorf("%s, %s: got %v, %v, want %v", tls.VersionName(version), test.name, a, err, test.want)
			}
		}
	}
}
