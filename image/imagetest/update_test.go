package imagetest_test

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	release "postern/image"
	"postern/image/imagetest"
)

// Releases of this test: 1 is flashed, 2 follows it, 3 has a mail daemon that
// does not start, 4 hangs on its way up.
const (
	next  = "2"
	sick  = "3"
	stuck = "4"
)

// faults are what is laid over the root of a release to spoil it.
var faults = map[string]map[string]string{
	sick: {"usr/lib/postern/filterd": "#!/bin/sh\nexit 1\n"},
	// Nothing but the kernel gets a processor any more: systemd does not, so that
	// nobody tells the watchdog that all is well.
	stuck: {
		"usr/lib/sysctl.d/99-hang.conf":                                "kernel.sched_rt_runtime_us = -1\n",
		"usr/lib/systemd/system/hang@.service":                         "[Unit]\nAfter=systemd-sysctl.service\n[Service]\nCPUSchedulingPolicy=fifo\nCPUSchedulingPriority=99\nExecStart=/bin/sh -c 'while :; do :; done'\n",
		"usr/lib/systemd/system/multi-user.target.wants/hang@.service": "",
	},
}

// updates are the images that follow the first one, built and published.
func (l *life) updates(p *publisher) {
	l.step("build of what follows", func(t *testing.T) {
		p.publish(t, "1")
		for _, v := range []string{next, sick, stuck} {
			if _, err := os.Stat(filepath.Join(p.dir, "postern_"+v+".raw")); err == nil && *image != "" {
				p.publish(t, v)
				continue
			}
			var args []string
			if files := faults[v]; files != nil {
				args = []string{"--extra", spoil(t, files)}
			}
			l.timed("release "+v, func() { l.make(v, args...) })
			p.publish(t, v)
		}
	})
}

// spoil writes what is laid over a root.
func spoil(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if text == "" { // both processors
			for _, i := range []string{"1", "2"} {
				if err := os.Symlink("../hang@.service", strings.Replace(path, "@", "@"+i, 1)); err != nil {
					t.Fatal(err)
				}
			}
			continue
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// update is what a box is brought to, and what it is not. It was claimed and has
// carried mail. Each step begins with what the one before has left, also when that
// was yesterday, in a folder that was kept.
func (l *life) update(o *operator, p *publisher, setup imagetest.Setup) {
	whole := l.T
	defer func() { l.T = whole }()
	whole.Run("update", func(t *testing.T) {
		l.T = t // the machine is on as long as this lasts
		l.updateSteps(o, p, setup)
	})
}

func (l *life) updateSteps(o *operator, p *publisher, setup imagetest.Setup) {
	var m *imagetest.Machine
	start := func() {
		m = imagetest.Start(l.T, setup)
		m.Wait(`token +ready`)
	}
	step := func(name string, do func(t *testing.T)) {
		l.step("update: "+name, func(t *testing.T) {
			if m == nil {
				start()
				o.follow(t, p)
			}
			do(t)
		})
	}
	step("changed manifest, changed root", func(t *testing.T) {
		p.instead(bent(t, release.ManifestEnd))
		o.refused(t, release.ErrManifest.Error(), p.url(next))
		l.changed(t, o, p, ".root.raw", release.ErrRoot.Error())
	})
	step("power cut while it comes", func(t *testing.T) {
		reached := make(chan struct{})
		p.instead(torn(".root.raw", 64<<20, func(r *http.Request) { close(reached); <-r.Context().Done() }))
		o.begin(t, p.url(next))
		l.wait(t, reached)
		m.Off()
		p.instead(nil)
		start()
		if s := o.until(t, slots.up); s.Running != "1" || !s.Healthy || !strings.Contains(s.Outcome, "was not brought here whole") {
			t.Errorf("got %+v, want 1 running and 2 not brought here", s)
		}
		// It goes on where it stopped, and ends with the next file.
		l.changed(t, o, p, ".efi", release.ErrKernel.Error())
	})
	step("from 1 to 2", func(t *testing.T) {
		// The source is asked for its latest; the connection ends once, and the
		// download goes on.
		if err := os.WriteFile(filepath.Join(p.dir, "latest"), []byte(next+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		p.instead(torn(".efi", 20<<20, func(*http.Request) {}))
		l.timed("staged and written", func() {
			o.begin(t, "")
			m.Wait(`install release 2; the next start tries it`)
			m.Wait(`BdsDxe: starting`)
		})
		if got := p.ranges(".efi"); len(got) != 2 || got[0] != "" || !strings.HasPrefix(got[1], "bytes=") {
			t.Errorf("got ranges %q, want the whole and the rest", got)
		}
		p.instead(nil)
		l.timed("found healthy and kept", func() {
			m.Wait(`opened: \[openpgp\]`)
			s := o.until(t, func(s slots) bool { return s.Healthy && s.Floor == next })
			if s.Running != next || s.Next != next || s.Outcome != "was found healthy, and stays" {
				t.Errorf("got %+v, want 2 kept", s)
			}
		})
		l.timed("sealed mail", func() { o.sealedIn(t, "marker-update-2") })
	})
	step("1 is refused", func(t *testing.T) {
		o.refused(t, release.ErrDowngrade.Error(), p.url("1"))
	})
	step("power cut while the slot is written", func(t *testing.T) {
		o.begin(t, p.url(sick))
		o.until(t, func(s slots) bool { return strings.Contains(s.Outcome, "is being written") })
		m.Off()
		start()
		if s := o.until(t, slots.up); s.Running != next || !s.Healthy || len(s.Entries) != 1 || !strings.Contains(s.Outcome, "was not written whole") {
			t.Errorf("got %+v, want 2 running and 3 not written", s)
		}
		o.sealedIn(t, "marker-update-cut")
	})
	step("3 falls back by itself", func(t *testing.T) {
		l.timed("staged and written", func() {
			o.begin(t, p.url(sick))
			m.Wait(`BdsDxe: starting`)
		})
		l.timed("judged", func() { m.Wait(`postern-health\.service`); m.Wait(`BdsDxe: starting`) })
		l.timed("2 again", func() { o.fellBack(t, sick) })
		o.sealedIn(t, "marker-update-3")
	})
	// What is in the slot is whole, and damaged before it starts: the initrd finds
	// no root.
	step("a start that ends in the initrd", func(t *testing.T) {
		o.begin(t, p.url(sick))
		m.Wait(`BdsDxe: loading`)
		m.Off()
		imagetest.Spoil(t, setup, "postern_"+sick)
		m = imagetest.Start(l.T, setup)
		m.Wait(`postern: the start has failed`)
		m.Wait(`token +ready`)
		o.fellBack(t, sick)
	})
	step("a kernel that hangs", func(t *testing.T) {
		o.begin(t, p.url(stuck))
		m.Wait(`BdsDxe: starting`)
		l.timed("watchdog", func() { m.Wait(`BdsDxe: starting`) })
		o.fellBack(t, stuck)
		o.sealedIn(t, "marker-update-4")
	})
	if m != nil {
		m.Press()
	}
}

// changed has a release with one changed bit installed, which is refused.
func (l *life) changed(t *testing.T, o *operator, p *publisher, end, line string) {
	t.Helper()
	l.timed("changed "+end, func() {
		p.instead(bent(t, end))
		defer p.instead(nil)
		o.begin(t, p.url(next))
		s := o.until(t, func(s slots) bool { return strings.Contains(s.Outcome, line) })
		if !strings.Contains(s.Outcome, "was not installed, and what runs is as it was") || s.Running != "1" || s.Next != "1" || len(s.Entries) != 1 {
			t.Errorf("got %+v, want nothing changed", s)
		}
		t.Logf("refused: %s", s.Outcome)
	})
}

// wait waits for something with the patience of a machine.
func (l *life) wait(t *testing.T, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(imagetest.Patience):
		t.Fatal("nothing came")
	}
}

// slots is what update status says.
type slots struct {
	Running, Next, Floor, Update, Outcome string
	Healthy                               bool
	Entries                               []struct{ Version, State string }
}

// up is every status: somebody answers.
func (slots) up() bool { return true }

// attempt runs a command on the box, which may be away.
func (o *operator) attempt(args ...string) (string, error) {
	return ask("", "../../bin/postern", append([]string{"box", "do", "--dir", o.dir, "--"}, args...)...)
}

// until asks for the status until it is as wanted; while the box starts nobody
// answers.
func (o *operator) until(t *testing.T, want func(s slots) bool) (s slots) {
	t.Helper()
	said := ""
	ok := false
	later(t, func() bool {
		out, err := o.attempt("update", "status", "--json")
		said = out
		s = slots{}
		ok = err == nil && json.Unmarshal([]byte(out), &s) == nil && want(s)
		return !ok
	})
	if !ok {
		t.Fatalf("the box said last: %s", said)
	}
	return s
}

// begin has the box install a release.
func (o *operator) begin(t *testing.T, from string) {
	t.Helper()
	args := []string{"update", "start"}
	if from != "" {
		args = append(args, from)
	}
	o.do(t, "", args...)
}

// refused wants a release to be refused at once, with a line.
func (o *operator) refused(t *testing.T, line, from string) {
	t.Helper()
	out, err := o.attempt("update", "start", from)
	if err == nil || !strings.Contains(out, line) {
		t.Errorf("update start: got %v, %s, want %q", err, out, line)
	}
	t.Logf("refused: %s", out)
}

// fellBack wants 2 to run again, and the box to say why.
func (o *operator) fellBack(t *testing.T, from string) {
	t.Helper()
	s := o.until(t, func(s slots) bool { return s.Running == next && s.Healthy })
	if s.Next != next || s.Floor != next || s.Update != from || s.Outcome != "was not found healthy, and the release before it runs again" {
		t.Errorf("got %+v, want %s to have fallen back", s, from)
	}
}

var updateTable = regexp.MustCompile(`(?s)\n\[update\].*?(\n\[|$)`)

// follow tells the box where releases are, and whose certificate the server has.
func (o *operator) follow(t *testing.T, p *publisher) {
	t.Helper()
	text := updateTable.ReplaceAllString(o.box(t, "", "config", "--dir", o.dir), "$1")
	text += "\n[update]\nsource = \"" + p.url("") + "\"\nauthority = \"\"\"\n" + p.authority + "\"\"\"\n"
	file := filepath.Join(t.TempDir(), "box.toml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	o.box(t, "", "configure", "--dir", o.dir, "--config", file)
}

// kept are the ports of a box that was kept, so that its steps can be run again
// one by one: what it was told of its next hop stays true.
func kept(t *testing.T, dir string, count int) []int {
	t.Helper()
	path := filepath.Join(dir, "ports.json")
	var ports []int
	text, err := os.ReadFile(path)
	if err == nil && json.Unmarshal(text, &ports) == nil && len(ports) == count {
		return ports
	}
	for range count {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() // so that each is another one
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	if text, err = json.Marshal(ports); err == nil {
		err = os.WriteFile(path, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return ports
}
