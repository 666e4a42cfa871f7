// Package box is the life of a box on loopback, with the real programs and a
// real token: claimed, configured, locked and unlocked by people, backed up,
// restored and wiped.
package box

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/appliance/e2e/housetest"
	"postern/appliance/trial"
)

func TestMain(m *testing.M) { housetest.Main(m) }

// boxed is a box below one folder, and its owner's folder beside it.
type boxed struct {
	t    *testing.T
	dir  string
	bin  string
	sink *trial.Sink

	serve, keyd, filterd *running
	owner                string
}

// running is a program of the box; its output is kept.
type running struct {
	cmd  *exec.Cmd
	mu   sync.Mutex
	out  bytes.Buffer
	done chan error
}

func (r *running) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.out.Write(p)
}

func (r *running) said() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.out.String()
}

func (r *running) stop() {
	if r == nil || r.cmd == nil {
		return
	}
	r.cmd.Process.Signal(os.Interrupt)
	<-r.done
	r.cmd = nil
}

// launch starts a program, which is stopped with the test.
func (b *boxed) launch(name string, args ...string) *running {
	b.t.Helper()
	r := &running{cmd: exec.Command(filepath.Join(b.bin, name), args...), done: make(chan error, 1)}
	r.cmd.Stdout, r.cmd.Stderr = r, r
	if err := r.cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	go func() { r.done <- r.cmd.Wait() }()
	b.t.Cleanup(func() {
		r.stop()
		if b.t.Failed() {
			b.t.Logf("%s:\n%s", name, housetest.Tail([]byte(r.said()), 6000))
		}
	})
	return r
}

func (b *boxed) path(elem ...string) string {
	return filepath.Join(append([]string{b.dir}, elem...)...)
}

// await waits until text matches, and gives what its group does.
func (b *boxed) await(text func() string, pattern string) string {
	b.t.Helper()
	re := regexp.MustCompile(pattern)
	var got string
	housetest.Eventually(b.t, housetest.Patience, func() (bool, string) {
		m := re.FindStringSubmatch(text())
		if m != nil {
			got = m[len(m)-1]
		}
		return m != nil, fmt.Sprintf("no %s in %q", pattern, text())
	})
	return got
}

// file is what a file holds now, "" while there is none.
func (b *boxed) file(elem ...string) func() string {
	return func() string {
		text, err := os.ReadFile(b.path(elem...))
		if err != nil {
			return ""
		}
		return string(text)
	}
}

const boxTOML = `authserv-id = "gw.company1.example"
state = %[1]q

[box]
name = "gw.company1.example"
unlock = "operator"
backup-to = [%[4]q]

[time]
protocol = "none"

[token]
kind = "module"
module = %[3]q
environment = { SOFTHSM2_CONF = %[5]q }

[key]
socket = %[6]q
keep = %[7]q

[[listener]]
name = "outside"
address = "127.0.0.1:0"
direction = "inbound"

[[listener]]
name = "inside"
address = "127.0.0.1:0"
direction = "outbound"

[next-hop.inbound]
address = %[2]q
[next-hop.outbound]
address = %[2]q

[domain."company1.example"]
`

// blank is a box that belongs to nobody, whose own life has begun.
func blank(t *testing.T) *boxed {
	t.Helper()
	b := &boxed{t: t, dir: housetest.Folder(t), bin: housetest.Programs(t)}
	for _, sub := range []string{"state", "root", "run", "token", "out"} {
		if err := os.Mkdir(b.path(sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	b.owner = b.path("owner")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if b.sink, err = trial.OpenSink(b.path("maildir"), l); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.sink.Close() })
	b.write("softhsm2.conf", "directories.tokendir = "+b.path("token")+"\nobjectstore.backend = file\nlog.level = ERROR\n")
	b.write("box.toml", fmt.Sprintf(boxTOML, b.path("state"), l.Addr(), module(t), recipient, b.path("softhsm2.conf"), b.path("run", "use.sock"), b.path("run", "keep.sock")))
	b.write("screen", "")
	b.begin()
	return b
}

func (b *boxed) begin() {
	b.t.Helper()
	b.serve = b.launch("postern", "box", "serve", "--config", b.path("state", "box.toml"), "--out", b.path("root"), "--listen", "127.0.0.1:0", "--screen", b.path("screen"), "--stick", b.path("claim.json"))
}

func (b *boxed) write(name, text string) {
	b.t.Helper()
	if err := os.WriteFile(b.path(name), []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// module is SoftHSM's.
func module(t *testing.T) string {
	t.Helper()
	for _, path := range trial.SoftHSM {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	t.Fatal("SoftHSM is not installed (make deps installs it)")
	return ""
}

// postern runs the operator's command, and gives what it prints and its status.
func (b *boxed) postern(stdin string, args ...string) (stdout, stderr string, status int) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(b.bin, "postern"), args...)
	var out, complaint bytes.Buffer
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = b.path("out"), strings.NewReader(stdin), &out, &complaint
	err := cmd.Run()
	if _, ok := err.(*exec.ExitError); err != nil && !ok {
		b.t.Fatal(err)
	}
	return out.String(), complaint.String(), cmd.ProcessState.ExitCode()
}

// must is postern for what has to work.
func (b *boxed) must(stdin string, args ...string) string {
	b.t.Helper()
	out, complaint, status := b.postern(stdin, args...)
	if status != 0 {
		b.t.Fatalf("postern %s: status %d\n%s%s", strings.Join(args, " "), status, out, complaint)
	}
	return out
}

// asked is where the box answers, its fingerprint and its code, as the screen
// and the log show them.
func (b *boxed) asked() (address, fingerprint, code string) {
	b.t.Helper()
	return b.await(b.serve.said, `address=(127\.0\.0\.1:\d+)`), b.await(b.file("screen"), `fingerprint +([0-9a-f ]{79})`), b.await(b.file("screen"), `code +([A-Z2-7-]{19})`)
}

// startKeyd runs the key daemon with the file that was rendered. The groups that
// own its sockets are those of a box, which this machine does not have.
func (b *boxed) startKeyd() {
	b.t.Helper()
	text := b.await(b.file("root", "etc/postern/keyd.toml"), `(?s)(.*level = .*)`)
	text = regexp.MustCompile(`(?m)^group = .*\n`).ReplaceAllString(text, "")
	b.write("keyd.toml", text+"\n")
	b.keyd = b.launch("keyd", "--config", b.path("keyd.toml"))
	housetest.Eventually(b.t, housetest.Patience, func() (bool, string) {
		conn, err := net.Dial("unix", b.path("run", "keep.sock"))
		if err == nil {
			conn.Close()
		}
		return err == nil, fmt.Sprint(err)
	})
}

// inside starts the filter with the file that was rendered, and gives the
// address of its inside listener.
func (b *boxed) inside() string {
	b.t.Helper()
	b.filterd = b.launch("filterd", "--config", b.path("root", "etc/postern/filterd.toml"))
	return b.await(b.filterd.said, `listener=inside address=(127\.0\.0\.1:\d+)`)
}

// claim makes the box the owner's, with its PIN shared among three, of whom two
// unlock it. There is no encrypted partition here, and so no recovery key to
// type back.
func (b *boxed) claim(config string) {
	b.t.Helper()
	address, fingerprint, code := b.asked()
	done := make(chan struct{})
	go func() { // as systemd would, once the box says so
		defer close(done)
		b.startKeyd()
	}()
	b.must("", "box", "claim", address, "--dir", b.owner, "--fingerprint", fingerprint, "--code", code, "--config", config, "--shares", "2/3", "--out", b.path("shares"))
	<-done
}

const mail = "From: Someone <someone@company1.example>\r\nTo: other@partner.example\r\nSubject: %[1]s\r\nDate: Wed, 25 Nov 2026 10:00:00 +0000\r\nMessage-ID: <%[1]s@company1.example>\r\n\r\nHello.\r\n"

// send gives the filter a mail from inside, and says what it answered.
func (b *boxed) send(address, subject string) (said string, arrived string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), housetest.Patience)
	defer cancel()
	seen, err := b.sink.Seen()
	if err != nil {
		b.t.Fatal(err)
	}
	dialogue, err := trial.Submit(ctx, address, "someone@company1.example", []string{"other@partner.example"}, []byte(fmt.Sprintf(mail, subject)))
	if err != nil {
		return fmt.Sprint(dialogue, err), ""
	}
	paths, err := b.sink.Await(ctx, seen, 1)
	if err != nil {
		b.t.Fatal(err)
	}
	return fmt.Sprint(dialogue), housetest.Contents(b.t, paths[0])
}

// R32. From a blank box to signed mail, through a lock that two of three people
// open, to a backup that another box takes, and to a box that is blank again.
func TestLife(t *testing.T) {
	b := blank(t)
	b.claim(b.path("box.toml"))
	if out := b.must("", "box", "status", "--dir", b.owner); !strings.Contains(out, "ready") || !strings.Contains(out, "everything") {
		t.Errorf("status: got %q, want it ready", out)
	}
	b.must("", "box", "do", "--dir", b.owner, "--", "identity", "create", "--domain", "company1.example")
	address := b.inside()
	if said, got := b.send(address, "first"); !strings.Contains(got, "multipart/signed") {
		t.Fatalf("got %q and %q, want a signed mail", said, got)
	}

	// The key daemon starts anew, as after a power cut: nobody but people has the PIN.
	b.keyd.stop()
	b.startKeyd()
	out, _, status := b.postern("", "box", "status", "--dir", b.owner)
	if status != 1 || !strings.Contains(out, "locked") {
		t.Errorf("locked: got %q, status %d, want it locked and 1", out, status)
	}
	if said, got := b.send(address, "locked"); got != "" || !strings.Contains(said, "451") {
		t.Errorf("locked: got %q and %q, want 451", said, got)
	}
	// A share that was made for another box, and one that is mistyped.
	share := housetest.Contents(t, b.path("shares", "share-1.txt"))
	if _, complaint, status := b.postern(strings.Replace(share, share[:1], "Z", 1), "unlock", "--dir", b.owner, "-"); status != 1 || !strings.Contains(complaint, "mistyped") {
		t.Errorf("a mistyped share: got %q, status %d", complaint, status)
	}
	out, complaint, status := b.postern("", "unlock", "--dir", b.owner, b.path("shares", "share-1.txt"))
	if status != 1 || !strings.Contains(out, "1 of 2 are there") {
		t.Errorf("one share: got %q %q, status %d, want one of two", out, complaint, status)
	}
	if said, got := b.send(address, "half"); got != "" || !strings.Contains(said, "451") {
		t.Errorf("one share: got %q and %q, want 451", said, got)
	}
	if out := b.must(housetest.Contents(t, b.path("shares", "share-3.txt")), "unlock", "--dir", b.owner, "-"); !strings.Contains(out, "ready") {
		t.Errorf("two shares: got %q, want it ready", out)
	}
	if said, got := b.send(address, "second"); !strings.Contains(got, "multipart/signed") {
		t.Errorf("unlocked: got %q and %q, want a signed mail", said, got)
	}

	b.remote()
	b.noPIN()
	archive := b.backup()
	b.restoreElsewhere(archive)
	b.reset()
}

// A file that the owner signed claims a box in whose screen nobody looks; he
// gives the token its PIN himself, over the wire.
func TestClaimByFile(t *testing.T) {
	b := blank(t)
	address, fingerprint, code := b.asked()
	b.must("", "box", "offer", "--dir", b.owner, "--config", b.path("box.toml"), "--out", b.path("offer.json"))
	forged := strings.Replace(housetest.Contents(t, b.path("offer.json")), "gw.company1.example", "gw.company2.example", 1)
	b.write("claim.json", forged)
	b.await(b.serve.said, `claim by stick.*(no claim that anybody signed)`)
	if _, complaint, status := b.postern("", "box", "meet", address, "--dir", b.owner, "--fingerprint", strings.Repeat("ab", 32)); status != 1 || !strings.Contains(complaint, "another one") {
		t.Errorf("meet another box: got %q, status %d", complaint, status)
	}
	if err := os.Rename(b.path("offer.json"), b.path("claim.json")); err != nil {
		t.Fatal(err)
	}
	b.await(b.serve.said, `(claimed by a file)`)
	b.startKeyd()
	if out := b.must("", "box", "meet", address, "--dir", b.owner, "--fingerprint", fingerprint); !strings.Contains(out, "unprovisioned") {
		t.Errorf("meet: got %q, want a box without a PIN", out)
	}
	if _, complaint, status := b.postern("", "box", "claim", address, "--dir", b.path("thief"), "--fingerprint", fingerprint, "--code", code, "--config", b.path("box.toml"), "--shares", "2/2"); status != 1 || !strings.Contains(complaint, "the box is claimed") {
		t.Errorf("the code afterwards: got %q, status %d", complaint, status)
	}
	out := b.must("", "box", "pin", "--dir", b.owner, "--shares", "2/2")
	if !strings.Contains(out, "share 2: ") || !strings.Contains(out, "ready") {
		t.Errorf("pin: got %q, want shares, and it ready", out)
	}
	if _, complaint, status := b.postern("", "box", "pin", "--dir", b.owner, "--shares", "2/2"); status != 1 || !strings.Contains(complaint, "has a PIN already") {
		t.Errorf("pin again: got %q, status %d", complaint, status)
	}
}
