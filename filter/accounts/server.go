package accounts

import (
	"context"
	"strings"

	"postern/filter/message"
	"postern/filter/transport"
)

// Server is a Source: the company's mail server, which is asked by logging in
// there. Nothing of what it says is kept.
type Server struct {
	Hop *transport.Hop
	// Senders are addresses with {user} for the name that was given.
	Senders []string
}

// Check logs in.
func (s *Server) Check(ctx context.Context, name, password string) (*transport.Account, error) {
	if err := s.Hop.Login(ctx, name, password); err != nil {
		return nil, err
	}
	a := &transport.Account{Name: name}
	for _, template := range s.Senders {
		if from, err := message.ParseAddress(strings.ReplaceAll(template, user, name)); err == nil {
			a.Senders = append(a.Senders, from.String())
		}
	}
	return a, nil
}
