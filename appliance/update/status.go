package update

import (
	"postern/image"
)

// Status is what runs, what would start, and what became of the last update:
// from what runs and the boot entries themselves, and from nobody's memory where
// these say otherwise.
type Status struct {
	Running image.Version
	Profile string
	Healthy bool          // what runs is not on trial
	Next    image.Version // what the next start tries first; "": nothing would start
	Floor   image.Version // no earlier version is taken
	Entries []Entry       // in the order in which they are tried
	Last    Last
}

// Last is the last update; its Version is "" where there was none.
type Last struct {
	Version, From image.Version
	Outcome       string
}

// words of an outcome.
var words = map[phase]string{
	staging:   "was not brought here whole; say it again",
	writing:   "was not written whole; what runs is as it was, say it again",
	entered:   "is tried with the next start",
	committed: "was found healthy, and stays",
	fellBack:  "was not found healthy, and the release before it runs again",
	takenBack: "was taken back by an operator",
	onTrial:   "is on trial: it runs, and was not found healthy yet",
	lost:      "has no boot entry any more",
	bringing:  "is being brought here",
	filling:   "is being written into the other slot",
}

// What is seen, but never noted.
const (
	onTrial  phase = "on trial"
	lost     phase = "lost"
	bringing phase = "bringing"
	filling  phase = "filling"
)

// Status tells the state of slots and updates.
func (b *Box) Status() (s Status, err error) {
	if s.Running, s.Profile, err = b.Machine.Running(); err != nil {
		return s, err
	}
	if s.Entries, err = b.entries(); err != nil {
		return s, err
	}
	s.Healthy = b.blessed(s.Running) == nil
	if len(s.Entries) > 0 {
		s.Next = s.Entries[0].Version
	}
	if s.Floor, err = b.floor(); err != nil {
		return s, err
	}
	r, err := b.record()
	if err != nil || r.Version == "" {
		return s, err
	}
	p, err := b.outcome(r, s.Running)
	s.Last = Last{Version: r.Version, From: r.From, Outcome: words[p]}
	if r.Why != "" && (p == staging || p == writing || p == lost) {
		s.Last.Outcome = "was not installed, and what runs is as it was: " + r.Why
	}
	return s, err
}

// outcome is what became of an update, by what runs and what the entries say.
func (b *Box) outcome(r record, running image.Version) (phase, error) {
	if r.Phase != entered {
		doing, err := b.atWork()
		switch {
		case doing && r.Phase == staging:
			return bringing, err
		case doing && r.Phase == writing:
			return filling, err
		}
		return r.Phase, err
	}
	list, err := b.entries()
	if err != nil {
		return "", err
	}
	for _, e := range list {
		switch {
		case e.Version != r.Version:
		case e.Version == running && e.Counted:
			return onTrial, nil
		case e.Version == running:
			return committed, nil
		case e.Bad():
			return fellBack, nil
		default:
			return entered, nil
		}
	}
	return lost, nil
}
