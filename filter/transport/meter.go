package transport

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"
)

// maxMetered is how many are remembered at once. Whoever has done least is
// forgotten first.
const maxMetered = 65536

// Rate is how often something may be done in a time, at once or spread over it.
// The zero Rate is no limit.
type Rate struct {
	Count int
	Per   time.Duration
}

// Meter counts what each of many does, in memory that is bounded: for each it
// keeps the time at which all will be as if nothing had been done.
type Meter struct {
	Rate Rate
	Now  func() time.Time // time.Now where nil

	mutex sync.Mutex
	clean map[string]time.Time
}

// Take counts one for key, unless that is too much.
func (m *Meter) Take(key string) bool {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if m.spent(key) {
		return false
	}
	m.count(key)
	return true
}

// Return takes back one that was taken.
func (m *Meter) Return(key string) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	at, known := m.clean[key]
	if !known || m.Rate.Count <= 0 {
		return
	}
	if at = at.Add(-m.step()); at.After(m.now()) {
		m.clean[key] = at
	} else {
		delete(m.clean, key)
	}
}

// Load is how many have been counted that still weigh.
func (m *Meter) Load(key string) int {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	left := m.clean[key].Sub(m.now())
	if m.Rate.Count <= 0 || left <= 0 {
		return 0
	}
	step := m.step()
	return int((left + step - 1) / step)
}

func (m *Meter) step() time.Duration { return m.Rate.Per / time.Duration(m.Rate.Count) }

func (m *Meter) spent(key string) bool {
	return m.Rate.Count > 0 && m.clean[key].Sub(m.now()) > m.Rate.Per-m.step()
}

func (m *Meter) count(key string) {
	if m.Rate.Count <= 0 {
		return
	}
	if m.clean == nil {
		m.clean = map[string]time.Time{}
	}
	now := m.now()
	at, known := m.clean[key]
	if !known && len(m.clean) >= maxMetered {
		m.shrink(now)
	}
	if at.Before(now) {
		at = now
	}
	m.clean[key] = at.Add(m.step())
}

// shrink forgets all that is over, and a quarter of the rest if nothing is.
func (m *Meter) shrink(now time.Time) {
	maps.DeleteFunc(m.clean, func(_ string, at time.Time) bool { return !at.After(now) })
	if len(m.clean) < maxMetered {
		return
	}
	keys := slices.SortedFunc(maps.Keys(m.clean), func(a, b string) int { return cmp.Compare(m.clean[a].UnixNano(), m.clean[b].UnixNano()) })
	for _, k := range keys[:len(keys)/4] {
		delete(m.clean, k)
	}
}

func (m *Meter) now() time.Time {
	if m.Now != nil {
		return m.Now()
	}
	return time.Now()
}
