package e2e

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"postern/filter/message"
)

// keeper is a mail server that can be killed: a process of its own
// (TestKeeper), which keeps each mail in a file before it answers, and gives
// the file another name when it sees that its answer was heard.
type keeper struct {
	address, dir string
	cmd          *exec.Cmd
}

// heard is the end of the name of a mail whose sender went on after the 250.
const heard = ".heard"

// openKeeper runs one until the test ends. Few have its address of loopback, so
// that its port stays free while it is dead.
func openKeeper(t testing.TB) *keeper {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.77:0")
	if err != nil {
		t.Fatal(err)
	}
	k := &keeper{address: l.Addr().String(), dir: folder(t)}
	l.Close()
	k.start(t)
	t.Cleanup(k.kill)
	return k
}

// start runs the process, again after kill, and waits until it takes mail.
func (k *keeper) start(t testing.TB) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run", "^TestKeeper$", "--", "keeper", k.address, k.dir)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	k.cmd = cmd
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("start keeper: got %q, %v", line, err)
	}
}

// kill ends it in the middle of whatever it does.
func (k *keeper) kill() {
	k.cmd.Process.Kill()
	k.cmd.Wait()
}

// kept is one mail, and whether its sender surely knows that it was taken.
type kept struct {
	mail  string
	heard bool
}

// mails are those that it has, by Message-ID. What was sealed has lost none.
func (k *keeper) mails(t testing.TB) map[string][]kept {
	t.Helper()
	entries, err := os.ReadDir(k.dir)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]kept{}
	listed := map[string]bool{}
	for _, e := range entries {
		name := strings.TrimSuffix(e.Name(), heard)
		if strings.HasPrefix(name, ".") || listed[name] { // killed while it was written; named anew while the folder was read
			continue
		}
		listed[name] = true
		path := filepath.Join(k.dir, e.Name())
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) { // it has just been heard
			path += heard
			b, err = os.ReadFile(path)
		}
		if err != nil {
			t.Fatal(err)
		}
		mail := string(b)
		id := strings.Trim(field(mail, "Message-ID"), "<>")
		all[id] = append(all[id], kept{mail, strings.HasSuffix(path, heard)})
	}
	return all
}

// TestKeeper is the keeper's process; as a test of its own it takes two mails,
// and hears that one of its answers was heard.
func TestKeeper(t *testing.T) {
	if flag.NArg() == 3 && flag.Arg(0) == "keeper" {
		l, err := net.Listen("tcp", flag.Arg(1))
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println("ready")
		for {
			c, err := l.Accept()
			if err != nil {
				os.Exit(1)
			}
			go serveKeeper(c, flag.Arg(2))
		}
	}
	k := openKeeper(t)
	if a := send(k.address, alice, bob, plainMail("one@keeper.example", "text")); a.code != 250 {
		t.Fatalf("got %s, want 250", a)
	}
	c, err := dial(k.address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, id := range []string{"two@keeper.example", "three@keeper.example"} {
		if a := deliver(c, alice, bob, plainMail(id, ".\r\ntext")); a.code != 250 {
			t.Fatalf("got %s, want 250", a)
		}
	}
	k.kill()
	got := k.mails(t)
	for id, want := range map[string]bool{"two@keeper.example": true, "three@keeper.example": false} {
		if len(got[id]) != 1 || got[id][0].heard != want || !strings.HasSuffix(got[id][0].mail, "\r\n.\r\ntext\r\n") {
			t.Errorf("%s: got %+v, want one mail, heard %v", id, got[id], want)
		}
	}
}

// serveKeeper speaks SMTP without PIPELINING: a client that says its next
// command has heard what came before.
func serveKeeper(c net.Conn, dir string) {
	defer c.Close()
	in := bufio.NewReader(c)
	answer := "220 keeper.example ESMTP"
	last := "" // the mail whose answer may have been heard
	for {
		if _, err := io.WriteString(c, answer+"\r\n"); err != nil {
			return
		}
		line, err := in.ReadBytes('\n')
		if err != nil {
			return
		}
		if last != "" {
			if os.Rename(last, last+heard) != nil {
				return
			}
			last = ""
		}
		answer = "250 2.0.0 ok"
		switch verb := string(bytes.ToUpper(line[:min(4, len(line))])); verb {
		case "EHLO":
			answer = "250-keeper.example\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 SIZE 0"
		case "QUIT":
			io.WriteString(c, "221 2.0.0 bye\r\n")
			return
		case "DATA":
			if _, err := io.WriteString(c, "354 go ahead\r\n"); err != nil {
				return
			}
			if last, err = keepMail(in, dir); err != nil {
				return
			}
		}
	}
}

// keepMail reads one mail up to its dot, and gives the file that it is in.
func keepMail(in *bufio.Reader, dir string) (string, error) {
	var mail bytes.Buffer
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return "", err
		}
		if string(line) == ".\r\n" {
			break
		}
		mail.Write(bytes.TrimPrefix(line, []byte(".")))
		if mail.Len() > 1<<20 {
			return "", message.ErrTooBig
		}
	}
	name := rand.Text()
	part := filepath.Join(dir, "."+name)
	err := os.WriteFile(part, mail.Bytes(), 0o600)
	if err == nil {
		err = os.Rename(part, filepath.Join(dir, name))
	}
	return filepath.Join(dir, name), err
}
