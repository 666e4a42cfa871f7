package e2e

import (
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"postern/appliance/e2e/housetest"
	"postern/appliance/postfix/postfixtest"
)

// eicar is the file that every scanner finds, and gtube the text. They are put
// together here, or a scanner would find this program.
func eicar() string {
	return strings.Join([]string{`X5O!P%@AP[4\PZX54(P^)7CC)7}`, `$EICAR-STANDARD-ANTIVIRUS-TEST-FILE!`, `$H+H*`}, "")
}

func gtube() string {
	return strings.Join([]string{"XJS*C4JDBQADN1.NSBN3*2IDNEN*", "GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL", "*C.34X"}, "")
}

// server is a program that the test can end, or stop for a while.
type server struct {
	t       *testing.T
	address string
	start   func() *exec.Cmd
	cmd     *exec.Cmd
}

// begin starts it and waits until it listens.
func (s *server) begin() {
	s.t.Helper()
	s.cmd = s.start()
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	listens(s.t, s.address)
}

// end kills it. One that was stopped dies of it too.
func (s *server) end() {
	if s.cmd != nil {
		s.cmd.Process.Kill()
		s.cmd.Wait()
		s.cmd = nil
	}
}

func (s *server) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// listens waits for a socket or a port.
func listens(t *testing.T, address string) {
	t.Helper()
	if !strings.HasPrefix(address, "/") {
		housetest.Listens(t, address)
		return
	}
	eventually(t, 2*patience, func() (bool, string) { _, err := os.Stat(address); return err == nil, fmt.Sprint(err) })
}

// runClamd runs the clamd of Debian with one signature, made here: what has the
// EICAR file in it. It takes 2 MiB.
func runClamd(t *testing.T) *server {
	t.Helper()
	dir := folder(t)
	for name, text := range map[string]string{
		"db/local.ndb": "Local.EICAR:0:*:" + hex.EncodeToString([]byte(eicar())) + "\n",
		"clamd.conf":   fmt.Sprintf("LocalSocket %[1]s/clamd.sock\nDatabaseDirectory %[1]s/db\nTemporaryDirectory %[1]s/tmp\nLogFile %[1]s/log\nForeground yes\nOfficialDatabaseOnly no\nStreamMaxLength 2M\nAlertEncrypted yes\nUser root\n", dir),
		"tmp/empty":    "",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := &server{t: t, address: filepath.Join(dir, "clamd.sock")}
	s.start = func() *exec.Cmd {
		os.Remove(s.address)
		return exec.Command("clamd", "--config-file", filepath.Join(dir, "clamd.conf"))
	}
	t.Cleanup(func() {
		s.end()
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(dir, "log"))
			t.Logf("clamd:\n%s", tail(log, 3000))
		}
	})
	s.begin()
	return s
}

// Rspamd's own rules need the network: this configuration has but those of the
// test, which do what a field of the mail says.
const (
	rspamdConf = `options {
  pidfile = "%[1]s/pid"; filters = ""; cores_dir = "%[1]s"; temp_dir = "%[1]s"; control_socket = "%[1]s/control.sock mode=0600";
  dns { nameserver = ["127.0.0.1:%[3]s"]; timeout = 0.1s; retransmits = 1; }
  url_tld = "/usr/share/rspamd/effective_tld_names.dat";
}
logging { type = "file"; filename = "%[1]s/log"; level = "info"; }
worker "normal" { bind_socket = "%[2]s"; count = 1; }
actions { reject = 15; add_header = 6; greylist = 4; }
lua = "%[1]s/rules.lua"
`
	rspamdRules = `rspamd_config:register_symbol{ name = 'RULES_OF_THE_TEST', type = 'normal', score = 1.0, callback = function(task)
  local want = task:get_header('X-Test')
  if not want then return false end
  if want == 'later' then task:set_pre_result('soft reject', 'come back') end
  if want == 'grey' then return true, 5.0 end
  if want == 'mark' then
    local to = task:get_recipients('smtp')
    task:set_milter_reply({ add_headers = {
      ['X-Spam-Level'] = { value = '*******', order = 0 }, ['X-Other'] = 'not allowed',
      ['X-Told'] = string.format('%s %s %s %s', tostring(task:get_from_ip()), task:get_helo() or '', (task:get_from('smtp') or {{}})[1].addr or '', to and to[1].addr or ''),
    } })
    return true, 7.0
  end
  return false
end }
`
)

// runRspamd runs the rspamd of Debian, its normal worker at a loopback port.
func runRspamd(t *testing.T) *server {
	t.Helper()
	dir := folder(t)
	s := &server{t: t, address: postfixtest.Free(t)}
	dead := postfixtest.Free(t)
	for name, text := range map[string]string{"rspamd.conf": fmt.Sprintf(rspamdConf, dir, s.address, dead[strings.LastIndex(dead, ":")+1:]), "rules.lua": rspamdRules} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.start = func() *exec.Cmd {
		return exec.Command("rspamd", "-f", "-i", "-c", filepath.Join(dir, "rspamd.conf"))
	}
	t.Cleanup(func() {
		if s.cmd != nil { // its worker ends with it
			s.cmd.Process.Signal(syscall.SIGTERM)
			s.cmd.Wait()
		}
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(dir, "log"))
			t.Logf("rspamd:\n%s", tail(log, 3000))
		}
	})
	s.begin()
	return s
}
