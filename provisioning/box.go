package provisioning

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
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
}

// BoxDone is what a command on the box came to.
type BoxDone struct {
	Status         int
	Stdout, Stderr []byte
	Files          map[string][]byte
}

var (
	optDir    = option{name: "dir", value: "DIR", about: "folder of the operator's key and of what is known of the box; postern in the user's configuration by default"}
	optShares = option{name: "shares", value: "M/N", about: "share the PIN among N people, M of whom unlock the box, as 2/3"}
	optPrint  = option{name: "fingerprint", value: "FP", about: "of the box, as its screen shows it; 32 digits from its beginning or more"}
)

// boxCommands are those of a box. --config means box.toml.
func boxCommands() []command {
	return []command{
		{noun: "box", verb: "render", here: true, about: "write every file of the box that follows from box.toml",
			more:  "Both daemons' files, sockets, network, firewall, clock, Postfix and resolver, each below --out where the box has it. The same box.toml gives the same bytes. Files that are so already are left alone; nothing is removed. --config is box.toml, " + DefaultBox + " by default.",
			flags: []option{{name: "out", value: "DIR", about: "folder in place of the root of the file system"}}, run: boxRender},
		{noun: "box", verb: "serve", here: true, about: "be the box: identity, screen, and what operators ask",
			more: "Run by postern-box.service. While the box belongs to nobody the screen shows its address, fingerprint and a code.",
			flags: []option{{name: "out", value: "DIR", about: "folder to render into in place of the root of the file system"}, {name: "listen", value: "ADDR", about: "address and port in place of manage in [box]"},
				{name: "screen", value: "FILE", about: "terminal to show the screen on; those of the kernel by default", many: true}, {name: "tpm", value: "FILE", about: "TPM for the key of the box, /dev/tpmrm0 where there is one by default"},
				{name: "stick", value: "FILE", about: "file that may claim the box, claim.json of a stick labelled POSTERN by default"}}, run: boxServe},
		{noun: "box", verb: "call", here: true, args: "COMMAND…", min: 1, max: -1, about: "run a command as for an operator elsewhere: without files of the box",
			more: "The box does so for box do. Flags of the command stand behind --.", run: boxCall},

		{noun: "box", verb: "key", here: true, about: "print the pin of the operator's key, for admin or backup-by of box.toml",
			more: "The key is made where there is none.", flags: []option{optDir}, run: boxKey},
		{noun: "box", verb: "claim", here: true, args: "HOST:PORT", min: 1, max: 1, about: "make a box that belongs to nobody one's own",
			more: "Fingerprint and code stand on the screen of the box. --config is the box.toml it gets. The PIN of its token is made up and shared, or given; nothing of it stays here. The box answers with the recovery key of its data partition: write it down, and type it back, here or with box confirm. Then the box begins to work.",
			flags: []option{optDir, optPrint, {name: "code", value: "CODE", about: "of the screen"}, optPINFile, optAskPIN,
				optShares, {name: "out", value: "DIR", about: "folder for the shares, a file for each person; printed without"}}, run: boxClaim},
		{noun: "box", verb: "confirm", here: true, about: "type the recovery key back, and end the claim",
			more: "Asks for it at a terminal, or reads the first line of standard input.", flags: []option{optDir}, run: boxConfirm},
		{noun: "box", verb: "offer", here: true, about: "write a file that claims a box for this operator, without a code",
			more:  "--config is the box.toml it gets. As claim.json on a stick with the label POSTERN, or as the systemd credentials postern.claim and, with the pin that box key prints, postern.owner. It holds no PIN: once the box answers, meet it, and give it one with box pin.",
			flags: []option{optDir, {name: "out", value: "FILE", about: "where it goes"}}, run: boxOffer},
		{noun: "box", verb: "pin", here: true, about: "give the token of a box that was claimed by a file its first PIN",
			more:  "As box claim does with its flags.",
			flags: []option{optDir, optPINFile, optAskPIN, optShares, {name: "out", value: "DIR", about: "folder for the shares, a file for each person; printed without"}}, run: boxPIN},
		{noun: "box", verb: "meet", here: true, args: "HOST:PORT", min: 1, max: 1, about: "note a box that somebody else has claimed, or that has moved",
			more: "A box that is known already needs no --fingerprint: it is at another address, and has the same key.", flags: []option{optDir, optPrint}, run: boxMeet},
		{noun: "box", verb: "status", here: true, about: "ask the box for its state",
			more: "Exit status 0 when its token is ready, 1 when it is not.", flags: []option{optDir}, run: boxStatus},
		{noun: "box", verb: "config", here: true, about: "print the box.toml that is in force", flags: []option{optDir}, run: boxConfigOf},
		{noun: "box", verb: "configure", here: true, about: "put another box.toml in force",
			more: "It is --config. The box checks it whole before anything changes.", flags: []option{optDir}, run: boxConfigure},
		{noun: "box", verb: "do", here: true, args: "COMMAND…", min: 1, max: -1, about: "run a command of postern on the box",
			more: "As box do -- cert import -. What the command reads is standard input, files that it writes come to the current folder. Those that belong to one machine, or would read its files, are refused.", flags: []option{optDir}, run: boxDo},
		{noun: "box", verb: "backup", here: true, about: "fetch a backup of the box",
			more: "Encrypted for backup-to of box.toml: who fetches it cannot read it. Private keys are not in it.", flags: []option{optDir, {name: "out", value: "FILE", about: "where it goes"}}, run: boxBackup},
		{noun: "box", verb: "restore", here: true, args: "FILE", min: 1, max: 1, about: "give a box a backup back",
			more:  "The backup is opened here with --identity, and goes to the box over a connection that nobody else reads. The box takes it when it was made by the box with the fingerprint --from, which is its own by default.",
			flags: []option{optDir, {name: "identity", value: "FILE", about: "key of age that opens it"}, {name: "from", value: "FP", about: "fingerprint of the box it was made by, all 64 digits"}}, run: boxRestore},
		{noun: "box", verb: "recovery", here: true, about: "make another recovery key for the data partition, and end the last one", flags: []option{optDir}, run: boxRecovery},
		{noun: "box", verb: "reset", here: true, about: "wipe the box: token, data and identity",
			more: "Asks for its name. What was on it is gone; it belongs to nobody afterwards.", flags: []option{optDir, optYes}, run: boxReset},
		{noun: "unlock", here: true, args: "[FILE…]", max: -1, about: "give the box shares of its PIN, or the PIN",
			more: "Each file holds one share; - reads standard input, without a file it is asked for. People may do so one after the other, in different places, within a quarter of an hour from one to the next. A share that is wrong is found out before the token is asked.", flags: []option{optDir, optPINFile, optAskPIN}, run: boxUnlock},
	}
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

func boxKey(_ context.Context, c *call) (any, error) {
	dir, err := c.dir()
	if err != nil {
		return nil, err
	}
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
	table(w, nil, append(rows, []string{"you may", cmpOr(map[string]string{"admin": "everything", "backup": "fetch backups"}[s.Role], "-")}))
}

func boxStatus(ctx context.Context, c *call) (any, error) {
	dir, err := c.dir()
	if err != nil {
		return nil, err
	}
	st, err := c.Box.Status(ctx, dir)
	if err != nil {
		return nil, err
	}
	if st.Token != "ready" {
		return st, &failure{err: errSaid, status: ExitNo}
	}
	return st, nil
}

func boxMeet(ctx context.Context, c *call) (any, error) {
	dir, err := c.dir()
	if err != nil {
		return nil, err
	}
	return orNil(c.Box.Meet(ctx, dir, c.args[0], c.get("fingerprint")))
}

// orNil is a result, or nothing beside an error.
func orNil(st BoxStatus, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return st, nil
}

// taken is the result of box claim.
type taken struct {
	Recovery string   `json:"recovery"`
	Shares   []string `json:"shares,omitempty"`
	Files    []string `json:"files,omitempty"`
}

func (t taken) text(w io.Writer) {
	for i, s := range t.Shares {
		fmt.Fprintf(w, "share %d: %s\n", i+1, s)
	}
	for _, f := range t.Files {
		fmt.Fprintf(w, "share in %s\n", printable(f))
	}
	if t.Recovery != "" {
		fmt.Fprintf(w, "\nrecovery key of the data partition:\n\n    %s\n\nWrite it down: it is shown once, and is the one way to the data when the TPM is gone.\n", printable(t.Recovery))
	}
}

// maxShares is the most people a PIN is shared among.
const maxShares = 16

// sharesOf reads "2/3".
func sharesOf(text string) (need, total int, err error) {
	if text == "" {
		return 0, 0, nil
	}
	m, n, ok := strings.Cut(text, "/")
	need, err1 := strconv.Atoi(m)
	total, err2 := strconv.Atoi(n)
	if !ok || err1 != nil || err2 != nil || need < 2 || need > total || total > maxShares {
		return 0, 0, misuse("two of three people: --shares 2/3", "--shares %.20q: want M/N, M from 2 to N and N up to %d", text, maxShares)
	}
	return need, total, nil
}

func boxClaim(ctx context.Context, c *call) (any, error) {
	dir, err := c.dir()
	if err != nil {
		return nil, err
	}
	for _, flag := range []string{"fingerprint", "code", "config"} {
		if c.get(flag) == "" {
			return nil, misuse(c.cmd.synopsis(), "box claim wants --%s", flag)
		}
	}
	claim := BoxClaim{Address: c.args[0], Fingerprint: c.get("fingerprint"), Code: c.get("code")}
	if claim.Config, err = c.read(c.get("config"), maxBoxFile); err != nil {
		return nil, fmt.Errorf("read box.toml: %w", err)
	}
	if claim.PIN, claim.Need, claim.Total, err = c.newPIN(); err != nil {
		return nil, err
	}
	if c.dry() {
		return c.did("claim the box at %s", c.args[0]), nil
	}
	var t taken
	if t.Recovery, t.Shares, err = c.Box.Claim(ctx, dir, claim); err != nil {
		return nil, err
	}
	if err := c.share(&t); err != nil {
		return t, err
	}
	if c.Secret == nil {
		return t, no("postern box confirm", "the claim waits: the recovery key has to be typed back")
	}
	if err := c.print(t); err != nil {
		return nil, err
	}
	typed, err := c.Secret("\ntype the recovery key back: ")
	if err != nil {
		return nil, fmt.Errorf("read recovery key: %w", err)
	}
	return confirmed(c.Box.Confirm(ctx, dir, typed))
}

// confirmed is what became of a claim. A box that took it goes to the addresses
// of its box.toml, and its answer may be lost on the way.
func confirmed(st BoxStatus, err error) (any, error) {
	if _, said := errors.AsType[hinted](err); err != nil && !said {
		return nil, Later(err, "if box.toml gives it another address it is there now: `postern box meet HOST:PORT`, then `postern box status`")
	}
	return orNil(st, err)
}

// maxBoxFile is the largest box.toml, in bytes.
const maxBoxFile = 1 << 20

// writeShares puts each share in a file of its own.
func writeShares(dir string, shares []string) (files []string, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	for i, s := range shares {
		path := filepath.Join(dir, fmt.Sprintf("share-%d.txt", i+1))
		if err := os.WriteFile(path, []byte(s+"\n"), 0o600); err != nil {
			return files, err
		}
		files = append(files, path)
	}
	return files, nil
}

// newPIN is the PIN of a new token: given, or made up and then shared.
func (c *call) newPIN() (pin string, need, total int, err error) {
	if need, total, err = sharesOf(c.get("shares")); err != nil {
		return "", 0, 0, err
	}
	if pin, err = c.secret("pin-file", "PIN of the token", true); err != nil {
		return "", 0, 0, err
	}
	if pin == "" {
		if need == 0 {
			return "", 0, 0, misuse("share it with --shares 2/3, or choose it with --ask-pin or --pin-file", "nobody would know the PIN")
		}
		pin = rand.Text()[:15] // 75 bits, and no longer than smart cards take
	}
	return pin, need, total, nil
}

// share puts the shares of t into files, where that is asked for.
func (c *call) share(t *taken) (err error) {
	if out := c.get("out"); out != "" && len(t.Shares) > 0 {
		t.Files, err = writeShares(out, t.Shares)
		t.Shares = nil
	}
	return err
}

// defaultStick is where the box's unit mounts a stick.
const defaultStick = "/run/stick/claim.json"

func boxOffer(_ context.Context, c *call) (any, error) {
	dir, err := c.dir()
	if err != nil {
		return nil, err
	}
	for _, flag := range []string{"config", "out"} {
		if c.get(flag) == "" {
			return nil, misuse(c.cmd.synopsis(), "box offer wants --%s", flag)
		}
	}
	text, err := c.read(c.get("config"), maxBoxFile)
	if err != nil {
		return nil, fmt.Errorf("read box.toml: %w", err)
	}
	file, err := c.Box.Offer(dir, text)
	if err != nil {
		return nil, err
	}
	if !c.dry() {
		if err := os.WriteFile(c.get("out"), file, 0o644); err != nil {
			return nil, err
		}
	}
	return c.did("write %s", c.get("out")), nil
}

func boxPIN(ctx context.Context, c *call) (any, error) {
	dir, err := c.dir()
	if err != nil {
		return nil, err
	}
	pin, need, total, err := c.newPIN()
	if err != nil {
		return nil, err
	}
	if c.dry() {
		return c.did("give the token its PIN"), nil
	}
	st, shares, err := c.Box.PIN(ctx, dir, pin, need, total)
	if err != nil {
		return nil, err
	}
	t := taken{Shares: shares}
	if err := c.share(&t); err != nil {
		return t, err
	}
	if err := c.print(t); err != nil {
		return nil, err
	}
	return st, nil
}

func boxConfirm(ctx context.Context, c *call) (any, error) {
	dir, err := c.dir()
	if err != nil {
		return nil, err
	}
	typed, err := c.line("recovery key: ")
	if err != nil {
		return nil, err
	}
	return confirmed(c.Box.Confirm(ctx, dir, typed))
}

// line asks at the terminal, or reads the first line of standard input.
func (c *call) line(prompt string) (string, error) {
	if c.Secret != nil {
		return c.Secret(prompt)
	}
	b, err := c.read("-", maxSecret)
	if err != nil {
		return "", fmt.Errorf("read standard input: %w", err)
	}
	first, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimRight(first, "\r"), nil
}

func boxUnlock(ctx context.Context, c *call) (any, error) {
	dir, err := c.dir()
	if err != nil {
		return nil, err
	}
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

func boxConfigOf(ctx context.Context, c *call) (any, error) {
	dir, err := c.dir()
	if err != nil {
		return nil, err
	}
	text, err := c.Box.Config(ctx, dir)
	if err != nil {
		return nil, err
	}
	return page{string(text)}, nil
}

func boxConfigure(ctx context.Context, c *call) (any, error) {
	dir, err := c.dir()
	if err != nil {
		return nil, err
	}
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

func boxDo(ctx context.Context, c *call) (any, error) {
	dir, err := c.dir()
	if err != nil {
		return nil, err
	}
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

func boxBackup(ctx context.Context, c *call) (any, error) {
	dir, err := c.dir()
	if err != nil {
		return nil, err
	}
	out := c.get("out")
	if out == "" {
		return nil, misuse(c.cmd.synopsis(), "box backup wants --out")
	}
	if c.dry() {
		return c.did("write %s", out), nil
	}
	f, err := os.CreateTemp(filepath.Dir(out), ".backup-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	err = c.Box.Backup(ctx, dir, f)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, err
	}
	if err := os.Rename(f.Name(), out); err != nil {
		return nil, err
	}
	return c.did("write %s", out), nil
}

func boxRestore(ctx context.Context, c *call) (any, error) {
	dir, err := c.dir()
	if err != nil {
		return nil, err
	}
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

func boxRecovery(ctx context.Context, c *call) (any, error) {
	dir, err := c.dir()
	if err != nil {
		return nil, err
	}
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

func boxReset(ctx context.Context, c *call) (any, error) {
	dir, err := c.dir()
	if err != nil {
		return nil, err
	}
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
