// Package box is the box's own life: who it is, whom it belongs to, and what
// those may ask of it. It answers on a port of its own, over TLS in which both
// sides know each other by their keys and by nothing else.
//
//	unclaimed  it belongs to nobody: a screen shows who it is, and a code
//	pending    somebody with the code has claimed it, and has to type back
//	           the recovery key of its data partition
//	claimed    its owner, and the keys that box.toml names, may ask
//
// What a request does to the machine is behind House; nothing here starts a
// program or knows a path but those of its own folder.
package box

import (
	"context"
	"errors"
	"io"
	"time"

	"postern/hsm"
)

// What can be wrong. Each has a status of HTTP in server.go.
var (
	ErrProof     = errors.New("the code is wrong")
	ErrClaimed   = errors.New("the box is claimed")
	ErrUnclaimed = errors.New("the box is not claimed")
	ErrPending   = errors.New("nothing waits to be confirmed, or it was claimed with another key")
	ErrConfirm   = errors.New("that is not the recovery key")
	ErrRole      = errors.New("this key may not do that")
	ErrRequest   = errors.New("request malformed")
	ErrName      = errors.New("that is not the name of the box")
	ErrPeer      = errors.New("the box that answers is another one")
	ErrBusy      = errors.New("the box does something of that kind already")
	ErrPIN       = errors.New("it has a PIN already")
	ErrReset     = errors.New("the box was wiped, and begins anew")
	ErrNoShares  = errors.New("the PIN was not shared")
)

// Rules are what box.toml says of who may do what.
type Rules struct {
	Name     string
	TPM      bool     // the box unlocks its token itself
	Admins   []string // pins, as Pin prints them
	BackupBy []string
	BackupTo []string // age recipients
}

// House is the machine that the box is in.
type House interface {
	// Check reads a box.toml. Its error is for whoever sent it.
	Check(config []byte) (Rules, error)
	// Config is the box.toml in force.
	Config() ([]byte, error)
	// Apply puts a box.toml in force: it is kept, everything is rendered, and
	// what runs by it is started or told. With first the box belonged to nobody,
	// and what a claim that was broken off has left is removed before.
	Apply(ctx context.Context, config []byte, first bool) error
	// Token is the key daemon.
	Token() hsm.Keeper
	// Seal gives the PIN to the TPM, so that the key daemon finds it at its
	// next start.
	Seal(ctx context.Context, pin []byte) error
	// Unsealed starts the key daemon without the sealed PIN, where that is what
	// keeps it down: the TPM does not open it any more. It tells whether it did.
	Unsealed(ctx context.Context) (bool, error)
	// Recovery makes a recovery key for the data partition, in the place of
	// one that is there; "" where nothing is encrypted.
	Recovery(ctx context.Context) (string, error)
	// Backup writes an archive for the recipients.
	Backup(ctx context.Context, w io.Writer, to []string) error
	// Restore takes the opened archive of the box with the pin from back.
	Restore(ctx context.Context, r io.Reader, from string) error
	// Run is one of the operators' commands. It reads no files of the box; those
	// it writes stand in made.
	Run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) (status int, made map[string][]byte, err error)
	// Wipe makes the box one that belongs to nobody: token, data and identity
	// are gone. It may end the machine.
	Wipe(ctx context.Context) error
	// Usage is how much of the machine is in use.
	Usage() (Usage, error)
	// Addresses are those that others reach the box at.
	Addresses() []string
}

// Status is what the box says of itself. To strangers it says Claimed only.
type Status struct {
	Claimed bool   `json:"claimed"`
	Name    string `json:"name,omitempty"`
	Version string `json:"version,omitempty"`
	Token   string `json:"token,omitempty"`  // state of the key daemon
	Reason  string `json:"reason,omitempty"` // why it is not ready
	Need    int    `json:"need,omitempty"`   // shares that unlock
	Have    []int  `json:"have,omitempty"`   // those that are there
	Role    string `json:"role,omitempty"`   // of whoever asks
	Usage
}

// Usage is how much of a machine is in use, in MiB. Memory that only caches
// files is not.
type Usage struct {
	Memory   uint64 `json:"memory,omitempty"`
	MemoryOf uint64 `json:"memory_of,omitempty"`
	Disk     uint64 `json:"disk,omitempty"` // of the data partition
	DiskOf   uint64 `json:"disk_of,omitempty"`
}

// Claim is how a box comes to belong to somebody.
type Claim struct {
	Config string `json:"config"` // box.toml
	PIN           // of the token
}

// Claimed is the answer.
type Claimed struct {
	Proof    []byte `json:"proof"`              // the box knows the code as well
	Recovery string `json:"recovery,omitempty"` // of the data partition; to be typed back
}

// Confirm types the recovery key back; then the claim counts.
type Confirm struct {
	Recovery string `json:"recovery"`
}

// Unlock is a share of the PIN, or the PIN.
type Unlock struct {
	Share string `json:"share,omitempty"`
	PIN   []byte `json:"pin,omitempty"`
}

// Call is one of the operators' commands, and what it reads.
type Call struct {
	Args  []string `json:"args"`
	Stdin []byte   `json:"stdin,omitempty"`
}

// Called is what it said.
type Called struct {
	Status int    `json:"status"`
	Stdout []byte `json:"stdout,omitempty"`
	Stderr []byte `json:"stderr,omitempty"`
	// Files are those that it wrote, as requests for certificates.
	Files map[string][]byte `json:"files,omitempty"`
}

// Bounds.
const (
	maxBody     = 2 << 20 // of a request that is JSON
	maxPIN      = 255
	maxArchive  = 8 << 30 // of an opened backup
	maxOutput   = 16 << 20
	maxConns    = 32
	patience    = 30 * time.Second // for a request that is JSON
	tries       = 5                // wrong codes, and wrong recovery keys
	codeLife    = time.Hour        // then there is another one
	pendingLife = 30 * time.Minute // to type the recovery key back
	settleLife  = 10 * time.Minute // to carry out a claim that was confirmed
	shareLife   = 15 * time.Minute // from one share to the next
	tokenWait   = 2 * time.Minute  // for the key daemon to come up
)
