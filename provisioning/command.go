package provisioning

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"text/tabwriter"

	"postern/filter/accounts"
	"postern/filter/keyring"
	"postern/filter/record"
	"postern/hsm"
)

// command is one line of the table: what a person types, and what is said of it.
type command struct {
	noun, verb string
	args       string // "FILE…"; what stands behind the flags
	min, max   int    // how many of them; max -1: any number
	about      string // one line, lower case, without a full stop
	more       string // for the manual page
	flags      []option
	here       bool // it belongs to the machine it is typed at: no operator elsewhere has it run
	run        func(ctx context.Context, c *call) (any, error)
}

// option is one flag. The text fields of call that it fills are found by name.
type option struct {
	name  string
	value string // "D" in "--domain D"; empty for a switch
	about string
	many  bool
}

func (c command) name() string { return strings.TrimSpace(c.noun + " " + c.verb) }

// common are the flags of every command.
var common = []option{
	{name: "config", value: "FILE", about: "filterd.toml, " + DefaultConfig + " by default; of a box box.toml"},
	{name: "socket", value: "PATH", about: "keep socket of the key daemon, where it is not the configured one"},
	{name: "json", about: "print JSON for programs"},
	{name: "n", about: "change nothing, show what would happen"},
	{name: "help", about: "print usage of the command"},
}

// call is one command with its arguments.
type call struct {
	*App
	cmd   command
	text  map[string][]string
	on    map[string]bool
	args  []string
	store *keyring.Store

	judging Judge
}

// get is the last value of a flag, or "".
func (c *call) get(name string) string {
	if v := c.text[name]; len(v) > 0 {
		return v[len(v)-1]
	}
	return ""
}

func (c *call) dry() bool { return c.on["n"] }

// failure is an error as people see it: what, what to do, and with which status.
type failure struct {
	err    error
	hint   string
	status int
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// no says no, with a hint.
func no(hint, format string, args ...any) error {
	return &failure{err: fmt.Errorf(format, args...), hint: hint, status: ExitNo}
}

// misuse is an error of the command line.
func misuse(hint, format string, args ...any) error {
	return &failure{err: fmt.Errorf(format, args...), hint: hint, status: ExitUsage}
}

// judge gives every error its hint and status. It is the one place where
// errors of other packages become words for operators.
func judge(err error) *failure {
	var f *failure
	if errors.As(err, &f) {
		return &failure{err: err, hint: f.hint, status: f.status}
	}
	f = &failure{err: err, status: ExitNo}
	if wrong, ok := errors.AsType[hinted](err); ok {
		f.hint = wrong.Hint()
		return f
	}
	switch {
	case errors.Is(err, hsm.ErrAway):
		f.status, f.hint = ExitLater, "is keyd running, and may you use its socket? `systemctl status postern-keyd`, `--socket PATH`"
	case errors.Is(err, hsm.ErrBusy), errors.Is(err, hsm.ErrBudget):
		f.status, f.hint = ExitLater, "wait a moment and try again"
	case errors.Is(err, hsm.ErrClock):
		f.status, f.hint = ExitLater, "signatures bear the time: see that a time service sets the clock (`chronyc sources`, `postern doctor`)"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		f.status, f.hint = ExitLater, "nothing was decided; try again"
	case errors.Is(err, hsm.ErrLocked):
		f.hint = "unlock the token: `postern token unlock`"
	case errors.Is(err, hsm.ErrEmpty):
		f.hint = "make the token first: `postern token init`"
	case errors.Is(err, hsm.ErrPIN):
		f.hint = "the token counts wrong PINs; find the right one before you try again"
	case errors.Is(err, hsm.ErrExists):
		f.hint = "see `postern key list`; retire the old key to make its successor"
	case errors.Is(err, hsm.ErrNoKey):
		f.hint = "see `postern key list`"
	case errors.Is(err, hsm.ErrRefused):
		f.hint = "see `postern key audit` and the permissions in keyd.toml"
	case errors.Is(err, hsm.ErrInvalid):
		f.hint = "see `postern token probe` for what this token can do"
	case errors.Is(err, hsm.ErrBroken):
		f.hint = "`postern key audit` says why; its file is in the folder wrapped of keyd, and may stand in a backup"
	case errors.Is(err, hsm.ErrOpaque):
		f.hint = "the journal of keyd has the cause"
	case errors.Is(err, keyring.ErrNotFound):
		f.hint = "see `postern cert list` and `postern identity list`"
	case errors.Is(err, keyring.ErrAmbiguous):
		f.hint = "give more digits of the fingerprint"
	case errors.Is(err, keyring.ErrInvalid):
		f.hint = "a fingerprint is named by 8 digits or more of its beginning, see `postern cert list`"
	case errors.Is(err, keyring.ErrNoStore):
		f.hint = "there is no keyring yet; `postern cert import` or `postern identity create` makes it"
	case errors.Is(err, keyring.ErrVersion):
		f.hint = "use the program that made the keyring, or a newer one"
	case errors.Is(err, record.ErrNoRecord):
		f.hint = "filterd makes the record when it starts"
	case errors.Is(err, record.ErrVersion):
		f.hint = "filterd and postern must be of one version; filterd brings the file up to date when it starts"
	case errors.Is(err, accounts.ErrExists), errors.Is(err, accounts.ErrUnknown):
		f.hint = "see `postern account list`"
	case errors.Is(err, accounts.ErrFile):
		f.hint = "the line was written by hand; `postern account` writes sound ones"
	case errors.Is(err, fs.ErrPermission):
		f.hint = "run it as a member of the operators' group, or as root"
	case errors.Is(err, fs.ErrNotExist):
		f.hint = "check the path"
	}
	if own, ok := errors.AsType[hinted](err); ok && f.hint == "" {
		f.hint = own.Hint()
	}
	return f
}

// hinted is an error that knows what to do.
type hinted interface {
	error
	Hint() string
}

// Run does one command and gives the exit status. args are without the name
// of the program.
func (a *App) Run(ctx context.Context, args []string) int {
	c, err := a.parse(args)
	if err != nil {
		a.complain(judge(err), wantsJSON(args))
		return judge(err).status
	}
	if c.on["help"] {
		if err := c.print(page{c.cmd.usage()}); err != nil {
			return ExitNo
		}
		return ExitDone
	}
	result, err := c.cmd.run(ctx, c)
	if c.judging != nil {
		err = errors.Join(err, c.judging.Close())
	}
	if c.store != nil {
		err = errors.Join(err, c.store.Close())
	}
	if result != nil {
		if werr := c.print(result); werr != nil && err == nil {
			err = fmt.Errorf("write output: %w", werr)
		}
	}
	if err == nil {
		return ExitDone
	}
	f := judge(err)
	a.complain(f, c.on["json"])
	return f.status
}

func wantsJSON(args []string) bool {
	return slices.ContainsFunc(args, func(s string) bool {
		return slices.Contains([]string{"--json", "-json", "--json=true", "-json=true"}, s)
	})
}

// errSaid is an exit status without words: the output has said it.
var errSaid = errors.New("said in the output")

func (a *App) complain(f *failure, asJSON bool) {
	if errors.Is(f.err, errSaid) {
		return
	}
	message := strings.ReplaceAll(f.err.Error(), "\n", "; ")
	if asJSON {
		json.NewEncoder(a.Stderr).Encode(map[string]any{"error": message, "hint": f.hint, "status": f.status})
		return
	}
	fmt.Fprintf(a.Stderr, "postern: %s\n", printable(message))
	if f.hint != "" {
		fmt.Fprintf(a.Stderr, "hint: %s\n", printable(f.hint))
	}
}

// printable shows what came from outside without what could steer a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f || r >= 0x80 && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return '\ufffd'
		}
		return r
	}, s)
}

// parse finds the command in the table and reads its flags, which may stand
// between and behind the arguments.
func (a *App) parse(args []string) (*call, error) {
	table := a.commands()
	if len(args) == 0 {
		return nil, misuse("`postern help` lists the commands", "no command given")
	}
	if args[0] == "--version" || args[0] == "-version" {
		args = []string{"version"}
	}
	if args[0] == "--help" || args[0] == "-help" || args[0] == "-h" {
		args = []string{"help"}
	}
	var cmd command
	var verbs []string
	rest := args[1:]
	for _, t := range table {
		if t.noun != args[0] {
			continue
		}
		if t.verb == "" {
			cmd = t
			break
		}
		verbs = append(verbs, t.verb)
		if len(args) > 1 && t.verb == args[1] {
			cmd, rest = t, args[2:]
			break
		}
	}
	if cmd.run == nil {
		switch {
		case verbs == nil:
			return nil, misuse("`postern help` lists the commands", "no command %.40q", args[0])
		case len(args) > 1 && !strings.HasPrefix(args[1], "-"):
			return nil, misuse("verbs of "+args[0]+": "+strings.Join(verbs, ", "), "%s has no verb %.40q", args[0], args[1])
		}
		return nil, misuse("verbs of "+args[0]+": "+strings.Join(verbs, ", "), "%s wants a verb", args[0])
	}
	c := &call{App: a, cmd: cmd, text: map[string][]string{}, on: map[string]bool{}}
	set := flag.NewFlagSet(cmd.name(), flag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.Usage = func() {}
	for _, o := range append(append([]option{}, cmd.flags...), common...) {
		if o.value == "" {
			set.BoolFunc(o.name, "", func(s string) error {
				if s != "true" && s != "false" {
					return errors.New("is a switch and takes no value")
				}
				c.on[o.name] = s == "true"
				return nil
			})
			continue
		}
		set.Func(o.name, "", func(s string) error {
			if s == "" && o.name != "from" {
				return errors.New("is empty")
			}
			if len(c.text[o.name]) > 0 && !o.many {
				return errors.New("given twice")
			}
			c.text[o.name] = append(c.text[o.name], s)
			return nil
		})
	}
	for len(rest) > 0 {
		err := set.Parse(rest)
		if errors.Is(err, flag.ErrHelp) {
			c.on["help"] = true
			return c, nil
		}
		if err != nil {
			return nil, misuse(cmd.synopsis(), "%s: %s", cmd.name(), strings.ReplaceAll(err.Error(), "flag provided but not defined:", "no such flag:"))
		}
		left := set.Args()
		ended := len(left) < len(rest) && rest[len(rest)-len(left)-1] == "--"
		if ended {
			c.args = append(c.args, left...)
			break
		}
		rest = nil
		if len(left) > 0 {
			c.args, rest = append(c.args, left[0]), left[1:]
		}
	}
	if c.on["help"] {
		return c, nil
	}
	if len(c.args) < cmd.min {
		return nil, misuse(cmd.synopsis(), "%s wants %s", cmd.name(), cmd.args)
	}
	if cmd.max >= 0 && len(c.args) > cmd.max {
		// what was too much is not shown: it may be a PIN
		return nil, misuse(cmd.synopsis(), "%s takes %s, and was given %d argument(s)", cmd.name(), cmpOr(cmd.args, "no arguments"), len(c.args))
	}
	return c, nil
}

// texter is a result that has a form for people.
type texter interface{ text(w io.Writer) }

func (c *call) print(result any) error {
	var b bytes.Buffer
	if c.on["json"] {
		e := json.NewEncoder(&b)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		if err := e.Encode(result); err != nil {
			return err
		}
	} else if t, ok := result.(texter); ok {
		t.text(&b)
	}
	_, err := c.Stdout.Write(b.Bytes())
	return err
}

// table prints aligned columns: tab-separated cells, a line for each row.
func table(w io.Writer, head []string, rows [][]string) {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	line := func(cells []string) {
		for i, s := range cells {
			if i > 0 {
				io.WriteString(t, "\t")
			}
			io.WriteString(t, printable(s))
		}
		io.WriteString(t, "\n")
	}
	if head != nil {
		line(head)
	}
	for _, r := range rows {
		line(r)
	}
	t.Flush()
}

// did is the result of a command that changes something.
type did struct {
	Done    []string `json:"done"`
	Already string   `json:"already,omitempty"` // why there was nothing to do
	DryRun  bool     `json:"dry_run,omitempty"`
}

func (d did) text(w io.Writer) {
	if d.Already != "" {
		fmt.Fprintln(w, "nothing to do:", printable(d.Already))
	}
	for _, s := range d.Done {
		if d.DryRun {
			s = "would " + s
		} else {
			s = "done: " + s
		}
		fmt.Fprintln(w, printable(s))
	}
}

// already is the result of a command that found its work done.
func (c *call) already(format string, args ...any) did {
	return did{Done: []string{}, Already: fmt.Sprintf(format, args...), DryRun: c.dry()}
}

func (c *call) did(format string, args ...any) did {
	return did{Done: []string{fmt.Sprintf(format, args...)}, DryRun: c.dry()}
}
