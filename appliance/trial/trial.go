// Package trial is a whole gateway in one folder, on loopback: a SoftHSM
// token, the real keyd and filterd as processes of their own, provisioned by
// the real postern, and a sink as next hop. A person tries Postern with it
// (make run), and the tests judge the house as a whole.
package trial

import (
	"bytes"
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/template"
	"time"

	"postern/filter/credential"
)

// Config says what box to open. Zero fields have the defaults named here.
type Config struct {
	Dir      string // everything is below it; made when it is not there
	Bin      string // the folder of keyd, filterd and postern
	Module   string // PKCS#11 library; SoftHSM's
	Domain   string // ours; company1.example
	Outside  string // addresses, 127.0.0.1:0
	Inside   string
	Sink     string
	NextHop  string   // instead of the sink
	Outbound string   // lines of [next-hop.outbound] in place of that
	Env      []string // for keyd, where the module is another

	// Lines of configuration: fields without a table, and tables.
	KeydFields, FilterdFields, FilterdTables string
	DomainFields                             string // of [domain] of ours

	// TLS is the mode of both listeners: offer, force or implicit; "" is off.
	// Server names them; mx.company1.example. Where it has no certificates,
	// new keys of both kinds certify themselves: Certificate is one of them.
	TLS    string
	Server string
	// Further fields of their tls, each with a comma before it.
	OutsideTLS, InsideTLS string
	// Further lines of the listeners.
	OutsideFields, InsideFields string

	// Create are the arguments of `identity create`; --format openpgp --domain Domain.
	Create []string
}

// Box is an open gateway.
type Box struct {
	Config
	Keyd, Filterd *Process
	Kept          *Sink // nil with NextHop

	outside, inside *net.TCPListener
	logs            []*os.File
}

//go:embed keyd.toml
var keydTOML string

//go:embed filterd.toml
var filterdTOML string

// SoftHSM are the places Debian and others put it.
var SoftHSM = []string{"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so", "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so", "/usr/local/lib/softhsm/libsofthsm2.so"}

// Open makes or takes up the box in c.Dir and starts it. Close it in any case
// where the error is nil.
func Open(ctx context.Context, c Config) (_ *Box, err error) {
	b := &Box{Config: c}
	if err := b.defaults(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			b.Close()
		}
	}()
	for _, sub := range []string{"", "tokens", "keyd", "run", "spool"} {
		if err := os.MkdirAll(b.Path(sub), 0o700); err != nil {
			return nil, fmt.Errorf("make box: %w", err)
		}
	}
	if err := b.listen(); err != nil {
		return nil, err
	}
	if err := b.configure(); err != nil {
		return nil, err
	}
	if err := b.StartKeyd(ctx); err != nil {
		return nil, err
	}
	if err := b.provision(ctx); err != nil {
		return nil, err
	}
	return b, b.StartFilterd(ctx)
}

func (b *Box) defaults() error {
	set := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	for _, s := range []*string{&b.Outside, &b.Inside, &b.Sink} {
		set(s, "127.0.0.1:0")
	}
	set(&b.Domain, "company1.example")
	set(&b.Server, "mx."+b.Domain)
	if b.Create == nil {
		b.Create = []string{"--format", "openpgp", "--domain", b.Domain}
	}
	for _, s := range []*string{&b.Dir, &b.Bin} {
		var err error
		if *s, err = filepath.Abs(*s); err != nil {
			return fmt.Errorf("make box: %w", err)
		}
	}
	for _, m := range SoftHSM {
		if _, err := os.Stat(m); b.Module == "" && err == nil {
			b.Module = m
		}
	}
	if b.Module == "" {
		return errors.New("make box: SoftHSM is not installed (hint: make deps)")
	}
	return nil
}

// Path is a place in the box.
func (b *Box) Path(elem ...string) string {
	return filepath.Join(append([]string{b.Dir}, elem...)...)
}

func (b *Box) listen() error {
	open := func(address string) (*net.TCPListener, string, error) {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return nil, "", fmt.Errorf("make box: %w (hint: another program has the port; end it, or choose others)", err)
		}
		return l.(*net.TCPListener), l.Addr().String(), nil
	}
	var err error
	if b.outside, b.Outside, err = open(b.Outside); err != nil {
		return err
	}
	if b.inside, b.Inside, err = open(b.Inside); err != nil {
		return err
	}
	if b.NextHop != "" {
		return nil
	}
	l, address, err := open(b.Sink)
	if err != nil {
		return err
	}
	b.Sink, b.NextHop = address, address
	b.Kept, err = OpenSink(b.Path("maildir"), l)
	return err
}

// configure writes what the programs read. A PIN that is there stays.
func (b *Box) configure() error {
	files := map[string]string{
		"softhsm2.conf": "directories.tokendir = " + b.Path("tokens") + "\nobjectstore.backend = file\nlog.level = ERROR\n",
	}
	if _, err := os.Stat(b.Path("pin")); errors.Is(err, fs.ErrNotExist) {
		files["pin"] = strings.ToLower(rand.Text()[:12]) + "\n"
	}
	for name, text := range map[string]string{"keyd.toml": keydTOML, "filterd.toml": filterdTOML} {
		t, err := template.New(name).Parse(text)
		var out bytes.Buffer
		if err == nil {
			err = t.Execute(&out, b)
		}
		if err != nil {
			return fmt.Errorf("make box: %w", err)
		}
		files[name] = out.String()
	}
	for name, text := range files {
		if err := os.WriteFile(b.Path(name), []byte(text), 0o600); err != nil {
			return fmt.Errorf("make box: %w", err)
		}
	}
	return nil
}

// StartKeyd starts the key daemon, again after Kill or Stop.
func (b *Box) StartKeyd(ctx context.Context) error {
	log, err := b.log("keyd.log")
	if err == nil {
		b.Keyd, err = start(ctx, b.Path("run"), log, nil, b.Env, filepath.Join(b.Bin, "keyd"), "--config", b.Path("keyd.toml"))
	}
	return err
}

// StartFilterd starts the mail daemon. The listeners stay the box's: a
// connection that comes while it is away waits.
func (b *Box) StartFilterd(ctx context.Context) error {
	log, err := b.log("filterd.log")
	if err != nil {
		return err
	}
	var listeners []handed
	for _, l := range []struct {
		name string
		l    *net.TCPListener
	}{{"outside", b.outside}, {"inside", b.inside}} {
		f, err := l.l.File()
		if err != nil {
			return fmt.Errorf("start filterd: %w", err)
		}
		defer f.Close()
		listeners = append(listeners, handed{l.name, f})
	}
	b.Filterd, err = start(ctx, b.Path("run"), log, listeners, nil, filepath.Join(b.Bin, "filterd"), "--config", b.Path("filterd.toml"))
	return err
}

func (b *Box) log(name string) (*os.File, error) {
	f, err := os.OpenFile(b.Path(name), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err == nil {
		b.logs = append(b.logs, f)
	}
	return f, err
}

// Postern runs the operators' command against this box.
func (b *Box) Postern(ctx context.Context, stdin io.Reader, args ...string) (stdout []byte, err error) {
	cmd := exec.CommandContext(ctx, filepath.Join(b.Bin, "postern"), append(args, "--config", b.Path("filterd.toml"))...)
	var complaint bytes.Buffer
	cmd.Stdin, cmd.Stderr = stdin, &complaint
	if stdout, err = cmd.Output(); err != nil {
		err = fmt.Errorf("postern %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(complaint.Bytes()))
	}
	return stdout, err
}

// provision makes token, key and certificate where there are none yet.
func (b *Box) provision(ctx context.Context) error {
	out, err := b.Postern(ctx, nil, "token", "status", "--json")
	if err != nil && len(out) == 0 {
		return err
	}
	var status struct{ State string }
	if err := json.Unmarshal(out, &status); err != nil {
		return fmt.Errorf("read token status: %w", err)
	}
	if status.State == "unprovisioned" {
		if _, err := b.Postern(ctx, nil, "token", "init"); err != nil {
			return err
		}
	}
	if _, err := os.Stat(b.Path("keyring.db")); err == nil { // of an earlier version, maybe
		if _, err := b.Postern(ctx, nil, "keyring", "upgrade"); err != nil {
			return err
		}
	}
	ours, err := b.identities(ctx)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(ours, func(i identity) bool { return i.Format != "tls" }) {
		if _, err := b.Postern(ctx, nil, append([]string{"identity", "create"}, b.Create...)...); err != nil {
			return err
		}
	}
	if b.TLS == "" || slices.ContainsFunc(ours, func(i identity) bool { return i.Format == "tls" }) {
		return nil
	}
	_, err = b.Postern(ctx, nil, "identity", "create", "--use", "tls", "--domain", b.Server, "--self-signed")
	return err
}

// Certificate is the file of what the listeners show, of the kind ecdsa or rsa.
func (b *Box) Certificate(kind string) string {
	return credential.Place(b.Path("tls"), b.Server, kind)
}

// identity is one of `identity list`.
type identity struct{ Owner, Format, Use string }

func (b *Box) identities(ctx context.Context) ([]identity, error) {
	out, err := b.Postern(ctx, nil, "identity", "list", "--json")
	if err != nil {
		return nil, err
	}
	var list struct{ Identities []identity }
	if err := json.Unmarshal(out, &list); err != nil {
		return nil, fmt.Errorf("read identities: %w", err)
	}
	return list.Identities, nil
}

// Close stops everything that runs and leaves the folder.
func (b *Box) Close() error {
	var errs []error
	for _, p := range []*Process{b.Filterd, b.Keyd} {
		if p != nil {
			errs = append(errs, p.Stop())
		}
	}
	if b.Kept != nil {
		errs = append(errs, b.Kept.Close())
	}
	for _, l := range []*net.TCPListener{b.outside, b.inside} {
		if l != nil {
			l.Close()
		}
	}
	for _, f := range b.logs {
		f.Close()
	}
	return errors.Join(errs...)
}

// Await waits until the sink holds n mails more than it held at the time of
// seen, and gives their paths, oldest first.
func (s *Sink) Await(ctx context.Context, seen map[string]bool, n int) ([]string, error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var fresh []string
		entries, err := os.ReadDir(s.Dir())
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if !seen[e.Name()] {
				fresh = append(fresh, filepath.Join(s.Dir(), e.Name()))
			}
		}
		if len(fresh) >= n {
			return fresh, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fresh, fmt.Errorf("wait for %d mails, got %d: %w", n, len(fresh), ctx.Err())
		}
	}
}

// Seen are the names of the mails in the sink now.
func (s *Sink) Seen() (map[string]bool, error) {
	entries, err := os.ReadDir(s.Dir())
	seen := map[string]bool{}
	for _, e := range entries {
		seen[e.Name()] = true
	}
	return seen, err
}
