package service

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain lets the test binary be a daemon for a test that needs another process.
func TestMain(m *testing.M) {
	switch os.Getenv("POSTERN_TEST_CHILD") {
	case "listeners":
		childListeners()
	case "harden":
		childHarden()
	default:
		os.Exit(m.Run())
	}
}

// child runs this binary as a daemon. The shell knows the number of the
// process, which LISTEN_PID must be.
func child(t *testing.T, what, pid string, env []string, files ...*os.File) string {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", `LISTEN_PID=`+pid+` exec "$0"`, os.Args[0])
	cmd.Env = append(append(os.Environ(), "POSTERN_TEST_CHILD="+what), env...)
	cmd.ExtraFiles = files
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("child %s: %v\n%s", what, err, out)
	}
	return strings.TrimSpace(string(out))
}

func childListeners() {
	all, err := Listeners()
	if err != nil {
		fmt.Println("error")
		return
	}
	var names []string
	for name, ls := range all {
		for _, l := range ls {
			names = append(names, name+" "+l.Addr().Network())
			l.Close()
		}
	}
	slices.Sort(names)
	again, err := Listeners()
	fmt.Print(strings.Join(names, ", "), "; then ", len(again), err, " [", os.Getenv("LISTEN_FDS"), "]")
}

func childHarden() {
	err := Harden()
	var core unix.Rlimit
	dumpable, perr := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	fmt.Println(err, perr, unix.Getrlimit(unix.RLIMIT_CORE, &core), dumpable, core.Cur, core.Max)
}

func TestListeners(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	unixListener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer unixListener.Close()
	tcp, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	u, err := unixListener.File()
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	i, err := tcp.File()
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	plain, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	for _, c := range []struct {
		name  string
		pid   string
		env   []string
		files []*os.File
		want  string
	}{
		{"two names", "$$", []string{"LISTEN_FDS=3", "LISTEN_FDNAMES=use:mx:mx"}, []*os.File{u, i, i}, "mx tcp, mx tcp, use unix; then 0 <nil> []"},
		{"for somebody else", "1", []string{"LISTEN_FDS=1", "LISTEN_FDNAMES=use"}, []*os.File{u}, "; then 0 <nil> []"},
		{"none", "$$", nil, nil, "; then 0 <nil> []"},
		{"not a number", "$$", []string{"LISTEN_FDS=x"}, []*os.File{u}, "; then 0 <nil> []"},
		{"not a socket", "$$", []string{"LISTEN_FDS=2", "LISTEN_FDNAMES=use:keep"}, []*os.File{u, plain}, "error"},
	} {
		if got := child(t, "listeners", c.pid, c.env, c.files...); got != c.want {
			t.Errorf("%s: got %q want %q", c.name, got, c.want)
		}
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("a child that closed its socket removed the path: %v", err)
	}
}

func TestHarden(t *testing.T) {
	if got, want := child(t, "harden", "0", nil), "<nil> <nil> <nil> 0 0 0"; got != want {
		t.Errorf("got %q want %q", got, want)
	}
}

type hintedError struct{ error }

func (hintedError) Hint() string { return "do this" }

func TestComplain(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		want string
	}{
		{"plain", errors.New("open x: no"), "keyd: open x: no\n"},
		{"method", fmt.Errorf("load: %w", hintedError{errors.New("y")}), "keyd: load: y\nhint: do this\n"},
		{"text", errors.New("listen on x: in use (hint: stop it)"), "keyd: listen on x: in use\nhint: stop it\n"},
		{"brackets", errors.New("a (b) (hint: run c (or d) now)"), "keyd: a (b)\nhint: run c (or d) now\n"},
		{"in the middle", errors.New("a (hint: b): c"), "keyd: a (hint: b): c\n"},
		{"several lines", errors.New("a\nkeyd: b\x1b[2J\u2028c\xff"), "keyd: a keyd: b [2J c?\n"},
	} {
		var b bytes.Buffer
		Complain(&b, "keyd", c.err)
		if got := b.String(); got != c.want {
			t.Errorf("%s: got %q want %q", c.name, got, c.want)
		}
	}
}
