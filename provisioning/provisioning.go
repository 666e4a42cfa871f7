// Package provisioning is what operators do with the gateway: token and keys,
// our identities, partners' certificates, trying a mail, asking for health.
// One table of commands (commands.go) is the program: usage, completion and
// manual page are printed from it.
package provisioning

import (
	"context"
	"io"
	"time"

	"postern/filter/directory"
	"postern/filter/message"
	"postern/filter/policy"
	"postern/filter/zone"
	"postern/hsm"
)

// Exit statuses.
const (
	ExitDone  = 0
	ExitNo    = 1
	ExitUsage = 2
	ExitLater = 75 // EX_TEMPFAIL of sysexits.h
)

// Defaults for a box without a configuration file.
const (
	DefaultConfig  = "/etc/postern/filterd.toml"
	DefaultSocket  = "/run/postern/keep.sock"
	DefaultKeyring = "/var/lib/postern/keyring.db"
	DefaultRecord  = "/var/lib/postern/record/record.db"
	DefaultTLS     = "/var/lib/postern/tls"
	DefaultMark    = "/run/postern-clock/mark"
	DefaultBox     = "/var/lib/postern/box.toml"
)

// App is the program with its surroundings handed in. Stdin, Stdout, Stderr,
// Version, Keeper and Config are required; a field of function type that is
// nil takes the commands or checks that need it out.
type App struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Version        string
	Built          time.Time        // when the program was built; a clock before it is wrong
	Now            func() time.Time // time.Now where nil

	// Keeper speaks to the key daemon behind a socket, keep or use.
	Keeper func(ctx context.Context, socket string) (hsm.Keeper, error)
	// Config reads filterd.toml. An error that wraps fs.ErrNotExist says
	// that there is no such file.
	Config func(path string) (Site, error)
	// Judge finds paths of X.509 certificates as filterd.toml and the keyring want them.
	Judge func(ctx context.Context, config string) (Judge, error)
	// Pipeline is the mail path of the gateway as filterd.toml wires it.
	Pipeline func(ctx context.Context, path string) (Pipeline, error)
	// Forget ends the memory of filterd that mail to a was encrypted, or with
	// dry only looks; known tells whether there is any, and since when.
	Forget func(ctx context.Context, config string, a message.Address, dry bool) (since time.Time, known bool, err error)
	// Finder asks the directories of [find] in filterd.toml; nil where there are none.
	Finder func(config string) (Finder, error)
	// Secret prompts and reads one line without echo; nil where nobody
	// sits at a terminal.
	Secret func(prompt string) (string, error)
	// Ways finds the ways to partners as filterd.toml has them.
	Ways func(ctx context.Context, path string) (Ways, error)
	// Names is the resolver of filterd.toml.
	Names func(config string) (zone.Names, error)
	// Greet connects to a next hop and says EHLO and QUIT.
	Greet func(ctx context.Context, h Hop) error
	// Clock tells whether the system clock is synchronised; known is false
	// where the system cannot say.
	Clock func(ctx context.Context) (synchronised, known bool)
	// Operations reads the key daemon's record: what it did for the mail with a
	// trace, or with "" for all, n operations at most, the last ones.
	Operations func(ctx context.Context, trace string, n int) ([]Operation, error)
	// Watch keeps the mark of the clock's gate in a file until ctx ends.
	Watch func(ctx context.Context, mark string) error
	// Agent is the mail agent that filterd.toml has behind the gateway; nil
	// where it has none.
	Agent func(config string) (Agent, error)
	// Plan reads a plan of enrol.
	Plan func(path string) (Plan, error)
	// Box is what a box of its own has beside a gateway.
	Box Box
	// Access are the doors for mail programs.
	Access *Access
	// Press makes one document for filterd, from standard input to standard output.
	Press func(ctx context.Context) error
	// Update is how a box comes from one release to the next.
	Update Updates
	// Health is what a box asks of itself after a start.
	Health Health
	// Pause waits; for a moment, until ctx ends, where nil.
	Pause func(ctx context.Context, d time.Duration) error
	// ConfigDoc prints the annotated example of a configuration file.
	ConfigDoc func(w io.Writer, file string) error
}

// Site is what the commands need of the configuration.
type Site struct {
	Keyring    string // file of keyring.Store
	Seen       string // file of what verified mail brought; "": nothing is learned
	Record     string // file of what filterd remembers of mails
	Roots      int    // public roots that paths may end at
	Accounts   string // file of accounts; "": they are kept elsewhere, or nowhere
	KeepSocket string
	UseSocket  string
	Hops       []Hop
	Scanners   []Scanner
	Documents  *Documents // nil: no mail goes as a PDF
	Mailboxes  []Mailbox  // servers behind the doors for mail programs
	Resolves   bool       // filterd itself brings mail to partners, and asks for their names
	Policy     *policy.Policy
	Gate       func() error // why the daemons do not believe the clock; nil: there is none
	TLSDir     string       // folder of the certificates of listeners
	Shown      []Shown
	Mail       Mail
	Inside     []string // listeners that take mail of this machine for anybody, without login
	Vets       bool     // whether DKIM signatures of inbound mail are looked at
}

// Shown is what a listener shows its clients.
type Shown struct {
	Name  string   // of the server
	Files []string // with a chain each, in PEM
	Some  bool     // one of them is enough
}

// Hop is a next hop.
type Hop struct {
	Name    string // "inbound" or "outbound", or the address of an archive
	Address string // host:port
}

// Finder looks for certificates of strangers; directory.Finder is the real one.
type Finder interface {
	Find(ctx context.Context, list []message.Address) map[string]directory.Result
}

// Pipeline runs mails through the gateway without relaying them.
type Pipeline interface {
	Process(ctx context.Context, r ProcessRequest, mail io.Reader) (Processed, error)
}

// ProcessRequest is the envelope of a mail to judge.
type ProcessRequest struct {
	Direction string   // inbound or outbound
	From      string   // empty: the null sender
	To        []string // at least one
	At        time.Time
}

// Processed is what would have been done with a mail.
type Processed struct {
	Decision any    // marshals to the decision object of the contract
	Action   string // relay, reject or defer
	Explain  []string
	Copies   []Copy
	Close    func() // frees what the copies stand in; may be nil
}

// Copy is one mail that would be relayed.
type Copy struct {
	Name    string // of its file: letters, digits, "-", "." and "_"
	Message io.WriterTo
}

func (a *App) now() time.Time {
	if a.Now != nil {
		return a.Now()
	}
	return time.Now()
}
