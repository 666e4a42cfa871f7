package provisioning

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Box is what a box of its own has beside a gateway. dir is the folder of an
// operator: his key, and which box it is for.
type Box interface {
	// Render writes below out what follows from box.toml, and names the files
	// that were not so already; with dry it only names them.
	Render(ctx context.Context, config, out string, dry bool) (changed []string, err error)
	// Serve is the box itself, until ctx ends.
	Serve(ctx context.Context, s BoxServe) error
	// Key is the pin of the operator's key, which is made where there is none.
	Key(dir string) (pin string, err error)
	// Meet notes a box that somebody else has claimed.
	Meet(ctx context.Context, dir, address, fingerprint string) (BoxStatus, error)
	// Claim claims a box. Shares are those of the PIN, where it is shared.
	Claim(ctx context.Context, dir string, c BoxClaim) (recovery string, shares []string, err error)
	// Confirm types the recovery key back.
	Confirm(ctx context.Context, dir, recovery string) (BoxStatus, error)
	// Offer is a file that claims a box for the owner of dir.
	Offer(dir string, config []byte) ([]byte, error)
	// PIN gives the token of a box that was claimed so its first PIN, and shares it.
	PIN(ctx context.Context, dir, pin string, need, total int) (BoxStatus, []string, error)
	Status(ctx context.Context, dir string) (BoxStatus, error)
	// Unlock gives a share of the PIN, or the PIN.
	Unlock(ctx context.Context, dir, share, pin string) (BoxStatus, error)
	Config(ctx context.Context, dir string) ([]byte, error)
	Configure(ctx context.Context, dir string, text []byte) (BoxStatus, error)
	// Do runs a command on the box.
	Do(ctx context.Context, dir string, args []string, stdin []byte) (BoxDone, error)
	Backup(ctx context.Context, dir string, w io.Writer) error
	// Restore gives the box an archive that identity opens, of the box with the
	// fingerprint from; "" is this box.
	Restore(ctx context.Context, dir string, archive, identity io.Reader, from string) (BoxStatus, error)
	// Recovery makes another recovery key.
	Recovery(ctx context.Context, dir string) (string, error)
	Reset(ctx context.Context, dir, name string) error
}

// BoxServe is how a box serves.
type BoxServe struct {
	Config  string   // box.toml
	Root    string   // where is rendered
	Listen  string   // in place of manage in [box]
	Screens []string // files of terminals; those of the kernel by default
	TPM     string   // device, or socket of an emulated one
	Stick   string   // file that may claim the box
}

// BoxClaim is a claim.
type BoxClaim struct {
	Address, Fingerprint, Code string
	Config                     []byte
	PIN                        string
	Need, Total                int // shares; 0: the PIN is not shared
}

// BoxStatus is what a box says of itself.
type BoxStatus struct {
	Claimed bool   `json:"claimed"`
	Name    string `json:"name,omitempty"`
	Version string `json:"version,omitempty"`
	Token   string `json:"token,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Need    int    `json:"need,omitempty"`
	Have    []int  `json:"have,omitempty"`
	Role    string `json:"role,omitempty"`
	BoxUsage
}

// BoxUsage is how much of the machine is in use, in MiB. Memory that only caches
// files is not.
type BoxUsage struct {
	Memory   uint64 `json:"memory,omitempty"`
	MemoryOf uint64 `json:"memory_of,omitempty"`
	Disk     uint64 `json:"disk,omitempty"` // of the data partition
	DiskOf   uint64 `json:"disk_of,omitempty"`
}

// BoxDone is what a command on the box came to.
type BoxDone struct {
	Status         int
	Stdout, Stderr []byte
	Files          map[string][]byte
}

// boxConfig is box.toml.
func (c *call) boxConfig() string { return cmpOr(c.get("config"), DefaultBox) }

// dir is the folder of the operator.
func (c *call) dir() (string, error) {
	if d := c.get("dir"); d != "" {
		return filepath.Abs(d)
	}
	d, err := os.UserConfigDir()
	if err != nil {
		return "", misuse("name a folder with --dir", "find folder of the operator: %v", err)
	}
	return filepath.Join(d, "postern"), nil
}

// ofBox is a command of an operator, with his folder.
func ofBox(do func(ctx context.Context, c *call, dir string) (any, error)) func(context.Context, *call) (any, error) {
	return func(ctx context.Context, c *call) (any, error) {
		dir, err := c.dir()
		if err != nil {
			return nil, err
		}
		return do(ctx, c, dir)
	}
}

func boxRender(ctx context.Context, c *call) (any, error) {
	changed, err := c.Box.Render(ctx, c.boxConfig(), cmpOr(c.get("out"), "/"), c.dry())
	if err == nil && len(changed) == 0 {
		return c.already("every file is as box.toml has it"), nil
	}
	d := did{Done: []string{}, DryRun: c.dry()}
	for _, path := range changed {
		d.Done = append(d.Done, "write "+path)
	}
	return d, err
}

func boxServe(ctx context.Context, c *call) (any, error) {
	return nil, c.Box.Serve(ctx, BoxServe{Config: c.boxConfig(), Root: cmpOr(c.get("out"), "/"), Listen: c.get("listen"), Screens: c.text["screen"], TPM: c.get("tpm"), Stick: cmpOr(c.get("stick"), defaultStick)})
}

func boxKey(_ context.Context, c *call, dir string) (any, error) {
	pin, err := c.Box.Key(dir)
	if err != nil {
		return nil, err
	}
	return page{pin + "\n"}, nil
}

// text prints it for people.
func (s BoxStatus) text(w io.Writer) {
	if s.Role == "none" && s.Claimed {
		fmt.Fprintln(w, "the box belongs to somebody, and this key may ask for nothing more")
		return
	}
	if !s.Claimed {
		fmt.Fprintln(w, "the box belongs to nobody")
		return
	}
	rows := [][]string{{"name", s.Name}, {"version", s.Version}, {"token", s.Token}}
	if s.Reason != "" {
		rows = append(rows, []string{"reason", s.Reason})
	}
	if s.Need > 0 && s.Token != "ready" {
		rows = append(rows, []string{"shares", fmt.Sprintf("%d of %d are there %v", len(s.Have), s.Need, s.Have)})
	}
	if s.MemoryOf > 0 {
		rows = append(rows, []string{"memory", fmt.Sprintf("%d of %d MiB in use", s.Memory, s.MemoryOf)}, []string{"data", fmt.Sprintf("%d of %d MiB in use", s.Disk, s.DiskOf)})
	}
	table(w, nil, append(rows, []string{"you may", cmpOr(map[string]string{"admin": "everything", "backup": "fetch backups"}[s.Role], "-")}))
}

func boxStatus(ctx context.Context, c *call, dir string) (any, error) {
	st, err := c.Box.Status(ctx, dir)
	if err != nil {
		return nil, err
	}
	if st.Token != "ready" {
		return st, &failure{err: errSaid, status: ExitNo}
	}
	return st, nil
}

func boxMeet(ctx context.Context, c *call, dir string) (any, error) {
	return orNil(c.Box.Meet(ctx, dir, c.args[0], c.get("fingerprint")))
}

// orNil is a result, or nothing beside an error.
func orNil(st BoxStatus, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return st, nil
}

func boxUnlock(ctx context.Context, c *call, dir string) (any, error) {
	pin, err := c.secret("pin-file", "PIN", false)
	if err != nil {
		return nil, err
	}
	var shares []string
	switch {
	case pin != "" && len(c.args) > 0:
		return nil, misuse(c.cmd.synopsis(), "unlock takes the PIN or shares, not both")
	case pin != "":
		shares = []string{""}
	case len(c.args) == 0:
		s, err := c.line("share: ")
		if err != nil {
			return nil, err
		}
		shares = []string{s}
	}
	for _, path := range c.args {
		b, err := c.read(path, maxSecret)
		if err != nil {
			return nil, fmt.Errorf("read share: %w", err)
		}
		shares = append(shares, strings.TrimSpace(string(b)))
	}
	var st BoxStatus
	for _, s := range shares {
		if st, err = c.Box.Unlock(ctx, dir, s, pin); err != nil {
			return nil, err
		}
	}
	if st.Token != "ready" {
		return st, &failure{err: errSaid, status: ExitNo}
	}
	return st, nil
}

func boxConfigOf(ctx context.Context, c *call, dir string) (any, error) {
	text, err := c.Box.Config(ctx, dir)
	if err != nil {
		return nil, err
	}
	return page{string(text)}, nil
}

func boxConfigure(ctx context.Context, c *call, dir string) (any, error) {
	if c.get("config") == "" {
		return nil, misuse(c.cmd.synopsis(), "box configure wants --config")
	}
	text, err := c.read(c.get("config"), maxBoxFile)
	if err != nil {
		return nil, fmt.Errorf("read box.toml: %w", err)
	}
	if c.dry() {
		return c.did("put %s in force", c.get("config")), nil
	}
	return orNil(c.Box.Configure(ctx, dir, text))
}

func boxDo(ctx context.Context, c *call, dir string) (any, error) {
	stdin, err := c.forBox()
	if err != nil {
		return nil, err
	}
	out, err := c.Box.Do(ctx, dir, c.args, stdin)
	if err != nil {
		return nil, err
	}
	_, err = c.Stdout.Write(out.Stdout)
	_, err2 := c.Stderr.Write(out.Stderr)
	for name, b := range out.Files {
		if filepath.Base(name) != name {
			return nil, no("", "the box names a file %.80q", name)
		}
		err = errors.Join(err, os.WriteFile(name, b, 0o600))
		fmt.Fprintln(c.Stderr, "wrote", printable(name))
	}
	if err := errors.Join(err, err2); err != nil {
		return nil, err
	}
	if out.Status != ExitDone {
		return nil, &failure{err: errSaid, status: out.Status}
	}
	return nil, nil
}

// forBox is what a command on the box reads: standard input where it wants that,
// or a password that is typed here.
func (c *call) forBox() ([]byte, error) {
	password := len(c.args) > 1 && c.args[0] == "account" && (c.args[1] == "add" || c.args[1] == "passwd")
	if password && c.Secret != nil {
		p, err := c.Secret("password: ")
		if err != nil {
			return nil, fmt.Errorf("read password: %w", err)
		}
		again, err := c.Secret("password, once more: ")
		if err == nil && again != p {
			err = no("type the same password twice", "the two passwords differ; nothing was done")
		}
		return []byte(p + "\n"), err
	}
	if !password && !slices.Contains(c.args, "-") && c.args[0] != "process" && c.args[0] != "explain" {
		return nil, nil
	}
	b, err := c.read("-", maxBoxFile)
	if err != nil {
		return nil, fmt.Errorf("read standard input: %w", err)
	}
	return b, nil
}

func boxBackup(ctx context.Context, c *call, dir string) (any, error) {
	out := c.get("out")
	if out == "" {
		return nil, misuse(c.cmd.synopsis(), "box backup wants --out")
	}
	if c.dry() {
		return c.did("write %s", out), nil
	}
	if err := writeFile(out, 0o600, func(w io.Writer) error { return c.Box.Backup(ctx, dir, w) }); err != nil {
		return nil, err
	}
	return c.did("write %s", out), nil
}

func boxRestore(ctx context.Context, c *call, dir string) (any, error) {
	if c.get("identity") == "" {
		return nil, misuse(c.cmd.synopsis(), "box restore wants --identity")
	}
	archive, err := os.Open(c.args[0])
	if err != nil {
		return nil, err
	}
	defer archive.Close()
	identity, err := os.Open(c.get("identity"))
	if err != nil {
		return nil, err
	}
	defer identity.Close()
	if c.dry() {
		return c.did("restore %s", c.args[0]), nil
	}
	return orNil(c.Box.Restore(ctx, dir, archive, identity, c.get("from")))
}

func boxRecovery(ctx context.Context, c *call, dir string) (any, error) {
	if c.dry() {
		return c.did("make another recovery key"), nil
	}
	key, err := c.Box.Recovery(ctx, dir)
	if err != nil {
		return nil, err
	}
	if key == "" {
		return c.already("the data of this box is on no encrypted partition"), nil
	}
	return taken{Recovery: key}, nil
}

func boxReset(ctx context.Context, c *call, dir string) (any, error) {
	st, err := c.Box.Status(ctx, dir)
	if err != nil {
		return nil, err
	}
	if st.Name == "" {
		return nil, no("`postern box status`", "the box does not say its name to this key")
	}
	if err := c.confirm("token, data and identity of "+st.Name+" are wiped", st.Name); err != nil {
		return nil, err
	}
	if c.dry() {
		return c.did("wipe %s", st.Name), nil
	}
	if err := c.Box.Reset(ctx, dir, st.Name); err != nil {
		return nil, err
	}
	return c.did("wipe %s", st.Name), nil
}

// Later is an error that may be none in a while.
func Later(err error, hint string) error { return &failure{err: err, hint: hint, status: ExitLater} }
