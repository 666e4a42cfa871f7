package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/smtp"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	pgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"postern/appliance/trial"
)

const bob = "bob@partner.example"

// correspondent is Bob with go-crypto in this process, who seals hundreds of
// mails in a second.
type correspondent struct {
	t      testing.TB
	entity *pgp.Entity
	ours   *pgp.Entity
}

// correspond makes Bob, and lets him and the gateway know each other.
func correspond(t testing.TB, b *trial.Box) *correspondent {
	t.Helper()
	e, err := pgp.NewEntity("Bob", "", bob, &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA})
	if err != nil {
		t.Fatal(err)
	}
	trust(t, b, printed(t, e))
	ours, err := pgp.ReadArmoredKeyRing(bytes.NewReader(ours(t, b, b.Domain)))
	if err != nil || len(ours) == 0 {
		t.Fatalf("read our certificate: %v, %d of them", err, len(ours))
	}
	return &correspondent{t: t, entity: e, ours: ours[0]}
}

// printed is the certificate of e, armoured.
func printed(t testing.TB, e *pgp.Entity) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := armor.Encode(&out, pgp.PublicKeyType, nil)
	if err == nil {
		err = errors.Join(e.Serialize(w), w.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// seal gives the OpenPGP message, armoured, for one of our certificates.
func (c *correspondent) seal(to *pgp.Entity, entity string) []byte {
	c.t.Helper()
	var out bytes.Buffer
	a, err := armor.Encode(&out, "PGP MESSAGE", nil)
	if err != nil {
		c.t.Fatal(err)
	}
	w, err := pgp.EncryptWithParams(a, []*pgp.Entity{to}, nil, &pgp.EncryptParams{Signers: []*pgp.Entity{c.entity}})
	if err != nil {
		c.t.Fatal(err)
	}
	_, err = io.WriteString(w, entity)
	if err := errors.Join(err, w.Close(), a.Close()); err != nil {
		c.t.Fatal(err)
	}
	return out.Bytes()
}

// open decrypts a mail of ours.
func (c *correspondent) open(mail string) (string, error) {
	const begin, end = "-----BEGIN PGP MESSAGE-----", "-----END PGP MESSAGE-----"
	from, to := strings.Index(mail, begin), strings.Index(mail, end)
	if from < 0 || to < from {
		return "", errors.New("no OpenPGP message in it")
	}
	block, err := armor.Decode(strings.NewReader(mail[from : to+len(end)]))
	if err != nil {
		return "", err
	}
	d, err := pgp.ReadMessage(block.Body, pgp.EntityList{c.entity, c.ours}, nil, nil)
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(d.UnverifiedBody)
	if err == nil {
		err = d.SignatureError
	}
	return string(text), err
}

// sealedMail is a mail from Bob to Alice with a Message-ID of its own.
func (c *correspondent) sealedMail(id, entity string) []byte {
	return trial.Encrypted(inHeader(id), c.seal(c.ours, entity))
}

func inHeader(id string) string {
	return "From: Bob <" + bob + ">\nTo: " + alice + "\nSubject: offer\nMessage-ID: <" + id + ">\n"
}

// plainMail is a mail from Alice to Bob, which must leave sealed.
func plainMail(id, body string) []byte {
	return []byte("From: Alice <" + alice + ">\r\nTo: " + bob + "\r\nSubject: answer\r\nMessage-ID: <" + id + ">\r\n\r\n" + body + "\r\n")
}

// filler is a body of n bytes at least, in lines, that begins and ends with mark.
func filler(mark string, n int) string {
	line := mark + " " + strings.Repeat("x", 60) + "\r\n"
	return strings.Repeat(line, n/len(line)+1) + mark
}

// answer is how a mail fared. Code 0 is a connection that broke; with it,
// uncertain says that it broke when the mail was already handed over whole.
type answer struct {
	code      int
	text      string
	uncertain bool
}

func (a answer) String() string { return fmt.Sprintf("%d %s", a.code, a.text) }

// dial opens a session.
func dial(server string) (*smtp.Client, error) {
	conn, err := net.DialTimeout("tcp", server, patience)
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(2 * patience))
	c, err := smtp.NewClient(conn, "peer.example")
	if err != nil {
		conn.Close()
		return nil, err
	}
	return c, c.Hello("peer.example")
}

// deliver sends one mail in an open session.
func deliver(c *smtp.Client, from, to string, mail []byte) answer {
	give := func(err error, whole bool) answer {
		if err == nil {
			return answer{code: 250}
		}
		if reply, ok := errors.AsType[*textproto.Error](err); ok {
			return answer{code: reply.Code, text: reply.Msg}
		}
		return answer{text: err.Error(), uncertain: whole}
	}
	w, err := begin(c, from, to, mail)
	if err != nil {
		return give(err, false)
	}
	return give(w.Close(), true)
}

// begin sends a mail but for its end, which is sent by closing w.
func begin(c *smtp.Client, from, to string, mail []byte) (w io.WriteCloser, err error) {
	if err := c.Mail(from); err != nil {
		return nil, err
	}
	if err := c.Rcpt(to); err != nil {
		return nil, err
	}
	if w, err = c.Data(); err == nil {
		_, err = w.Write(mail)
	}
	return w, err
}

// send sends one mail in a session of its own.
func send(server, from, to string, mail []byte) answer {
	c, err := dial(server)
	if err != nil {
		return answer{text: err.Error()}
	}
	defer c.Close()
	return deliver(c, from, to, mail)
}

// arrived are the mails of the sink by Message-ID.
func arrived(t testing.TB, b *trial.Box) map[string][]string {
	t.Helper()
	seen, err := b.Kept.Seen()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]string{}
	for name := range seen {
		mail, err := os.ReadFile(filepath.Join(b.Kept.Dir(), name))
		if err != nil {
			t.Fatal(err)
		}
		id := strings.Trim(field(string(mail), "Message-ID"), "<>")
		all[id] = append(all[id], string(mail))
	}
	return all
}
