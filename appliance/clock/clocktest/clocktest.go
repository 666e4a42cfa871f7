// Package clocktest is a clock that a test turns.
package clocktest

import (
	"sync"
	"time"
)

// Clock stands still until it is turned. Several may read it.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// At is one that shows a time.
func At(t time.Time) *Clock { return &Clock{now: t} }

// Now is what it shows.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Pass turns it on, or with a negative d back.
func (c *Clock) Pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}
