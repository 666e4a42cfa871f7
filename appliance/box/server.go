package box

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/netutil"

	"postern/appliance/box/share"
	"postern/hsm"
)

// ServerConfig is what a box needs to answer. All but Now are required.
type ServerConfig struct {
	Dir      string // its own folder, on the encrypted partition
	Identity tls.Certificate
	Listener net.Listener
	House    House
	Log      *slog.Logger
	Version  string
	Now      func() time.Time
}

// Server answers operators.
type Server struct {
	cfg     ServerConfig
	pin     string
	code    *code
	changed chan struct{}
	over    chan struct{} // closed when the box was wiped

	mu      sync.Mutex
	owner   string // pin; "" while unclaimed
	rules   Rules
	pending *pending
	// unsealed: the TPM did not open the PIN since the start of this program
	unsealed bool
	wiped    bool // it begins anew, as another box, and belongs to nobody until then
	busy     bool // a claim is being carried out, or a backup, a restore, a reset
	shares   pool
}

// NewServer reads whom the box belongs to.
func NewServer(cfg ServerConfig) (*Server, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	pin, err := PinOf(cfg.Identity)
	if err != nil {
		return nil, fmt.Errorf("start box: %w", err)
	}
	s := &Server{cfg: cfg, pin: pin, code: &code{now: cfg.Now}, changed: make(chan struct{}, 1), over: make(chan struct{})}
	s.shares.now = cfg.Now
	b, err := os.ReadFile(s.path(ownerFile))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return s, nil
	case err != nil:
		return nil, fmt.Errorf("start box: %w", err)
	}
	s.owner = strings.TrimSpace(string(b))
	if s.shares.set, err = readSet(s.path(sharesFile)); err != nil {
		return nil, fmt.Errorf("start box: %w", err)
	}
	// An owner can put right a box.toml that does not load; nobody else can.
	text, err := cfg.House.Config()
	if err == nil {
		s.rules, err = cfg.House.Check(text)
	}
	if err != nil {
		cfg.Log.Error("read box.toml", "error", err)
	}
	return s, nil
}

// Files of the box's own folder.
const (
	ownerFile  = "owner"
	sharesFile = "shares.json"
)

func (s *Server) path(name string) string { return filepath.Join(s.cfg.Dir, name) }

// Claimed reports whether the box belongs to somebody.
func (s *Server) Claimed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.owner != ""
}

// Pin is that of the box's own key.
func (s *Server) Pin() string { return s.pin }

// Serve answers until ctx ends, or until the box was wiped: ErrReset.
func (s *Server) Serve(ctx context.Context) error {
	mux := http.NewServeMux()
	for path, e := range map[string]entry{
		"GET /v1/status":    {stranger, s.answerStatus},
		"POST /v1/claim":    {stranger, s.answerClaim},
		"POST /v1/confirm":  {stranger, s.answerConfirm},
		"POST /v1/pin":      {admin, s.answerPIN},
		"POST /v1/unlock":   {admin, s.answerUnlock},
		"GET /v1/config":    {admin, s.answerConfig},
		"PUT /v1/config":    {admin, s.answerConfigure},
		"POST /v1/call":     {admin, s.answerCall},
		"POST /v1/backup":   {backup, s.answerBackup},
		"POST /v1/restore":  {admin, s.answerRestore},
		"POST /v1/reset":    {admin, s.answerReset},
		"POST /v1/recovery": {admin, s.answerRecovery},
	} {
		mux.Handle(path, s.guard(path, e))
	}
	web := &http.Server{
		Handler: mux,
		TLSConfig: &tls.Config{
			Certificates: []tls.Certificate{s.cfg.Identity}, MinVersion: tls.VersionTLS13,
			ClientAuth: tls.RequireAnyClientCert, // who it is decides the handler
			NextProtos: []string{"http/1.1"}, SessionTicketsDisabled: true,
		},
		ReadHeaderTimeout: 20 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug),
		// Calls that are under way end with the box.
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { web.Close() })
	defer stop()
	gone, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-s.over:
			web.Shutdown(ctx) // after the answer to whoever asked for it
		case <-gone:
		}
	}()
	err := web.ServeTLS(netutil.LimitListener(s.cfg.Listener, maxConns), "", "")
	close(gone)
	<-ended
	select {
	case <-s.over:
		return ErrReset
	default:
	}
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("serve operators: %w", err)
}

// request is one of them, and who asks.
type request struct {
	*http.Request
	w    http.ResponseWriter
	pin  string // of the client's key
	role role
}

type role int

const (
	stranger role = iota
	backup
	admin
)

func (r role) String() string { return [...]string{"none", "backup", "admin"}[r] }

// handler answers with something that is JSON, or writes the answer itself and
// gives nil.
type handler func(w http.ResponseWriter, r *request) (any, error)

// entry is a handler, and who may ask for it.
type entry struct {
	least  role
	handle handler
}

// guard finds out who asks and whether he may, and words the answer.
func (s *Server) guard(path string, e entry) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, hr *http.Request) {
		if hr.TLS == nil || len(hr.TLS.PeerCertificates) == 0 {
			http.Error(w, "", http.StatusForbidden)
			return
		}
		r := &request{Request: hr, w: w, pin: pinOf(hr.TLS.PeerCertificates[0].RawSubjectPublicKeyInfo)}
		r.role = s.roleOf(r.pin)
		var answer any
		err := ErrRole
		if r.role >= e.least {
			answer, err = e.handle(w, r)
		}
		level := slog.LevelInfo
		if err != nil {
			level = slog.LevelWarn
		}
		if path != "GET /v1/status" || err != nil {
			s.cfg.Log.Log(hr.Context(), level, "operator", "asks", path, "key", r.pin, "role", r.role.String(), "from", hr.RemoteAddr, "error", err)
		}
		if err != nil {
			s.refuse(w, err)
			return
		}
		if answer != nil {
			w.Header().Set("Content-Type", "application/json")
			json.NewEncoder(w).Encode(answer)
		}
		s.redraw()
	})
}

func (s *Server) redraw() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// roleOf is what a key may do.
func (s *Server) roleOf(pin string) role {
	s.mu.Lock()
	defer s.mu.Unlock()
	is := func(p string) bool { return strings.EqualFold(p, pin) }
	switch {
	case s.owner == "":
		return stranger
	case is(s.owner), slices.ContainsFunc(s.rules.Admins, is):
		return admin
	case slices.ContainsFunc(s.rules.BackupBy, is):
		return backup
	}
	return stranger
}

// statuses are those of HTTP; what is not here is 500.
var statuses = []struct {
	err  error
	code int
	hint string
}{
	{ErrProof, http.StatusForbidden, "type the code that the screen of the box shows"},
	{ErrRole, http.StatusForbidden, "use the key that claimed the box, or one that box.toml names"},
	{ErrClaimed, http.StatusConflict, "it belongs to somebody; only a reset makes it free"},
	{ErrUnclaimed, http.StatusConflict, "postern box claim"},
	{ErrPending, http.StatusConflict, "claim it again"},
	{ErrConfirm, http.StatusForbidden, "type the key as it was shown, groups and all"},
	{ErrPIN, http.StatusConflict, "unlock it, with postern unlock"},
	{ErrName, http.StatusForbidden, "postern box status shows it"},
	{ErrRequest, http.StatusBadRequest, "is this postern of the version of the box?"},
	{ErrReset, http.StatusServiceUnavailable, "wait until its screen shows another fingerprint"},
	{ErrBusy, http.StatusServiceUnavailable, "try again when that is done"},
	{ErrNoShares, http.StatusConflict, "give the PIN itself"},
	{share.ErrForm, http.StatusUnprocessableEntity, "look at it again, letter by letter"},
	{share.ErrForeign, http.StatusUnprocessableEntity, "this share belongs to another box, or to an earlier PIN"},
	{share.ErrFalse, http.StatusUnprocessableEntity, "the share was changed; nothing was tried with it"},
	{hsm.ErrPIN, http.StatusForbidden, "the token counts wrong PINs; find the right one before you try again"},
	{hsm.ErrAway, http.StatusServiceUnavailable, "the key daemon does not answer; try again in a moment"},
	{hsm.ErrEmpty, http.StatusConflict, "there is no token to unlock"},
}

// refusal is an error on its way to the operator.
type refusal struct {
	Error string `json:"error"`
	Hint  string `json:"hint,omitempty"`
}

func (s *Server) refuse(w http.ResponseWriter, err error) {
	f, status := refusal{Error: strings.ReplaceAll(err.Error(), "\n", "; ")}, http.StatusInternalServerError
	for _, one := range statuses {
		if errors.Is(err, one.err) {
			status, f.Hint = one.code, one.hint
			break
		}
	}
	var h interface {
		error
		Hint() string
	}
	if errors.As(err, &h) && h.Hint() != "" {
		f.Hint = h.Hint()
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(f)
}

// read reads a request of JSON. The caller wipes body.
func (r *request) read(v any) (body []byte, err error) {
	if err := http.NewResponseController(r.w).SetReadDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	body, err = io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrRequest, err)
	case len(body) > maxBody:
		return nil, fmt.Errorf("%w: more than %d bytes", ErrRequest, maxBody)
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		clear(body)
		return nil, ErrRequest // not the cause: it may quote a secret
	}
	return body, nil
}

// alone makes sure that only one of the long works is under way.
func (s *Server) alone() (done func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy {
		return nil, ErrBusy
	}
	s.busy = true
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.busy = false
	}, nil
}
