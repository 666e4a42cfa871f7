package imagetest_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	release "postern/image"
	"postern/image/imagetest"
)

var (
	build = flag.String("build", "", "folder where image/build puts the images, which it makes; without it nothing is started")
	image = flag.String("image", "", "a raw image that is there already, in place of the first one")
	keep  = flag.String("keep", "", "folder that keeps disks and consoles")
)

// step is one line of the table at the end.
type step struct {
	name   string
	took   time.Duration
	result string
}

// life is what happens to the boxes of this test.
type life struct {
	*testing.T
	dir      string
	steps    []step
	measured []string
}

// step runs one part, and writes its line.
func (l *life) step(name string, do func(t *testing.T)) bool {
	began, ran := time.Now(), false
	ok := l.Run(name, func(t *testing.T) { ran = true; do(t) })
	if !ran {
		return ok // -run has left it out
	}
	result := "passed"
	if !ok {
		result = "FAILED"
	}
	l.steps = append(l.steps, step{name, time.Since(began), result})
	return ok
}

// timed writes a line for a part that belongs to a step.
func (l *life) timed(name string, do func()) {
	began, result := time.Now(), "FAILED"
	defer func() { l.steps = append(l.steps, step{"  " + name, time.Since(began), result}) }()
	do()
	result = "passed"
}

func (l *life) table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-50s %8s  %s\n", "step", "seconds", "result")
	for _, s := range l.steps {
		fmt.Fprintf(&b, "%-50s %8.0f  %s\n", s.name, s.took.Seconds(), s.result)
	}
	b.WriteString(strings.Join(l.measured, "\n"))
	return b.String()
}

// folder is a private one for a machine.
func (l *life) folder(name string) string {
	dir := filepath.Join(l.dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		l.Fatal(err)
	}
	return dir
}

// make builds an image and returns its raw disk.
func (l *life) make(version string, args ...string) string {
	l.Helper()
	cmd := exec.Command("../build", append([]string{"--raw", "--version", version, "--out", *build}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		l.Fatalf("%v: %v\n%s", cmd, err, out)
	}
	return filepath.Join(*build, "postern_"+version+".raw")
}

// built is the time of the commit that an image is of.
func built(t *testing.T, raw string) string {
	t.Helper()
	text, err := os.ReadFile(strings.TrimSuffix(raw, ".raw") + release.ManifestEnd)
	if err != nil {
		t.Fatal(err)
	}
	m, err := release.Decode(text)
	if err != nil {
		t.Fatal(err)
	}
	return m.Time
}

// sums are the hashes of an image's parts.
func sums(t *testing.T, raw string) string {
	t.Helper()
	var b strings.Builder
	for _, end := range []string{".root.raw", ".verity.raw", ".efi", ".raw", ".cdx.json", ".manifest.json"} {
		sum, size, err := release.Sum(strings.TrimSuffix(raw, ".raw") + end)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s %d %s\n", sum, size, end)
	}
	return b.String()
}

// TestBox is the whole life of a box. It takes an hour and more.
func TestBox(t *testing.T) {
	if *build == "" && *image == "" {
		t.Skip("starts virtual machines for an hour: make image-test")
	}
	l := &life{T: t, dir: *keep}
	if l.dir == "" {
		l.dir = t.TempDir()
	}
	defer func() { t.Logf("\n%s", l.table()) }()

	var p *publisher
	if *build != "" {
		p = newPublisher(t, *build, *image == "")
	}
	raw := *image
	if raw == "" {
		l.step("build", func(*testing.T) { raw = l.make("1") })
	}
	if *build != "" {
		// From nothing but the packages, and once more: the same bytes.
		l.step("the same bytes twice", func(t *testing.T) {
			want := sums(t, raw)
			l.make("1", "--cold")
			if got := sums(t, raw); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
	imagetest.Clock(t)
	home := l.folder("box")
	o := newOperator(t, home)
	flashed := raw
	l.step("the file that was downloaded", func(t *testing.T) { flashed = o.download(t, raw) })
	l.step("figures", func(t *testing.T) { l.figures(t, raw) })
	setup := o.setup(home, flashed)
	if !l.step("first start, claim and mail", func(t *testing.T) {
		m := imagetest.Start(t, setup)
		m.Wait(`successfully enrolled`)
		l.timed("claim", func() { o.claim(t, m, "tpm") })
		if want := built(t, raw); !strings.Contains(o.do(t, "", "version"), "of "+want+"\n") {
			t.Errorf("got version %q, want it to believe no clock before %s", o.do(t, "", "version"), want)
		}
		l.timed("provisioning", func() { o.provision(t) })
		l.timed("sealed mail in", func() { o.Trace = o.oneOperation(t, o.sealedIn(t, "marker-first-sealed")) })
		l.timed("plain mail out", func() { o.plainOut(t, "marker-first-plain") })
		l.timed("doctor, configuration and backup", func() { o.everyDay(t, o.Trace) })
		m.Press()
		o.write(t)
	}) {
		t.FailNow()
	}
	l.step("nothing of the mails on the disk", func(t *testing.T) {
		l.nothingLeft(t, home, o, "marker-first-sealed", "marker-first-plain")
	})
	// The TPM opens /var and the token: nobody is there.
	l.step("restart, and mail", func(t *testing.T) {
		m, began := imagetest.Start(t, setup), time.Now()
		o.sealedIn(t, "marker-second-sealed")
		l.measured = append(l.measured, fmt.Sprintf("%-50s %8.0f  s", "from power to the first mail, without KVM", time.Since(began).Seconds()))
		m.Wait(`token +ready`)
		l.figure("memory in use at rest", int64(o.usage(t).Memory), 300, "MiB")
		m.Press()
	})
	if p != nil {
		l.updates(p)
		l.update(o, p, setup)
	}
	l.step("reset, claim and restore", func(t *testing.T) {
		m := imagetest.Start(t, setup)
		m.Wait(`token +ready`)
		o.resetAndRestore(t, m)
		m.Press()
	})
	away := l.folder("sealed")
	q := newOperator(t, away)
	l.step("claim by a stick, and sealed start", func(t *testing.T) {
		setup := q.setup(away, flashed)
		setup.Stick = q.stick(t)
		m := imagetest.Start(t, setup)
		l.timed("claim by a stick, and mail", func() { q.claimedByStick(t, m) })
		m.Press()
		setup.Stick = ""
		m = imagetest.Start(t, setup)
		l.timed("451, two shares, and mail", func() { q.unlocked(t, m) })
		m.Press()
	})
	l.pageIsRun(o, q)
	// One changed bit of the root stops the machine, which tries again.
	l.step("tampered root", func(t *testing.T) {
		dir := l.folder("root")
		d := imagetest.Copy(t, raw, filepath.Join(dir, "disk.raw"))
		d.Flip(d.Root() + 1024) // where erofs begins
		m := imagetest.Start(t, imagetest.Setup{Dir: dir, Image: d.Path})
		if m.Either(`dm-verity device corrupted`, `Reached target .*initrd-root-fs`) != 0 {
			t.Error("a changed root was mounted")
		}
		m.Wait(`BdsDxe: starting`)
		m.Off()
	})
	// One changed bit of the kernel's file is not started under Secure Boot.
	l.step("tampered kernel", func(t *testing.T) {
		dir := l.folder("kernel")
		d := imagetest.Copy(t, raw, filepath.Join(dir, "disk.raw"))
		d.FlipKernel()
		m := imagetest.Start(t, imagetest.Setup{Dir: dir, Image: d.Path})
		m.Wait(`successfully enrolled`)
		if m.Either(`(?i)access denied|security violation`, `Linux version|EFI stub`) != 0 {
			t.Error("a changed kernel was started")
		}
		m.Off()
	})
}
