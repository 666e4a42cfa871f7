package main

import (
	"context"

	"postern/appliance/config"
	"postern/cmd/internal/render"
)

// house is the box as the commands of box see it.
type house struct{}

// Render implements provisioning.Box.
func (house) Render(ctx context.Context, path, out string, dry bool) ([]string, error) {
	c, err := config.LoadBox(path)
	if err != nil {
		return nil, err
	}
	files, err := render.Files(ctx, c)
	if err != nil {
		return nil, err
	}
	return render.Write(out, files, dry)
}
