package transport

import (
	"crypto/rand"
	"crypto/tls"
	"slices"
	"sync"
	"time"
)

// How long session tickets are made with one key, and when it is gone: no
// ticket opens after a day, whatever crypto/tls writes into it as its lifetime.
const (
	ticketKeyMakes = 11 * time.Hour
	ticketKeyOpens = 22 * time.Hour
)

// tickets are the keys of session tickets (RFC 5077, RFC 8446 §4.6.1) of one
// listener. They are made in this process, and never leave its memory.
type tickets struct {
	mutex sync.Mutex
	keys  []ticketKey // the newest first
}

type ticketKey struct {
	key  [32]byte
	made time.Time
}

// renew gives config a new key where the newest one has had its time, and takes
// those away that have had theirs.
func (t *tickets) renew(config *tls.Config) {
	now := time.Now()
	if config.Time != nil {
		now = config.Time()
	}
	t.mutex.Lock()
	defer t.mutex.Unlock()
	before := len(t.keys)
	t.keys = slices.DeleteFunc(t.keys, func(k ticketKey) bool { return now.Before(k.made) || now.Sub(k.made) >= ticketKeyOpens })
	if len(t.keys) == before && before > 0 && now.Sub(t.keys[0].made) < ticketKeyMakes {
		return
	}
	if len(t.keys) == 0 || now.Sub(t.keys[0].made) >= ticketKeyMakes {
		fresh := ticketKey{made: now}
		rand.Read(fresh.key[:])
		t.keys = slices.Insert(t.keys, 0, fresh)
	}
	var keys [][32]byte
	for _, k := range t.keys {
		keys = append(keys, k.key)
	}
	config.SetSessionTicketKeys(keys)
}
