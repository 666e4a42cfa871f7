package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/user"
	"strconv"

	"postern/appliance/config"
	"postern/cmd/internal/gateway"
	"postern/filter/policy"
	"postern/filter/socketmap"
)

// policySocket is the name of the socket where Postfix asks, as systemd hands
// it over.
const policySocket = "tls-policy"

// answer tells Postfix how safe the way to each domain must be, until ctx ends.
// failed gets what ends it before. Without a Postfix nobody is answered.
func answer(ctx context.Context, c *config.Filterd, rules *policy.Policy, ways *gateway.Router, handed []net.Listener, log *slog.Logger, failed chan<- error) error {
	if c.Postfix == nil {
		for _, l := range handed {
			l.Close()
		}
		return nil
	}
	if len(handed) == 0 {
		l, err := listenPolicy(c.Postfix)
		if err != nil {
			return err
		}
		handed = []net.Listener{l}
	}
	s := &socketmap.Server{Lookup: gateway.Policies(rules, ways, log).Lookup, Log: log}
	for _, l := range handed {
		go func() {
			if err := s.Serve(ctx, l); err != nil {
				failed <- err
			}
		}()
	}
	log.Info("listening", "listener", policySocket, "address", handed[0].Addr().String())
	return nil
}

// listenPolicy makes the socket, for its group only. One that a process left
// behind is taken away.
func listenPolicy(p *config.Postfix) (net.Listener, error) {
	if err := os.Remove(p.Socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listen for Postfix: %w", err)
	}
	l, err := net.Listen("unix", p.Socket)
	if err != nil {
		return nil, fmt.Errorf("listen for Postfix: %w (hint: the folder of socket in [postfix] must be there, and be ours)", err)
	}
	g, err := user.LookupGroup(p.Group)
	gid := 0
	if err == nil {
		gid, err = strconv.Atoi(g.Gid)
	}
	if err == nil {
		err = os.Chown(p.Socket, -1, gid)
	}
	if err == nil {
		err = os.Chmod(p.Socket, 0o660)
	}
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("give %s to group %s: %w (hint: let systemd make the socket, or put the user of filterd into that group)", p.Socket, p.Group, err)
	}
	return l, nil
}
