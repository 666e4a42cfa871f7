package provisioning

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// healthStub is a box whose parts answer as the name of its configuration says.
type healthStub struct{ config string }

func (h healthStub) Owned() (owned, attended bool, err error) {
	if strings.HasPrefix(h.config, "strange") {
		return false, false, errors.New("box.toml:3: no field of this name")
	}
	return !strings.HasPrefix(h.config, "blank"), strings.HasPrefix(h.config, "attended"), nil
}

func (healthStub) Doors(string) ([]Hop, error) { return []Hop{{"outside", "127.0.0.1:25"}}, nil }

func (h healthStub) Knock(context.Context, Hop) error {
	if strings.HasPrefix(h.config, "deaf") {
		return fmt.Errorf("greeting: %w", io.EOF)
	}
	return nil
}

func (h healthStub) Mail(context.Context, string) ([]string, error) {
	if strings.HasPrefix(h.config, "mute") {
		return nil, errors.New("a mail in openpgp to postmaster@company1.example was not opened")
	}
	return nil, nil
}

// healthOf takes the name from the command line.
func healthOf(args []string) healthStub {
	if i := slices.Index(args, "--config"); i >= 0 && i+1 < len(args) {
		return healthStub{args[i+1]}
	}
	return healthStub{}
}
