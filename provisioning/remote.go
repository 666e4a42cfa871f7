package provisioning

import (
	"context"
	"slices"
	"strings"
)

// boxCall runs a command for an operator who is elsewhere. He has the rights of
// the box for the command's own work, and for nothing beside it: its files of
// the box are out of his reach, to read and to write.
func boxCall(ctx context.Context, c *call) (any, error) {
	inner, err := c.parse(c.args)
	if err != nil {
		return nil, err
	}
	if inner.on["help"] {
		return page{inner.cmd.usage()}, nil
	}
	if err := inner.mayCall(); err != nil {
		return nil, err
	}
	args := c.args
	if path := c.get("config"); path != "" {
		args = slices.Concat(c.args[:words(inner.cmd)], []string{"--config", path}, c.args[words(inner.cmd):])
	}
	app := *c.App
	app.Secret = nil // nobody sits here
	if status := app.Run(ctx, args); status != ExitDone {
		return nil, &failure{err: errSaid, status: status}
	}
	return nil, nil
}

// words is how many words name a command.
func words(c command) int { return len(strings.Fields(c.name())) }

// mayCall says no to what belongs to one machine, and to every name of a file
// that is not "-", standard input.
func (c *call) mayCall() error {
	if c.cmd.here {
		return no("type it at the machine it belongs to", "%s is not for operators elsewhere", c.cmd.name())
	}
	for _, o := range append(slices.Clone(c.cmd.flags), common...) {
		if !slices.Contains([]string{"FILE", "DIR", "PATH"}, o.value) {
			continue
		}
		for _, v := range c.text[o.name] {
			if v != "-" {
				return no("give what it reads as standard input, with -; what it writes comes back", "--%s names a file of the box", o.name)
			}
		}
	}
	if strings.Contains(c.cmd.args, "FILE") && slices.ContainsFunc(c.args, func(s string) bool { return s != "-" }) {
		return no("give it as standard input, with -", "%s names a file of the box", c.cmd.name())
	}
	return nil
}
