package box

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"slices"
	"time"

	"postern/appliance/box/share"
	"postern/hsm"
)

// SharedPIN is what a box keeps of a PIN that was shared: it opens with shares.
type SharedPIN struct{ share.Set }

func (p *SharedPIN) sound() error {
	if p.Need < share.Least || p.Total > share.Most || p.Need > p.Total || len(p.Commit) != p.Need || len(p.Sealed) == 0 {
		return share.ErrSet
	}
	return nil
}

func (p *SharedPIN) write(path string) error {
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return writeFile(path, append(b, '\n'), 0o600)
}

// readSet is nil where the PIN was not shared.
func readSet(path string) (*SharedPIN, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	p := new(SharedPIN)
	if err := json.Unmarshal(b, p); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return p, p.sound()
}

// pool holds shares until there are enough of them. They come from people who
// sit in different places, one after the other. They are in memory only, and
// forgotten when the next one does not come in time.
type pool struct {
	now    func() time.Time
	set    *SharedPIN
	shares []share.Share
	last   time.Time
}

// fresh forgets what has waited too long.
func (p *pool) fresh() {
	if len(p.shares) > 0 && p.now().Sub(p.last) > shareLife {
		p.shares = nil
	}
}

// have are the numbers of the shares that are there.
func (p *pool) have() (list []int) {
	p.fresh()
	for _, sh := range p.shares {
		list = append(list, sh.Index)
	}
	slices.Sort(list)
	return list
}

// add takes one more. A wrong one changes nothing. When there are enough they
// give the PIN, and are forgotten.
func (p *pool) add(text string) (pin []byte, err error) {
	if p.set == nil {
		return nil, ErrNoShares
	}
	sh, err := share.Parse(text)
	if err != nil {
		return nil, err
	}
	if err := p.set.Check(sh); err != nil {
		return nil, err
	}
	p.fresh()
	p.last = p.now()
	if !slices.ContainsFunc(p.shares, func(o share.Share) bool { return o.Index == sh.Index }) {
		p.shares = append(p.shares, sh)
	}
	if len(p.shares) < p.set.Need {
		return nil, nil
	}
	pin, err = p.set.Open(p.shares)
	p.shares = nil
	return pin, err
}

// answerUnlock takes a share, or the PIN. The token is asked only with a PIN
// that shares give, whose seal is whole, or with one that somebody typed; and
// once.
func (s *Server) answerUnlock(_ http.ResponseWriter, r *request) (any, error) {
	var u Unlock
	body, err := r.read(&u)
	if err != nil {
		return nil, err
	}
	defer clear(body)
	defer clear(u.PIN)
	done, err := s.alone()
	if err != nil {
		return nil, err
	}
	defer done()
	if (u.Share == "") == (len(u.PIN) == 0) || len(u.PIN) > maxPIN {
		return nil, ErrRequest
	}
	st, unsealed, err := s.reach(r.Context())
	if err != nil {
		return nil, fmt.Errorf("ask for the token: %w", err)
	}
	switch st.State {
	case hsm.Ready:
		return s.status(r.Context()), nil
	case hsm.Unprovisioned:
		return nil, hsm.ErrEmpty
	}
	pin := u.PIN
	if u.Share != "" {
		s.mu.Lock()
		pin, err = s.shares.add(u.Share)
		s.mu.Unlock()
		if err != nil {
			return nil, fmt.Errorf("take share: %w", err)
		}
		if pin == nil {
			return s.status(r.Context()), nil
		}
		defer clear(pin)
	}
	if err := s.cfg.House.Token().Unlock(r.Context(), string(pin)); err != nil {
		return nil, fmt.Errorf("unlock token: %w", err)
	}
	if unsealed { // the PIN is good: from here on the box finds it again by itself
		s.mu.Lock()
		rules := s.rules
		s.mu.Unlock()
		if err := s.seal(r.Context(), rules, pin); err != nil {
			s.cfg.Log.Error("unlock", "error", err)
		}
	}
	return s.status(r.Context()), nil
}

// reach is the state of the token; where the TPM keeps the key daemon from
// starting, that begins without it, and waits for people.
func (s *Server) reach(ctx context.Context) (st hsm.Status, unsealed bool, err error) {
	st, err = s.cfg.House.Token().Status(ctx)
	if err == nil {
		return st, s.isUnsealed(), nil
	}
	began, err2 := s.cfg.House.Unsealed(ctx)
	if !began {
		return st, false, errors.Join(err, err2)
	}
	s.cfg.Log.Warn("the TPM does not open the PIN; the key daemon waits for people")
	s.mu.Lock()
	s.unsealed = true
	s.mu.Unlock()
	st, err = s.awaitToken(ctx)
	return st, true, err
}

func (s *Server) isUnsealed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unsealed
}

// status is all that the box knows of itself.
func (s *Server) status(ctx context.Context) Status {
	s.mu.Lock()
	st := Status{Claimed: s.owner != "", Name: s.rules.Name, Version: s.cfg.Version, Have: s.shares.have()}
	if s.shares.set != nil {
		st.Need = s.shares.set.Need
	}
	s.mu.Unlock()
	if !st.Claimed {
		return st
	}
	var err error
	if st.Usage, err = s.cfg.House.Usage(); err != nil {
		s.cfg.Log.Warn("status", "error", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	token, err := s.cfg.House.Token().Status(ctx)
	if err != nil {
		st.Token, st.Reason = "away", "the key daemon does not answer"
		return st
	}
	st.Token, st.Reason = token.State.String(), token.Reason
	return st
}

// answerStatus tells strangers only whether the box is free.
func (s *Server) answerStatus(_ http.ResponseWriter, r *request) (any, error) {
	st := s.status(r.Context())
	if r.role == stranger {
		return Status{Claimed: st.Claimed, Role: r.role.String()}, nil
	}
	st.Role = r.role.String()
	return st, nil
}
