// Package record is what filterd remembers of mails beyond their way through
// it: who has his copy already, how they were carried, with whom protection was
// once used, which were opened, what an authority wrote whose mail an operator
// awaits, and who of ours has no certificate yet. It is one SQLite file that
// filterd alone writes. Nothing else that a mail says is in it: no subject, no
// body.
//
// What decides about mails (copies, protection, openings) is on the disk before
// a call returns, and fails where the file does: its caller defers the mail.
// What tells of mails (traces) is written later, and lost where the file fails.
// Joiners are written behind their mails, and come again with the next one.
package record

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"postern/filter/database"
)

var (
	// ErrNoRecord says that filterd has not made the file yet.
	ErrNoRecord = errors.New("no record yet")
	// ErrVersion says that a newer or older program made the file.
	ErrVersion = errors.New("record of another version")
	// ErrAway says that the file can't be read or written: every error of a
	// Record wraps it.
	ErrAway = errors.New("record not available")
	// ErrFull says that no more is remembered: what stands there is not
	// forgotten for it.
	ErrFull = errors.New("record is full")
	// ErrReadOnly says that the record is another program's.
	ErrReadOnly = errors.New("record is read only")
	// ErrClosed says that the record is closed.
	ErrClosed = errors.New("record is closed")
)

// version is the user_version that the last migration makes.
const version = 3

//go:embed migrations/*.sql
var migrations embed.FS

var files = &database.Kind{
	Name: "record", Migrations: migrations, Version: version, ErrMissing: ErrNoRecord, ErrVersion: ErrVersion,
	Upgrade: "filterd brings the file up to date when it starts",
}

// Options are how a record is kept.
type Options struct {
	Keep time.Duration    // how long traces are kept; 0: there are none
	Log  *slog.Logger     // slog.DiscardHandler where nil
	Now  func() time.Time // time.Now where nil
}

// Record is the file. A nil Record remembers nothing, and forgets what it is
// told. Its methods may be called at once by many.
type Record struct {
	Options
	read  *sql.DB
	write *sql.DB // nil: another program's

	asked  chan request
	traces chan Mail
	done   chan struct{} // closed: the writer is to end
	ended  chan struct{} // closed: it has ended
	once   sync.Once

	queued  atomic.Int64 // recipients in traces
	lost    atomic.Int64 // traces since the last line of the log
	company bool         // the last change was not alone; the writer's own
	broken  atomic.Bool  // the last write failed

	part, refusal, opened, protected, mail, proof, joined table
}

// Open opens the record in the file path, and makes it where there is none.
func Open(path string, o Options) (*Record, error) {
	w, err := files.Open(path, database.Write)
	if err != nil {
		return nil, err
	}
	r, err := reader(path, database.Read)
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	r.Options, r.write = o, w
	if r.Log == nil {
		r.Log = slog.New(slog.DiscardHandler)
	}
	if r.Now == nil {
		r.Now = time.Now
	}
	r.part = table{name: "part", key: "mark, recipient", keep: partFor, most: maxParts}
	r.refusal = table{name: "refusal", key: "envelope", keep: partFor, most: maxRefusals}
	r.opened = table{name: "opened", key: "message", keep: openedFor, most: maxOpened}
	r.protected = table{name: "protected", key: "address", most: maxProtected}
	r.joined = table{name: "joiner", key: "address", keep: joinerFor, most: maxJoiners}
	r.mail = table{name: "mail", key: "id", keep: o.Keep, most: maxMails}
	r.proof = table{name: "proof", key: "message", keep: proofFor, most: maxProofs}
	for _, t := range []*table{&r.part, &r.refusal, &r.opened, &r.protected, &r.mail, &r.proof, &r.joined} {
		if err := t.count(r.read); err != nil {
			return nil, errors.Join(err, r.read.Close(), w.Close())
		}
	}
	r.asked, r.traces = make(chan request), make(chan Mail, maxQueued)
	r.done, r.ended = make(chan struct{}), make(chan struct{})
	go r.run()
	return r, nil
}

// OpenForeign opens the record of a user who is not to be believed, as an
// operator reads what filterd wrote. It writes to none of its files.
func OpenForeign(path string) (*Record, error) { return reader(path, database.Foreign) }

func reader(path string, mode database.Mode) (*Record, error) {
	db, err := files.Open(path, mode)
	if err != nil {
		return nil, err
	}
	return &Record{read: db, Options: Options{Log: slog.New(slog.DiscardHandler), Now: time.Now}}, nil
}

// Close writes what is queued, and frees the file.
func (r *Record) Close() error {
	if r == nil {
		return nil
	}
	var err error
	r.once.Do(func() {
		if r.write != nil {
			close(r.done)
			<-r.ended
			err = r.write.Close()
		}
		err = errors.Join(err, r.read.Close())
	})
	return err
}

// request is one change that its caller waits for.
type request struct {
	do   func(*sql.Tx) error
	done chan error
}

// How changes are made durable together: so many at once; and where the last time
// there was more than one, each waits so long for others. A commit costs as much
// for many as for one.
const (
	maxTogether = 64
	together    = 5 * time.Millisecond
)

// change makes one change, and returns when it is on the disk. Changes that are
// asked for at the same time share one write; where it fails, all of them do.
func (r *Record) change(ctx context.Context, what string, do func(*sql.Tx) error) error {
	if r.write == nil {
		return away(what, ErrReadOnly)
	}
	q := request{do, make(chan error, 1)}
	select {
	case r.asked <- q:
	case <-r.done:
		return away(what, ErrClosed)
	case <-ctx.Done():
		return away(what, ctx.Err())
	}
	if err := <-q.done; err != nil { // also where ctx ends: whether it was written must be known
		return away(what, err)
	}
	return nil
}

func away(what string, err error) error { return fmt.Errorf("%s: %w: %w", what, ErrAway, err) }

// commit makes first and what else is asked for by now, or soon, in one transaction.
func (r *Record) commit(first request) {
	all := []request{first}
	var late <-chan time.Time
	if r.company {
		late = time.After(together)
	}
	for more := true; more && len(all) < maxTogether; {
		select {
		case q := <-r.asked:
			all = append(all, q)
			continue
		default:
		}
		if more = late != nil; more {
			select {
			case q := <-r.asked:
				all = append(all, q)
			case <-late:
				late = nil
			}
		}
	}
	r.company = len(all) > 1
	err := r.transact(func(tx *sql.Tx) error {
		for _, q := range all {
			if err := q.do(tx); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		r.broken.Store(false)
	}
	for _, q := range all {
		q.done <- err
	}
}

// transact notes what fails. That something works says little of what is asked
// for by mails: to forget old rows takes no room.
func (r *Record) transact(do func(*sql.Tx) error) error {
	tx, err := r.write.Begin()
	if err == nil {
		if err = do(tx); err == nil {
			err = tx.Commit()
		} else {
			tx.Rollback()
		}
	}
	if err != nil && !errors.Is(err, ErrFull) {
		r.broken.Store(true)
	}
	return err
}

// How often the writer looks after the file by itself.
const (
	gather  = time.Second // how long a trace waits for others
	cleanup = 10 * time.Minute
)

// run is the one writer.
func (r *Record) run() {
	defer close(r.ended)
	var batch []Mail
	flush := func() {
		r.store(batch)
		batch = nil
	}
	r.clean()
	clean := time.NewTicker(cleanup)
	defer clean.Stop()
	var late <-chan time.Time
	for {
		select {
		case q := <-r.asked:
			r.commit(q)
		case m := <-r.traces:
			if batch = append(batch, m); len(batch) == 1 {
				late = time.After(gather)
			}
			if len(batch) >= maxBatch {
				flush()
			}
		case <-late:
			flush()
		case <-clean.C:
			r.clean()
		case <-r.done:
			for {
				select {
				case m := <-r.traces:
					batch = append(batch, m)
					continue
				default:
				}
				break
			}
			flush()
			return
		}
	}
}

// clean forgets what is too old; where that is very much, it goes on next time.
func (r *Record) clean() {
	now := r.Now()
	for _, t := range []*table{&r.part, &r.refusal, &r.opened, &r.mail, &r.proof, &r.joined} {
		n := int64(maxClean)
		for round := 0; round < maxRounds && n == maxClean; round++ {
			select {
			case q := <-r.asked: // nobody waits for more than one round
				r.commit(q)
			case <-r.done:
				return
			default:
			}
			err := r.transact(func(tx *sql.Tx) (err error) {
				n, err = t.drop(tx, now.Add(-t.keep))
				return err
			})
			if err != nil {
				r.Log.Error("record", "error", fmt.Sprintf("forget old rows of %s: %v", t.name, err))
				return
			}
		}
	}
}
