package access

import (
	"net/netip"
	"slices"
	"sync"
)

// Gate bounds how many connections are there at once: in all, and from one
// network of a client, its IPv4 address or the first 64 bits of its IPv6 address.
// Several listeners may share one.
type Gate struct {
	Max       int
	PerClient int
	Allow     []netip.Prefix // networks that may enter; empty: everybody

	mutex   sync.Mutex
	total   int
	clients map[netip.Prefix]int
}

func network(a netip.Addr) netip.Prefix {
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits) // an address that is not valid is a network of its own
	return p
}

// Enter takes a place, if there is one.
func (g *Gate) Enter(a netip.Addr) bool {
	full, crowd := g.enter(a)
	return !full && !crowd
}

// enter takes a place. full: there is none; crowd: the client has all of
// his, or may have none.
func (g *Gate) enter(a netip.Addr) (full, crowd bool) {
	n := network(a)
	g.mutex.Lock()
	defer g.mutex.Unlock()
	switch {
	case len(g.Allow) > 0 && !slices.ContainsFunc(g.Allow, func(n netip.Prefix) bool { return n.Contains(a) }):
		return false, true
	case g.clients[n] >= g.PerClient:
		return false, true
	case g.total >= g.Max:
		return true, false
	}
	if g.clients == nil {
		g.clients = map[netip.Prefix]int{}
	}
	g.total++
	g.clients[n]++
	return false, false
}

// Leave gives it back.
func (g *Gate) Leave(a netip.Addr) {
	n := network(a)
	g.mutex.Lock()
	defer g.mutex.Unlock()
	g.total--
	if g.clients[n]--; g.clients[n] <= 0 {
		delete(g.clients, n)
	}
}
