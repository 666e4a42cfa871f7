package imagetest_test

import (
	"bytes"
	"encoding/json"
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

// boxFile is the one file of the box under test, with the port of its next hop,
// who unlocks it, and for whom its backups are: it is in QEMU's network, where
// 10.0.2.2 is this machine.
const boxFile = `authserv-id = "gw.company1.example"

[box]
name = "gw.company1.example"
unlock = "%[2]s"
backup-to = ["%[3]s"]
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
	desk string          // his folder
	bin  string          // of the program postern
	dir  string          // of his key
	home string          // of gpg
	ran  map[string]bool // lines of the page
	sink *trial.Sink
	next int // port of the sink
	// Ports of loopback before the box.
	manage, outside, inside int
	notes
}

// notes are what he writes down. They outlive a run with -keep, so that its
// further steps can be run by themselves.
type notes struct {
	Recovery  string // key of the data partition
	Reader    string // for whom backups are
	Recipient string // fingerprint of the domain's certificate
	Trace     string // of the first mail
}

func (o *operator) path() string { return filepath.Join(o.desk, "notes.json") }

// write writes them down.
func (o *operator) write(t *testing.T) {
	t.Helper()
	b, err := json.Marshal(o.notes)
	if err == nil {
		err = os.WriteFile(o.path(), b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// newOperator makes one with free ports, or the one of an earlier run.
func newOperator(t *testing.T, dir string) *operator {
	t.Helper()
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	desk := filepath.Join(dir, "desk")
	o := &operator{desk: desk, bin: bin, dir: filepath.Join(desk, "config", "postern"), home: filepath.Join(dir, "gpg"), ran: map[string]bool{}}
	for _, d := range []string{o.home, o.dir} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { ask("", "gpgconf", "--homedir", o.home, "--kill", "gpg-agent") })
	if b, err := os.ReadFile(o.path()); err == nil {
		if err := json.Unmarshal(b, &o.notes); err != nil {
			t.Fatal(err)
		}
	}
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

// claim takes the box of which the console shows the code, as its owner does who
// sits at a terminal and types the recovery key back.
func (o *operator) claim(t *testing.T, m *imagetest.Machine, unlock string) (fingerprint string) {
	t.Helper()
	said := m.Wait(`postern box claim \S+ --fingerprint (\S+) --code (\S+) --config`)
	o.configure(t, unlock)
	key := ""
	out := o.typed(t, "postern box claim ", map[string]string{"192.0.2.25:8443": o.address(), "FINGERPRINT": said[1], "CODE": said[2]}, func(shown string) string {
		if strings.Contains(shown, "type the recovery key back") {
			key = recovery.FindString(shown)
		}
		return key
	})
	if key == "" {
		t.Fatalf("claim: no recovery key in\n%s", out)
	}
	o.Recovery = key
	return said[1]
}

// address is where the box answers its operators.
func (o *operator) address() string { return fmt.Sprintf("127.0.0.1:%d", o.manage) }

// configure writes box.toml, over the example that the program prints.
func (o *operator) configure(t *testing.T, unlock string) {
	t.Helper()
	o.must(t, "postern config doc box ", "", nil)
	path := filepath.Join(o.desk, "box.toml")
	example, err := os.ReadFile(path)
	if err != nil || !bytes.Contains(example, []byte("[box]\n")) {
		t.Fatalf("got example %.200q, %v", example, err)
	}
	if o.Reader == "" {
		o.Reader = found(t, o.must(t, "age-keygen ", "", nil), `(age1[0-9a-z]+)`)
	}
	if err := os.WriteFile(path, fmt.Appendf(nil, boxFile, o.next, unlock, o.Reader), 0o600); err != nil {
		t.Fatal(err)
	}
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
	if out := o.must(t, "postern box status", "", nil); !strings.Contains(out, "ready") {
		t.Errorf("got status %q, want the token ready", out)
	}
	if out := o.must(t, "postern box do -- token probe", "", nil); !strings.Contains(out, "works") {
		t.Errorf("got %q, want what the token can do", out)
	}
	o.identity(t, "postern box do -- identity create ")
	o.gpg(t, "", "--passphrase", "", "--quick-generate-key", "Alice <alice@partner.example>", "rsa3072", "default", "never")
	if err := os.WriteFile(filepath.Join(o.desk, "partner.asc"), []byte(o.gpg(t, "", "--armor", "--export", "alice@partner.example")), 0o600); err != nil {
		t.Fatal(err)
	}
	o.must(t, "postern box do -- cert import ", "", nil)
}

// identity makes the one of the domain by a line of the page, and gives it to the
// partner.
func (o *operator) identity(t *testing.T, line string) {
	t.Helper()
	o.must(t, line, "", nil)
	o.must(t, "postern box do -- identity export ", "", nil)
	cert := filepath.Join(o.desk, "company1.asc")
	o.gpg(t, "", "--import", cert)
	o.Recipient = found(t, o.gpg(t, "", "--with-colons", "--show-keys", cert), `(?m)^fpr:+([0-9A-F]+):`)
}

func (o *operator) gpg(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	out, err := ask(stdin, "gpg", append([]string{"--homedir", o.home, "--batch", "--quiet", "--no-tty", "--trust-model", "always", "--pinentry-mode", "loopback"}, args...)...)
	if err != nil {
		t.Fatalf("gpg %q: %v\n%s", args, err, out)
	}
	return out
}

// try gives one mail to a port of the box, once.
func (o *operator) try(t *testing.T, port int, from, to, mail string) (dialogue string, err error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "mail.eml")
	if err := os.WriteFile(file, []byte(mail), 0o600); err != nil {
		t.Fatal(err)
	}
	return ask("", "swaks", "--server", "127.0.0.1", "--port", fmt.Sprint(port), "--from", from, "--to", to, "--data", "@"+file, "--timeout", "600")
}

// send is try until the box takes the mail, which it has to.
func (o *operator) send(t *testing.T, port int, from, to, mail string) {
	t.Helper()
	var out string
	var err error
	later(t, func() bool {
		out, err = o.try(t, port, from, to, mail)
		// In front of a machine that does not listen yet is one that does.
		return err != nil && (strings.Contains(out, "<** 4") || !strings.Contains(out, "<-  220"))
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
func (o *operator) sealedIn(t *testing.T, marker string) (got string) {
	t.Helper()
	o.send(t, o.outside, "alice@partner.example", "bob@company1.example", o.sealed(t, marker))
	got = o.arrived(t, marker)
	for _, want := range []string{"opened=openpgp", "verified=yes", "signer=alice@partner.example"} {
		if !strings.Contains(got, want) {
			t.Errorf("got %s, want %s in it", got[:min(len(got), 1500)], want)
		}
	}
	return got
}

// sealed is a mail that is signed and sealed to the domain.
func (o *operator) sealed(t *testing.T, marker string) string {
	t.Helper()
	armour := o.gpg(t, "Content-Type: text/plain\r\n\r\n"+marker+"\r\n", "--armor", "--sign", "--encrypt", "--local-user", "alice@partner.example", "--recipient", o.Recipient)
	return strings.ReplaceAll(
		"From: alice@partner.example\nTo: bob@company1.example\nSubject: sealed\nMIME-Version: 1.0\n"+
			"Content-Type: multipart/encrypted; protocol=\"application/pgp-encrypted\"; boundary=\"b\"\n\n"+
			"--b\nContent-Type: application/pgp-encrypted\n\nVersion: 1\n--b\nContent-Type: application/octet-stream\n\n"+armour+"--b--\n", "\n", "\r\n")
}

// plainOut sends a mail to somebody whose certificate nobody has.
func (o *operator) plainOut(t *testing.T, marker string) {
	t.Helper()
	o.send(t, o.inside, "bob@company1.example", "carol@elsewhere.example",
		"From: bob@company1.example\r\nTo: carol@elsewhere.example\r\nSubject: plain\r\n\r\n"+marker+"\r\n")
	o.arrived(t, marker)
}
