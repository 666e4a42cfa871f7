package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"postern/appliance/e2e/housetest"
	"postern/appliance/postfix/postfixtest"
	"postern/filter/transport/hoptest"
	"postern/hsm/certtest"
)

// chain makes a key and a certificate for a server, in one file.
func (a siteCA) chain(dir, name string) string {
	a.t.Helper()
	path := filepath.Join(dir, "chain.pem")
	if err := os.WriteFile(path, certtest.Bundle(a.t, a.Issue(a.t, certtest.Host(name))), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return path
}

// runPostfix runs a Postfix of the site's, with more lines in its main.cf, and
// gives where it takes mail.
func runPostfix(t testing.TB, more string) (address string) {
	t.Helper()
	address = postfixtest.Free(t)
	hoptest.Postfix(t, hoptest.Here, more, address+" inet n - n - - smtpd\n", address)
	return address
}

// Dovecot's configuration has one language up to 2.3, and another one since.
const (
	dovecotAuth = `base_dir = %[1]s/run
state_dir = %[1]s/state
log_path = %[1]s/messages
protocols =
ssl = no
default_login_user = nobody
default_internal_user = nobody
default_internal_group = nogroup
auth_mechanisms = plain login
`
	dovecotAuth23 = `service auth {
  inet_listener {
    address = 127.0.0.1
    port = %[2]s
  }
}
passdb {
  driver = passwd-file
  args = scheme=PLAIN %[1]s/users
}
userdb {
  driver = passwd-file
  args = %[1]s/users
}
`
	dovecotAuth24 = `dovecot_config_version = 2.4.0
dovecot_storage_version = 2.4.0
`
	dovecotAuth24End = `service auth {
  inet_listener postfix {
    listen = 127.0.0.1
    port = %[2]s
  }
}
passdb passwd-file {
  default_password_scheme = PLAIN
  passwd_file_path = %[1]s/users
}
userdb passwd-file {
  passwd_file_path = %[1]s/users
}
`
)

// runDovecotAuth runs the part of Dovecot that knows passwords until the test
// ends, and gives where Postfix asks it.
func runDovecotAuth(t *testing.T, users string) (address string) {
	t.Helper()
	dir := folder(t)
	address = postfixtest.Free(t)
	_, port, _ := net.SplitHostPort(address)
	text := dovecotAuth + dovecotAuth23
	if !oldDovecot(t) {
		text = dovecotAuth24 + dovecotAuth + dovecotAuth24End
	}
	for name, text := range map[string]string{"dovecot.conf": fmt.Sprintf(text, dir, port), "users": users} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	startDovecot(t, dir)
	housetest.Listens(t, address)
	return address
}

// oldDovecot tells whether its configuration has the language up to 2.3.
func oldDovecot(t *testing.T) bool {
	t.Helper()
	return strings.HasPrefix(string(run(t, nil, "dovecot", "--version")), "2.3.")
}

// startDovecot runs what a folder has the configuration of, until the test ends.
func startDovecot(t *testing.T, dir string) {
	t.Helper()
	cmd := exec.Command("dovecot", "-F", "-c", filepath.Join(dir, "dovecot.conf"))
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(dir, "messages"))
			t.Logf("Dovecot:\n%s%s", said.String(), tail(log, 4000))
		}
	})
}
