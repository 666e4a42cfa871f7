// Package postfixtest runs the Postfix that appliance/postfix renders, in a
// folder of a test's own.
package postfixtest

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"postern/appliance/postfix"
	"postern/filter/transport/hoptest"
)

// patience is how long a Postfix may take for anything.
const patience = 2 * time.Minute

// Postfix is one that runs.
type Postfix struct {
	postfix.Config
	hoptest.Place
	t testing.TB
}

// Config is a configuration with every field that a test need not say: a new
// folder, free ports, one domain, an inside that nobody listens at.
func Config(t testing.TB) postfix.Config {
	t.Helper()
	dir, err := os.MkdirTemp("", "pf")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return postfix.Config{
		Dir: dir + "/etc", Queue: dir + "/queue", Data: dir + "/data", Log: dir + "/log",
		Listen: Free(t), Strict: Free(t), Name: "gw.company1.example", Domains: []string{"company1.example"},
		Inside: postfix.Inside{Address: Free(t), TLS: "off"}, Root: "admin@company1.example",
		Socket: dir + "/tls-policy", CAFile: "/etc/ssl/certs/ca-certificates.crt",
		MaxSize: 101 << 20, Recipients: 100, Warn: 4 * time.Hour, Lifetime: 5 * 24 * time.Hour, Retry: 5 * time.Minute, RetryMax: time.Hour,
	}
}

// Free is an address on loopback where nobody listens.
func Free(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Render writes the files of c.
func Render(t testing.TB, c postfix.Config) {
	t.Helper()
	have, err := postfix.Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	files, err := postfix.Render(c, have)
	if err != nil {
		t.Fatal(err)
	}
	list, err := postfix.Compare(c.Dir, files)
	if err == nil {
		err = postfix.Write(c.Dir, list)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Start renders c and runs it until the test ends. It wants root, and folders
// below one that everybody may enter.
func Start(t testing.TB, c postfix.Config) *Postfix {
	t.Helper()
	Render(t, c)
	return Take(t, hoptest.Here, c)
}

// Take runs what is rendered already: of c count its folders, Log and Listen.
func Take(t testing.TB, at hoptest.Place, c postfix.Config) *Postfix {
	t.Helper()
	p := &Postfix{c, at, t}
	for _, dir := range []string{filepath.Dir(c.Dir), c.Queue, c.Data} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.MakeLog(); err != nil {
		t.Fatal(err)
	}
	p.run(t.Context(), "chown", "postfix", c.Data)
	t.Cleanup(func() {
		p.Stop()
		if t.Failed() {
			log, _ := os.ReadFile(c.Log)
			t.Logf("log of Postfix:\n%s", log[max(0, len(log)-20000):])
		}
	})
	p.Run()
	return p
}

// Run starts it, again after Stop or Kill, and waits until it takes mail.
func (p *Postfix) Run() {
	p.t.Helper()
	p.run(p.t.Context(), "postfix", "-c", p.Dir, "start")
	p.poll("Postfix does not listen", func() error {
		c, err := p.Dial("tcp", p.Listen)
		if err == nil {
			c.Close()
		}
		return err
	})
}

// Stop ends it and all its processes at once, as a crash would. Its queue
// stays.
func (p *Postfix) Stop() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	p.Command(ctx, "postfix", "-c", p.Dir, "abort").Run() // not running is fine
}

// Kill ends all its processes in the middle of whatever they do.
func (p *Postfix) Kill() {
	p.t.Helper()
	text, err := os.ReadFile(filepath.Join(p.Queue, "pid", "master.pid"))
	if err != nil {
		p.t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err == nil {
		err = syscall.Kill(-pid, syscall.SIGKILL) // they are one group
	}
	if err != nil {
		p.t.Fatalf("kill Postfix %q: %v", text, err)
	}
	p.poll("Postfix is still there", func() error {
		if p.Command(p.t.Context(), "postfix", "-c", p.Dir, "status").Run() == nil {
			return errors.New("it runs")
		}
		return nil
	})
}

// poll waits until there is no error any more.
func (p *Postfix) poll(what string, f func() error) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			p.t.Fatalf("%s: %v", what, err)
		}
	}
}

// Flush lets it try all that waits, now.
func (p *Postfix) Flush() { p.t.Helper(); p.run(p.t.Context(), "postqueue", "-c", p.Dir, "-f") }

// run runs a program that must succeed.
func (p *Postfix) run(ctx context.Context, name string, args ...string) string {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	out, err := p.Command(ctx, name, args...).CombinedOutput()
	if err != nil {
		log, _ := os.ReadFile(p.Config.Log)
		p.t.Fatalf("%s %v: %v\n%s%s", name, args, err, out, log)
	}
	return string(out)
}

// Lines are those of the log that have all the words.
func (p *Postfix) Lines(words ...string) (list []string) {
	log, err := os.ReadFile(p.Config.Log)
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(log)) {
		all := true
		for _, w := range words {
			all = all && strings.Contains(line, w)
		}
		if all {
			list = append(list, strings.TrimRight(line, "\n"))
		}
	}
	return list
}

// Await waits for a line of the log that has all the words.
func (p *Postfix) Await(words ...string) string {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if l := p.Lines(words...); len(l) > 0 {
			return l[0]
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			p.t.Fatalf("wait for %q in the log of Postfix: %v", words, ctx.Err())
		}
	}
}
