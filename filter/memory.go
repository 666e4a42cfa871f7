package filter

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"unicode"

	"postern/filter/message"
	"postern/filter/policy"
)

// Bounds on what one mail can make us remember, or look up.
const (
	maxOwnIDs   = 16   // of the Message-ID fields of one mail
	maxAnswered = 1000 // of In-Reply-To and References
	maxID       = 998  // bytes; RFC 5322 §2.1.1
)

// sealedTo notes, once the next hop has it, that mail to a was sealed. What
// cannot be written is told to the operator only: the mail is gone.
func (g *Gateway) sealedTo(ctx context.Context, p *passage, c Copy, a message.Address) {
	if p.listener.Direction != policy.Outbound || !c.Plan.Encrypt {
		return
	}
	if err := g.Record.Protect(context.WithoutCancel(ctx), a, p.at); err != nil {
		g.Log.LogAttrs(ctx, slog.LevelError, "remember protection", slog.String("trace", p.env.Trace), slog.String("to", a.Key()), slog.String("error", err.Error()))
	}
}

// noteOpened remembers the ids of a mail that is delivered opened, before it
// is: an answer can come at once. The id that stood outside and the one inside
// are both remembered; programs answer to either. So are those of archives'
// copies, which hold what came sealed, and are known when they come back.
func (g *Gateway) noteOpened(ctx context.Context, p *passage) error {
	if g.Record == nil {
		return nil
	}
	var opened []string
	for _, c := range slices.Concat(p.copies, p.archived) {
		of := []*message.Message{p.msg, c.Message}
		switch {
		case c.Plan.Archive != "":
			of = of[1:]
		case !c.Plan.Opened:
			continue
		}
		for _, m := range of {
			ids, err := idsIn(m, "Message-ID")
			if err != nil {
				return err
			}
			opened = append(opened, ids[:min(len(ids), maxOwnIDs)]...)
		}
	}
	if err := g.Record.RememberOpened(ctx, opened...); err != nil {
		return fmt.Errorf("remember opened mail: %w", err)
	}
	return nil
}

// answers tells whether a mail answers one that came sealed and was opened.
func (g *Gateway) answers(ctx context.Context, m *message.Message) (bool, error) {
	if g.Record == nil || g.Policy.Answers == policy.AnswersUsual {
		return false, nil
	}
	ids, err := idsIn(m, "In-Reply-To", "References")
	if err != nil {
		return false, err
	}
	if len(ids) > maxAnswered {
		return false, fmt.Errorf("mail answers %d others: %w", len(ids), message.ErrLimit)
	}
	for _, id := range ids {
		if opened, err := g.Record.Opened(ctx, id); err != nil || opened {
			return opened, err
		}
	}
	return false, nil
}

// idsIn are the message ids in the fields of these names, each once, without
// their angle brackets: programs differ about those (RFC 5322 §3.6.4).
func idsIn(m *message.Message, names ...string) (ids []string, err error) {
	seen := map[string]bool{}
	for _, name := range names {
		for _, f := range m.All(name) {
			value, err := m.Value(f)
			if err != nil {
				return nil, err
			}
			for _, id := range strings.FieldsFunc(value, func(r rune) bool { return r == '<' || r == '>' || r == ',' || unicode.IsSpace(r) }) {
				if !seen[id] && len(id) <= maxID {
					ids, seen[id] = append(ids, id), true
				}
			}
		}
	}
	return ids, nil
}
