package provisioning

import (
	"context"
)

// Box is what a box of its own has beside a gateway.
type Box interface {
	// Render writes below out what follows from box.toml, and names the files
	// that were not so already; with dry it only names them.
	Render(ctx context.Context, config, out string, dry bool) (changed []string, err error)
}

// boxCommands are those of a box. --config means box.toml.
var boxCommands = []command{
	{noun: "box", verb: "render", about: "write every file of the box that follows from box.toml",
		more:  "Both daemons' files, sockets, network, firewall, clock, Postfix and resolver, each below --out where the box has it. The same box.toml gives the same bytes. Files that are so already are left alone; nothing is removed. --config is box.toml, " + DefaultBox + " by default.",
		flags: []option{{name: "out", value: "DIR", about: "folder in place of the root of the file system"}}, run: boxRender},
}

// boxConfig is box.toml.
func (c *call) boxConfig() string { return cmpOr(c.get("config"), DefaultBox) }

func boxRender(ctx context.Context, c *call) (any, error) {
	changed, err := c.Box.Render(ctx, c.boxConfig(), cmpOr(c.get("out"), "/"), c.dry())
	if err == nil && len(changed) == 0 {
		return c.already("every file is as box.toml has it"), nil
	}
	d := did{Done: []string{}, DryRun: c.dry()}
	for _, path := range changed {
		d.Done = append(d.Done, "write "+path)
	}
	return d, err
}
