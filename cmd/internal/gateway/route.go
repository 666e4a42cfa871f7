package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"postern/appliance/config"
	"postern/filter"
	"postern/filter/message"
	"postern/filter/mtasts"
	"postern/filter/policy"
	"postern/filter/resolver"
	"postern/filter/route"
)

// Router finds the ways to partners: for the Postfix behind us, for a direct
// next hop, and for whoever explains.
type Router struct {
	*route.Router
	Resolver *resolver.Client
	store    *mtasts.Store
}

// Names is the resolver of c.
func Names(c *config.Filterd) *resolver.Client {
	return &resolver.Client{Address: c.Resolver.Address, Trust: c.Resolver.Believed()}
}

// OpenRouter reads how ways are found. write is for the daemon, which keeps the
// policies of domains.
func OpenRouter(c *config.Filterd, rules *policy.Policy, write bool, log *slog.Logger) (*Router, error) {
	names := Names(c)
	r := &Router{Router: &route.Router{Names: names, Way: rules.Way}, Resolver: names}
	h := c.NextHop.Outbound
	alone := h != nil && h.Route == "direct"
	if alone {
		r.Port = uint16(h.Port)
	}
	if c.MTASTS.Ask == "off" || write && !alone && c.Postfix == nil { // nobody asks the daemon for ways
		return r, nil
	}
	var err error
	if write {
		if err := os.MkdirAll(filepath.Dir(c.MTASTS.Store), 0o700); err != nil {
			return nil, fmt.Errorf("make folder of MTA-STS policies: %w", err)
		}
		r.store, err = mtasts.Open(c.MTASTS.Store)
	} else if r.store, err = mtasts.OpenForeign(c.MTASTS.Store); errors.Is(err, mtasts.ErrNoStore) {
		err = nil
	}
	if err != nil {
		return nil, err
	}
	all := mtasts.Config{Names: names, Private: c.MTASTS.Private, Budget: time.Duration(c.MTASTS.Budget), Log: log}
	if c.MTASTS.CAFile != "" {
		if all.Roots, err = pool("mta-sts.ca-file", c.MTASTS.CAFile); err != nil {
			return nil, errors.Join(err, r.Close())
		}
	}
	kept := all
	kept.Store = r.store
	if write || r.store == nil {
		r.STS = mtasts.New(kept)
	} else {
		r.STS = elsewhere{mtasts.New(kept), mtasts.New(all)}
	}
	return r, nil
}

// elsewhere has the policies that the daemon keeps, and asks for others by itself:
// the daemon's file is not written to.
type elsewhere struct{ kept, asked *mtasts.Cache }

func (r elsewhere) Policy(ctx context.Context, domain string) *mtasts.Policy {
	if p := r.kept.Known(ctx, domain); p != nil {
		return p
	}
	return r.asked.Policy(ctx, domain)
}

// Close frees the file.
func (r *Router) Close() error {
	if r == nil || r.store == nil {
		return nil
	}
	return r.store.Close()
}

// direct is the next hop that is no relay.
func direct(c *config.Filterd, h *config.Hop, ways *Router, texts filter.Texts, log *slog.Logger) (*route.Direct, error) {
	d := &route.Direct{Router: ways.Router, Name: c.AuthservID, Word: texts.Word, Log: log}
	if h.CAFile != "" {
		var err error
		if d.RootCAs, err = pool("ca-file", h.CAFile); err != nil {
			return nil, fmt.Errorf("next hop: %w", err)
		}
	}
	return d, nil
}

// hosts reads names of servers as DNS has them.
func hosts(names []string) (list []string, err error) {
	for _, n := range names {
		star := ""
		if strings.HasPrefix(n, "*.") {
			star, n = "*.", n[2:]
		}
		a, err := message.ParseAddress("postmaster@" + n)
		text, ok := a.ASCII()
		if err != nil || !ok {
			return nil, fmt.Errorf("name %q: not that of a host", n)
		}
		_, ascii, _ := strings.Cut(text, "@")
		list = append(list, star+ascii)
	}
	return list, nil
}
