// Package resolver asks the validating resolver of the box, a program beside
// it such as unbound, for what mail needs to know of a domain. It validates
// nothing itself: an answer is secure where the resolver says so (RFC 4035
// §3.2.3), and the resolver is one whose word reaches us unchanged.
//
// What a resolver answers is hostile all the same: whoever owns a domain writes
// the records. Every answer is bounded in size, in number and in time, and one
// that is not understood is no answer. None is kept: the resolver does that.
package resolver

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/miekg/dns"
)

var (
	// ErrAway is no answer to rely on: none in time, a failure of the resolver
	// (as where signatures do not fit), or an answer that is not understood.
	ErrAway = errors.New("no usable answer of the resolver")
	// ErrName is what cannot be asked for.
	ErrName = errors.New("not a name to ask for")
)

// Bounds of an answer. DNS itself has none but the size of a message.
const (
	maxAliases = 12  // CNAME records behind each other
	maxRecords = 100 // of the type that was asked for
	udpSize    = 1232
)

// Client asks one resolver. It is safe for concurrent use.
type Client struct {
	Address string // host:port
	// Trust is whether it is believed that an answer was validated: only of a
	// resolver on this machine, or on a way that nobody else writes to (RFC 6698 §A.3).
	Trust   bool
	Timeout time.Duration // of one question with its repetitions: 15 s

	dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Answer is what stands under a name.
type Answer[T any] struct {
	Found  []T
	Name   string // where the aliases end, in small letters and without its last dot
	Secure bool   // every record on the way was validated
	Exists bool   // false: there is no such name
}

// MX is one of the servers that take mail for a domain (RFC 5321 §5.1).
type MX struct {
	Host       string // in small letters; "" is the root of a null MX (RFC 7505)
	Preference uint16
}

// TLSA is one association of a certificate with a name (RFC 6698 §2.1).
type TLSA struct {
	Usage, Selector, Matching uint8
	Data                      []byte
}

// ask gives the records of one type, as each of them is read. What a record
// read says of itself is false is left out.
func ask[T any](ctx context.Context, c *Client, name string, kind uint16, read func(dns.RR) (T, bool)) (Answer[T], error) {
	var a Answer[T]
	reply, err := c.exchange(ctx, name, kind)
	if err != nil {
		return a, fmt.Errorf("ask for %s of %.100q: %w", dns.TypeToString[kind], name, err)
	}
	records, end, err := chase(reply, name, kind)
	if err != nil {
		return a, fmt.Errorf("ask for %s of %.100q: %w", dns.TypeToString[kind], name, err)
	}
	a.Name, a.Exists = end, reply.Rcode == dns.RcodeSuccess
	a.Secure = c.Trust && reply.AuthenticatedData
	for _, r := range records {
		if v, ok := read(r); ok {
			a.Found = append(a.Found, v)
		}
	}
	return a, nil
}

// chase follows the aliases of an answer to their end (RFC 1034 §3.6.2).
func chase(reply *dns.Msg, name string, kind uint16) (records []dns.RR, end string, err error) {
	end = canonical(name)
	aliases := map[string]string{}
	for _, r := range reply.Answer {
		if alias, ok := r.(*dns.CNAME); ok && kind != dns.TypeCNAME {
			aliases[canonical(alias.Hdr.Name)] = canonical(alias.Target)
		}
	}
	for n := 0; ; n++ {
		next, ok := aliases[end]
		if !ok {
			break
		}
		if n == maxAliases {
			return nil, "", fmt.Errorf("more than %d aliases: %w", maxAliases, ErrAway)
		}
		end = next
	}
	for _, r := range reply.Answer {
		h := r.Header()
		if h.Rrtype == kind && h.Class == dns.ClassINET && canonical(h.Name) == end {
			records = append(records, r)
		}
	}
	if len(records) > maxRecords {
		return nil, "", fmt.Errorf("%d records, more than %d: %w", len(records), maxRecords, ErrAway)
	}
	return records, end, nil
}

func canonical(name string) string { return strings.TrimSuffix(strings.ToLower(name), ".") }

// exchange asks until somebody answers: twice in datagrams, then on a stream.
// A failure that the resolver tells of is final.
func (c *Client) exchange(ctx context.Context, name string, kind uint16) (*dns.Msg, error) {
	wire := dns.Fqdn(name)
	if _, ok := dns.IsDomainName(wire); !ok || name == "" || strings.ContainsAny(name, `\ `) {
		return nil, ErrName
	}
	whole := c.Timeout
	if whole <= 0 {
		whole = 15 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, whole)
	defer cancel()
	var err error
	for _, try := range []struct {
		network string
		within  time.Duration
	}{{"udp", whole / 5}, {"udp", whole * 3 / 10}, {"tcp", whole}} {
		var q, reply *dns.Msg
		if q, err = question(wire, kind); err != nil {
			return nil, err
		}
		if reply, err = c.try(ctx, try.network, q, try.within); err != nil {
			if ctx.Err() != nil {
				break
			}
			continue
		}
		if reply.Truncated && try.network == "udp" {
			if q, err = question(wire, kind); err != nil {
				return nil, err
			}
			if reply, err = c.try(ctx, "tcp", q, whole); err != nil {
				break
			}
		}
		switch reply.Rcode {
		case dns.RcodeSuccess, dns.RcodeNameError:
			return reply, nil
		}
		return nil, fmt.Errorf("%s%s: %w", dns.RcodeToString[reply.Rcode], reason(reply), ErrAway)
	}
	return nil, fmt.Errorf("%w: %w", ErrAway, err)
}

// reason is what the resolver adds of its own (RFC 8914).
func reason(reply *dns.Msg) string {
	if opt := reply.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if e, ok := o.(*dns.EDNS0_EDE); ok {
				return " (" + dns.ExtendedErrorCodeToString[e.InfoCode] + ")"
			}
		}
	}
	return ""
}

// question asks for validated records: AD in a question means that the asker
// understands AD in the answer (RFC 6840 §5.7). The letters of the name are
// capital by chance, and the answer has to repeat them: with the id and the
// port that is what somebody who does not see the question has to guess.
func question(name string, kind uint16) (*dns.Msg, error) {
	var chance [2 + 256]byte
	if _, err := rand.Read(chance[:]); err != nil {
		return nil, fmt.Errorf("make id: %w", err)
	}
	letters := []byte(name)
	for i, b := range letters {
		if lower := b | 0x20; lower >= 'a' && lower <= 'z' && i < 256 {
			letters[i] = lower &^ (chance[2+i] & 0x20)
		}
	}
	q := &dns.Msg{
		MsgHdr:   dns.MsgHdr{Id: binary.BigEndian.Uint16(chance[:2]), RecursionDesired: true, AuthenticatedData: true},
		Question: []dns.Question{{Name: string(letters), Qtype: kind, Qclass: dns.ClassINET}},
	}
	q.SetEdns0(udpSize, false)
	return q, nil
}

// try asks once, on a socket with a port of its own. Datagrams that are no
// answer to the question are passed over: anybody may send them.
func (c *Client) try(ctx context.Context, network string, q *dns.Msg, within time.Duration) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	dial := c.dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	socket, err := dial(ctx, network, c.Address)
	if err != nil {
		return nil, err
	}
	defer socket.Close()
	defer context.AfterFunc(ctx, func() { socket.SetDeadline(time.Now()) })()
	conn := &dns.Conn{Conn: socket, UDPSize: udpSize}
	if err := conn.WriteMsg(q); err != nil {
		return nil, err
	}
	for {
		raw, err := conn.ReadMsgHeader(nil)
		if err != nil && (network == "tcp" || !errors.Is(err, dns.ErrShortRead)) {
			return nil, err
		}
		reply := new(dns.Msg)
		if err == nil {
			err = reply.Unpack(raw)
		}
		if err == nil && answers(reply, q) {
			return reply, nil
		}
		if network == "tcp" {
			return nil, fmt.Errorf("answer to another question, or none: %w", ErrAway)
		}
	}
}

// answers tells an answer to q from everything else.
func answers(reply, q *dns.Msg) bool {
	return reply.Response && reply.Id == q.Id && reply.Opcode == dns.OpcodeQuery && len(reply.Question) == 1 && reply.Question[0] == q.Question[0]
}
