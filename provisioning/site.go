package provisioning

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/hsm"
)

const (
	maxSecret = 255      // bytes of a PIN, its line end included
	maxFile   = 16 << 20 // bytes of a file of certificates
)

// config is the path of filterd.toml.
func (c *call) config() string {
	if p := c.get("config"); p != "" {
		return p
	}
	return DefaultConfig
}

// site reads the configuration. A box without one, where none was asked for,
// has the default paths: so keys can be made before anything else.
func (c *call) site() (Site, error) {
	s, err := c.Config(c.config())
	if errors.Is(err, fs.ErrNotExist) && c.get("config") == "" {
		s, err = Site{}, nil
	}
	if err != nil {
		return Site{}, &failure{err: fmt.Errorf("read configuration: %w", err), hint: "`filterd --config FILE --check` checks the file; `--config FILE` names another", status: ExitNo}
	}
	if s.Keyring == "" {
		s.Keyring = DefaultKeyring
	}
	if s.Record == "" {
		s.Record = DefaultRecord
	}
	if s.KeepSocket == "" {
		s.KeepSocket = DefaultSocket
	}
	return s, nil
}

// keeper is the key daemon behind the keep socket.
func (c *call) keeper(ctx context.Context) (hsm.Keeper, error) {
	socket := c.get("socket")
	if socket == "" {
		s, err := c.site()
		if err != nil {
			return nil, err
		}
		socket = s.KeepSocket
	}
	k, err := c.Keeper(ctx, socket)
	if err != nil {
		return nil, fmt.Errorf("reach key daemon at %s: %w", socket, err)
	}
	return k, nil
}

// keys are those of the token, and who keeps them.
func (c *call) keys(ctx context.Context) (hsm.Keeper, []hsm.Key, error) {
	k, err := c.keeper(ctx)
	if err != nil {
		return nil, nil, err
	}
	keys, err := k.Keys(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("list keys: %w", err)
	}
	return k, keys, nil
}

// ours opens the keyring, for changes where write says so, and finds the
// identities that the command's argument names.
func (c *call) ours(ctx context.Context, write bool) (*keyring.Store, []keyring.Identity, error) {
	store, err := c.ring(write)
	if err != nil {
		return nil, nil, err
	}
	list, err := c.named(ctx, store, c.args[0])
	return store, list, err
}

// ring opens the keyring, which lives as long as the call. A command that
// only looks gets it read-only.
func (c *call) ring(write bool) (*keyring.Store, error) {
	if c.store != nil {
		return c.store, nil
	}
	s, err := c.site()
	if err != nil {
		return nil, err
	}
	open := keyring.OpenReadOnly
	if write && !c.dry() {
		open = keyring.Open
	}
	c.store, err = open(s.Keyring)
	return c.store, err
}

// seen opens what verified mail brought, or gives nil where there is nothing yet.
func (c *call) seen() (*keyring.Store, error) {
	s, err := c.site()
	if err != nil || s.Seen == "" {
		return nil, err
	}
	switch _, err := os.Stat(s.Seen); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case errors.Is(err, fs.ErrPermission):
		return nil, no("run it as root: the folder is filterd's own", "seen certificates: %w", err)
	}
	store, err := keyring.OpenForeign(s.Seen)
	if err != nil {
		return nil, unseen(err)
	}
	return store, nil
}

// unseen is an error of what mail brought: it need not hold an operator up.
func unseen(err error) error {
	if errors.Is(err, keyring.ErrNotFound) || errors.Is(err, keyring.ErrAmbiguous) || errors.Is(err, keyring.ErrInvalid) {
		return err
	}
	return no("nothing in that file is trusted: it may be removed, and filterd makes it again", "seen certificates: %w", err)
}

// besides are seenCerts for whom may read them, and none for anybody else: what
// he asks for is in the keyring first of all.
func (c *call) besides(find func(*keyring.Store) ([]keyring.Cert, error)) ([]keyring.Cert, error) {
	list, err := c.seenCerts(find)
	if errors.Is(err, fs.ErrPermission) {
		return nil, nil
	}
	return list, err
}

// seenCerts are those that verified mail brought and that find finds, as far as
// they may be believed.
func (c *call) seenCerts(find func(*keyring.Store) ([]keyring.Cert, error)) (list []keyring.Cert, err error) {
	store, err := c.seen()
	if err != nil || store == nil {
		return nil, err
	}
	defer store.Close()
	found, err := find(store)
	if err != nil {
		return nil, unseen(err)
	}
	for _, one := range found {
		if one, ok := keyring.Doubted(one); ok {
			list = append(list, one)
		}
	}
	return list, nil
}

// absent lets a missing keyring count as an empty one: for commands that only
// list, an empty list is the truth. Never for the mail path.
func absent(err error) error {
	if errors.Is(err, keyring.ErrNoStore) {
		return nil
	}
	return err
}

// owner is the address or domain that --address or --domain names.
type owner struct {
	address message.Address
	domain  string
}

func (o owner) String() string {
	if o.domain != "" {
		return o.domain
	}
	return o.address.Key()
}

func (o owner) is(i keyring.Identity) bool {
	if o.domain != "" {
		return i.Domain == o.domain
	}
	return i.Domain == "" && i.Address.Key() == o.address.Key()
}

func (c *call) owner() (owner, error) {
	a, d := c.get("address"), c.get("domain")
	switch {
	case a == "" && d == "":
		return owner{}, misuse(c.cmd.synopsis(), "%s wants --address or --domain", c.cmd.name())
	case a != "" && d != "":
		return owner{}, misuse(c.cmd.synopsis(), "%s: give either --address or --domain", c.cmd.name())
	}
	return parseOwner(a + d)
}

// parseOwner reads an address or a domain.
func parseOwner(s string) (owner, error) {
	if strings.Contains(s, "@") {
		a, err := message.ParseAddress(s)
		if err != nil {
			return owner{}, misuse("an address looks like name@company1.example", "address %.80q: %w", s, err)
		}
		return owner{address: a}, nil
	}
	d, err := parseDomain(s)
	return owner{domain: d}, err
}

// parseDomain gives the form that addresses of the domain are kept in.
func parseDomain(s string) (string, error) {
	a, err := message.ParseAddress("postmaster@" + s)
	if err != nil {
		return "", misuse("a domain looks like company1.example", "domain %.80q: %w", s, err)
	}
	if strings.HasPrefix(a.Domain, "[") {
		return "", misuse("a domain looks like company1.example", "domain %.80q is an address literal", s)
	}
	return a.Domain, nil
}

// secret is the PIN from --pin-file (or --so-pin-file), from a prompt with
// --ask-pin, or "" for the one of the daemon's credential. It is never an argument.
func (c *call) secret(file, prompt string, twice bool) (string, error) {
	path := c.get(file)
	if path == "" && (!c.on["ask-pin"] || prompt == "") {
		return "", nil
	}
	if path == "" {
		if c.Secret == nil {
			return "", misuse("use --pin-file, or run it at a terminal", "no terminal to ask for the PIN at")
		}
		pin, err := c.Secret(prompt + ": ")
		if err != nil {
			return "", fmt.Errorf("read PIN: %w", err)
		}
		if twice {
			again, err := c.Secret(prompt + ", once more: ")
			if err != nil {
				return "", fmt.Errorf("read PIN: %w", err)
			}
			if again != pin {
				return "", no("type the same PIN twice", "the two PINs differ; nothing was done")
			}
		}
		return checkPIN(pin)
	}
	b, err := c.read(path, maxSecret)
	if err != nil {
		return "", fmt.Errorf("read PIN: %w", err)
	}
	return checkPIN(strings.TrimRight(string(b), "\r\n"))
}

func checkPIN(pin string) (string, error) {
	if pin == "" {
		return "", no("without --pin-file and --ask-pin the daemon takes its credential", "the PIN is empty")
	}
	if strings.ContainsFunc(pin, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
		return "", no("a PIN is one line of text", "the PIN holds a control character")
	}
	return pin, nil
}

// read gives a file, or with "-" standard input, of at most limit bytes.
func (c *call) read(path string, limit int64) ([]byte, error) {
	in := c.Stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s: more than %d bytes", path, limit)
	}
	return b, nil
}

// confirm asks for the name of what will be gone for good. Scripts give --yes NAME.
func (c *call) confirm(what, name string) error {
	if c.dry() {
		return nil
	}
	answer := c.get("yes")
	if answer == "" {
		fmt.Fprintf(c.Stderr, "This cannot be undone: %s.\nType %s to go on: ", printable(what), printable(name))
		line, err := bufio.NewReader(io.LimitReader(c.Stdin, 1024)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read answer: %w", err)
		}
		fmt.Fprintln(c.Stderr)
		answer = strings.TrimSpace(line)
	}
	if answer != name {
		return no("type the name exactly, or give it with `--yes NAME`", "%s was not named; nothing was done", name)
	}
	return nil
}

func (o owner) sameAddress(a message.Address) bool { return a.Key() == o.address.Key() }

// upgrade opens the keyring to write, which brings it up to date.
func upgrade(ctx context.Context, c *call) (any, error) {
	s, err := c.site()
	if err != nil {
		return nil, err
	}
	switch _, err := os.Stat(s.Keyring); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("upgrade keyring %s: %w", s.Keyring, keyring.ErrNoStore)
	case err != nil:
		return nil, fmt.Errorf("upgrade keyring: %w", err)
	}
	r, err := keyring.OpenReadOnly(s.Keyring)
	if err == nil {
		return c.already("%s is of this version", s.Keyring), r.Close()
	}
	if _, old := errors.AsType[hinted](err); !old {
		return nil, err
	}
	if _, err := c.ring(true); err != nil && !c.dry() {
		return nil, err
	}
	return c.did("bring %s up to this version", s.Keyring), nil
}
