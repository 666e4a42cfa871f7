package lab

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"postern/appliance/e2e/housetest"
	"postern/appliance/e2e/placetest"
)

// recovery is how long the house may take to work again by itself.
const recovery = 10 * time.Second

// What the house needs goes away and comes back (R37): while it is away a mail
// is put off, by its 4xx or in Postfix's queue, and nothing of it is on the wire
// in clear; when it is back, mail passes within ten seconds, and nobody has done
// anything but bring it back.
func TestAwayAndBack(t *testing.T) {
	l := openLab(t)
	from, to := l.one, l.two
	alice, bob, board := "alice@"+from.Domain, "bob@"+to.Domain, "board@"+to.Domain
	spool := from.Path("spool")
	from.Do(t, func() error { return unix.Mount("spool", spool, "tmpfs", 0, "size=8m") })
	from.configure(t, setting{Partner: `transport = "verify"`})
	for _, c := range []struct {
		name       string
		to         string
		away, back func(t *testing.T)
		code       string // of the reply while it is away; "": the mail is taken, and waits
		size       int    // of the mail
	}{
		{"key daemon", bob, func(*testing.T) { from.Keyd.Kill() }, func(t *testing.T) {
			from.Do(t, func() error { return from.StartKeyd(t.Context()) })
		}, "451 4.7.5 ", 0},
		{"next hop", bob, func(*testing.T) { from.post.Stop() }, func(*testing.T) { from.post.Run() }, "451 4.4.1 ", 0},
		{"disk", bob, func(t *testing.T) { fill(t, from.Place, spool) }, func(t *testing.T) {
			from.Do(t, func() error { return os.Remove(spool + "/filler") })
		}, "451 4.3.0 ", 1 << 20},
		{"names", bob, func(*testing.T) { from.names.Stop() }, func(t *testing.T) { from.names.Resume(t) }, "", 0},
		{"partner's gateway", bob, func(t *testing.T) {
			if err := to.Filterd.Stop(); err != nil {
				t.Error(err)
			}
		}, func(t *testing.T) { to.startFilterd(t) }, "", 0},
		{"partner's key daemon", board, func(*testing.T) { to.Keyd.Kill() }, func(t *testing.T) {
			to.Do(t, func() error { return to.StartKeyd(t.Context()) })
		}, "", 0},
		{"partner's mail server", bob, func(*testing.T) { to.mail.server.Stop() }, func(t *testing.T) { to.mail.start(t) }, "", 0},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			text := secret(c.name, "away")
			mail := letter(alice, c.to, text) + strings.Repeat(strings.Repeat("x", 76)+"\r\n", c.size/78)
			c.away(t)
			dialogue, err := from.submit(t, alice, []string{c.to}, mail)
			switch {
			case c.code == "" && err != nil:
				t.Errorf("got %v\n%s\nwant the mail taken", err, dialogue)
			case c.code != "" && (err == nil || !strings.Contains(dialogue, "<** "+c.code)):
				t.Errorf("got %v\n%s\nwant %s", err, dialogue, c.code)
			}
			if c.code == "" {
				from.awaitTry(t, c.to, c.name == "partner's gateway")
			}
			clients, _ := l.wire.smtp(t)
			for _, said := range clients {
				if strings.Contains(strings.ToUpper(said), "MAIL FROM") || shows([]string{said}, text) {
					t.Errorf("got %q on the wire, want nothing of the mail", said)
				}
			}
			c.back(t)
			if c.code != "" {
				housetest.Eventually(t, recovery, func() (bool, string) {
					dialogue, err := from.submit(t, alice, []string{c.to}, mail)
					return err == nil, dialogue
				})
			}
			holds(t, to.mail.within(t, recovery, c.to, text), map[string]string{"verified": "yes", "signer": alice, "carried": "TLS"})
			if n := len(to.mail.of(t, c.to)); n != 1 {
				t.Errorf("got %d mails, want one", n)
			}
			to.mail.empty(t, c.to)
		})
	}
}

// fill takes all that is free of a folder's disk.
func fill(t testing.TB, p *placetest.Place, dir string) {
	t.Helper()
	p.Do(t, func() error {
		f, err := os.Create(dir + "/filler")
		if err != nil {
			return err
		}
		defer f.Close()
		for err == nil {
			_, err = f.Write(bytes.Repeat([]byte("x"), 4096))
		}
		if !strings.Contains(err.Error(), unix.ENOSPC.Error()) {
			return err
		}
		return nil
	})
}

// awaitTry waits until Postfix has tried a mail, and either put it off or waits
// for an answer: who starts filterd keeps its listeners.
func (c *company) awaitTry(t testing.TB, to string, hangs bool) {
	t.Helper()
	housetest.Eventually(t, housetest.Patience, func() (bool, string) {
		waiting := c.waiting(t)
		return strings.Contains(waiting, to) && (hangs || strings.Contains(waiting, "(")), "queue: " + waiting
	})
}
