package accounts

import (
	"context"
	"crypto/tls"
	"unicode/utf8"

	"github.com/xdg-go/scram"

	"postern/filter/transport"
)

const (
	scramName = "SCRAM-SHA-256" // RFC 7677
	plus      = "-PLUS"         // bound to the TLS connection
)

// stored are the keys of an account. Of one that is not there they are made up,
// the same each time: nobody can have the password to them.
type stored struct {
	scram.StoredCredentials
	account *transport.Account // nil: nobody's
}

// binding is what names the TLS connection to both of its ends (RFC 9266), or
// nil where it has no such name: TLS 1.2 without extended master secret.
func binding(t *tls.ConnectionState) []byte {
	if t == nil {
		return nil
	}
	b, err := t.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
	if err != nil {
		return nil
	}
	return b
}

// scramming is SCRAM-SHA-256, with or without -PLUS (RFC 5802, RFC 7677). Errors
// of the conversation quote what was said in it, and go no further.
type scramming struct {
	*attempt
	binding []byte
	plus    bool
	talk    *scram.ServerConversation
	keys    stored
	won     bool
}

func (s *scramming) Next(ctx context.Context, said []byte) ([]byte, *transport.Account, error) {
	switch {
	case said == nil && s.talk == nil:
		return []byte{}, nil, nil
	case s.won && len(said) == 0:
		a, err := s.end(ctx, s.keys.account, nil)
		return nil, a, err
	case s.won || !utf8.Valid(said):
		return nil, nil, transport.ErrLoginMalformed
	case s.talk == nil:
		return s.first(ctx, string(said))
	}
	answer, err := s.talk.Step(string(said))
	if err != nil || !s.talk.Valid() || s.keys.account == nil {
		_, err = s.end(ctx, nil, transport.ErrLoginRefused)
		return nil, nil, err
	}
	s.won = true
	return []byte(answer), nil, nil
}

// first answers the first message of a client with salt and count, whether the
// account is there or not.
func (s *scramming) first(ctx context.Context, said string) ([]byte, *transport.Account, error) {
	var trouble error
	server, err := scram.SHA256.NewServer(func(name string) (scram.StoredCredentials, error) {
		if trouble = s.begin(ctx, name); trouble != nil {
			return scram.StoredCredentials{}, trouble
		}
		s.keys, trouble = s.book.Source.(keyed).keys(name)
		return s.keys.StoredCredentials, trouble
	})
	if err != nil {
		return nil, nil, transport.ErrLoginAway
	}
	b := scram.ChannelBinding{Type: scram.ChannelBindingTLSExporter, Data: s.binding}
	s.talk = server.NewConversationWithChannelBinding(b)
	if s.plus {
		s.talk = server.NewConversationWithChannelBindingRequired(b)
	}
	answer, err := s.talk.Step(said)
	switch {
	case s.network == "": // it did not come as far as a name
		return nil, nil, transport.ErrLoginMalformed
	case trouble == transport.ErrLoginTooMany:
		return nil, nil, trouble
	case trouble != nil:
		_, err := s.end(ctx, nil, trouble)
		return nil, nil, err
	case err != nil || s.talk.AuthzID() != "" && s.talk.AuthzID() != s.talk.Username():
		_, err := s.end(ctx, nil, transport.ErrLoginRefused)
		return nil, nil, err
	}
	return []byte(answer), nil, nil
}
