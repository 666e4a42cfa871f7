package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/textproto"
	"slices"
	"time"

	"postern/appliance/config"
	"postern/cmd/internal/gateway"
	"postern/filter"
	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/policy"
	"postern/filter/protect"
	"postern/hsm/client"
	"postern/provisioning"
)

// health is what a box asks of itself, as the commands see it.
type health struct{}

// Owned implements provisioning.Health.
func (health) Owned() (owned, attended bool, err error) {
	c, err := config.LoadBox(provisioning.DefaultBox)
	if errors.Is(err, fs.ErrNotExist) {
		return false, false, nil // or a gateway that is no box: its keyd has the PIN
	}
	if err != nil {
		return false, false, err
	}
	return true, c.Box.Unlock == "operator", nil
}

// Doors implements provisioning.Health: loopback, where a listener has every
// address.
func (health) Doors(path string) ([]provisioning.Hop, error) {
	c, err := config.LoadFilterd(path)
	if err != nil {
		return nil, err
	}
	var list []provisioning.Hop
	for _, l := range c.Listeners {
		host, port, err := net.SplitHostPort(l.Address)
		if err != nil {
			return nil, err
		}
		if ip := net.ParseIP(host); host == "" || ip.IsUnspecified() {
			host = "127.0.0.1"
			if ip != nil && ip.To4() == nil {
				host = "::1"
			}
		}
		name := l.Name
		if l.TLS.Mode == "implicit" {
			name += ", TLS"
		}
		list = append(list, provisioning.Hop{Name: name, Address: net.JoinHostPort(host, port)})
	}
	return list, nil
}

// Knock implements provisioning.Health: filterd itself must greet, the socket
// alone is systemd's.
func (health) Knock(ctx context.Context, door provisioning.Hop) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", door.Address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if end, ok := ctx.Deadline(); ok {
		conn.SetDeadline(end)
	}
	if len(door.Name) > 5 && door.Name[len(door.Name)-5:] == ", TLS" {
		// Whose certificate it is does not matter: this is our own machine, and
		// the answer is all that is wanted.
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
	}
	text := textproto.NewConn(conn)
	if _, _, err := text.ReadResponse(220); err != nil {
		return fmt.Errorf("greeting: %w", err)
	}
	return text.PrintfLine("QUIT")
}

// Mail implements provisioning.Health by the mail path of the gateway in this
// process, with the configuration, keyring and keys of the running filterd.
func (health) Mail(ctx context.Context, path string) (kinds []string, err error) {
	c, err := config.LoadFilterd(path)
	if err != nil {
		return nil, err
	}
	ring, err := gateway.OpenRing(c, false)
	if err != nil {
		return nil, err
	}
	defer ring.Close()
	store, err := keyring.OpenReadOnly(c.Keyring)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	keys := client.Dial(c.Key.Keep)
	defer keys.Close()
	g, err := gateway.New(c, keys, ring, nil, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	ours, err := store.AllIdentities(ctx)
	if err != nil {
		return nil, err
	}
	for _, i := range ours {
		at := slices.IndexFunc(g.Protectors, func(p protect.Protector) bool { return p.Format() == i.Format })
		if at < 0 || slices.Contains(kinds, string(i.Format)) || g.Protectors[at].Usable(i.Cert, time.Now()) != nil {
			continue // one of each kind, that partners could seal to
		}
		if err := opens(ctx, g, g.Protectors[at], i); err != nil {
			return kinds, err
		}
		kinds = append(kinds, string(i.Format))
	}
	return kinds, nil
}

// opens seals a mail to an identity and has it opened.
func opens(ctx context.Context, g *filter.Gateway, p protect.Protector, to keyring.Identity) error {
	whose := to.Address
	if whose.IsZero() {
		whose = message.Address{Local: "postmaster", Domain: to.Domain}
	}
	spool := func() *message.Spool { return g.Spools.New() }
	plain := spool()
	defer plain.Close()
	if _, err := fmt.Fprintf(plain, "From: <%s>\r\nTo: <%s>\r\nSubject: doctor\r\nDate: %s\r\nMessage-ID: <doctor@%s>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\nIs it healthy?\r\n",
		whose, whose, time.Now().UTC().Format(time.RFC1123Z), whose.Domain); err != nil {
		return err
	}
	m, err := message.Parse(plain, message.Limits{})
	if err != nil {
		return err
	}
	sealed, err := p.Seal(ctx, protect.SealRequest{Message: m, Recipients: []keyring.Cert{to.Cert}, At: time.Now(), NewSpool: spool})
	if err != nil {
		return err
	}
	var mail bytes.Buffer
	if _, err := sealed.WriteTo(&mail); err != nil {
		return err
	}
	o := g.Process(ctx, filter.Request{Direction: policy.Inbound, To: []message.Address{whose}, Mail: &mail, Unscanned: true})
	defer o.Close()
	if !slices.Contains(o.Verdict.Opened, string(to.Format)) {
		return fmt.Errorf("a mail in %s to %s was not opened: %s", to.Format, whose, o.Verdict.Reply)
	}
	return nil
}
