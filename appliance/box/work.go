package box

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"time"
)

// answerConfig gives box.toml.
func (s *Server) answerConfig(w http.ResponseWriter, r *request) (any, error) {
	text, err := s.cfg.House.Config()
	if err != nil {
		return nil, err
	}
	_, err = w.Write(text)
	return nil, err
}

// answerConfigure puts another box.toml in force. The owner stays.
func (s *Server) answerConfigure(_ http.ResponseWriter, r *request) (any, error) {
	text, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil || len(text) > maxBody {
		return nil, ErrRequest
	}
	done, err := s.alone()
	if err != nil {
		return nil, err
	}
	defer done()
	rules, err := s.cfg.House.Check(text)
	if err != nil {
		return nil, err
	}
	if s.mu.Lock(); rules.TPM != s.rules.TPM && s.rules.Name != "" {
		s.mu.Unlock()
		return nil, errUnlock
	}
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), 5*time.Minute)
	defer cancel()
	if err := s.cfg.House.Apply(ctx, text, false); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.rules = rules
	s.mu.Unlock()
	return s.status(ctx), nil
}

// errUnlock: the PIN is nowhere that it could be sealed from.
var errUnlock = errors.New("unlock cannot be changed: the box does not know the PIN any more; reset it and claim it anew")

// answerCall runs one of the operators' commands. They are those of a table,
// without files of the box; there is no shell.
func (s *Server) answerCall(_ http.ResponseWriter, r *request) (any, error) {
	var c Call
	body, err := r.read(&c)
	if err != nil {
		return nil, err
	}
	defer clear(body)
	defer clear(c.Stdin)
	var stdout, stderr limited
	status, made, err := s.cfg.House.Run(r.Context(), c.Args, bytes.NewReader(c.Stdin), &stdout, &stderr)
	if err != nil {
		return nil, err
	}
	return Called{Status: status, Stdout: stdout.Bytes(), Stderr: stderr.Bytes(), Files: made}, nil
}

// limited keeps the first part of what is written to it.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if room := maxOutput - l.Len(); len(p) > room {
		l.Buffer.Write(p[:max(0, room)])
		return len(p), nil
	}
	return l.Buffer.Write(p)
}

// answerBackup streams an archive that only those can read for whom it is.
// One that breaks off is not whole: age says so to who opens it.
func (s *Server) answerBackup(w http.ResponseWriter, r *request) (any, error) {
	done, err := s.alone()
	if err != nil {
		return nil, err
	}
	defer done()
	s.mu.Lock()
	to := s.rules.BackupTo
	s.mu.Unlock()
	if len(to) == 0 {
		return nil, errNobody
	}
	out := &started{w: w}
	err = s.cfg.House.Backup(r.Context(), out, to)
	if err != nil && out.any {
		s.cfg.Log.Error("backup", "error", err)
		panic(http.ErrAbortHandler) // the one way to break an answer off (net/http)
	}
	return nil, err
}

var errNobody = errors.New("box.toml names nobody that backups are for (backup-to in [box])")

// started knows whether an answer has begun.
type started struct {
	w   io.Writer
	any bool
}

func (s *started) Write(p []byte) (int, error) {
	s.any = true
	return s.w.Write(p)
}

// answerRestore takes an opened archive back. It says whose it must be.
func (s *Server) answerRestore(_ http.ResponseWriter, r *request) (any, error) {
	done, err := s.alone()
	if err != nil {
		return nil, err
	}
	defer done()
	from := r.URL.Query().Get("from")
	if from == "" {
		return nil, ErrRequest
	}
	if err := s.cfg.House.Restore(r.Context(), http.MaxBytesReader(nil, r.Body, maxArchive), from); err != nil {
		return nil, err
	}
	text, err := s.cfg.House.Config()
	if err != nil {
		return nil, err
	}
	rules, err := s.cfg.House.Check(text)
	if err != nil {
		return nil, err
	}
	ctx := context.WithoutCancel(r.Context())
	if err := s.cfg.House.Apply(ctx, text, false); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.rules = rules
	s.mu.Unlock()
	return s.status(ctx), nil
}

// Reset names the box that is to be wiped.
type Reset struct {
	Name string `json:"name"`
}

// answerReset makes the box one that belongs to nobody. What was on it is gone.
func (s *Server) answerReset(_ http.ResponseWriter, r *request) (any, error) {
	var c Reset
	if _, err := r.read(&c); err != nil {
		return nil, err
	}
	done, err := s.alone()
	if err != nil {
		return nil, err
	}
	defer done()
	s.mu.Lock()
	name := s.rules.Name
	s.mu.Unlock()
	if c.Name != name {
		return nil, ErrName
	}
	if err := s.cfg.House.Wipe(context.WithoutCancel(r.Context())); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.owner, s.rules, s.pending, s.shares, s.wiped = "", Rules{}, nil, pool{now: s.cfg.Now}, true
	close(s.over)
	return Status{}, nil
}

// answerRecovery makes another recovery key: the one of the claim was used, or
// seen by somebody.
func (s *Server) answerRecovery(_ http.ResponseWriter, r *request) (any, error) {
	done, err := s.alone()
	if err != nil {
		return nil, err
	}
	defer done()
	key, err := s.cfg.House.Recovery(context.WithoutCancel(r.Context()))
	if err != nil {
		return nil, err
	}
	return Claimed{Recovery: key}, nil
}
