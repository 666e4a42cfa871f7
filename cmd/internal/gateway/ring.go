package gateway

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"postern/appliance/config"
	"postern/filter/directory"
	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/record"
)

// Ring is what the mail path looks certificates up in: the operators' keyring,
// and behind it what verified mail brought.
type Ring struct {
	*keyring.Joined
	learned *keyring.Store // nil: nothing is learned
	seen    directory.Seen // what was learned; nobody where there is nothing yet
	open    []*keyring.Store
}

// OpenRing opens the files of c. The operators' is read only, here and
// everywhere but in their own command. With learn, the other one is made and
// written; without, it is another program's, and is not believed to be sound.
func OpenRing(c *config.Filterd, learn bool) (_ *Ring, err error) {
	r := &Ring{seen: nobody{}}
	defer func() {
		if err != nil {
			r.Close()
		}
	}()
	opened := func(s *keyring.Store, err error) (*keyring.Store, error) {
		if err == nil {
			r.open = append(r.open, s)
		}
		return s, err
	}
	operators, err := opened(keyring.OpenReadOnly(c.Keyring))
	if err != nil {
		return nil, err
	}
	if c.Default.Learn == "off" {
		r.Joined = keyring.Join(operators, nil)
		return r, nil
	}
	if !learn {
		// Before filterd has run there is none; and where it decides about no
		// mail, who may not read it does without.
		if _, err := os.Stat(c.Seen); errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) && c.Default.Learn == "seen" {
			r.Joined = keyring.Join(operators, nil)
			return r, nil
		}
		seen, err := opened(keyring.OpenForeign(c.Seen))
		if err != nil {
			return nil, fmt.Errorf("seen certificates: %w", err)
		}
		r.Joined, r.seen = keyring.Join(operators, seen), seen
		return r, nil
	}
	if err := os.MkdirAll(filepath.Dir(c.Seen), 0o700); err != nil {
		return nil, fmt.Errorf("make folder of seen certificates: %w (hint: the user of filterd must own it; learn = \"off\" does without)", err)
	}
	if r.learned, err = opened(keyring.Open(c.Seen)); err != nil {
		return nil, fmt.Errorf("seen certificates: %w (hint: nothing in %s is trusted; it may be removed, and is made again)", err, c.Seen)
	}
	seen, err := opened(keyring.OpenReadOnly(c.Seen)) // its answers are kept in memory until something is learned
	if err != nil {
		return nil, fmt.Errorf("seen certificates: %w", err)
	}
	r.Joined, r.seen = keyring.Join(operators, seen), seen
	return r, nil
}

// nobody was seen.
type nobody struct{}

func (nobody) Certs(context.Context, message.Address) ([]keyring.Cert, error) { return nil, nil }

// OpenRecord opens the record of c, and makes it where there is none.
func OpenRecord(c *config.Filterd, log *slog.Logger) (*record.Record, error) {
	if err := os.MkdirAll(filepath.Dir(c.Record), 0o700); err != nil {
		return nil, fmt.Errorf("make folder of the record: %w (hint: the user of filterd must own it)", err)
	}
	r, err := record.Open(c.Record, record.Options{Keep: time.Duration(c.RecordKeep), Log: log})
	if err != nil {
		return nil, fmt.Errorf("%w (hint: move %s and its -wal and -shm away and a new one is made; what that costs stands in operations.md)", err, c.Record)
	}
	return r, nil
}

// ReadRecord opens the record that filterd writes; nil where there is none, or
// who asks may not read it.
func ReadRecord(c *config.Filterd) (*record.Record, error) {
	r, err := record.OpenForeign(c.Record)
	if errors.Is(err, record.ErrNoRecord) || errors.Is(err, fs.ErrPermission) {
		return nil, nil
	}
	return r, err
}

// Close frees the files.
func (r *Ring) Close() error {
	var errs []error
	for _, s := range r.open {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}
