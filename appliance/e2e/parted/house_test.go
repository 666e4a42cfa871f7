// Package parted judges mails that part: what becomes of each recipient's copy,
// with a daemon that is killed between them, and behind a real Postfix.
package parted

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/smtp"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	pgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"postern/appliance/e2e/housetest"
	"postern/appliance/trial"
	"postern/filter/transport"
)

const (
	alice = "alice@company1.example"
	bob   = "bob@partner.example" // there is a certificate of his
	carol = "carol@other.example"
	dave  = "dave@other.example"
	vault = "archive@vault.example"
)

func TestMain(m *testing.M) { housetest.Main(m) }

// letter is one mail that somebody got.
type letter struct {
	from string
	to   []string
	text string
}

// office is a mail server that keeps what it gets.
type office struct {
	recipient func(to string) error
	data      func(to []string) *transport.Reply // nil: take it

	mutex   sync.Mutex
	letters []letter
}

// open gives its address.
func (o *office) open(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &transport.Server{Name: "office.example", Handler: o}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Close()
		<-done
	})
	return l.Addr().String()
}

func (o *office) Sender(context.Context, *transport.Envelope) error { return nil }

func (o *office) Recipient(_ context.Context, _ *transport.Envelope, to transport.Recipient) error {
	if o.recipient != nil {
		return o.recipient(to.Address.Key())
	}
	return nil
}

func (o *office) Data(_ context.Context, e *transport.Envelope, body io.Reader) []transport.Reply {
	text, err := io.ReadAll(body)
	if err != nil {
		return []transport.Reply{o.Refuse(e, err)}
	}
	l := letter{text: string(text)}
	if !e.Null {
		l.from = e.From.Key()
	}
	for _, r := range e.Recipients {
		l.to = append(l.to, r.Address.Key())
	}
	if o.data != nil {
		if r := o.data(l.to); r != nil {
			return []transport.Reply{*r}
		}
	}
	o.mutex.Lock()
	defer o.mutex.Unlock()
	o.letters = append(o.letters, l)
	return []transport.Reply{{Code: 250, Enhanced: [3]int{2, 0, 0}, Text: "kept"}}
}

func (o *office) Refuse(*transport.Envelope, error) transport.Reply {
	return transport.Reply{Code: 451, Enhanced: [3]int{4, 3, 0}, Text: "not kept"}
}

func (o *office) got() []letter {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	return slices.Clone(o.letters)
}

// count is how many copies of the mail with that Message-ID each recipient has.
func (o *office) count(id string) map[string]int {
	n := map[string]int{}
	for _, l := range o.got() {
		if strings.Contains(l.text, "<"+id+">") {
			for _, to := range l.to {
				n[to]++
			}
		}
	}
	return n
}

// box is a gateway that knows a certificate of Bob.
func box(t *testing.T, c trial.Config) *trial.Box {
	t.Helper()
	b := housetest.Open(t, c)
	cert, _ := certificate(t, bob)
	know(t, b, cert)
	return b
}

// certificate is one of somebody outside, and its fingerprint.
func certificate(t *testing.T, address string) (cert, fingerprint string) {
	t.Helper()
	e, err := pgp.NewEntity("Somebody", "", address, &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA})
	if err != nil {
		t.Fatal(err)
	}
	var armored strings.Builder
	w, err := armor.Encode(&armored, pgp.PublicKeyType, nil)
	if err == nil {
		err = errors.Join(e.Serialize(w), w.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return armored.String(), fmt.Sprintf("%x", e.PrimaryKey.Fingerprint)
}

func know(t *testing.T, b *trial.Box, cert string) {
	t.Helper()
	if _, err := b.Postern(t.Context(), strings.NewReader(cert), "cert", "import", "-"); err != nil {
		t.Fatal(err)
	}
}

func mail(id string) string {
	return "From: Alice <" + alice + ">\r\nTo: everybody:;\r\nSubject: parted\r\nMessage-ID: <" + id + ">\r\n\r\nsecret of " + id + "\r\n"
}

// outcome is how a transaction fared. A code of 0 is a connection that broke.
type outcome struct {
	refused []string // "address code"
	code    int
}

// send is one transaction.
func send(server string, to []string, text string) (o outcome) {
	conn, err := net.DialTimeout("tcp", server, housetest.Patience)
	if err != nil {
		return o
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(2 * housetest.Patience))
	c, err := smtp.NewClient(conn, "peer.example")
	if err != nil {
		return o
	}
	code := func(err error) int {
		if r, ok := errors.AsType[*textproto.Error](err); ok {
			return r.Code
		}
		return 0
	}
	if err := errors.Join(c.Hello("peer.example"), c.Mail(alice)); err != nil {
		return o
	}
	taken := 0
	for _, a := range to {
		if err := c.Rcpt(a); code(err) != 0 {
			o.refused = append(o.refused, fmt.Sprintf("%s %d", a, code(err)))
		} else if err != nil {
			return o
		} else {
			taken++
		}
	}
	if taken == 0 {
		return o
	}
	w, err := c.Data()
	if err == nil {
		if _, err = io.WriteString(w, text); err == nil {
			err = w.Close()
		}
	}
	if o.code = code(err); err == nil {
		o.code = 250
	}
	return o
}

// eventually sends until the mail is answered for good.
func eventually(t *testing.T, server string, to []string, text string) (o outcome) {
	t.Helper()
	housetest.Eventually(t, 2*housetest.Patience, func() (bool, string) {
		o = send(server, to, text)
		return o.code != 0 && o.code/100 != 4, fmt.Sprintf("got %+v", o)
	})
	return o
}
