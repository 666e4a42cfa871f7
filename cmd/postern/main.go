// Postern is the operators' command.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"postern/appliance/clock"
	"postern/appliance/config"
	"postern/appliance/service"
	"postern/cmd/internal/gateway"
	machine "postern/cmd/internal/house"
	"postern/filter"
	"postern/filter/chain"
	"postern/filter/message"
	"postern/filter/policy"
	"postern/filter/record"
	"postern/filter/transport"
	"postern/filter/zone"
	"postern/hsm"
	"postern/hsm/client"
	"postern/provisioning"
)

// version is set by the linker.
var version = "unknown"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	hops := map[string]*transport.Hop{}
	app := &provisioning.App{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Version: version, Built: clock.Epoch(service.Built()),
		Keeper:   func(_ context.Context, socket string) (hsm.Keeper, error) { return client.Dial(socket), nil },
		Config:   func(path string) (provisioning.Site, error) { return site(path, hops) },
		Judge:    judge,
		Ways:     ways,
		Pipeline: pipeline,
		Finder:   finder,
		Forget:   forget,
		Names:    names,
		Secret:   provisioning.TerminalSecret(os.Stdin, os.Stderr),
		Greet: func(ctx context.Context, h provisioning.Hop) error {
			defer hops[h.Name].Close()
			return hops[h.Name].Greet(ctx)
		},
		Agent:  agent,
		Access: &provisioning.Access{Serve: serveAccess, Settings: settings},
		Press:  makePDF,
		Plan:   plan,
		Box:    house{},
		Update: slots{},
		Health: health{},
		Clock:  synchronised,
		Watch:  watchClock,
		Operations: func(ctx context.Context, trace string, n int) ([]provisioning.Operation, error) {
			return machine.Operations(ctx, machine.Command, trace, n)
		},
		ConfigDoc: config.Example,
	}
	os.Exit(app.Run(ctx, os.Args[1:]))
}

// site reads filterd.toml, and puts the next hops it names into hops.
func site(path string, hops map[string]*transport.Hop) (provisioning.Site, error) {
	c, err := config.LoadFilterd(path)
	if err != nil {
		return provisioning.Site{}, err
	}
	rules, err := gateway.Policy(c)
	if err != nil {
		return provisioning.Site{}, err
	}
	s := provisioning.Site{Keyring: c.Keyring, Record: c.Record, KeepSocket: c.Key.Keep, UseSocket: c.Key.Socket, Policy: rules}
	if c.Accounts.Source == "file" {
		s.Accounts = c.Accounts.File
	}
	if c.Default.Learn != "off" {
		s.Seen = c.Seen
	}
	s.Scanners = scanners(c)
	s.Documents = documents(c)
	out := c.NextHop.Outbound
	s.Mail = provisioning.Mail{MX: gateway.MX(c), Sends: c.Postfix != nil || out != nil && out.Route == "direct", DKIM: map[string]bool{}, STS: map[string]string{}}
	for d, v := range c.Domains {
		s.Mail.DKIM[d] = v.DKIM == "sign"
		policy, ok, err := gateway.OwnPolicy(c, d)
		if err != nil {
			return provisioning.Site{}, err
		}
		if ok {
			s.Mail.STS[d] = policy.Record()
		}
	}
	if s.Mailboxes, err = mailboxes(c); err != nil {
		return provisioning.Site{}, err
	}
	s.Shown = append(s.Shown, doorsShow(c)...)
	s.TLSDir = gateway.TLSDir(c)
	if c.Clock != "" {
		s.Gate = clock.Gate{Floor: clock.Epoch(service.Built()), Mark: c.Clock}.Check
	}
	s.Vets = c.Authentication.DMARC != "off"
	for _, l := range c.Listeners {
		if a, ok := gateway.Local(l); ok {
			s.Inside = append(s.Inside, a)
		}
		if l.TLS.Mode != "off" {
			files, some := gateway.ChainFiles(c, l)
			s.Shown = append(s.Shown, provisioning.Shown{Name: l.TLS.Identity, Files: files, Some: some})
		}
	}
	if c.SMIME.Roots == "public" {
		public, err := chain.Bundle()
		if err != nil {
			return provisioning.Site{}, err
		}
		s.Roots = len(public)
	}
	type hop struct {
		name string
		*config.Hop
	}
	all := []hop{{"inbound", c.NextHop.Inbound}, {"outbound", c.NextHop.Outbound}}
	for _, address := range slices.Sorted(maps.Keys(c.Archives)) {
		all = append(all, hop{address, c.Archives[address].NextHop})
	}
	for _, h := range all {
		if h.Hop == nil || h.Route == "direct" {
			s.Resolves = s.Resolves || h.Hop != nil
			continue
		}
		if hops[h.name], err = gateway.Hop(h.Hop, c.AuthservID); err != nil {
			return provisioning.Site{}, err
		}
		s.Hops = append(s.Hops, provisioning.Hop{Name: h.name, Address: h.Address})
	}
	return s, nil
}

// router finds ways as filterd does.
type router struct{ *gateway.Router }

// Resolver asks it for a signed answer.
func (r router) Resolver(ctx context.Context) (string, bool, error) {
	ok, err := r.Router.Resolver.Validates(ctx)
	return r.Router.Resolver.Address, ok, err
}

func names(path string) (zone.Names, error) {
	c, err := config.LoadFilterd(path)
	if err != nil {
		return nil, err
	}
	return gateway.Names(c), nil
}

func ways(_ context.Context, path string) (provisioning.Ways, error) {
	c, err := config.LoadFilterd(path)
	if err != nil {
		return nil, err
	}
	rules, err := gateway.Policy(c)
	if err != nil {
		return nil, err
	}
	r, err := gateway.OpenRouter(c, rules, false, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	return router{r}, nil
}

// court judges certificates as the mail path does.
type court struct {
	*gateway.SMIME
	ring *gateway.Ring
}

// Close frees the files.
func (c court) Close() error { return c.ring.Close() }

// judge is nil where there is no configuration that says how.
func judge(_ context.Context, path string) (provisioning.Judge, error) {
	c, err := config.LoadFilterd(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	ring, err := gateway.OpenRing(c, false)
	if err != nil {
		return nil, err
	}
	s, err := gateway.NewSMIME(c, nil, ring)
	if err != nil {
		return nil, errors.Join(err, ring.Close())
	}
	return court{s, ring}, nil
}

// finder is nil where no directory is configured.
func finder(path string) (provisioning.Finder, error) {
	c, err := config.LoadFilterd(path)
	if err != nil {
		return nil, err
	}
	var ring *gateway.Ring
	if gateway.Hears(c) {
		if ring, err = gateway.OpenRing(c, false); err != nil { // open until the program ends
			return nil, err
		}
	}
	f, err := gateway.Finder(c, ring)
	if f == nil || err != nil {
		return nil, err
	}
	return f, nil
}

// mailPath is the gateway of a configuration, without its relay.
type mailPath struct {
	gateway *filter.Gateway
	ring    *gateway.Ring
	record  *record.Record
	keys    *client.Client
}

func pipeline(_ context.Context, path string) (provisioning.Pipeline, error) {
	c, err := config.LoadFilterd(path)
	if err != nil {
		return nil, err
	}
	ring, err := gateway.OpenRing(c, false)
	if err != nil {
		return nil, err
	}
	rec, err := gateway.ReadRecord(c)
	if err != nil {
		return nil, err
	}
	// An operator's shell may not reach the use socket: keep answers as well.
	keys := client.Dial(c.Key.Keep)
	g, err := gateway.New(c, keys, ring, rec, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	return &mailPath{g, ring, rec, keys}, nil
}

func (m *mailPath) Process(ctx context.Context, r provisioning.ProcessRequest, mail io.Reader) (provisioning.Processed, error) {
	request := filter.Request{Direction: policy.Direction(r.Direction), At: r.At, Mail: mail}
	var err error
	if r.From != "" {
		if request.From, err = message.ParseAddress(r.From); err != nil {
			return provisioning.Processed{}, fmt.Errorf("sender %q: %w", r.From, err)
		}
	}
	for _, to := range r.To {
		a, err := message.ParseAddress(to)
		if err != nil {
			return provisioning.Processed{}, fmt.Errorf("recipient %q: %w", to, err)
		}
		request.To = append(request.To, a)
	}
	o := m.gateway.Process(ctx, request)
	p := provisioning.Processed{Decision: o.Verdict, Action: o.Verdict.Action, Explain: o.Explain, Close: func() {
		o.Close()
		m.keys.Close()
		m.ring.Close()
		m.record.Close()
	}}
	for i, c := range o.Copies {
		p.Copies = append(p.Copies, provisioning.Copy{Name: fmt.Sprintf("%d.eml", i+1), Message: c.Message})
	}
	return p, nil
}
