package e2e

import (
	"context"
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// measure is what a program said and took.
type measure struct {
	Out  []byte // standard output and standard error
	Exit int    // -1: killed, or late
	CPU  time.Duration
	Peak int64 // bytes of memory
}

// measured runs a program to its end. A process begins with the peak memory of
// the one that started it, and this one may be big: so a small one stands
// between them (TestMeasured).
func measured(t testing.TB, program ...string) (m measure) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], append([]string{"-test.run", "^TestMeasured$", "--", "measured"}, program...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, &m)
	}
	if err != nil {
		t.Fatalf("measure %q: %v: %.300s", program, err, out)
	}
	return m
}

// TestMeasured is the process in between, and as a test of its own it measures
// a process that takes 64 MiB.
func TestMeasured(t *testing.T) {
	if flag.NArg() < 2 || flag.Arg(0) != "measured" {
		m := measured(t, "dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1", "status=none")
		if m.Exit != 0 || m.Peak < 64<<20 || m.Peak > 128<<20 || len(m.Out) > 0 {
			t.Errorf("got %+v, want 64 MiB and little more", m)
		}
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, flag.Arg(1), flag.Args()[2:]...)
	out, _ := cmd.CombinedOutput() // how it ended is told below
	m := measure{Out: out, Exit: -1}
	if s := cmd.ProcessState; s != nil {
		m.Exit, m.CPU = s.ExitCode(), s.UserTime()+s.SystemTime()
		m.Peak = s.SysUsage().(*syscall.Rusage).Maxrss << 10
	}
	if json.NewEncoder(os.Stdout).Encode(m) != nil {
		os.Exit(1)
	}
	os.Exit(0) // what a test prints at its end is for people
}
