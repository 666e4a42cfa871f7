package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"time"

	"postern/appliance/config"
	"postern/appliance/postfix"
	"postern/cmd/internal/gateway"
	"postern/filter/transport"
	"postern/provisioning"
)

// late is how long a mail may wait until the doctor minds.
const late = 4 * time.Hour

// postfixAgent is the Postfix of a configuration, and the resolver beside it.
type postfixAgent struct {
	c *config.Filterd
	p *postfix.Config
}

// agent is nil where the configuration has no Postfix.
func agent(path string) (provisioning.Agent, error) {
	c, err := config.LoadFilterd(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if c.Postfix == nil {
		return nil, nil
	}
	return postfixAgent{c, gateway.Postfix(c)}, nil
}

// folder is one that is written to.
type folder struct {
	dir, tell string
	files     []postfix.File
}

func (a postfixAgent) folders(ctx context.Context) ([]folder, error) {
	have, err := postfix.Probe(ctx)
	if err != nil {
		return nil, err
	}
	files, err := postfix.Render(*a.p, have)
	if err != nil {
		return nil, err
	}
	list := []folder{{a.p.Dir, "`postfix -c " + a.p.Dir + " reload`, or start it", files}}
	if dir := gateway.ResolverDir(a.c); dir != "" {
		f, err := postfix.Resolver(a.c.Resolver.Address)
		if err != nil {
			return nil, err
		}
		list = append(list, folder{dir, "`systemctl restart postern-unbound`", []postfix.File{f}})
	}
	return list, nil
}

// Changes are the files that are not as rendered.
func (a postfixAgent) Changes(ctx context.Context) (list []provisioning.AgentChange, err error) {
	folders, err := a.folders(ctx)
	if err != nil {
		return nil, err
	}
	for _, f := range folders {
		changes, err := postfix.Compare(f.dir, f.files)
		if err != nil {
			return nil, err
		}
		for _, c := range changes {
			list = append(list, provisioning.AgentChange{Path: filepath.Join(f.dir, c.Name), Text: c.Text, Diff: c.Diff(), Tell: f.tell})
		}
	}
	switch err := a.p.CheckLog(); {
	case errors.Is(err, postfix.ErrLog):
		list = append(list, provisioning.AgentChange{Path: a.p.Log, Diff: err.Error() + "\n"})
	case err != nil:
		return nil, err
	}
	return list, nil
}

// Write puts one file in place.
func (a postfixAgent) Write(c provisioning.AgentChange) error {
	if c.Path == a.p.Log {
		return a.p.MakeLog()
	}
	dir, name := filepath.Split(c.Path)
	return postfix.Write(filepath.Clean(dir), []postfix.Change{{File: postfix.File{Name: name, Text: c.Text}}})
}

// Check is what Postfix and unbound say against their files.
func (a postfixAgent) Check(ctx context.Context) ([]string, error) {
	said, err := postfix.Check(ctx, a.p.Dir)
	dir := gateway.ResolverDir(a.c)
	if err != nil || dir == "" {
		return said, err
	}
	more, err := postfix.CheckResolver(ctx, filepath.Join(dir, "unbound.conf"))
	return append(said, more...), err
}

// Examine asks Postfix for its queue, filterd as Postfix does, and the resolver.
func (a postfixAgent) Examine(ctx context.Context) (list []provisioning.Examined) {
	say := func(name, state, hint, format string, args ...any) {
		list = append(list, provisioning.Examined{Name: name, State: state, Detail: fmt.Sprintf(format, args...), Hint: hint})
	}
	strict := &transport.Hop{Address: a.p.Strict, Name: a.c.AuthservID}
	defer strict.Close()
	if err := strict.Greet(ctx); err != nil {
		say("postfix strict", "broken", "is it running? `systemctl status postern-postfix`", "%s: %v", a.p.Strict, err)
	} else {
		say("postfix strict", "ok", "", "%s answers", a.p.Strict)
	}
	switch waiting, err := postfix.Queue(ctx, a.p.Dir); {
	case err != nil:
		say("queue", "unknown", "run it as root", "%v", err)
	case len(waiting) == 0:
		say("queue", "ok", "", "empty")
	default:
		oldest, state, hint := waiting.Oldest(), "ok", ""
		if time.Since(oldest.Arrived) > late {
			state, hint = "concern", "`postqueue -c "+a.p.Dir+" -p` says why each mail waits"
		}
		say("queue", state, hint, "%d mails, the oldest since %s", len(waiting), oldest.Arrived.UTC().Format(time.RFC3339))
	}
	domain := a.p.Domains[0]
	if policy, err := postfix.Ask(ctx, a.p, domain); err != nil {
		say("tls policy", "broken", "is filterd running? Its log says why it has no answer; until it has, mail waits", "%v", err)
	} else {
		say("tls policy", "ok", "", "%s: %s", domain, policy)
	}
	rules, err := gateway.Policy(a.c)
	if err != nil {
		return list
	}
	ways, err := gateway.OpenRouter(a.c, rules, false, slog.New(slog.DiscardHandler))
	if err != nil {
		say("resolver", "unknown", "", "%v", err)
		return list
	}
	defer ways.Close()
	switch validates, err := ways.Resolver.Validates(ctx); {
	case err != nil:
		say("resolver", "broken", "is it running? `systemctl status postern-unbound`; without it no mail leaves", "%s: %v", a.c.Resolver.Address, err)
	case !validates:
		say("resolver", "broken", "DANE counts for nothing without: let a validating unbound answer there, see `postern postfix render`", "%s does not validate, or is not believed", a.c.Resolver.Address)
	default:
		say("resolver", "ok", "", "%s validates", a.c.Resolver.Address)
	}
	return list
}
