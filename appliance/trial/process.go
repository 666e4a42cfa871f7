package trial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// startTimeout is how long a daemon may take until it says that it is ready.
const startTimeout = 30 * time.Second

// TimerSlack is how late a timer of a daemon may be. The kernel's usual 50 µs
// let Go's runtime wake up thousands of times a second.
const TimerSlack = 500 * time.Microsecond

// Process is one daemon of the box, started the way systemd starts it: with
// its listeners handed over by name, and a socket to say READY on.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it ended
	err  error         // of Wait, after done
}

// handed is a listener for a child.
type handed struct {
	name string
	file *os.File
}

// start runs the program and waits until it is ready. The error of a program
// that ended before has what it wrote last.
func start(ctx context.Context, run string, log *os.File, listeners []handed, env []string, program string, args ...string) (*Process, error) {
	name := filepath.Base(program)
	notify := filepath.Join(run, name+".notify")
	if err := os.Remove(notify); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer ready.Close()

	// LISTEN_PID must be the number of the child, which only the child knows.
	cmd := exec.Command("/bin/sh", append([]string{"-c", `LISTEN_PID=$$ exec "$@"`, "sh", program}, args...)...)
	cmd.Env = append(append(os.Environ(), env...), "NOTIFY_SOCKET="+notify)
	var names []string
	for _, l := range listeners {
		cmd.ExtraFiles = append(cmd.ExtraFiles, l.file)
		names = append(names, l.name)
	}
	if len(names) > 0 {
		cmd.Env = append(cmd.Env, "LISTEN_FDS="+strconv.Itoa(len(names)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	}
	before, err := log.Stat()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	last := tail{log, before.Size()}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := slackened(cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &Process{cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	said := make(chan error, 1)
	go func() { said <- awaitReady(ready) }()
	timer := time.NewTimer(startTimeout)
	defer timer.Stop()
	select {
	case err = <-said:
	case <-p.done:
		err = fmt.Errorf("ended: %v: %s", p.err, last)
	case <-timer.C:
		err = fmt.Errorf("not ready after %v: %s", startTimeout, last)
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		p.Kill()
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return p, nil
}

// slackened runs begin, which starts a process, with the TimerSlackNSec= that
// the units have: a process inherits it from the thread that makes it.
func slackened(begin func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(TimerSlack), 0, 0, 0); err != nil {
		return fmt.Errorf("set timer slack: %w", err)
	}
	return errors.Join(begin(), unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0)) // 0: as it was
}

// awaitReady reads the notify socket until READY=1.
func awaitReady(c *net.UnixConn) error {
	b := make([]byte, 4096)
	for {
		n, err := c.Read(b)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(b[:n])) {
			if strings.TrimSpace(line) == "READY=1" {
				return nil
			}
		}
	}
}

// PID is the number of the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Kill ends the process at once (SIGKILL), and waits for its end.
func (p *Process) Kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// Stop asks the process to end (SIGTERM), and waits. The error is a bad exit.
func (p *Process) Stop() error {
	select {
	case <-p.done:
		return p.err
	default:
	}
	p.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.NewTimer(startTimeout)
	defer timer.Stop()
	select {
	case <-p.done:
		return p.err
	case <-timer.C:
		p.Kill()
		return fmt.Errorf("stop %s: still there after %v", filepath.Base(p.cmd.Path), startTimeout)
	}
}

// tail is what was written to a file since it had a size, as text. Of much it
// is the last 2 KiB.
type tail struct {
	file *os.File
	from int64
}

func (t tail) String() string {
	now, err := t.file.Stat()
	if err != nil {
		return err.Error()
	}
	from := max(t.from, now.Size()-2048)
	b, err := io.ReadAll(io.NewSectionReader(t.file, from, now.Size()-from))
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(b))
}
