package provisioning

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postern/hsm"
	"postern/hsm/certtest"
)

var today = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// verdictOf is the one check of a kind.
func verdictOf(t *testing.T, e *examined) string {
	t.Helper()
	if len(e.Checks) != 1 {
		t.Fatalf("got %d checks, want 1", len(e.Checks))
	}
	return e.Checks[0].Verdict
}

func TestDoctorLooksAtTheClock(t *testing.T) {
	says := func(synchronised, known bool) func(context.Context) (bool, bool) {
		return func(context.Context) (bool, bool) { return synchronised, known }
	}
	for _, c := range []struct {
		name  string
		now   time.Time
		clock func(context.Context) (bool, bool)
		gate  func() error
		want  string
	}{
		{"good", today, says(true, true), nil, fine},
		{"adrift", today, says(false, true), nil, concern},
		{"system does not say", today, says(false, false), nil, unknown},
		{"nobody to ask", today, nil, nil, unknown},
		{"before the program", today.AddDate(-1, 0, 0), says(true, true), nil, broken},
		{"good, and the daemons think so", today, says(true, true), func() error { return nil }, fine},
		{"the daemons do not believe it", today, says(true, true), func() error { return hsm.ErrClock }, broken},
	} {
		e := &examined{}
		a := &call{App: &App{Now: func() time.Time { return c.now }, Built: today.AddDate(0, -1, 0), Clock: c.clock}}
		a.examineClock(t.Context(), e, Site{Gate: c.gate})
		if got := verdictOf(t, e); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

func TestDoctorLooksAtWhatListenersShow(t *testing.T) {
	const mx = "mx.company1.example"
	key := certtest.Key(t)
	id, err := hsm.IDOf(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	held := func(label string, retired bool) []hsm.Key {
		return []hsm.Key{{ID: id, Public: &key.PublicKey, Usage: hsm.Sign, Label: label, Retired: retired}}
	}
	ours := held("tls/"+mx+"/sign", false)
	for _, c := range []struct {
		name, server string
		from, to     time.Time
		keys         []hsm.Key
		known        bool
		want         string
	}{
		{"good", mx, today.AddDate(0, -1, 0), today.AddDate(1, 0, 0), ours, true, fine},
		{"keys not known", mx, today.AddDate(0, -1, 0), today.AddDate(1, 0, 0), nil, false, unknown},
		{"ends soon", mx, today.AddDate(0, -1, 0), today.AddDate(0, 0, 20), ours, true, concern},
		{"ended", mx, today.AddDate(-1, 0, 0), today.AddDate(0, 0, -1), ours, true, broken},
		{"not yet", mx, today.AddDate(0, 0, 1), today.AddDate(1, 0, 0), ours, true, broken},
		{"key elsewhere", mx, today.AddDate(0, -1, 0), today.AddDate(1, 0, 0), nil, true, broken},
		{"key for mail", mx, today.AddDate(0, -1, 0), today.AddDate(1, 0, 0), held("smime/company1.example/sign", false), true, broken},
		{"retired key", mx, today.AddDate(0, -1, 0), today.AddDate(1, 0, 0), held("tls/"+mx+"/sign", true), true, broken},
		{"another name", "mail.company1.example", today.AddDate(0, -1, 0), today.AddDate(1, 0, 0), ours, true, broken},
	} {
		template := certtest.Host(mx)
		template.NotBefore, template.NotAfter = c.from, c.to
		path := filepath.Join(t.TempDir(), "cert.pem")
		if err := os.WriteFile(path, certtest.PEM(certtest.Own(t, template, key).Leaf), 0o644); err != nil {
			t.Fatal(err)
		}
		e := &examined{}
		list := []Shown{{Name: c.server, Files: []string{path, path + ".none"}, Some: true}, {Name: c.server, Files: []string{path}}}
		examineShown(e, Site{Shown: list}, c.keys, c.known, today)
		if got := verdictOf(t, e); got != c.want {
			t.Errorf("%s: got %s (%s), want %s", c.name, got, e.Checks[0].Detail, c.want)
		}
	}
	for _, some := range []bool{true, false} {
		e := &examined{}
		examineShown(e, Site{Shown: []Shown{{Name: mx, Files: []string{filepath.Join(t.TempDir(), "none.pem")}, Some: some}}}, ours, true, today)
		if got := verdictOf(t, e); got != broken {
			t.Errorf("no file: got %s, want %s", got, broken)
		}
	}
}

// sick is a token with a key that could leave it, and a key daemon whose use
// socket this user may not open.
type sick struct{ hsm.Keeper }

func (sick) Audit(context.Context) ([]hsm.Finding, error) {
	return []hsm.Finding{{ID: hsm.KeyID{1}, Label: "good", Class: hsm.Resident, Served: true}, {ID: hsm.KeyID{2}, Label: "leaky", Class: hsm.Resident, Faults: []string{"CKA_EXTRACTABLE is true"}}}, nil
}

func (k sick) Status(ctx context.Context) (hsm.Status, error) {
	s, err := k.Keeper.Status(ctx)
	s.PINCount = true
	return s, err
}

func TestSickToken(t *testing.T) {
	s := newScript(t)
	var out, complaint bytes.Buffer
	a := &App{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &complaint, Now: func() time.Time { return today }, Config: s.config,
		Keeper: func(_ context.Context, socket string) (hsm.Keeper, error) {
			if socket == "use.sock" {
				return nil, &fs.PathError{Op: "dial", Path: socket, Err: fs.ErrPermission}
			}
			return sick{s.token}, nil
		}}
	for _, c := range []struct {
		args []string
		exit int
		want []string
	}{
		{[]string{"key", "audit"}, ExitNo, []string{"leaky  resident  not served  CKA_EXTRACTABLE is true", "1 of 2 keys are not as they must be", "hint: destroy such a key"}},
		{[]string{"token", "status"}, ExitDone, []string{"YES: the token counted a wrong PIN"}},
		{[]string{"key", "destroy", "leaky", "-n"}, ExitDone, []string{"would destroy leaky"}},
		{[]string{"doctor"}, ExitNo, []string{"concern  key daemon", "broken   key audit", "unknown  use socket", "hint: use socket: run it as root", "unknown  clock"}},
		{[]string{"process", "--direction", "inbound", "--from", "", "--to", "a@company1.example"}, ExitNo, []string{"built without the mail path"}},
	} {
		out.Reset()
		complaint.Reset()
		if got := a.Run(t.Context(), c.args); got != c.exit {
			t.Errorf("%v: got exit %d, want %d", c.args, got, c.exit)
		}
		for _, want := range c.want {
			if !strings.Contains(out.String()+complaint.String(), want) {
				t.Errorf("%v: got\n%s%s\nwant %q in it", c.args, &out, &complaint, want)
			}
		}
	}
}

// Nobody is asked for a PIN where nobody sits.
func TestNoTerminal(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if TerminalSecret(f, &bytes.Buffer{}) != nil {
		t.Error("got a prompt at /dev/null, want none")
	}
}

// An output that cannot be written is no success.
func TestOutputThatCannotBeWritten(t *testing.T) {
	var complaint bytes.Buffer
	a := &App{Stdout: full{}, Stderr: &complaint}
	for _, args := range [][]string{{"version"}, {"help"}, {"key", "list", "--help"}} {
		if got := a.Run(t.Context(), args); got != ExitNo {
			t.Errorf("%v: got exit %d, want %d", args, got, ExitNo)
		}
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestDoctorAsksScanners(t *testing.T) {
	for _, c := range []struct {
		name, concern string
		err           error
		want          string
	}{
		{"sound", "", nil, fine},
		{"old", "signatures of 2026-01-01", nil, concern},
		{"away", "", errors.New("scanner away"), broken},
	} {
		e := &examined{}
		a := &call{App: &App{Now: func() time.Time { return today }}}
		a.examineScanners(t.Context(), e, Site{Scanners: []Scanner{{Name: "clamd", Address: "/run/x", Probe: func(ctx context.Context, now time.Time) (string, string, error) {
			if _, limited := ctx.Deadline(); !limited || !now.Equal(today) {
				t.Errorf("%s: asked without a limit, or at %v", c.name, now)
			}
			return "finds EICAR", c.concern, c.err
		}}}})
		if got := verdictOf(t, e); got != c.want || !strings.Contains(e.Checks[0].Detail, "/run/x") || !strings.Contains(e.Checks[0].Detail, c.concern) {
			t.Errorf("%s: got %+v, want %s", c.name, e.Checks, c.want)
		}
	}
}

func TestDoctorGreetsMailboxes(t *testing.T) {
	for err, want := range map[error]string{nil: fine, errors.New("connection refused"): broken} {
		e := &examined{}
		(&call{App: &App{}}).examineMailboxes(t.Context(), e, Site{Mailboxes: []Mailbox{{Name: "imap", Address: "10.0.0.5:993", Greet: func(context.Context) error { return err }}}})
		if got := verdictOf(t, e); got != want || !strings.Contains(e.Checks[0].Detail, "10.0.0.5:993") {
			t.Errorf("%v: got %+v, want %s", err, e.Checks, want)
		}
	}
}
