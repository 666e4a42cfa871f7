package lab

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"postern/appliance/e2e/housetest"
	"postern/appliance/e2e/placetest"
)

// The configuration of Dovecot, which has one language up to 2.3 and another
// one since: LMTP on loopback (RFC 2033), and a Maildir for each user.
const (
	dovecotFile = `log_path = %[1]s/dovecot.messages
base_dir = %[1]s/run
protocols = lmtp
ssl = no
first_valid_uid = 1
`
	dovecot23 = `state_dir = %[1]s/state
mail_location = maildir:%[1]s/mail/%%u
userdb {
  driver = passwd-file
  args = %[1]s/users
}
passdb {
  driver = passwd-file
  args = %[1]s/users
}
service lmtp {
  inet_listener lmtp {
    address = 127.0.0.1
    port = 24
  }
}
`
	dovecot24 = `dovecot_config_version = 2.4.0
dovecot_storage_version = 2.4.0
state_dir = %[1]s/state
mail_driver = maildir
mail_path = %[1]s/mail/%%{user}
userdb passwd-file {
  passwd_file_path = %[1]s/users
}
passdb passwd-file {
  passwd_file_path = %[1]s/users
}
service lmtp {
  inet_listener lmtp {
    listen = 127.0.0.1
    port = 24
  }
}
`
)

// lmtpAt is where each company's Dovecot takes mail.
const lmtpAt = "127.0.0.1:24"

// mailboxes are the company's mail server.
type mailboxes struct {
	dir    string
	at     *placetest.Place
	server *placetest.Daemon
}

// openMailboxes starts Dovecot in a place until the test ends. Nobody but the
// users is known there.
func openMailboxes(t testing.TB, p *placetest.Place, dir string, users ...string) *mailboxes {
	t.Helper()
	m := &mailboxes{dir: filepath.Join(dir, "dovecot"), at: p}
	for _, sub := range []string{"", "run", "state", "mail"} {
		if err := os.Mkdir(filepath.Join(m.dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	keeper, err := user.Lookup("mail")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("chown", "mail:mail", filepath.Join(m.dir, "mail")).CombinedOutput(); err != nil {
		t.Fatalf("chown: %v: %s", err, out)
	}
	var list strings.Builder
	for _, u := range users {
		fmt.Fprintf(&list, "%s::%s:%s::%s/mail/%s\n", u, keeper.Uid, keeper.Gid, m.dir, u)
	}
	file(t, m.dir, "users", []byte(list.String()))
	version, err := exec.Command("dovecot", "--version").Output()
	if err != nil {
		t.Fatalf("dovecot: %v (hint: make deps)", err)
	}
	// The line that says the version of the language must be the first.
	text := dovecotFile + dovecot23
	if !strings.HasPrefix(string(version), "2.3.") {
		text = dovecot24 + dovecotFile
	}
	file(t, m.dir, "dovecot.conf", fmt.Appendf(nil, text, m.dir))
	t.Cleanup(func() { placetest.Show(t, filepath.Join(m.dir, "dovecot.messages")) })
	m.start(t)
	return m
}

// start runs Dovecot, again after it was stopped.
func (m *mailboxes) start(t testing.TB) {
	t.Helper()
	m.server = m.at.Start(t, m.dir, "dovecot", "-F", "-c", filepath.Join(m.dir, "dovecot.conf"))
	m.at.Await(t, lmtpAt)
}

// of are the mails in somebody's mailbox, each under its file name.
func (m *mailboxes) of(t testing.TB, address string) map[string]string {
	t.Helper()
	all := map[string]string{}
	paths, err := filepath.Glob(filepath.Join(m.dir, "mail", address, "new", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		// Dovecot keeps lines as this system ends them.
		all[filepath.Base(path)] = strings.ReplaceAll(strings.ReplaceAll(housetest.Contents(t, path), "\r\n", "\n"), "\n", "\r\n")
	}
	return all
}

// await waits for a mail that has all the texts in it, in somebody's mailbox.
func (m *mailboxes) await(t testing.TB, address string, texts ...string) string {
	t.Helper()
	return m.within(t, housetest.Patience, address, texts...)
}

// within is await with a limit of its own.
func (m *mailboxes) within(t testing.TB, limit time.Duration, address string, texts ...string) string {
	t.Helper()
	var found string
	housetest.Eventually(t, limit, func() (bool, string) {
		mails := m.of(t, address)
		for _, mail := range mails {
			if !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(mail, text) }) {
				found = mail
				return true, ""
			}
		}
		return false, fmt.Sprintf("%d mails for %s, none with %q", len(mails), address, texts)
	})
	return found
}

// empty takes all mails out of somebody's mailbox.
func (m *mailboxes) empty(t testing.TB, address string) {
	t.Helper()
	for name := range m.of(t, address) {
		if err := os.Remove(filepath.Join(m.dir, "mail", address, "new", name)); err != nil {
			t.Fatal(err)
		}
	}
}
