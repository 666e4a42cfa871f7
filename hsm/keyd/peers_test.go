package keyd

import (
	"os"
	"testing"
	"time"
)

// SetPatience shortens the wait for the rest of a frame, before Run.
func (k *Keyd) SetPatience(d time.Duration) { k.patience = d }

// The names that tests outside need.
const (
	MaxConns = maxConns
	Depth    = depth
)

// TestPeersAdmit: by user, by any group, and always for root and ourselves.
func TestPeersAdmit(t *testing.T) {
	us := uint32(os.Getuid())
	other := us + 1000
	for _, x := range []struct {
		name  string
		peers Peers
		peer  peer
		want  bool
	}{
		{"root", Peers{}, peer{uid: 0}, true},
		{"ourselves", Peers{}, peer{uid: us}, true},
		{"a stranger", Peers{}, peer{uid: other, gids: []uint32{other}}, false},
		{"by user", Peers{UIDs: []uint32{other}}, peer{uid: other}, true},
		{"another user", Peers{UIDs: []uint32{other}}, peer{uid: other + 1}, false},
		{"by primary group", Peers{GIDs: []uint32{7}}, peer{uid: other, gids: []uint32{7}}, true},
		{"by second group", Peers{GIDs: []uint32{7}}, peer{uid: other, gids: []uint32{6, 7}}, true},
		{"another group", Peers{GIDs: []uint32{7}}, peer{uid: other, gids: []uint32{6}}, false},
		{"a group is no user", Peers{UIDs: []uint32{7}}, peer{uid: other, gids: []uint32{7}}, false},
	} {
		if got := x.peers.admits(x.peer); got != x.want {
			t.Errorf("%s: got %v, want %v", x.name, got, x.want)
		}
	}
}
