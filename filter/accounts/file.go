package accounts

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/xdg-go/scram"

	"postern/filter/message"
	"postern/filter/transport"
)

// What a file of accounts may hold.
const (
	maxFile    = 16 << 20 // bytes
	maxEntry   = 16 << 10 // bytes of a line
	maxSenders = 200      // of one account
)

// The ways in which a file of accounts can't be used.
var (
	ErrFile    = errors.New("file of accounts not understood")
	ErrExists  = errors.New("account exists")
	ErrUnknown = errors.New("no such account")
)

// Entry is one line of a file of accounts: four words with space between them.
//
//	name  argon2id hash (PHC string)  keys of SCRAM (RFC 5803) or "-"  senders, with commas between them, or "-"
//
// A sender is an address, or *@domain for all of a domain. Lines that begin
// with "#" say nothing.
type Entry struct {
	Name    string
	Senders []string
	hash    hash
	scram   *scram.StoredCredentials // nil: none are kept
}

// SCRAM reports whether the account has keys for it.
func (e *Entry) SCRAM() bool { return e.scram != nil }

func (e *Entry) account() *transport.Account {
	return &transport.Account{Name: e.Name, Senders: e.Senders}
}

func (e *Entry) String() string {
	keys, senders := "-", "-"
	if e.scram != nil {
		keys = printKeys(*e.scram)
	}
	if len(e.Senders) > 0 {
		senders = strings.Join(e.Senders, ",")
	}
	return strings.Join([]string{e.Name, e.hash.String(), keys, senders}, " ")
}

// parseEntry reads one line.
func parseEntry(line string) (*Entry, error) {
	words := strings.Fields(line)
	if len(words) != 4 {
		return nil, fmt.Errorf("want 4 words, got %d", len(words))
	}
	if !valid(words[0]) {
		return nil, errors.New("name not allowed")
	}
	e := &Entry{Name: words[0]}
	var err error
	if e.hash, err = parseHash(words[1]); err != nil {
		return nil, fmt.Errorf("password: %w", err)
	}
	if words[2] != "-" {
		keys, err := parseKeys(words[2])
		if err != nil {
			return nil, fmt.Errorf("keys of SCRAM: %w", err)
		}
		e.scram = &keys
	}
	if words[3] != "-" {
		if e.Senders, err = Senders(strings.Split(words[3], ",")); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// Senders checks a list of addresses and *@domain.
func Senders(list []string) ([]string, error) {
	if len(list) > maxSenders {
		return nil, fmt.Errorf("senders: more than %d", maxSenders)
	}
	for _, s := range list {
		local := "any"
		domain, all := strings.CutPrefix(s, "*@")
		if !all {
			i := strings.LastIndex(s, "@")
			if i < 0 {
				return nil, fmt.Errorf("sender %q: want an address or *@domain", s)
			}
			local, domain = s[:i], s[i+1:]
		}
		a, err := message.ParseAddress(local + "@" + domain)
		if err != nil || a.Local == "*" || strings.ContainsAny(s, ", \t\r\n") {
			return nil, fmt.Errorf("sender %q: want an address or *@domain", s)
		}
	}
	return list, nil
}

// parse reads a file of accounts.
func parse(r io.Reader) (map[string]*Entry, error) {
	all := map[string]*Entry{}
	lines := bufio.NewScanner(io.LimitReader(r, maxFile))
	lines.Buffer(make([]byte, 0, 4096), maxEntry)
	n := 0
	for lines.Scan() {
		n++
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		e, err := parseEntry(line)
		if err != nil {
			return nil, fmt.Errorf("%w: line %d: %w", ErrFile, n, err)
		}
		key := strings.ToLower(e.Name)
		if all[key] != nil {
			return nil, fmt.Errorf("%w: line %d: the account stands there twice", ErrFile, n)
		}
		all[key] = e
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%w: line %d: %w", ErrFile, n+1, err)
	}
	return all, nil
}

// File is a Source: a file of accounts, which is read again when it changes.
type File struct {
	path   string
	secret []byte // for the salts of accounts that are not there
	nobody hash   // of a password that nobody knows

	mutex sync.Mutex
	info  os.FileInfo
	all   map[string]*Entry
}

// OpenFile reads the file at path.
func OpenFile(path string) (*File, error) {
	f := &File{path: path, secret: make([]byte, 32)}
	rand.Read(f.secret)
	f.nobody = newHash(rand.Text())
	_, err := f.find("")
	return f, err
}

// find gives the account, nil where there is none.
func (f *File) find(name string) (*Entry, error) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	info, err := os.Stat(f.path)
	if err != nil {
		return nil, fmt.Errorf("read accounts: %w", err)
	}
	if f.info == nil || !os.SameFile(info, f.info) || !info.ModTime().Equal(f.info.ModTime()) || info.Size() != f.info.Size() {
		f.all = nil // what is half written is not believed
		if f.info = info; info.Size() > maxFile {
			return nil, fmt.Errorf("%w: more than %d bytes", ErrFile, maxFile)
		}
		data, err := os.ReadFile(f.path)
		if err != nil {
			f.info = nil
			return nil, fmt.Errorf("read accounts: %w", err)
		}
		if f.all, err = parse(bytes.NewReader(data)); err != nil {
			f.info = nil
			return nil, fmt.Errorf("read accounts %s: %w", f.path, err)
		}
	}
	return f.all[strings.ToLower(name)], nil
}

// Check hashes the password as often for an account that is not there.
func (f *File) Check(ctx context.Context, name, password string) (*transport.Account, error) {
	e, err := f.find(name)
	if err != nil {
		return nil, err
	}
	h := f.nobody
	if e != nil {
		h = e.hash
	}
	ok, err := h.is(ctx, password)
	switch {
	case err != nil:
		return nil, err
	case !ok || e == nil:
		return nil, transport.ErrLoginRefused
	}
	return e.account(), nil
}

// keys gives those of an account, or some that look like them.
func (f *File) keys(name string) (stored, error) {
	e, err := f.find(name)
	if err != nil {
		return stored{}, err
	}
	if e != nil && e.scram != nil {
		return stored{*e.scram, e.account()}, nil
	}
	made := func(what string) []byte {
		m := hmac.New(sha256.New, f.secret)
		io.WriteString(m, what+" "+strings.ToLower(name))
		return m.Sum(nil)
	}
	return stored{StoredCredentials: scram.StoredCredentials{KeyFactors: scram.KeyFactors{Salt: string(made("salt")[:saltSize]), Iters: scramCount},
		StoredKey: made("stored"), ServerKey: made("server")}}, nil
}
