package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"

	"postern/appliance/access"
	"postern/appliance/access/pages"
	"postern/appliance/config"
	"postern/appliance/service"
	"postern/cmd/internal/gateway"
	"postern/filter/autoconfig"
	"postern/filter/openpgp"
	"postern/filter/publish"
	"postern/hsm"
	"postern/hsm/client"
	"postern/provisioning"
)

// settings are what mail programs are told, by domain.
func settings(path string) ([]autoconfig.Site, error) {
	c, err := config.LoadFilterd(path)
	if err != nil {
		return nil, err
	}
	var list []autoconfig.Site
	for _, d := range gateway.Ours(c) {
		list = append(list, gateway.Settings(c, d))
	}
	return list, nil
}

// open is one door that is served.
type open struct {
	name  string
	on    []net.Listener
	serve func(net.Listener) error
	end   func()
}

// serveAccess keeps the doors for mail programs and browsers until ctx ends. It
// is a process of its own: people's passwords and mailboxes pass it, and no mail
// of strangers is parsed in it.
func serveAccess(ctx context.Context, path string) error {
	c, err := config.LoadFilterd(path)
	if err != nil {
		return err
	}
	if err := service.Harden(); err != nil {
		return err
	}
	log := service.Logger(os.Stderr, c.Log.Level, c.Log.Format)
	keys := client.Dial(c.Key.Socket)
	defer keys.Close()
	handed, err := service.Listeners()
	if err != nil {
		return err
	}
	var doors []open
	defer func() {
		for _, d := range doors {
			for _, l := range d.on {
				l.Close()
			}
			d.end()
		}
	}()
	for _, a := range c.Access {
		s, err := gateway.Access(c, a, keys, log)
		if err != nil {
			return err
		}
		on, err := gateway.Door(a.Name, a.Address, handed)
		if err != nil {
			return err
		}
		doors = append(doors, open{a.Name, on, s.Serve, s.Close})
	}
	if len(c.Web) > 0 {
		ring, err := gateway.OpenRing(c, false)
		if err != nil {
			return err
		}
		defer ring.Close()
		handler, err := pagesOf(c, ring, log)
		if err != nil {
			return err
		}
		for _, w := range c.Web {
			d, err := webDoor(c, w, handler, keys, handed, log)
			if err != nil {
				return err
			}
			doors = append(doors, d)
		}
	}
	for name := range handed {
		if !slices.ContainsFunc(doors, func(d open) bool { return d.name == name }) {
			return fmt.Errorf("no door is named %q, as the socket that was handed over (hint: FileDescriptorName= of the socket unit is the name of an [[access]] or a [[web]])", name)
		}
	}
	if len(doors) == 0 {
		return fmt.Errorf("%s: nothing to serve (hint: add [[access]] or [[web]])", path)
	}
	failed := make(chan error, len(doors))
	var group sync.WaitGroup
	for _, d := range doors {
		for _, l := range d.on {
			log.Info("listening", "listener", d.name, "address", l.Addr().String())
			group.Go(func() {
				if err := d.serve(l); err != nil {
					select {
					case failed <- fmt.Errorf("listener %s: %w", d.name, err):
					default:
					}
				}
			})
		}
	}
	notify := service.NewNotifier()
	if err := notify.Ready(fmt.Sprintf("%d doors", len(doors))); err != nil {
		log.Warn("notify", "error", err)
	}
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	notify.Stopping()
	return err
}

// pagesOf is what is served over HTTPS.
func pagesOf(c *config.Filterd, ring *gateway.Ring, log *slog.Logger) (*pages.Handler, error) {
	ours := gateway.Ours(c)
	h := &pages.Handler{Domains: ours, Log: log, Pages: pages.Settings(ours, func(d string) autoconfig.Site { return gateway.Settings(c, d) })}
	wkd := &publish.WKD{Ours: func(d string) bool { return slices.Contains(ours, d) }, Identities: ring, Fit: openpgp.New(openpgp.Config{}).Usable}
	for _, prefix := range []string{"", "openpgpkey."} {
		h.Pages = append(h.Pages, pages.Page{Prefix: prefix, Path: "/.well-known/openpgpkey", Tree: true, Methods: []string{http.MethodGet, http.MethodHead},
			Serve: func(w http.ResponseWriter, r *http.Request, _ string) { wkd.ServeHTTP(w, r) }})
	}
	policies := map[string][]byte{}
	for _, d := range ours {
		p, ok, err := gateway.OwnPolicy(c, d)
		if err != nil {
			return nil, err
		}
		if ok {
			policies[d] = p.Text()
		}
	}
	h.Pages = append(h.Pages, pages.Page{Prefix: "mta-sts.", Path: publish.PolicyPath, Methods: []string{http.MethodGet, http.MethodHead},
		Serve: func(w http.ResponseWriter, r *http.Request, domain string) { publish.Policy(w, r, policies[domain]) }})
	return h, nil
}

func webDoor(c *config.Filterd, w config.Web, h *pages.Handler, keys hsm.Token, handed map[string][]net.Listener, log *slog.Logger) (open, error) {
	log = log.With("listener", w.Name)
	shown, err := gateway.WebTLS(c, w, keys, log)
	if err != nil {
		return open{}, err
	}
	on, err := gateway.Door(w.Name, w.Address, handed)
	if err != nil {
		return open{}, err
	}
	s := pages.Server(h, shown, log)
	gate := &access.Gate{Max: w.MaxConnections, PerClient: w.PerClient, Allow: gateway.Prefixes(w.Allow)}
	return open{w.Name, on, func(l net.Listener) error {
		if err := s.ServeTLS(pages.Limit(l, gate), "", ""); err != http.ErrServerClosed {
			return err
		}
		return nil
	}, func() { s.Close() }}, nil
}

// mailboxes are the servers behind the doors, for the doctor.
func mailboxes(c *config.Filterd) (list []provisioning.Mailbox, err error) {
	for _, a := range c.Access {
		u, p, err := gateway.Upstream(a)
		if err != nil {
			return nil, err
		}
		list = append(list, provisioning.Mailbox{Name: a.Name, Address: a.Server, Greet: func(ctx context.Context) error { return u.Greet(ctx, p) }})
	}
	return list, nil
}

// doorsShow is what the doors show their clients.
func doorsShow(c *config.Filterd) (list []provisioning.Shown) {
	add := func(name string, files []string) {
		paths, some := gateway.ChainFiles(c, config.Listener{TLS: config.ListenerTLS{Identity: name, CertFiles: files}})
		list = append(list, provisioning.Shown{Name: name, Files: paths, Some: some})
	}
	for _, a := range c.Access {
		add(a.TLS.Identity, a.TLS.CertFiles)
	}
	for _, w := range c.Web {
		for _, name := range w.Identities {
			add(name, nil)
		}
	}
	return list
}
