package client_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"postern/hsm/internal/p11"
	"postern/hsm/keyd"
)

// daemon runs a key daemon on a real token, until it is killed. words: module,
// token, file with the PIN, keep socket, state folder.
func daemon(words []string) int {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	l, err := keyd.Listen(words[3], 0o600, -1)
	if err == nil {
		var k *keyd.Keyd
		k, err = keyd.New(keyd.Config{
			Device: p11.New(p11.Config{Module: words[0], Token: words[1], Log: log}), PINFile: words[2], StateDir: words[4],
			KeepListener: l, Log: log, Audit: slog.New(slog.DiscardHandler),
		})
		if err == nil {
			err = k.Run(context.Background())
		}
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}
