package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"postern/filter/message"
	"postern/filter/record"
)

var bob, carol = message.Address{Local: "bob", Domain: "partner.example"}, message.Address{Local: "carol", Domain: "partner.example"}

// TestForgetAsRoot: root takes a memory out of the record that filterd, another
// user, has open. All files stay filterd's, and it goes on writing; and where
// its folder leads to a file of root's, that stays as it is.
func TestForgetAsRoot(t *testing.T) {
	if dir := os.Getenv("FORGET_IN"); dir != "" {
		if err := played(dir, os.Getenv("FORGET_AS")); err != nil {
			fmt.Println("error:", err)
		}
		os.Exit(0)
	}
	if os.Getuid() != 0 {
		t.Fatal("this test runs as root")
	}
	const filterd = 64321
	dir, err := os.MkdirTemp("", "forget")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	program, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(dir, "record")
	err = errors.Join(os.Chmod(dir, 0o755), os.WriteFile(filepath.Join(dir, "program"), program, 0o755), os.Mkdir(folder, 0o700), os.Chown(folder, filterd, filterd),
		os.WriteFile(filepath.Join(dir, "filterd.toml"), []byte(`authserv-id = "gw.company1.example"
state = "`+dir+`"
[domain."company1.example"]
[[listener]]
name = "outside"
address = ":25"
direction = "inbound"
[next-hop.inbound]
address = "mail.company1.example:25"
`), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	start := func(role string, uid uint32) (*exec.Cmd, io.WriteCloser, *bufio.Reader) {
		t.Helper()
		cmd := exec.Command(filepath.Join(dir, "program"), "-test.run=^TestForgetAsRoot$")
		cmd.Dir, cmd.Env = "/", []string{"FORGET_IN=" + dir, "FORGET_AS=" + role, "TMPDIR=/tmp", "PATH=" + os.Getenv("PATH")}
		if uid != 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		}
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		return cmd, in, bufio.NewReader(out)
	}
	said := func(r *bufio.Reader) string {
		line, err := r.ReadString('\n')
		if err != nil {
			return "nothing: " + err.Error()
		}
		return strings.TrimSpace(line)
	}
	root := func(role string) string {
		cmd, in, out := start(role, 0)
		in.Close()
		line := said(out)
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v", role, err)
		}
		return line
	}
	owners := func() string {
		var all []string
		list, err := os.ReadDir(folder)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			info, err := e.Info()
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, fmt.Sprintf("%s %d", e.Name(), info.Sys().(*syscall.Stat_t).Uid))
		}
		return strings.Join(all, ", ")
	}
	const theirs = "record.db 64321, record.db-shm 64321, record.db-wal 64321"

	if got := root("forget"); got != "not known" || owners() != "" {
		t.Errorf("before filterd has run: got %s, files %s", got, owners())
	}
	daemon, in, out := start("filterd", filterd)
	if got := said(out); got != "bob, carol" {
		t.Fatalf("filterd: got %s", got)
	}
	if got := root("look"); got != "known" || owners() != theirs {
		t.Errorf("look: got %s, files %s", got, owners())
	}
	if got := root("forget"); got != "known" || owners() != theirs {
		t.Errorf("forget: got %s, files %s, want %s", got, owners(), theirs)
	}
	fmt.Fprintln(in, "go on")
	if got := said(out); got != "carol" {
		t.Errorf("filterd, after: got %s, want that it remembers carol alone", got)
	}
	if got := said(out); got != "bob, carol" {
		t.Errorf("filterd, when it has written again: got %s", got)
	}
	in.Close()
	if err := daemon.Wait(); err != nil {
		t.Error(err)
	}
	if got := root("forget"); got != "known" || owners() != theirs {
		t.Errorf("filterd has ended: got %s, files %s, want %s", got, owners(), theirs)
	}

	// A folder that filterd has turned against root.
	secret := filepath.Join(dir, "secret.db")
	r, err := record.Open(secret, record.Options{})
	if err == nil {
		err = errors.Join(r.Protect(t.Context(), bob, time.Now()), r.Close())
	}
	before, readErr := os.ReadFile(secret)
	err = errors.Join(err, readErr, os.Chmod(secret, 0o600), os.Remove(filepath.Join(folder, "record.db")), os.Symlink(secret, filepath.Join(folder, "record.db")))
	if err != nil {
		t.Fatal(err)
	}
	if got := root("forget"); !strings.HasPrefix(got, "error: ") {
		t.Errorf("a link to root's file: got %s, want an error", got)
	}
	if after, err := os.ReadFile(secret); err != nil || string(after) != string(before) {
		t.Errorf("root's file: got %d bytes, %v, want it as it was", len(after), err)
	}
}

// played is one of the processes of the test.
func played(dir, role string) error {
	ctx := context.Background()
	if role != "filterd" {
		_, known, err := forget(ctx, filepath.Join(dir, "filterd.toml"), bob, role == "look")
		if err == nil {
			fmt.Println(map[bool]string{true: "known", false: "not known"}[known])
		}
		return err
	}
	r, err := record.Open(filepath.Join(dir, "record", "record.db"), record.Options{})
	if err != nil {
		return err
	}
	tell := func() error {
		var names []string
		for _, a := range []message.Address{bob, carol} {
			_, known, err := r.Protected(ctx, a)
			if err != nil {
				return err
			}
			if known {
				names = append(names, a.Local)
			}
		}
		_, err := fmt.Println(strings.Join(names, ", "))
		return err
	}
	if err := errors.Join(r.Protect(ctx, bob, time.Now()), r.Protect(ctx, carol, time.Now()), tell()); err != nil {
		return err
	}
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	return errors.Join(tell(), r.Protect(ctx, bob, time.Now()), tell(), r.Close())
}
