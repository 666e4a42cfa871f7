package imagetest_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"postern/appliance/trial"
	"postern/image/imagetest"
)

// boxFile is the one file of the box under test: it is in QEMU's network, where
// 10.0.2.2 is this machine.
const boxFile = `authserv-id = "gw.company1.example"

[box]
name = "gw.company1.example"
unlock = "tpm"
manage-from = ["10.0.2.0/24"]

[[network.interface]]
name = "lan"
device = "en*"
dhcp = true

[time]
protocol = "ntp"
servers = ["10.0.2.2"]

[[listener]]
name = "outside"
address = ":25"
direction = "inbound"

[[listener]]
name = "inside"
address = ":587"
direction = "outbound"
allow = ["10.0.2.0/24"]

[next-hop.inbound]
address = "10.0.2.2:%[1]d"
tls = "off"

[next-hop.outbound]
address = "10.0.2.2:%[1]d"
tls = "off"

[domain."company1.example"]
sign = "never"

[partner."elsewhere.example"]
protect = "none"

[default]
protect = "optional"
`

// operator is the machine of whoever looks after the box, and of a partner.
type operator struct {
	dir  string // of its key
	home string // of gpg
	sink *trial.Sink
	next int // port of the sink
	// Ports of loopback before the box.
	manage, outside, inside int
}

// newOperator makes one with free ports.
func newOperator(t *testing.T, dir string) *operator {
	t.Helper()
	o := &operator{dir: filepath.Join(dir, "operator"), home: filepath.Join(dir, "gpg")}
	if err := os.MkdirAll(o.home, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ask("", "gpgconf", "--homedir", o.home, "--kill", "gpg-agent") })
	ports := kept(t, dir, 4)
	o.next, o.manage, o.outside, o.inside = ports[0], ports[1], ports[2], ports[3]
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", o.next))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	if o.sink, err = trial.OpenSink(filepath.Join(dir, "mail"), l); err != nil {
		t.Fatal(err)
	}
	return o
}

func (o *operator) forward() map[int]int {
	return map[int]int{o.manage: 8443, o.outside: 25, o.inside: 587}
}

// ask runs a program with what it reads, and returns what it prints.
func ask(stdin, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// box runs postern box, which must succeed.
func (o *operator) box(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	var out string
	var err error
	later(t, func() bool {
		out, err = ask(stdin, "../../bin/postern", append([]string{"box"}, args...)...)
		exit, ok := errors.AsType[*exec.ExitError](err)
		return ok && exit.ExitCode() == 75
	})
	if err != nil {
		t.Fatalf("postern box %q: %v\n%s", args, err, out)
	}
	return out
}

// do runs a command on the box.
func (o *operator) do(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	return o.box(t, stdin, append([]string{"do", "--dir", o.dir, "--"}, args...)...)
}

var recovery = regexp.MustCompile(`(?:[cbdefghijklnrtuv]{8}-){7}[cbdefghijklnrtuv]{8}`)

// claim takes the box of which the console shows the code.
func (o *operator) claim(t *testing.T, m *imagetest.Machine, dir string) {
	t.Helper()
	said := m.Wait(`postern box claim \S+ --fingerprint (\S+) --code (\S+) --config`)
	config := filepath.Join(dir, "box.toml")
	if err := os.WriteFile(config, fmt.Appendf(nil, boxFile, o.next), 0o600); err != nil {
		t.Fatal(err)
	}
	// Without a terminal the claim waits, with exit status 1.
	out, err := ask("", "../../bin/postern", "box", "claim", fmt.Sprintf("127.0.0.1:%d", o.manage), "--dir", o.dir,
		"--fingerprint", said[1], "--code", said[2], "--config", config, "--shares", "2/3", "--out", filepath.Join(dir, "shares"))
	key := recovery.FindString(out)
	if key == "" {
		t.Fatalf("claim: %v, no recovery key in\n%s", err, out)
	}
	o.box(t, key+"\n", "confirm", "--dir", o.dir)
}

// later repeats what is told to come back later: the PIN or the clock may not be
// there yet.
func later(t *testing.T, do func() (again bool)) {
	t.Helper()
	deadline := time.Now().Add(imagetest.Patience)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for do() && time.Now().Before(deadline) {
		<-tick.C
	}
}

// provision makes the domain's identity, and lets both sides know the other.
func (o *operator) provision(t *testing.T) {
	t.Helper()
	o.do(t, "", "token", "probe")
	o.do(t, "", "identity", "create", "--format", "openpgp", "--domain", "company1.example")
	o.gpg(t, o.do(t, "", "identity", "export", "company1.example"), "--import")
	o.gpg(t, "", "--passphrase", "", "--quick-generate-key", "Alice <alice@partner.example>", "rsa3072", "default", "never")
	o.do(t, o.gpg(t, "", "--armor", "--export", "alice@partner.example"), "cert", "import", "-")
}

func (o *operator) gpg(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	out, err := ask(stdin, "gpg", append([]string{"--homedir", o.home, "--batch", "--quiet", "--no-tty", "--trust-model", "always", "--pinentry-mode", "loopback"}, args...)...)
	if err != nil {
		t.Fatalf("gpg %q: %v\n%s", args, err, out)
	}
	return out
}

// send gives one mail to a port of the box; the box has to take it.
func (o *operator) send(t *testing.T, port int, from, to, mail string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "mail.eml")
	if err := os.WriteFile(file, []byte(mail), 0o600); err != nil {
		t.Fatal(err)
	}
	var out string
	var err error
	later(t, func() bool {
		out, err = ask("", "swaks", "--server", "127.0.0.1", "--port", fmt.Sprint(port), "--from", from, "--to", to, "--data", "@"+file, "--timeout", "600")
		return err != nil && (strings.Contains(out, "<** 4") || strings.Contains(out, "Connection refused"))
	})
	if err != nil || !strings.Contains(out, "<~  250 2.") && !strings.Contains(out, "<-  250 2.") {
		t.Fatalf("send: %v\n%s", err, out)
	}
}

// arrived is the mail at the next hop that has a text in it.
func (o *operator) arrived(t *testing.T, text string) string {
	t.Helper()
	deadline := time.Now().Add(imagetest.Patience)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for time.Now().Before(deadline) {
		files, err := filepath.Glob(filepath.Join(o.sink.Dir(), "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), text) {
				return string(b)
			}
		}
		<-tick.C
	}
	t.Fatalf("no mail with %q at the next hop", text)
	return ""
}

// sealedIn sends a mail that is signed and sealed to the domain; it must arrive
// opened and verified.
func (o *operator) sealedIn(t *testing.T, marker string) {
	t.Helper()
	armour := o.gpg(t, "Content-Type: text/plain\r\n\r\n"+marker+"\r\n", "--armor", "--sign", "--encrypt", "--local-user", "alice@partner.example", "--recipient", "company1.example")
	o.send(t, o.outside, "alice@partner.example", "bob@company1.example", strings.ReplaceAll(
		"From: alice@partner.example\nTo: bob@company1.example\nSubject: sealed\nMIME-Version: 1.0\n"+
			"Content-Type: multipart/encrypted; protocol=\"application/pgp-encrypted\"; boundary=\"b\"\n\n"+
			"--b\nContent-Type: application/pgp-encrypted\n\nVersion: 1\n--b\nContent-Type: application/octet-stream\n\n"+armour+"--b--\n", "\n", "\r\n"))
	got := o.arrived(t, marker)
	for _, want := range []string{"opened=openpgp", "verified=yes", "signer=alice@partner.example"} {
		if !strings.Contains(got, want) {
			t.Errorf("got %s, want %s in it", got[:min(len(got), 1500)], want)
		}
	}
}

// plainOut sends a mail to somebody whose certificate nobody has.
func (o *operator) plainOut(t *testing.T, marker string) {
	t.Helper()
	o.send(t, o.inside, "bob@company1.example", "carol@elsewhere.example",
		"From: bob@company1.example\r\nTo: carol@elsewhere.example\r\nSubject: plain\r\n\r\n"+marker+"\r\n")
	o.arrived(t, marker)
}
