package imagetest_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"postern/image/imagetest"
)

// stick is one with the label POSTERN and a claim on it.
func (o *operator) stick(t *testing.T) (path string) {
	t.Helper()
	o.configure(t, "operator")
	o.must(t, "postern box offer ", "", nil)
	path = filepath.Join(filepath.Dir(o.desk), "stick.raw")
	for _, args := range [][]string{
		{"mformat", "-C", "-i", path, "-f", "2880", "-v", "POSTERN", "::"},
		{"mcopy", "-i", path, filepath.Join(o.desk, "claim.json"), "::claim.json"},
	} {
		if out, err := ask("", args[0], args[1:]...); err != nil {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
	}
	return path
}

// claimedByStick meets the box that has found the stick, and gives its token a
// PIN that is shared.
func (o *operator) claimedByStick(t *testing.T, m *imagetest.Machine) {
	t.Helper()
	print := m.Wait(`fingerprint +((?:[0-9a-f]{4} ?){16})`)[1]
	m.Wait(`name +gw\.company1\.example`)
	out := o.must(t, "postern box meet ", "", map[string]string{"192.0.2.25:8443": o.address(), "FINGERPRINT": "'" + strings.TrimSpace(print) + "'"})
	if !strings.Contains(out, "unprovisioned") {
		t.Errorf("got status %q, want a token without a PIN", out)
	}
	o.must(t, "postern box pin ", "", nil)
	o.Recovery = recovery.FindString(o.must(t, "postern box recovery", "", nil))
	if o.Recovery == "" {
		t.Error("got no recovery key")
	}
	o.provision(t)
	o.sealedIn(t, "marker-operator-sealed")
}

// unlocked is a box that was switched on again: whoever sends something that
// needs a key is told to come back, until two people have unlocked it.
func (o *operator) unlocked(t *testing.T, m *imagetest.Machine) {
	t.Helper()
	m.Wait(`0 of 2 are there: postern unlock`)
	mail := o.sealed(t, "marker-waiting-sealed")
	out := ""
	later(t, func() bool { // the clock may not be there yet, which is another 451
		out, _ = o.try(t, o.outside, "alice@partner.example", "bob@company1.example", mail)
		return !strings.Contains(out, "451 4.7.5") && (strings.Contains(out, "<** 4") || !strings.Contains(out, "<-  220"))
	})
	if !strings.Contains(out, "<** 451 4.7.5") {
		t.Fatalf("locked: got\n%s\nwant 451 4.7.5", out)
	}
	// Each in his own place.
	desk := o.desk
	defer func() { o.desk = desk }()
	o.desk = filepath.Join(desk, "shares")
	if out, err := o.page(t, "postern unlock share-1.txt", "", nil); err == nil || !strings.Contains(out, "1 of 2 are there") {
		t.Errorf("one share: got %q, %v, want it locked, with one of two", out, err)
	}
	if out, _ := o.try(t, o.outside, "alice@partner.example", "bob@company1.example", mail); !strings.Contains(out, "<** 451 4.7.5") {
		t.Errorf("one share: got\n%s\nwant 451 4.7.5", out)
	}
	share, err := os.ReadFile(filepath.Join(o.desk, "share-2.txt"))
	if err != nil {
		t.Fatal(err)
	}
	if out := o.must(t, "postern unlock", string(share), nil); !strings.Contains(out, "ready") {
		t.Errorf("two shares: got %q, want the token ready", out)
	}
	o.send(t, o.outside, "alice@partner.example", "bob@company1.example", mail)
	got := o.arrived(t, "marker-waiting-sealed")
	if !strings.Contains(got, "opened=openpgp") {
		t.Errorf("got %.1500s, want it opened", got)
	}
}

// setup is a machine of this operator.
func (o *operator) setup(dir, image string) imagetest.Setup {
	return imagetest.Setup{Dir: dir, Image: image, Forward: o.forward()}
}

// step names of the page's commands, by what TestBox has run.
func (l *life) ran() map[string]bool {
	steps := map[string]bool{}
	for _, s := range l.steps {
		steps[s.name] = true
	}
	return steps
}

// pageIsRun holds that each line of the page was run, where its step was.
func (l *life) pageIsRun(operators ...*operator) {
	l.Helper()
	all := &operator{ran: map[string]bool{}}
	for _, o := range operators {
		for begin := range o.ran {
			all.ran[begin] = true
		}
	}
	if left := all.undriven(l.ran()); len(left) > 0 {
		l.Errorf("lines of operations.md that were not run: %s", strings.Join(left, ", "))
	}
}
