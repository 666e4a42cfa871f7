package scan

import (
	"context"
	"errors"
	"sync"
	"time"
)

// A scanner that let the time of a mail pass is asked for a sign of life, so long;
// and where it gives none, it is away for all mail, so long, at once.
const (
	lifeWithin  = 5 * time.Second
	rememberFor = 10 * time.Second
)

// outage is the short memory that a scanner hangs: without it each mail would
// wait out the whole time, and hold a place in flight for it. What becomes of mail
// while a scanner is away is the site's choice as before. A mail that takes a
// scanner too long is no outage: it answers for itself meanwhile.
type outage struct {
	mutex sync.Mutex
	until time.Time // zero: no outage
	asked bool      // somebody waits for a sign of life
}

// enter tells a mail whether the scanner is away, or whether it is the one that
// asks for a sign of life first.
func (o *outage) enter(now time.Time) (away, ask bool) {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	if o.until.IsZero() {
		return false, false
	}
	if o.asked || now.Before(o.until) {
		return true, false
	}
	o.asked = true
	return false, true
}

// doubt reports whether a sign of life is to be asked for, behind a mail.
func (o *outage) doubt() bool {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	if o.asked {
		return false
	}
	o.asked = true
	return true
}

func (o *outage) heard(alive bool, now time.Time) {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	if o.asked, o.until = false, (time.Time{}); !alive {
		o.until = now.Add(rememberFor)
	}
}

// alive asks for a sign of life.
func (o *outage) alive(ctx context.Context, s Scanner) error {
	within, cancel := context.WithTimeout(ctx, lifeWithin)
	defer cancel()
	err := s.Alive(within)
	if ctx.Err() == nil || errors.Is(ctx.Err(), context.DeadlineExceeded) || err == nil {
		o.heard(err == nil, time.Now())
	} else { // nobody waits for it any more: that says nothing
		o.heard(false, time.Now().Add(-rememberFor))
	}
	return err
}

// outage is that of a post.
func (d *Desk) outage(post int) *outage {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	for len(d.outages) < len(d.Posts) {
		d.outages = append(d.outages, new(outage))
	}
	return d.outages[post]
}

// ask asks one scanner about a mail, unless it is known to be away.
func (d *Desk) ask(ctx context.Context, post int, m Mail) (Answer, error) {
	p, o := d.Posts[post], d.outage(post)
	if m.Size > p.MaxSize {
		return Answer{}, tooBig(m)
	}
	ctx, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	switch gone, ask := o.enter(time.Now()); {
	case gone:
		return Answer{}, away("it gave no sign of life a moment ago")
	case ask:
		if err := o.alive(ctx, p.Scanner); err != nil {
			return Answer{}, away("it gives no sign of life: %v", err)
		}
	}
	a, err := p.Scan(ctx, m)
	if errors.Is(err, ErrAway) && errors.Is(ctx.Err(), context.DeadlineExceeded) && o.doubt() {
		go o.alive(context.WithoutCancel(ctx), p.Scanner)
	}
	return a, err
}
