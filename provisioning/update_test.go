package provisioning

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
)

// updateStub is a box that runs release 3; what was done to it stands in a file.
type updateStub struct{ dir string }

func (u updateStub) note(what string) error {
	return os.WriteFile(u.dir+"/slots", []byte(what), 0o644)
}

func (u updateStub) Apply(_ context.Context, from string, dry bool) (string, bool, error) {
	switch {
	case strings.HasPrefix(from, "http://"):
		return "", false, errors.New("not over https")
	case from == "postern_3.raw":
		return "3", true, nil
	case dry:
		return "4", false, nil
	}
	return "4", false, u.note("apply " + from)
}

func (u updateStub) Start(ctx context.Context, from string, dry bool) (string, bool, error) {
	v, already, err := u.Apply(ctx, from, true)
	if err != nil || already || dry {
		return v, already, err
	}
	return v, false, u.note("start " + from)
}

func (u updateStub) Status(context.Context) (UpdateStatus, error) {
	b, err := os.ReadFile(u.dir + "/slots")
	if err != nil {
		return UpdateStatus{Running: "3", Profile: "release", Entries: []BootEntry{{"3", "on trial, 2 tries left"}}, Next: "3"}, nil
	}
	return UpdateStatus{Running: "3", Profile: "release", Healthy: true, Next: "4", Floor: "3", Entries: []BootEntry{{"4", "on trial, 3 tries left"}, {"3", "good"}},
		Update: "4", From: "3", Outcome: fmt.Sprintf("is tried with the next start after %s", b)}, nil
}

func (u updateStub) Rollback(_ context.Context, dry bool) (string, error) {
	if dry {
		return "2", nil
	}
	return "2", u.note("rollback")
}

func (u updateStub) Confirm(context.Context, bool) (string, error) { return "3", nil }

func (u updateStub) Restart(context.Context) error { return u.note("restart") }
