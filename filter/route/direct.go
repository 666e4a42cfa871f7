package route

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"postern/filter/mtasts"
	"postern/filter/policy"
	"postern/filter/transport"
)

// ErrLoop is a domain whose best server is this machine (RFC 5321 §5.1).
var ErrLoop = errors.New("mail would come back to this machine")

// Bounds of one mail to one domain.
const (
	maxDomains   = 4               // of one mail, at once
	maxAddresses = 4               // of one server
	maxTries     = 10              // connections
	begin        = 2 * time.Minute // no new connection to a domain is begun after that
	whole        = 5 * time.Minute // no new domain of a mail
	maxHops      = 256             // servers that connections are kept to
	restless     = time.Minute     // a server that nobody asked for since has none
)

// Direct is a next hop that is no relay: it brings each mail to the servers of
// its recipients' domains. It keeps no queue: what cannot be delivered now is
// deferred, and whoever sent it comes back. Router, Name and Word are needed.
type Direct struct {
	Router  *Router
	Name    string // for EHLO
	RootCAs *x509.CertPool
	// Word gives the reply for an error of ours about one recipient.
	Word func(error) transport.Reply
	// Own tells addresses that lead back to this machine; nil: those it has.
	Own func(netip.Addr) bool
	Log *slog.Logger

	late  time.Duration // in the place of whole
	mutex sync.Mutex
	hops  map[string]*door
}

// door is a server with the connections to it, all of which fulfil one Need.
type door struct {
	hop  *transport.Hop
	used time.Time
}

// times leave room for our own answer: a sender waits ten minutes for it (RFC
// 5321 §4.5.3.2.6).
var times = transport.Timeouts{Connect: 15 * time.Second, Handshake: 30 * time.Second, Command: 2 * time.Minute, Final: 7 * time.Minute}

// Deliver brings the mail to every domain of its recipients, one transaction
// for each. Every recipient has a reply of his own.
func (d *Direct) Deliver(ctx context.Context, e *transport.Envelope, size int64, mail io.WriterTo) transport.Result {
	if len(e.Recipients) == 0 {
		return transport.Result{Err: errors.New("deliver mail: no recipients")}
	}
	domains := map[string][]int{}
	var order []string
	for i, r := range e.Recipients {
		if domains[r.Address.Domain] == nil {
			order = append(order, r.Address.Domain)
		}
		domains[r.Address.Domain] = append(domains[r.Address.Domain], i)
	}
	all := transport.Result{Replies: make([]transport.Reply, len(e.Recipients)), Each: make([]transport.Carriage, len(e.Recipients))}
	var group sync.WaitGroup
	slots := make(chan struct{}, maxDomains)
	end := time.Now().Add(cmp.Or(d.late, whole))
	for _, domain := range order {
		slots <- struct{}{}
		if time.Now().After(end) { // the sender's patience is not ours to spend
			for _, i := range domains[domain] {
				all.Replies[i] = d.Word(context.DeadlineExceeded)
			}
			<-slots
			continue
		}
		group.Go(func() {
			defer func() { <-slots }()
			part := *e
			part.Recipients = nil
			for _, i := range domains[domain] {
				part.Recipients = append(part.Recipients, e.Recipients[i])
			}
			r := sound(func() transport.Result { return d.domain(ctx, domain, &part, size, mail) })
			var said transport.Reply
			if r.Err != nil && !errors.As(r.Err, &said) {
				said = d.Word(r.Err)
				d.log(ctx, e, domain, r.Err)
			}
			if r.Err != nil {
				r.Replies = slices.Repeat([]transport.Reply{said}, len(part.Recipients))
			}
			for n, i := range domains[domain] {
				all.Replies[i], all.Each[i] = r.Replies[n], r.Carriage
			}
			if e.Heard != nil && len(order) > 1 {
				e.Heard(part.Recipients, r.Replies)
			}
		})
	}
	group.Wait()
	all.Carriage = all.Each[0]
	return all
}

// sound keeps a panic that a hostile answer provoked to the mail it was about.
func sound(f func() transport.Result) (r transport.Result) {
	defer func() {
		if v := recover(); v != nil {
			r = transport.Result{Err: fmt.Errorf("deliver mail: %w: %T", transport.ErrPanic, v), Sent: true}
		}
	}()
	return f()
}

func (d *Direct) log(ctx context.Context, e *transport.Envelope, domain string, err error) {
	if d.Log != nil {
		d.Log.LogAttrs(ctx, slog.LevelWarn, "route", slog.String("trace", e.Trace), slog.String("domain", domain), slog.String("error", err.Error()))
	}
}

// trial says what an MTA-STS policy in the mode testing would have refused: the
// domain wants to hear of that before it enforces, and so does its partner.
func (d *Direct) trial(ctx context.Context, e *transport.Envelope, domain string, s Server, r transport.Result) {
	err := s.Trial
	if err == nil {
		err = r.Trial
	}
	if err == nil || d.Log == nil {
		return
	}
	LogTrial(ctx, d.Log.With("trace", e.Trace), domain, s.Host, err)
}

// LogTrial is the one line about a server that an MTA-STS policy in the mode
// testing would have refused (RFC 8461 §5).
func LogTrial(ctx context.Context, log *slog.Logger, domain, server string, err error) {
	log.LogAttrs(ctx, slog.LevelWarn, "mta-sts", slog.String("domain", domain), slog.String("server", server), slog.String("mode", string(mtasts.Testing)), slog.String("would-refuse", err.Error()))
}

// domain brings the mail to the servers of one domain. A server that is in
// trouble, or says 4xx to all, leaves it to the next one; what a server said
// after it had the mail, or for good, stands.
func (d *Direct) domain(ctx context.Context, domain string, e *transport.Envelope, size int64, mail io.WriterTo) transport.Result {
	floor := policy.Level(e.Floor)
	if e.RequireTLS { // who answers has to be known (RFC 8689 §4.2.1)
		floor = policy.Verify
	}
	e.Floor = "" // each Need has it
	route, err := d.Router.Route(ctx, domain, floor)
	last := transport.Result{Err: err, Carriage: transport.Carriage{Level: string(route.Way.Level), Result: transport.LevelMissed}}
	if err != nil {
		return last
	}
	servers, err := d.others(route)
	if err != nil {
		last.Err = err
		return last
	}
	tries, end := 0, time.Now().Add(begin)
	for _, s := range servers {
		for _, a := range s.Addresses[:min(len(s.Addresses), maxAddresses)] {
			if tries++; tries > maxTries || tries > 1 && time.Now().After(end) {
				return last
			}
			last = d.hop(netip.AddrPortFrom(a, d.Router.port()), s.Need).Deliver(ctx, e, size, mail)
			d.trial(ctx, e, domain, s, last)
			var said transport.Reply
			switch {
			case last.Err == nil, last.Sent, ctx.Err() != nil, errors.As(last.Err, &said) && said.Code/100 == 5:
				return last
			case said.Code == 0 && !errors.Is(last.Err, transport.ErrNextHop): // the mail cannot be read, or not printed
				return last
			}
			last.Err = fmt.Errorf("%s: %w", s.Host, last.Err)
			if said.Code != 0 {
				break // its other addresses are the same server
			}
		}
	}
	return last
}

// others leaves out what leads back here: addresses of this machine, and
// servers that stand behind it in the domain's own list (RFC 5321 §5.1).
func (d *Direct) others(route *Route) ([]Server, error) {
	own := d.Own
	if own == nil {
		mine, err := net.InterfaceAddrs()
		if err != nil {
			return nil, fmt.Errorf("list own addresses: %w", err)
		}
		own = func(a netip.Addr) bool { return ownAddress(a, mine) }
	}
	servers := route.Usable()
	for i, s := range servers {
		if slices.ContainsFunc(s.Addresses, own) {
			rest := slices.DeleteFunc(servers[:i], func(o Server) bool { return o.Preference >= s.Preference })
			if len(rest) == 0 {
				return nil, fmt.Errorf("%s: %w", s.Host, ErrLoop)
			}
			return rest, nil
		}
	}
	return servers, nil
}

// ownAddress tells addresses that no mail is sent to: this machine's, and those
// that name no single other machine.
func ownAddress(a netip.Addr, mine []net.Addr) bool {
	a = a.Unmap()
	if !a.IsGlobalUnicast() {
		return true
	}
	return slices.ContainsFunc(mine, func(m net.Addr) bool {
		p, err := netip.ParsePrefix(m.String())
		return err == nil && p.Addr().Unmap() == a
	})
}

// hop is the one for a server and a Need: a connection that was made for less
// is never used for more.
func (d *Direct) hop(at netip.AddrPort, need transport.Need) *transport.Hop {
	key := fmt.Sprintf("%v %+v", at, need)
	d.mutex.Lock()
	defer d.mutex.Unlock()
	now := time.Now()
	if found := d.hops[key]; found != nil {
		found.used = now
		return found.hop
	}
	if d.hops == nil {
		d.hops = map[string]*door{}
	}
	var quiet []string
	for k, h := range d.hops {
		if now.Sub(h.used) > restless {
			quiet = append(quiet, k)
		}
	}
	if len(quiet) == 0 && len(d.hops) >= maxHops {
		for k := range d.hops {
			quiet = append(quiet, k)
			break
		}
	}
	for _, k := range quiet {
		go d.hops[k].hop.Close() // who uses it goes on
		delete(d.hops, k)
	}
	h := &transport.Hop{Address: at.String(), Name: d.Name, Need: need, RootCAs: d.RootCAs, MaxIdle: 2, Timeouts: times}
	d.hops[key] = &door{h, now}
	return h
}

// Close ends the idle connections.
func (d *Direct) Close() error {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	var all []error
	for k, h := range d.hops {
		all = append(all, h.hop.Close())
		delete(d.hops, k)
	}
	return errors.Join(all...)
}
