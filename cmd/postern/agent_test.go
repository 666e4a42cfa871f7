package main

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postern/appliance/config"
	"postern/appliance/postfix"
	"postern/cmd/internal/gateway"
	"postern/filter/resolver"
	"postern/filter/resolver/resolvertest"
	"postern/provisioning"
)

// behind is the agent of a configuration whose Postfix has all its files in a
// folder of the test's own.
func behind(t *testing.T, more string) (postfixAgent, string) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "filterd.toml")
	text := `authserv-id = "gw.company1.example"
state = "` + dir + `"
[domain."company1.example"]
[[listener]]
name = "outside"
address = ":25"
direction = "inbound"
[next-hop.inbound]
address = "mail.company1.example:25"
[postfix]
config = "` + dir + `/etc"
queue = "` + dir + `/queue"
data = "` + dir + `/data"
log = "` + dir + `/log/mail.log"
socket = "` + dir + `/tls-policy"
resolver-config = "` + dir + `/unbound"
` + more
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.LoadFilterd(path)
	if err != nil {
		t.Fatal(err)
	}
	return postfixAgent{c, gateway.Postfix(c)}, dir
}

// The doctor tells a resolver that validates from one that does not, and from
// none.
func TestDoctorAsksTheResolver(t *testing.T) {
	var program, file string
	w := resolvertest.Config{Command: func(name string, args ...string) *exec.Cmd {
		if filepath.Base(name) == "unbound" {
			program, file = name, args[len(args)-1]
		}
		return exec.Command(name, args...)
	}}.Start(t, resolvertest.Zone{Name: "signed.example"})
	said := func(address, trust string) string {
		a, _ := behind(t, "[resolver]\naddress = \""+address+"\"\n"+trust)
		for _, e := range a.Examine(t.Context()) {
			if e.Name == "resolver" {
				if (e.State == "ok") != (e.Hint == "") {
					t.Errorf("got %+v: want a hint where it is not well", e)
				}
				return e.State + ": " + e.Detail
			}
		}
		return "nothing"
	}
	if got := said(w.Address, ""); !strings.HasPrefix(got, "ok: ") {
		t.Errorf("validating: got %s", got)
	}
	if got := said(w.Address, "trust = \"never\"\n"); !strings.HasPrefix(got, "broken: ") || !strings.Contains(got, "not believed") {
		t.Errorf("not believed: got %s", got)
	}
	believes := beside(t, program, file, w.Address)
	if got := said(believes, ""); !strings.HasPrefix(got, "broken: ") || !strings.Contains(got, "does not validate") {
		t.Errorf("not validating: got %s", got)
	}
	w.Stop()
	if got := said(w.Address, ""); !strings.HasPrefix(got, "broken: ") || strings.Contains(got, "validate") {
		t.Errorf("away: got %s", got)
	}
}

// beside runs a second unbound on the files of one, which validates nothing,
// until the test ends.
func beside(t *testing.T, program, file, address string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	other := l.Addr().String()
	l.Close()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	port := func(a string) string { return "@" + a[strings.LastIndexByte(a, ':')+1:] + "\n" }
	conf := strings.NewReplacer("validator iterator", "iterator", port(address), port(other), "unbound.pid", "beside.pid", "unbound.log", "beside.log").Replace(string(text))
	path := filepath.Join(t.TempDir(), "unbound.conf")
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-d", "-p", "-c", path)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(2 * time.Minute); ; <-tick.C {
		if _, err = (&resolver.Client{Address: other, Trust: true}).Validates(t.Context()); err == nil {
			return other
		}
		if time.Now().After(end) {
			t.Fatalf("unbound does not answer: %v", err)
		}
	}
}

// What differs is told line by line, is put right, and then nothing differs;
// what somebody else wrote is named, and stays.
func TestAgentFiles(t *testing.T) {
	a, dir := behind(t, "")
	changes := func() []provisioning.AgentChange {
		t.Helper()
		list, err := a.Changes(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	list := changes()
	var paths []string
	for _, c := range list {
		paths = append(paths, strings.TrimPrefix(c.Path, dir))
		if err := a.Write(c); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := strings.Join(paths, " "), "/etc/main.cf /etc/master.cf /unbound/unbound.conf /log/mail.log"; got != want {
		t.Errorf("a new box: got %s, want %s", got, want)
	}
	if list = changes(); len(list) > 0 {
		t.Errorf("written: got %+v, want nothing", list)
	}
	main := filepath.Join(dir, "etc", "main.cf")
	text, err := os.ReadFile(main)
	if err != nil {
		t.Fatal(err)
	}
	edited := strings.Replace(string(text), "smtp_tls_security_level = secure", "smtp_tls_security_level = may", 1)
	if err := os.WriteFile(main, []byte(edited), 0o644); err != nil {
		t.Fatal(err)
	}
	list = changes()
	if len(list) != 1 || list[0].Diff != "--- main.cf\n-smtp_tls_security_level = may\n+smtp_tls_security_level = secure\n" {
		t.Errorf("edited: got %+v, want the two lines", list)
	}
	if err := os.WriteFile(main, []byte("smtp_tls_security_level = may\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Changes(t.Context()); !errors.Is(err, postfix.ErrForeign) || !strings.Contains(err.Error(), main) || !strings.Contains(err.Error(), "hint:") {
		t.Errorf("of somebody else: got %v, want %v, the path and a hint", err, postfix.ErrForeign)
	}
	if now, err := os.ReadFile(main); err != nil || string(now) != "smtp_tls_security_level = may\n" {
		t.Errorf("of somebody else: got %q, %v, want it as it was", now, err)
	}
}
