package dmarc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"

	"postern/filter/resolver"
)

// Names is the resolver. resolver.Client is the real one.
type Names interface {
	TXT(ctx context.Context, name string) (resolver.Answer[string], error)
	MX(ctx context.Context, domain string) (resolver.Answer[resolver.MX], error)
	Addresses(ctx context.Context, host string) (resolver.Answer[netip.Addr], error)
	Hosts(ctx context.Context, a netip.Addr) (resolver.Answer[string], error)
}

// maxQuestions is how much the resolver is asked for one mail: SPF alone may
// need eleven records and the addresses of ten hosts for each of its ten terms.
const maxQuestions = 150

// ErrQuestions is a mail that asks for too much.
var ErrQuestions = errors.New("too many questions for one mail")

// asker asks for one mail. It speaks to go/spf in the errors of package net.
type asker struct {
	names Names
	asked atomic.Int32
}

func (a *asker) count() error {
	if a.asked.Add(1) > maxQuestions {
		return fmt.Errorf("%d: %w", maxQuestions, ErrQuestions)
	}
	return nil
}

// TXT gives the texts under a name; none and no error where there are none.
func (a *asker) TXT(ctx context.Context, name string) ([]string, error) {
	if err := a.count(); err != nil {
		return nil, err
	}
	r, err := a.names.TXT(ctx, name)
	if errors.Is(err, resolver.ErrName) {
		return nil, nil
	}
	return r.Found, err
}

func netError(name string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, resolver.ErrName) {
		return &net.DNSError{Err: "no name", Name: name, IsNotFound: true}
	}
	return &net.DNSError{Err: err.Error(), Name: name, IsTemporary: true}
}

func found[T any](name string, list []T, exists bool, err error) error {
	if err == nil && len(list) == 0 && !exists {
		return &net.DNSError{Err: "no such name", Name: name, IsNotFound: true}
	}
	return netError(name, err)
}

// LookupTXT is spf.DNSResolver's.
func (a *asker) LookupTXT(ctx context.Context, name string) ([]string, error) {
	if err := a.count(); err != nil {
		return nil, netError(name, err)
	}
	r, err := a.names.TXT(ctx, name)
	return r.Found, found(name, r.Found, r.Exists, err)
}

// LookupMX is spf.DNSResolver's.
func (a *asker) LookupMX(ctx context.Context, name string) (list []*net.MX, err error) {
	if err := a.count(); err != nil {
		return nil, netError(name, err)
	}
	r, err := a.names.MX(ctx, name)
	for _, mx := range r.Found {
		list = append(list, &net.MX{Host: mx.Host + ".", Pref: mx.Preference})
	}
	return list, found(name, list, r.Exists, err)
}

// LookupIPAddr is spf.DNSResolver's.
func (a *asker) LookupIPAddr(ctx context.Context, host string) (list []net.IPAddr, err error) {
	if err := a.count(); err != nil {
		return nil, netError(host, err)
	}
	r, err := a.names.Addresses(ctx, host)
	for _, ip := range r.Found {
		list = append(list, net.IPAddr{IP: ip.AsSlice()})
	}
	return list, found(host, list, r.Exists, err)
}

// LookupAddr is spf.DNSResolver's.
func (a *asker) LookupAddr(ctx context.Context, addr string) (list []string, err error) {
	if err := a.count(); err != nil {
		return nil, netError(addr, err)
	}
	ip, err := netip.ParseAddr(addr)
	if err != nil {
		return nil, netError(addr, resolver.ErrName)
	}
	r, err := a.names.Hosts(ctx, ip)
	for _, h := range r.Found {
		list = append(list, h+".")
	}
	return list, found(addr, list, r.Exists, err)
}
