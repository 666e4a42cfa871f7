package e2e

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// BenchmarkSMIMEMemory is the most memory that is resident in a process that
// opens 50 MiB: one of `openssl cms`, one of filter/cms, and one of the
// Protector, which gets a mail and gives one, by its spools. Ours is this
// test's own program, begun anew, with the collector as Go has it by default;
// idle is what it has when it has the keys and opens nothing.
func BenchmarkSMIMEMemory(b *testing.B) {
	d := newCMSDesk(b, 50<<20)
	peaks := map[string]float64{"idle": d.alone(b, "idle", "", "")}
	for b.Loop() {
		for _, c := range []string{"cbc", "gcm"} {
			for _, form := range []struct{ ours, file, kind string }{{"cms", c + ".der", "DER"}, {"mail", c + ".eml", "SMIME"}} {
				ours, theirs := form.ours+"-"+c, "openssl-"+form.ours+"-"+c
				peaks[ours] = max(peaks[ours], d.alone(b, form.ours, form.file, ""))
				peaks[theirs] = max(peaks[theirs], d.alone(b, "openssl", form.file, form.kind))
			}
		}
	}
	b.ReportMetric(0, "ns/op")
	for name, mib := range peaks {
		b.ReportMetric(mib, name+"-MiB")
		if theirs, ok := peaks["openssl-"+name]; ok {
			b.ReportMetric(mib/theirs, name+"/openssl")
		}
	}
}

// alone has a process of its own do something, and gives its peak in MiB.
func (d *cmsDesk) alone(b *testing.B, what, file, kind string) float64 {
	b.Helper()
	cmd := exec.CommandContext(b.Context(), os.Args[0], "-test.run", "^TestOpenAlone$", "--", d.dir, what, file, kind)
	cmd.Stderr = os.Stderr
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		b.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	var mib float64
	if what == "openssl" && err == nil {
		mib, err = strconv.ParseFloat(strings.TrimSpace(line), 64)
	} else if err == nil {
		mib = peak(b, cmd.Process.Pid)
	}
	if err := errors.Join(err, in.Close(), cmd.Wait()); err != nil {
		b.Fatalf("%s %s: %v\n%s", what, file, err, line)
	}
	return mib
}

// TestOpenAlone is the process of BenchmarkSMIMEMemory, and nothing when it
// is run as a test. It prints a line when it is done, and ends with its input.
// For OpenSSL it prints what the kernel says that its child had: a process
// begins with the peak of the one that started it, so that it has to be small.
func TestOpenAlone(t *testing.T) {
	if flag.NArg() != 4 {
		return
	}
	file, out := flag.Arg(2), "alone.out"
	var err error
	line := "done"
	switch d := (&cmsDesk{t: t, dir: flag.Arg(0)}); flag.Arg(1) {
	case "openssl":
		cmd := exec.CommandContext(t.Context(), "openssl", "cms", "-decrypt", "-binary", "-inform", flag.Arg(3), "-in", d.path(file), "-out", d.path(out), "-recip", d.path("opens.pem"), "-inkey", d.path("opens.key"))
		if err = cmd.Run(); err == nil {
			line = fmt.Sprint(float64(cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss) / 1024)
		}
	case "cms":
		d = loadCMSDesk(t, d.dir)
		err = fromTo(d.path(file), d.path(out), d.openCMS)
	case "mail":
		d = loadCMSDesk(t, d.dir)
		err = d.through(d.path(file), d.path(out), new(cost), d.opener(true, false))
	case "idle":
		loadCMSDesk(t, d.dir)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(line)
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0) // what a test prints at its end is for people
}
