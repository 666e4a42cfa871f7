package provisioning

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Agent is the mail agent behind the gateway, and the resolver beside it: they
// are programs of others, whose files are written from our configuration.
type Agent interface {
	// Changes are the files that are not as the configuration has them.
	Changes(ctx context.Context) ([]AgentChange, error)
	// Write puts one of them in place, whole.
	Write(c AgentChange) error
	// Check is what the agents themselves say against their files.
	Check(ctx context.Context) ([]string, error)
	// Examine asks those that run.
	Examine(ctx context.Context) []Examined
}

// AgentChange is one file that is to be written.
type AgentChange struct {
	Path string
	Text string // what will stand there
	Diff string // lines that go and lines that come
	Tell string // what has to be done for it to count; "": nothing
}

// Examined is what the doctor says of one thing.
type Examined struct {
	Name   string
	State  string // ok, concern, broken or unknown
	Detail string
	Hint   string
}

// errNoAgent is a configuration without one.
var errNoAgent = errors.New("there is no table [postfix] in the configuration")

func (c *call) agent() (Agent, error) {
	if c.Agent == nil {
		return nil, errNoAgent
	}
	a, err := c.Agent(c.config())
	if err == nil && a == nil {
		err = no("add the table; `postern config doc filterd` shows it", "%w", errNoAgent)
	}
	return a, err
}

// changes are what it would write, and the agent.
func (c *call) changes(ctx context.Context) (Agent, []AgentChange, error) {
	a, err := c.agent()
	if err != nil {
		return nil, nil, err
	}
	list, err := a.Changes(ctx)
	return a, list, err
}

// rendered is the result of postfix render.
type rendered struct {
	did
	Diffs []string `json:"diffs"`
	Tell  []string `json:"tell"`
}

func (r rendered) text(w io.Writer) {
	for _, d := range r.Diffs {
		showDiff(w, d)
	}
	r.did.text(w)
	for _, s := range r.Tell {
		fmt.Fprintln(w, "now:", printable(s))
	}
}

func showDiff(w io.Writer, diff string) {
	for line := range strings.Lines(diff) {
		fmt.Fprintln(w, printable(strings.TrimRight(line, "\n")))
	}
}

func renderAgent(ctx context.Context, c *call) (any, error) {
	a, list, err := c.changes(ctx)
	if err != nil {
		return nil, err
	}
	r := rendered{did: did{Done: []string{}, DryRun: c.dry()}, Diffs: []string{}, Tell: []string{}}
	if len(list) == 0 {
		r.did = c.already("every file is as the configuration has it")
	}
	told := map[string]bool{}
	for _, change := range list {
		if c.dry() {
			r.Diffs = append(r.Diffs, change.Diff)
		} else if err := a.Write(change); err != nil {
			return r, err
		}
		r.Done = append(r.Done, "write "+change.Path)
		if !c.dry() && change.Tell != "" && !told[change.Tell] {
			told[change.Tell] = true
			r.Tell = append(r.Tell, change.Tell)
		}
	}
	return r, nil
}

// agreed is the result of postfix check.
type agreed struct {
	Different []string `json:"different"`
	Diffs     []string `json:"diffs"` // of those
	Said      []string `json:"said"`
}

func (a agreed) text(w io.Writer) {
	for i, p := range a.Different {
		fmt.Fprintln(w, "not as the configuration has it:", printable(p))
		showDiff(w, a.Diffs[i])
	}
	for _, s := range a.Said {
		fmt.Fprintln(w, printable(s))
	}
	if len(a.Different)+len(a.Said) == 0 {
		fmt.Fprintln(w, "every file is as the configuration has it, and taken without a word")
	}
}

func checkAgent(ctx context.Context, c *call) (any, error) {
	a, list, err := c.changes(ctx)
	if err != nil {
		return nil, err
	}
	r := agreed{Different: []string{}, Diffs: []string{}, Said: []string{}}
	for _, change := range list {
		r.Different, r.Diffs = append(r.Different, change.Path), append(r.Diffs, change.Diff)
	}
	if len(list) == 0 { // others would be judged than those that are meant
		said, err := a.Check(ctx)
		if err != nil {
			return r, err
		}
		r.Said = append(r.Said, said...)
	}
	if len(r.Different) > 0 {
		return r, no("`postern postfix render` writes them", "%d files are not as the configuration has them", len(r.Different))
	}
	if len(r.Said) > 0 {
		return r, no("change filterd.toml, and render again", "the files are not taken as they are")
	}
	return r, nil
}

// examineAgent asks the agents, where there are some.
func (c *call) examineAgent(ctx context.Context, e *examined, site Site) {
	if c.Agent == nil || site.Policy == nil {
		return
	}
	a, err := c.Agent(c.config())
	if err != nil || a == nil {
		return // the configuration is judged by its own line
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	switch list, err := a.Changes(ctx); {
	case err != nil:
		e.broke("postfix files", err)
	case len(list) > 0:
		e.say("postfix files", broken, "`postern postfix render`", "%s: not as the configuration has it", list[0].Path)
	default:
		e.say("postfix files", fine, "", "as the configuration has them")
	}
	for _, one := range a.Examine(ctx) {
		e.Checks = append(e.Checks, check{one.Name, one.State, one.Detail, one.Hint})
	}
}
