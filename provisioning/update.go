package provisioning

import (
	"context"
	"fmt"
	"io"
)

// Updates is how a box comes from one release to the next.
type Updates interface {
	// Apply installs a release, "" for the latest of the box's source, and
	// tells which; already where it runs. With dry it only judges it.
	Apply(ctx context.Context, from string, dry bool) (version string, already bool, err error)
	// Start judges a release, as Apply does with dry, and has Apply done by a
	// service of its own. With dry it is only judged.
	Start(ctx context.Context, from string, dry bool) (version string, already bool, err error)
	Status(ctx context.Context) (UpdateStatus, error)
	Rollback(ctx context.Context, dry bool) (to string, err error)
	Confirm(ctx context.Context, dry bool) (running string, err error)
	Restart(ctx context.Context) error
}

// UpdateStatus is what is in the slots, and what became of the last update.
type UpdateStatus struct {
	Running string      `json:"running"`
	Profile string      `json:"profile"`
	Healthy bool        `json:"healthy"`
	Next    string      `json:"next"`
	Floor   string      `json:"floor"`
	Entries []BootEntry `json:"entries"`
	Update  string      `json:"update,omitempty"`
	From    string      `json:"from,omitempty"`
	Outcome string      `json:"outcome,omitempty"`
}

// BootEntry is one release that can start.
type BootEntry struct {
	Version string `json:"version"`
	State   string `json:"state"`
}

func (s UpdateStatus) text(w io.Writer) {
	state := "found healthy"
	if !s.Healthy {
		state = "not found healthy yet"
	}
	rows := [][]string{{"running", s.Running + ", profile " + s.Profile + ", " + state}, {"next start", cmpOr(s.Next, "nothing")},
		{"oldest that is taken", cmpOr(s.Floor, "any")}}
	for _, e := range s.Entries {
		rows = append(rows, []string{"entry", e.Version + ", " + e.State})
	}
	if s.Update != "" {
		rows = append(rows, []string{"last update", fmt.Sprintf("%s to %s: %s", s.From, s.Update, s.Outcome)})
	}
	table(w, nil, rows)
}

var optRestart = option{name: "restart", about: "restart the machine when it is done"}

// updateCommands are those of a box that runs an image.
var updateCommands = []command{
	{noun: "update", verb: "apply", here: true, args: "[FILE|URL]", max: 1, about: "install a release into the slot that does not run",
		more:  "FILE is a file of the release, URL the https address of its manifest; without them it is the latest of source in [update] of box.toml. Nothing is written before signature, log, version and every file were found good. What runs is not touched. The next start tries the new release; when it is not found healthy then, the start after that is of what runs now. A download that broke off goes on. With -n the release is judged only.",
		flags: []option{optRestart}, run: updateApply},
	{noun: "update", verb: "start", args: "[URL]", max: 1, about: "have the box install a release by itself, and come back at once",
		more: "For operators elsewhere. Whether the release may follow what runs, by its manifest, signature and log, is answered at once; what update apply does is then done by postern-update.service. `postern update status` tells how far it is, and why it was not installed. The box restarts when it is done. With -n the release is judged only.", run: updateStart},
	{noun: "update", verb: "status", about: "say what runs, what would start, and what became of the last update", run: updateStatus},
	{noun: "update", verb: "rollback", about: "make the release in the other slot the one that starts",
		more:  "For when a release was found healthy and is not. It is marked as bad, and the next start takes the other one. An earlier release than the latest that was good is still not taken by an update.",
		flags: []option{optRestart}, run: updateRollback},
	{noun: "update", verb: "confirm", here: true, about: "note that what runs was found healthy",
		more: "Run by postern-confirm.service after a start that postern doctor found good. From then on no earlier release is taken.", run: updateConfirm},
}

// restart does so when it was asked for.
func (c *call) restart(ctx context.Context, d did) (any, error) {
	if !c.on["restart"] {
		return d, nil
	}
	d.Done = append(d.Done, "restart")
	if c.dry() {
		return d, nil
	}
	return d, c.Update.Restart(ctx)
}

func updateApply(ctx context.Context, c *call) (any, error) {
	from := ""
	if len(c.args) > 0 {
		from = c.args[0]
	}
	v, already, err := c.Update.Apply(ctx, from, c.dry())
	switch {
	case err != nil:
		return nil, err
	case already:
		return c.already("release %s runs", v), nil
	}
	return c.restart(ctx, c.did("install release %s; the next start tries it", v))
}

func updateStart(ctx context.Context, c *call) (any, error) {
	from := ""
	if len(c.args) > 0 {
		from = c.args[0]
	}
	v, already, err := c.Update.Start(ctx, from, c.dry())
	switch {
	case err != nil:
		return nil, err
	case already:
		return c.already("release %s runs", v), nil
	}
	return c.did("begin to install release %s; `postern update status` tells how far it is", v), nil
}

func updateStatus(ctx context.Context, c *call) (any, error) {
	s, err := c.Update.Status(ctx)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func updateRollback(ctx context.Context, c *call) (any, error) {
	to, err := c.Update.Rollback(ctx, c.dry())
	if err != nil {
		return nil, err
	}
	return c.restart(ctx, c.did("go back to release %s with the next start", to))
}

func updateConfirm(ctx context.Context, c *call) (any, error) {
	running, err := c.Update.Confirm(ctx, c.dry())
	if err != nil {
		return nil, err
	}
	return c.did("keep release %s", running), nil
}
