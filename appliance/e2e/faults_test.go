package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"postern/appliance/trial"
	"postern/hsm/hsmtest"
)

// recovery is how long the house may take to work again by itself.
const recovery = 20 * time.Second

// pair sends one mail each way and says how they fared, and what arrived.
type pair struct{ in, out answer }

// exchange sends a sealed mail in and a plain one out, at the same time. It
// fails where one is refused for good, where a session gets stuck, or where a
// mail that was taken went through unprotected.
func exchange(t *testing.T, b *trial.Box, c *correspondent, name string) pair {
	t.Helper()
	const secret = "Not for the wire."
	idIn, idOut := "in."+name+"@faults.example", "out."+name+"@faults.example"
	sealed := c.sealedMail(idIn, "Content-Type: text/plain\r\n\r\n"+secret+"\r\n")
	in := make(chan answer, 1)
	go func() { in <- send(b.Outside, bob, alice, sealed) }()
	p := pair{out: send(b.Inside, alice, bob, plainMail(idOut, secret))}
	p.in = <-in
	mails := arrived(t, b)
	for id, a := range map[string]answer{idIn: p.in, idOut: p.out} {
		if a.code != 250 && a.code != 451 {
			t.Errorf("%s: got %s, want 250 or 451", id, a)
		}
		if n := len(mails[id]); (a.code == 250) != (n == 1) {
			t.Errorf("%s: got %s and %d mails in the sink", id, a, n)
		}
	}
	for _, mail := range mails[idIn] {
		if status := field(mail, "Postern-Status"); parameter(status, "opened") != "openpgp" || parameter(status, "verified") != "yes" {
			t.Errorf("%s: got %q, want an opened and verified mail or 451", idIn, status)
		}
	}
	for _, mail := range mails[idOut] {
		if strings.Contains(mail, secret) || !strings.HasPrefix(field(mail, "Content-Type"), "multipart/encrypted") {
			t.Errorf("%s left in clear:\n%s", idOut, mail)
		}
	}
	return p
}

// recovers exchanges until both mails pass.
func recovers(t *testing.T, b *trial.Box, c *correspondent, name string) {
	t.Helper()
	n := 0
	eventually(t, recovery, func() (bool, string) {
		n++
		p := exchange(t, b, c, fmt.Sprintf("%s.after.%d", name, n))
		return p.in.code == 250 && p.out.code == 250, fmt.Sprintf("in: %s, out: %s", p.in, p.out)
	})
}

// away is what a sender hears while the token does not answer.
func away(t *testing.T, b *trial.Box, c *correspondent, name string) {
	t.Helper()
	p := exchange(t, b, c, name)
	for way, a := range map[string]answer{"in": p.in, "out": p.out} {
		if a.code != 451 || !strings.HasPrefix(a.text, "4.7.5 ") {
			t.Errorf("%s: %s: got %s, want 451 4.7.5", name, way, a)
		}
	}
}

// Whatever a module answers in the middle of an operation, a mail is deferred
// or passes; none is refused, none leaves in clear, no session hangs, and the
// house works again by itself once the module does.
func TestFaults(t *testing.T) {
	shim := hsmtest.NewShim(t, hsmtest.EmptySoftHSM(t))
	b := open(t, trial.Config{Module: shim.Module, Env: shim.Env()})
	c := correspond(t, b)
	recovers(t, b, c, "before")
	for _, f := range []struct {
		name  string
		rules []string
	}{
		{"device-removed", both("0x32")},
		{"device-removed-everywhere", []string{"* 0x32"}},
		{"session-handle-invalid", both("0xB3")},
		{"session-handle-invalid-everywhere", []string{"* 0xB3"}},
		{"user-not-logged-in", both("0x101")},
		{"operation-active", []string{"C_SignInit 0x90", "C_DecryptInit 0x90"}},
		{"general-error", both("0x05")},
		{"general-error-everywhere", []string{"* 0x05"}},
		{"late", both("delay 2000")},
	} {
		t.Run(f.name, func(t *testing.T) {
			shim.Set(f.rules...)
			for i := range 2 {
				p := exchange(t, b, c, fmt.Sprintf("%s.during.%d", f.name, i))
				t.Logf("in: %s, out: %s", p.in, p.out)
				if f.name == "late" && (p.in.code != 250 || p.out.code != 250) {
					t.Errorf("got %s and %s, want 250: two seconds are no fault", p.in, p.out)
				}
			}
			shim.Set()
			recovers(t, b, c, f.name)
			// Once only: what was dead must not stay in some pool.
			once := make([]string, len(f.rules))
			for i, r := range f.rules {
				once[i] = r + " 1"
			}
			shim.Set(once...)
			p := exchange(t, b, c, f.name+".once")
			t.Logf("once: in: %s, out: %s", p.in, p.out)
			recovers(t, b, c, f.name+".once")
		})
	}
}

// both is a fault of signing and of unwrapping.
func both(fault string) []string { return []string{"C_Sign " + fault, "C_Decrypt " + fault} }

// Without its token, and without its key daemon, the house defers everything
// that needs a key, and works again by itself when they are back.
func TestAway(t *testing.T) {
	b := open(t, trial.Config{})
	c := correspond(t, b)
	recovers(t, b, c, "before")
	// The judge of a release opens a mail with the key in the token, and hears
	// every listener; it sees what is missing.
	if out, err := b.Postern(t.Context(), nil, "doctor", "--box"); err != nil || !strings.Contains(string(out), "opened: [openpgp") || !strings.Contains(string(out), "listener outside") {
		t.Errorf("doctor --box: got %v, want a mail opened and filterd heard:\n%s", err, out)
	}

	b.Keyd.Kill()
	if out, err := b.Postern(t.Context(), nil, "doctor", "--box"); err == nil || !strings.Contains(string(out), "broken") {
		t.Errorf("doctor --box without keyd: got %v, want it broken:\n%s", err, out)
	}
	away(t, b, c, "no-keyd")
	if out, err := b.Postern(t.Context(), nil, "doctor"); err == nil || !strings.Contains(string(out)+err.Error(), "hint:") {
		t.Errorf("doctor without keyd: got %v, want a hint:\n%s", err, out)
	}
	move(t, b.Path("tokens"), b.Path("pulled"))
	if err := os.Mkdir(b.Path("tokens"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := b.StartKeyd(t.Context()); err != nil {
		t.Fatal(err)
	}
	away(t, b, c, "no-token")
	if out, err := b.Postern(t.Context(), nil, "doctor"); err == nil || !strings.Contains(string(out)+err.Error(), "hint:") {
		t.Errorf("doctor without token: got %v, want a hint:\n%s", err, out)
	}
	if err := os.Remove(b.Path("tokens")); err != nil {
		t.Fatal(err)
	}
	move(t, b.Path("pulled"), b.Path("tokens"))
	recovers(t, b, c, "token-back")
}

func move(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// What is wrong with a configuration or a file is said by the real programs in
// one line, with one more for what to do about it.
func TestComplaints(t *testing.T) {
	b := open(t, trial.Config{})
	keyd, filterd := contents(t, b.Path("keyd.toml")), contents(t, b.Path("filterd.toml"))
	write := func(name, text string) string {
		if err := os.WriteFile(b.Path(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return b.Path(name)
	}
	away := func(text string) string { // sockets and state of its own
		return strings.NewReplacer("use.sock", "use2.sock", "keep.sock", "keep2.sock", b.Path("keyd")+`"`, b.Path("keyd2")+`"`).Replace(text)
	}
	if err := os.Mkdir(b.Path("keyd2"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		run  []string
		exit int
		want string
	}{
		{"wrong PIN", []string{"keyd", "--config", write("pin.toml", strings.Replace(away(keyd), b.Path("pin")+`"`, write("wrong", "0000-wrong\n")+`"`, 1))}, 78, "PIN"},
		{"no PKCS#11 module", []string{"keyd", "--config", write("module.toml", strings.Replace(away(keyd), b.Module, write("text.so", "no library\n"), 1))}, 1, "text.so"},
		{"keyd's socket in use", []string{"keyd", "--config", b.Path("keyd.toml")}, 1, "use.sock"},
		{"filterd's address in use", []string{"filterd", "--config", b.Path("filterd.toml")}, 1, "address already in use"},
		{"unknown field of keyd", []string{"keyd", "--config", write("field.toml", "colour = \"red\"\n"+keyd)}, 1, "field.toml:1"},
		{"unknown field of filterd", []string{"filterd", "--config", write("field2.toml", "colour = \"red\"\n"+filterd)}, 1, "field2.toml:1"},
		{"no certificate", []string{"postern", "cert", "import", write("note.asc", "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nbm90aGluZw==\n-----END PGP PUBLIC KEY BLOCK-----\n"), "--config", b.Path("filterd.toml")}, 1, "note.asc"},
		{"no certificate file", []string{"postern", "cert", "import", b.Path("nothing.asc"), "--config", b.Path("filterd.toml")}, 1, "nothing.asc"},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			out, exit := ends(t, b, c.run...)
			if exit != c.exit {
				t.Errorf("got exit status %d, want %d", exit, c.exit)
			}
			var complaint, hint int
			for line := range strings.Lines(out) {
				if strings.HasPrefix(line, c.run[0]+": ") && strings.Contains(line, c.want) {
					complaint++
				}
				if strings.HasPrefix(line, "hint: ") {
					hint++
				}
			}
			if complaint != 1 || hint != 1 {
				t.Errorf("got %d complaints that name %q and %d hints, want one of each", complaint, c.want, hint)
			}
			t.Log(out)
		})
	}
}

// ends runs a program that must end by itself, and gives what it said.
func ends(t *testing.T, b *trial.Box, args ...string) (said string, exit int) {
	t.Helper()
	cmd := exec.Command(b.Bin+"/"+args[0], args[1:]...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
			t.Fatal(err)
		}
	case <-time.After(patience):
		cmd.Process.Kill()
		<-done
		t.Fatalf("%v still runs:\n%s", args, &out)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// What is wrong with a mail, or with the way on, has its row of the reply table.
func TestRefusals(t *testing.T) {
	b := open(t, trial.Config{FilterdTables: "[limits]\nmessage-size = \"64KiB\"\n"})
	c := correspond(t, b)
	recovers(t, b, c, "before")
	for _, r := range []struct {
		name string
		raw  string // the mail as it goes over the wire
		want string
	}{
		{"over the limit", string(plainMail("big@faults.example", filler("big", 100<<10))), "552 5.3.4 "},
		{"bare LF", "From: <" + alice + ">\r\nTo: <" + bob + ">\r\nSubject: a\nb\r\n\r\nbare\r\n", "554 5.6.0 "},
		{"bare CR", "From: <" + alice + ">\r\nTo: <" + bob + ">\r\n\r\nba\rre\r\n", "554 5.6.0 "},
	} {
		if got := verbatim(t, b.Inside, alice, bob, r.raw); !strings.HasPrefix(got, r.want) {
			t.Errorf("%s: got %q, want %q", r.name, got, r.want)
		}
	}
	if err := b.Kept.Close(); err != nil {
		t.Fatal(err)
	}
	b.Kept = nil
	for _, m := range []struct {
		server, from, to string
		mail             []byte
	}{
		{b.Inside, alice, bob, plainMail("hop@faults.example", "hop")},
		{b.Outside, bob, alice, c.sealedMail("hop2@faults.example", "Content-Type: text/plain\r\n\r\nhop\r\n")},
	} {
		if a := send(m.server, m.from, m.to, m.mail); a.code != 451 || !strings.HasPrefix(a.text, "4.4.1 ") {
			t.Errorf("no next hop: got %s, want 451 4.4.1", a)
		}
	}
}

// verbatim sends a mail without minding its line ends, and gives the last answer.
func verbatim(t *testing.T, server, from, to, mail string) string {
	t.Helper()
	c, err := dial(server)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := errors.Join(c.Mail(from), c.Rcpt(to)); err != nil {
		return err.Error()
	}
	id, err := c.Text.Cmd("DATA")
	if err != nil {
		t.Fatal(err)
	}
	c.Text.StartResponse(id)
	_, _, err = c.Text.ReadResponse(354)
	c.Text.EndResponse(id)
	if err != nil {
		return err.Error()
	}
	_, err = c.Text.W.WriteString(mail + "\r\n.\r\n")
	if err := errors.Join(err, c.Text.W.Flush()); err != nil {
		t.Logf("the server stopped reading: %v", err)
	}
	code, text, err := c.Text.ReadResponse(0)
	if err != nil && code == 0 {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d %s", code, text)
}
