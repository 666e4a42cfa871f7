package provisioning

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"postern/filter/keyring"
	"postern/hsm"
)

// What became of one certificate that the plan wants.
const (
	enrolThere   = "there"   // it was there, and is left alone
	enrolDone    = "done"    // this run has brought it
	enrolWanted  = "wanted"  // with -n: this run would bring it, or ask for it
	enrolWaiting = "waiting" // the authority has been asked
	enrolFailed  = "failed"
)

// enrolCommands need a reader of plans.
var enrolCommands = []command{
	{noun: "enrol", args: "PLAN", min: 1, max: 1, here: true, about: "bring the keys and certificates that a plan wants",
		more: "PLAN is a file in TOML; `postern config doc plan` prints one. What is there and lasts is left alone, so that a second run does nothing, and one that was ended in the middle is taken up again: a key without a certificate is found by its label. A certificate that ends soon gets a successor with new keys, and the old ones go on opening. -n says what would be done, and asks no authority. Exit status 1 when something failed, 75 while certificates are waited for.", run: enrol},
}

// enrolLine is one certificate of the plan, or one key.
type enrolLine struct {
	Owner       string   `json:"owner"`
	Use         string   `json:"use"`
	Part        string   `json:"part,omitempty"` // of smime: sign or unwrap; of tls: ecdsa or rsa
	State       string   `json:"state"`
	Steps       []string `json:"steps,omitempty"` // what was done, or with -n would be
	Fingerprint string   `json:"fingerprint,omitempty"`
	Expires     string   `json:"expires,omitempty"`
	Joined      string   `json:"joined,omitempty"` // day of the first mail of a joiner whom this run has taken
	Reason      string   `json:"reason,omitempty"` // why it failed, or what it waits for

	err error
}

// enrolled is the result of enrol.
type enrolled struct {
	Lines  []enrolLine    `json:"certificates"`
	Count  map[string]int `json:"count"` // by state
	Left   int            `json:"left"`  // that were not come to
	Notes  []string       `json:"notes,omitempty"`
	DryRun bool           `json:"dry_run,omitempty"`
}

func (r enrolled) text(w io.Writer) {
	var rows [][]string
	for _, l := range r.Lines {
		if l.State == enrolThere {
			continue
		}
		what := l.Reason
		for i, s := range l.Steps {
			if i > 0 || what != "" {
				what += "; "
			}
			what += s
		}
		rows = append(rows, []string{l.Owner, l.Use, cmpOr(l.Part, "-"), l.State, what})
	}
	if len(rows) > 0 {
		table(w, []string{"OWNER", "USE", "PART", "STATE", "WHAT"}, rows)
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "%d wanted by the plan:", len(r.Lines)+r.Left)
	comma := ""
	for _, state := range []string{enrolThere, enrolDone, enrolWanted, enrolWaiting, enrolFailed} {
		if n := r.Count[state]; n > 0 {
			fmt.Fprintf(w, "%s %d %s", comma, n, state)
			comma = ","
		}
	}
	if r.Left > 0 {
		fmt.Fprintf(w, "%s %d not come to", comma, r.Left)
	}
	fmt.Fprintln(w)
	for _, n := range r.Notes {
		fmt.Fprintln(w, "note:", printable(n))
	}
}

// enrolment is one run over a plan.
type enrolment struct {
	*call
	renew  time.Duration
	keeper hsm.Keeper
	keys   []hsm.Key // of the token, with those that this run has made
	store  *keyring.Store
	ours   []keyring.Identity // with those that this run has bound
	desk   map[string]desk
	pace   pace
	result enrolled
}

func enrol(ctx context.Context, c *call) (any, error) {
	p, err := c.Plan(c.args[0])
	if err != nil {
		return nil, fmt.Errorf("read plan: %w", err)
	}
	list, err := c.wants(p)
	if err != nil {
		return nil, err
	}
	e := &enrolment{call: c, renew: p.Renew, result: enrolled{Lines: []enrolLine{}, Count: map[string]int{}, DryRun: c.dry()}}
	if p.Asked > 0 {
		e.pace.every = p.Per / time.Duration(p.Asked)
	}
	unlock, err := e.alone()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if e.keeper, err = c.keeper(ctx); err != nil {
		return nil, err
	}
	if e.keys, err = e.keeper.Keys(ctx); err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	if e.store, err = c.ring(true); c.dry() {
		err = absent(err)
	}
	if err != nil {
		return nil, err
	}
	if e.store != nil {
		if e.ours, err = e.store.AllIdentities(ctx); absent(err) != nil {
			return nil, err
		}
	}
	if list, err = e.join(ctx, p, list); err != nil {
		return nil, err
	}
	e.desk, err = e.desks(ctx, p, list)
	defer func() {
		for _, d := range e.desk {
			d.close()
		}
	}()
	if err != nil {
		return nil, err
	}
	return e.run(ctx, list)
}

// alone keeps a second run away, which would make every key twice: the folder
// of the keyring is locked while this one lasts, even where it dies.
func (e *enrolment) alone() (unlock func(), err error) {
	site, err := e.site()
	if err != nil {
		return nil, err
	}
	dir, err := os.Open(filepath.Dir(site.Keyring))
	if errors.Is(err, os.ErrNotExist) && e.dry() {
		return func() {}, nil
	}
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		dir.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, &failure{err: errors.New("enrol: another run is under way"), hint: "wait for its end", status: ExitLater}
		}
		return nil, fmt.Errorf("lock %s: %w", dir.Name(), err)
	}
	return func() { dir.Close() }, nil
}

// run goes through the plan. One certificate that fails holds up no other; a
// key daemon that is away, or the operator, ends the run.
func (e *enrolment) run(ctx context.Context, list []wanted) (any, error) {
	progress := progress{e: e, all: len(list), began: time.Now(), said: time.Now()}
	for i, w := range list {
		line, err := e.attempt(ctx, w)
		if err != nil {
			e.result.Left = len(list) - i
			e.finish()
			return e.result, err
		}
		if w.joined != "" {
			line.Steps = slices.Insert(line.Steps, 0, "noted at his first mail, "+w.joined)
		}
		e.result.Lines = append(e.result.Lines, line)
		e.result.Count[line.State]++
		progress.tell(i + 1)
	}
	if err := e.linger(ctx, list); err != nil {
		e.finish()
		return e.result, err
	}
	e.finish()
	if n := e.result.Count[enrolFailed]; n > 0 {
		first := slices.IndexFunc(e.result.Lines, func(l enrolLine) bool { return l.State == enrolFailed })
		return e.result, no(cmpOr(judge(e.result.Lines[first].err).hint, "run it again when that is mended: what is done stays done"), "enrol: %d of %d failed", n, len(list))
	}
	if e.result.Count[enrolWaiting] > 0 {
		return e.result, &failure{err: errSaid, status: ExitLater}
	}
	return e.result, nil
}

// attempt brings one certificate as far as it goes now. The error ends the run.
func (e *enrolment) attempt(ctx context.Context, w wanted) (enrolLine, error) {
	line := enrolLine{Owner: w.owner.String(), Use: w.use, Part: w.part, State: enrolDone, Joined: w.joined}
	err := e.one(ctx, w, &line)
	switch {
	case err == nil:
	case errors.Is(err, errWaiting):
		line.State, line.Reason = enrolWaiting, err.Error()
	case stops(ctx, err):
		return line, fmt.Errorf("enrol %s: %w", w.owner, err)
	default:
		line.State, line.Reason, line.err = enrolFailed, err.Error(), err
	}
	if e.dry() && (line.State == enrolDone || line.State == enrolWaiting) {
		line.State = enrolWanted
	}
	return line, nil
}

// slowest is how long it takes at most until what waits is looked at again.
const slowest = 10 * time.Second

// linger goes on with what waits for an authority that answers by mail, as long
// as the plan says.
func (e *enrolment) linger(ctx context.Context, list []wanted) error {
	began, said := time.Now(), time.Now()
	for pause := time.Second; !e.dry(); pause = min(2*pause, slowest) {
		var open []int
		var last time.Duration
		for i, w := range list {
			if d := e.postal(w); d != nil && e.result.Lines[i].State == enrolWaiting && time.Since(began) < d.config.Wait && d.refuse() == nil {
				open, last = append(open, i), max(last, d.config.Wait)
			}
		}
		if len(open) == 0 {
			return nil
		}
		if !e.on["json"] && time.Since(said) >= often {
			said = time.Now()
			fmt.Fprintf(e.Stderr, "%d of %d wait for mail of their authority, for %v more at most\n", len(open), len(list), (last - time.Since(began)).Round(time.Second))
		}
		if err := sleep(ctx, min(pause, last-time.Since(began))); err != nil {
			return err
		}
		for _, i := range open {
			if !e.postal(list[i]).moved(ctx, list[i]) {
				continue
			}
			line, err := e.attempt(ctx, list[i])
			if err != nil {
				return err
			}
			if line.State != enrolWaiting {
				pause = time.Second
			}
			line.Steps = append(e.result.Lines[i].Steps, line.Steps...)
			e.result.Count[enrolWaiting]--
			e.result.Count[line.State]++
			e.result.Lines[i] = line
		}
	}
	return nil
}

// postal is the authority of a certificate where that is one which proves
// addresses by mail.
func (e *enrolment) postal(w wanted) *postal {
	if w.smime == nil {
		return nil
	}
	d, _ := e.desk[w.smime.Authority].(*postal)
	return d
}

// sleep waits, or ends with ctx.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// stops reports whether nothing else would go better either.
func stops(ctx context.Context, err error) bool {
	if ctx.Err() != nil {
		return true
	}
	return slices.ContainsFunc([]error{hsm.ErrAway, hsm.ErrLocked, hsm.ErrEmpty, hsm.ErrBusy, hsm.ErrBudget, hsm.ErrClock}, func(e error) bool { return errors.Is(err, e) })
}

// finish notes what concerns no single certificate.
func (e *enrolment) finish() {
	for _, name := range sortedNames(e.desk) {
		if f, ok := e.desk[name].(*folder); ok {
			for _, n := range f.notes {
				e.result.Notes = append(e.result.Notes, "authority "+name+": "+n)
			}
		}
	}
}

// progress tells people how far a long run is.
type progress struct {
	e           *enrolment
	all         int
	began, said time.Time
}

// often is how long people are left without a word.
const often = 10 * time.Second

func (p *progress) tell(n int) {
	now := time.Now()
	if p.e.on["json"] || now.Sub(p.said) < often {
		return
	}
	p.said = now
	left := now.Sub(p.began) / time.Duration(n) * time.Duration(p.all-n)
	fmt.Fprintf(p.e.Stderr, "%d of %d: %d done, %d waiting, %d failed; %v left at this pace\n", n, p.all,
		p.e.result.Count[enrolDone], p.e.result.Count[enrolWaiting], p.e.result.Count[enrolFailed], left.Round(time.Second))
}
