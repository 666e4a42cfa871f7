// Filterd is the mail daemon: it takes mail from both sides, opens, decides,
// seals, and relays. It has no cgo, no PIN and no PKCS#11 module.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"postern/appliance/clock"
	"postern/appliance/config"
	"postern/appliance/service"
	"postern/cmd/internal/gateway"
	"postern/filter"
	"postern/filter/accounts"
	"postern/filter/message"
	"postern/filter/policy"
	"postern/filter/transport"
	"postern/hsm"
	"postern/hsm/client"
)

// version is set by the linker.
var version = "unknown"

// Mails leave much garbage and little that stays: the collector waits until the
// heap is five times what is alive, where Go's default is twice. Near
// memoryLimit, in bytes, it runs more often instead; nothing fails beyond it.
const (
	gcPercent   = 400
	memoryLimit = 128 << 20
)

// drain is how long mails under way may take to end after SIGTERM.
const drain = 25 * time.Second

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("filterd", flag.ContinueOnError)
	flags.SetOutput(stderr)
	path := flags.String("config", "/etc/postern/filterd.toml", "configuration `file`")
	check := flags.Bool("check", false, "read the configuration and look at the files that it names, say what is wrong, and stop")
	show := flags.Bool("version", false, "print the version and stop")
	if err := flags.Parse(args); err != nil || flags.NArg() > 0 {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if *show {
		fmt.Fprintln(stdout, "filterd", version)
		return 0
	}
	c, err := config.LoadFilterd(*path)
	if err == nil && *check {
		err = gateway.Check(c)
	} else if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
		defer stop()
		err = serve(ctx, c, stderr)
	}
	if err != nil {
		service.Complain(stderr, "filterd", err)
		return 1
	}
	return 0
}

// serve takes mail until ctx ends.
func serve(ctx context.Context, c *config.Filterd, stderr io.Writer) error {
	if err := service.Harden(); err != nil {
		return err
	}
	debug.SetGCPercent(gcPercent)
	debug.SetMemoryLimit(memoryLimit)
	log := service.Logger(stderr, c.Log.Level, c.Log.Format)
	ring, err := gateway.OpenRing(c, true)
	if err != nil {
		return err
	}
	defer ring.Close()
	rec, err := gateway.OpenRecord(c, log)
	if err != nil {
		return err
	}
	defer rec.Close()
	keys := client.Dial(c.Key.Socket)
	defer keys.Close()
	rules, err := gateway.Policy(c)
	if err != nil {
		return err
	}
	ways, err := gateway.OpenRouter(c, rules, true, log)
	if err != nil {
		return err
	}
	defer ways.Close()
	g, err := gateway.New(c, keys, ring, rec, ways, log)
	if err != nil {
		return err
	}
	g.Clock = clock.Gate{Floor: clock.Epoch(service.Built()), Mark: c.Clock}.Check
	book, err := gateway.Accounts(c, log)
	if err != nil {
		return err
	}
	handed, err := service.Listeners()
	if err != nil {
		return err
	}
	for name := range handed {
		if name == policySocket {
			continue
		}
		if !slices.ContainsFunc(c.Listeners, func(l config.Listener) bool { return l.Name == name }) {
			return fmt.Errorf("no listener is named %q, as the socket that was handed over (hint: FileDescriptorName= of the socket unit is the name of a [[listener]])", name)
		}
	}
	var servers []*transport.Server
	var doors []door
	for _, l := range c.Listeners {
		s, listeners, err := open(g, c, l, keys, book, handed[l.Name], log)
		if err != nil {
			for _, d := range doors {
				d.listener.Close()
			}
			return err
		}
		servers = append(servers, s)
		for _, ln := range listeners {
			doors = append(doors, door{s, ln})
			log.Info("listening", "listener", l.Name, "address", ln.Addr().String(), "direction", l.Direction)
		}
	}
	failed := make(chan error, len(doors)+len(handed)+1)
	answering, silence := context.WithCancel(context.WithoutCancel(ctx)) // Postfix asks while mails end
	defer silence()
	if err := answer(answering, c, g.Policy, ways, handed[policySocket], log, failed); err != nil {
		for _, d := range doors {
			d.listener.Close()
		}
		return err
	}
	for _, d := range doors {
		go func() { failed <- d.server.Serve(d.listener) }()
	}
	notify := service.NewNotifier()
	if err := notify.Ready(fmt.Sprintf("%d listeners", len(doors))); err != nil {
		log.Warn("notify", "error", err)
	}
	watching, unwatch := context.WithCancel(ctx)
	defer unwatch()
	go notify.Watch(watching, func(ctx context.Context) error { return selfCheck(ctx, g, c) }, log)
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	notify.Stopping()
	ctx, cancel := context.WithTimeout(context.Background(), drain)
	defer cancel()
	var group sync.WaitGroup
	for _, s := range servers {
		group.Go(func() {
			if s.Shutdown(ctx) != nil {
				s.Close()
			}
		})
	}
	group.Wait()
	g.Idle()
	return err
}

// door is one socket that a server takes connections from.
type door struct {
	server   *transport.Server
	listener net.Listener
}

// open makes one listener: from all that systemd handed over under its name,
// or by its address.
func open(g *filter.Gateway, c *config.Filterd, l config.Listener, keys hsm.Token, book *accounts.Book, handed []net.Listener, log *slog.Logger) (*transport.Server, []net.Listener, error) {
	log = log.With("listener", l.Name)
	s := &transport.Server{
		Name: c.AuthservID, Domain: slices.Min(slices.Collect(maps.Keys(c.Domains))), Handler: g.Handler(gateway.Listener(l)),
		MaxSize: int64(c.Limits.MessageSize), MaxRecipients: c.Limits.Recipients,
		LMTP: l.Protocol == "lmtp", Log: log,
	}
	gateway.Limit(s, l, book)
	certs, err := gateway.Secure(s, c, l, keys, log)
	if err == nil && certs != nil {
		if err = certs.Check(); err != nil {
			err = fmt.Errorf("listener %s: %w (hint: `postern identity create --use tls --domain %s` makes its keys and what an authority certifies, or with --self-signed all it needs)", l.Name, err, l.TLS.Identity)
		}
	}
	if err != nil {
		return nil, nil, err
	}
	if len(handed) > 0 {
		return s, handed, nil
	}
	ln, err := net.Listen("tcp", l.Address)
	if err != nil {
		return nil, nil, fmt.Errorf("listen for %q: %w (hint: another program has the port, or it wants CAP_NET_BIND_SERVICE)", l.Name, err)
	}
	return s, []net.Listener{ln}, nil
}

// selfCheck walks a small mail through the whole path but the relay: what
// hangs there would hang every mail.
func selfCheck(ctx context.Context, g *filter.Gateway, c *config.Filterd) error {
	o := g.Process(ctx, filter.Request{
		Direction: policy.Inbound,
		To:        []message.Address{{Local: "postmaster", Domain: slices.Min(slices.Collect(maps.Keys(c.Domains)))}},
		Mail:      strings.NewReader("Subject: self-check\r\n\r\n.\r\n"),
		Unscanned: true, // a scanner that hangs is not healed by a new filterd
	})
	o.Close()
	return ctx.Err()
}
