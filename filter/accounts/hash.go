package accounts

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/xdg-go/scram"
	"golang.org/x/crypto/argon2"

	"postern/filter/transport"
)

// What a password is hashed with: the second choice of OWASP's password storage
// guide, of which many can be checked beside mail.
const (
	argonMemory = 19 << 10 // KiB
	argonTime   = 2
	argonLanes  = 1
	scramCount  = 10_000 // RFC 7677 §4 asks for 4,096 at least
	saltSize    = 16
	keySize     = 32
)

// How many passwords are hashed at once, how long others wait for their turn,
// and how much one may cost.
const (
	maxHashing  = 2
	patience    = 10 * time.Second
	maxMemory   = 64 << 10 // KiB
	maxTime     = 16
	maxLanes    = 8
	maxCount    = 1_000_000
	maxHashSize = 64
)

var errHash = errors.New("not understood")

// hash is an argon2id hash (RFC 9106).
type hash struct {
	memory, time uint32
	lanes        uint8
	salt, key    []byte
}

// newHash is that of a password.
func newHash(password string) hash {
	h := hash{memory: argonMemory, time: argonTime, lanes: argonLanes, salt: make([]byte, saltSize)}
	rand.Read(h.salt)
	h.key = argon2.IDKey([]byte(password), h.salt, h.time, h.memory, h.lanes, keySize)
	return h
}

// String prints it as a PHC string.
func (h hash) String() string {
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, h.memory, h.time, h.lanes,
		base64.RawStdEncoding.EncodeToString(h.salt), base64.RawStdEncoding.EncodeToString(h.key))
}

// parseHash reads a PHC string of argon2id, as String prints it.
func parseHash(s string) (h hash, err error) {
	words := strings.Split(s, "$")
	if len(words) != 6 || words[0] != "" || words[1] != "argon2id" || words[2] != "v="+strconv.Itoa(argon2.Version) {
		return h, errHash
	}
	costs := strings.Split(words[3], ",")
	if len(costs) != 3 {
		return h, errHash
	}
	var n [3]uint64
	for i, c := range []struct {
		name string
		max  uint64
	}{{"m=", maxMemory}, {"t=", maxTime}, {"p=", maxLanes}} {
		digits, ok := strings.CutPrefix(costs[i], c.name)
		if n[i], err = strconv.ParseUint(digits, 10, 32); !ok || err != nil || n[i] == 0 {
			return h, errHash
		}
		if n[i] > c.max {
			return h, fmt.Errorf("%s%d is more than %d", c.name, n[i], c.max)
		}
	}
	h.memory, h.time, h.lanes = uint32(n[0]), uint32(n[1]), uint8(n[2])
	if h.salt, err = base64.RawStdEncoding.Strict().DecodeString(words[4]); err != nil || len(h.salt) < 8 || len(h.salt) > maxHashSize {
		return h, errHash
	}
	if h.key, err = base64.RawStdEncoding.Strict().DecodeString(words[5]); err != nil || len(h.key) < 16 || len(h.key) > maxHashSize {
		return h, errHash
	}
	return h, nil
}

// turns are those of passwords that are hashed: what that takes of memory must
// not grow with the number of clients.
var turns = make(chan struct{}, maxHashing)

// is reports whether it is the hash of a password, when its turn has come.
func (h hash) is(ctx context.Context, password string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case turns <- struct{}{}:
		defer func() { <-turns }()
	case <-ctx.Done():
		return false, fmt.Errorf("wait for a turn: %w", transport.ErrLoginAway)
	}
	key := argon2.IDKey([]byte(password), h.salt, h.time, h.memory, h.lanes, uint32(len(h.key)))
	return subtle.ConstantTimeCompare(key, h.key) == 1, nil
}

// newKeys are the keys of SCRAM to a password, which it prepares by RFC 4013.
func newKeys(name, password string) (scram.StoredCredentials, error) {
	c, err := scram.SHA256.NewClient(name, password, "")
	if err != nil {
		return scram.StoredCredentials{}, errors.New("password holds characters that no password may hold (RFC 4013)")
	}
	salt := make([]byte, saltSize)
	rand.Read(salt)
	return c.GetStoredCredentialsWithError(scram.KeyFactors{Salt: string(salt), Iters: scramCount})
}

// printKeys prints them by RFC 5803.
func printKeys(k scram.StoredCredentials) string {
	b := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("%s$%d:%s$%s:%s", scramName, k.Iters, b([]byte(k.Salt)), b(k.StoredKey), b(k.ServerKey))
}

// parseKeys reads what printKeys prints.
func parseKeys(s string) (k scram.StoredCredentials, err error) {
	words := strings.FieldsFunc(s, func(r rune) bool { return r == '$' || r == ':' })
	if len(words) != 5 || words[0] != scramName || s != fmt.Sprintf("%s$%s:%s$%s:%s", words[0], words[1], words[2], words[3], words[4]) {
		return k, errHash
	}
	n, err := strconv.ParseUint(words[1], 10, 31)
	if err != nil || n < 4096 || n > maxCount {
		return k, errHash
	}
	var parts [3][]byte
	for i := range parts {
		if parts[i], err = base64.StdEncoding.Strict().DecodeString(words[2+i]); err != nil {
			return k, errHash
		}
	}
	if len(parts[0]) < 8 || len(parts[0]) > maxHashSize || len(parts[1]) != keySize || len(parts[2]) != keySize {
		return k, errHash
	}
	k.Salt, k.Iters, k.StoredKey, k.ServerKey = string(parts[0]), int(n), parts[1], parts[2]
	return k, nil
}
