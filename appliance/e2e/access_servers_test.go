package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"syscall"
	"testing"

	"postern/appliance/e2e/housetest"
	"postern/appliance/postfix/postfixtest"
	"postern/appliance/trial"
)

// A Dovecot for mail programs, told by the PROXY protocol who they are. It takes
// no password from a client that is elsewhere and has no TLS.
const (
	dovecotBoxes = `log_path = %[1]s/messages
base_dir = %[1]s/run
protocols = imap pop3
ssl = no
first_valid_uid = 1
default_login_user = nobody
default_internal_user = nobody
default_internal_group = nogroup
auth_mechanisms = plain login
haproxy_trusted_networks = 127.0.0.0/8
`
	dovecotBoxes23 = `state_dir = %[1]s/state
mail_location = maildir:%[1]s/mail/%%u
passdb {
  driver = passwd-file
  args = scheme=PLAIN %[1]s/users
}
userdb {
  driver = passwd-file
  args = %[1]s/users
}
`
	dovecotBoxes24 = `dovecot_config_version = 2.4.0
dovecot_storage_version = 2.4.0
state_dir = %[1]s/state
mail_driver = maildir
mail_path = %[1]s/mail/%%{user}
passdb passwd-file {
  default_password_scheme = PLAIN
  passwd_file_path = %[1]s/users
}
userdb passwd-file {
  passwd_file_path = %[1]s/users
}
`
	dovecotDoors = `service imap-login {
  inet_listener imap {
    %[4]s = 127.0.0.1
    port = %[2]s
    haproxy = yes
  }
  inet_listener imaps {
    port = 0
  }
}
service pop3-login {
  inet_listener pop3 {
    %[4]s = 127.0.0.1
    port = %[3]s
    haproxy = yes
  }
  inet_listener pop3s {
    port = 0
  }
}
`
)

// letters are a Dovecot with the mailbox of one person.
type letters struct {
	imap, pop3 string // addresses
	dir        string
}

// runDovecot runs it until the test ends.
func runDovecot(t *testing.T, name, word string, mails ...string) letters {
	t.Helper()
	d := letters{imap: postfixtest.Free(t), pop3: postfixtest.Free(t), dir: folder(t)}
	keeper, err := user.Lookup("mail")
	if err != nil {
		t.Fatal(err)
	}
	_, imap, _ := net.SplitHostPort(d.imap)
	_, pop3, _ := net.SplitHostPort(d.pop3)
	text, address := dovecotBoxes+dovecotBoxes23+dovecotDoors, "address"
	if !oldDovecot(t) {
		text, address = dovecotBoxes24+dovecotBoxes+dovecotDoors, "listen"
	}
	files := map[string]string{"dovecot.conf": fmt.Sprintf(text, d.dir, imap, pop3, address), "users": fmt.Sprintf("%s:{PLAIN}%s:%s:%s::%s/mail/%s\n", name, word, keeper.Uid, keeper.Gid, d.dir, name)}
	for i, m := range mails {
		files[fmt.Sprintf("mail/%s/new/%d.host", name, i)] = m
	}
	for _, sub := range []string{"cur", "tmp", "new"} {
		if err := os.MkdirAll(filepath.Join(d.dir, "mail", name, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for path, text := range files {
		if err := os.WriteFile(filepath.Join(d.dir, path), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	run(t, nil, "chown", "-R", "mail:mail", filepath.Join(d.dir, "mail"))
	if err := os.Chmod(d.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	startDovecot(t, d.dir)
	housetest.Listens(t, d.imap)
	housetest.Listens(t, d.pop3)
	return d
}

// log is what Dovecot has said until now.
func (d letters) log(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(d.dir, "messages"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// runAccess runs the doors of a box until the test ends, and waits for them.
func runAccess(t *testing.T, b *trial.Box, doors ...string) {
	t.Helper()
	log, err := os.OpenFile(b.Path("access.log"), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, filepath.Join(b.Bin, "postern"), "access", "serve", "--config", b.Path("filterd.toml"))
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := cmd.Wait(); err != nil && cmd.ProcessState.ExitCode() != 0 {
			t.Errorf("access serve: %v", err)
		}
		log.Close()
		if t.Failed() {
			text, _ := os.ReadFile(b.Path("access.log"))
			t.Logf("access.log:\n%s", tail(text, 4000))
		}
	})
	for _, d := range doors {
		housetest.Listens(t, d)
	}
}
