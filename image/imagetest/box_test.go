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
	dir   string
	steps []step
}

// step runs one part, and writes its line.
func (l *life) step(name string, do func(t *testing.T)) bool {
	began := time.Now()
	ok := l.Run(name, do)
	result := "passed"
	if !ok {
		result = "FAILED"
	}
	l.steps = append(l.steps, step{name, time.Since(began), result})
	return ok
}

func (l *life) table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-40s %8s  %s\n", "step", "seconds", "result")
	for _, s := range l.steps {
		fmt.Fprintf(&b, "%-40s %8.0f  %s\n", s.name, s.took.Seconds(), s.result)
	}
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

	raw := *image
	if raw == "" {
		l.step("build", func(*testing.T) { raw = l.make("1") })
	}
	l.step("first start under Secure Boot", func(t *testing.T) {
		m := imagetest.Start(t, imagetest.Setup{Dir: l.folder("box"), Image: raw})
		m.Wait(`[Ee]nroll`)
		m.Wait(`Reached target .*multi-user`)
		m.Press()
	})
	l.step("second start", func(t *testing.T) {
		m := imagetest.Start(t, imagetest.Setup{Dir: l.folder("box"), Image: raw})
		m.Wait(`Reached target .*multi-user`)
		m.Press()
	})
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
