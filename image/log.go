package image

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// The log of releases is a folder of files that a web server can serve as they
// are: C2SP tlog-tiles, with the checkpoint a signed note (C2SP tlog-checkpoint)
// and tiles of 256 hashes. Its entries are the signed statements of releases.
// A file of it never changes once it is full, and a partial one only by a longer
// one beside it; only checkpoint is written anew.

const (
	tileHeight = 8
	tileWidth  = 1 << tileHeight
	maxEntries = 1 << 16
)

// noteSigner signs checkpoints with a key that may be in a token.
type noteSigner struct {
	verifier note.Verifier
	key      crypto.Signer
}

// Name implements note.Signer.
func (s noteSigner) Name() string { return s.verifier.Name() }

// KeyHash implements note.Signer.
func (s noteSigner) KeyHash() uint32 { return s.verifier.KeyHash() }

// Sign implements note.Signer.
func (s noteSigner) Sign(msg []byte) ([]byte, error) {
	return s.key.Sign(rand.Reader, msg, crypto.Hash(0))
}

// LogKey is the line by which a log of that name and Ed25519 key is trusted.
func LogKey(origin string, pub crypto.PublicKey) (string, error) {
	k, ok := pub.(ed25519.PublicKey)
	if !ok {
		return "", fmt.Errorf("key of a log: is %T, and must be ed25519", pub)
	}
	return note.NewEd25519VerifierKey(origin, k)
}

// checkpoint is the head of a log.
type checkpoint struct {
	origin string
	tree   tlog.Tree
	note   []byte
}

// text is the C2SP form: the name of the log, its size, its root hash.
func (c checkpoint) text() string {
	return fmt.Sprintf("%s\n%d\n%s\n", c.origin, c.tree.N, base64.StdEncoding.EncodeToString(c.tree.Hash[:]))
}

// openCheckpoint reads a checkpoint that a trusted log has signed.
func openCheckpoint(b []byte, logs []note.Verifier) (checkpoint, error) {
	bad := func(why error) (checkpoint, error) {
		return checkpoint{}, fmt.Errorf("read checkpoint: %w: %w", ErrLog, why)
	}
	n, err := note.Open(b, note.VerifierList(logs...))
	if err != nil {
		return bad(err)
	}
	var size int64
	lines := strings.Split(n.Text, "\n")
	if len(lines) < 4 {
		return bad(errors.New("it is too short"))
	}
	if _, err := fmt.Sscan(lines[1], &size); err != nil || size < 1 || size > maxEntries {
		return bad(fmt.Errorf("size %.40q", lines[1]))
	}
	c := checkpoint{origin: lines[0], note: b}
	c.tree.N = size
	if c.tree.Hash, err = tlog.ParseHash(lines[2]); err != nil {
		return bad(err)
	}
	// A log signs only under its own name, and only what is spelled so.
	if n.Text != c.text() || n.Sigs[0].Name != c.origin {
		return bad(errors.New("it is not spelled as checkpoints are, or is of another log"))
	}
	return c, nil
}

// proof is a C2SP tlog-proof: where an entry stands, the hashes from it up to
// the root, and the checkpoint that has the root.
type proof struct {
	index  int64
	hashes tlog.RecordProof
	head   []byte
}

const proofHead = "c2sp.org/tlog-proof@v1\n"

func (p proof) text() []byte {
	b := fmt.Appendf(nil, "%sindex %d\n", proofHead, p.index)
	for _, h := range p.hashes {
		b = fmt.Appendln(b, base64.StdEncoding.EncodeToString(h[:]))
	}
	return append(append(b, '\n'), p.head...)
}

func parseProof(b []byte) (p proof, err error) {
	head, note, ok := strings.Cut(string(b), "\n\n")
	lines := strings.Split(head, "\n")
	if len(b) > maxProof || !ok || len(lines) < 2 || len(lines) > 2+64 || lines[0]+"\n" != proofHead {
		return p, fmt.Errorf("it does not begin with %s", strings.TrimSpace(proofHead))
	}
	if _, err := fmt.Sscanf(lines[1], "index %d", &p.index); err != nil || p.index < 0 {
		return p, fmt.Errorf("index %.40q", lines[1])
	}
	for _, line := range lines[2:] {
		h, err := tlog.ParseHash(line)
		if err != nil {
			return p, err
		}
		p.hashes = append(p.hashes, h)
	}
	p.head = []byte(note)
	if string(p.text()) != string(b) {
		return p, errors.New("it is not spelled as proofs are")
	}
	return p, nil
}

// Log is a log in a folder, to be continued.
type Log struct {
	dir    string
	signer noteSigner
	head   checkpoint // zero size: nothing is in it yet
	leaves [][]byte
	hashes []tlog.Hash // stored hashes, as tlog numbers them
}

// OpenLog reads the log in a folder whole, and checks that it is what its
// checkpoint says. The key is the log's, Ed25519. A folder that is not there is a
// log without entries.
func OpenLog(dir, origin string, key crypto.Signer) (*Log, error) {
	line, err := LogKey(origin, key.Public())
	if err != nil {
		return nil, err
	}
	v, err := note.NewVerifier(line)
	if err != nil {
		return nil, err
	}
	l := &Log{dir: dir, signer: noteSigner{v, key}, head: checkpoint{origin: origin}}
	b, err := readFile(filepath.Join(dir, "checkpoint"), maxProof)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return nil, err
	}
	if l.head, err = openCheckpoint(b, []note.Verifier{v}); err != nil {
		return nil, fmt.Errorf("open log %s: %w", dir, err)
	}
	if err := l.read(); err != nil {
		return nil, fmt.Errorf("open log %s: %w: %w", dir, ErrLogFile, err)
	}
	return l, nil
}

// read takes the entries up to the checkpoint, and compares their root.
func (l *Log) read() error {
	for start := int64(0); start < l.head.tree.N; start += tileWidth {
		n := min(l.head.tree.N-start, tileWidth)
		path := tilePath(tlog.Tile{H: tileHeight, L: -1, N: start / tileWidth, W: int(n)})
		b, err := readFile(filepath.Join(l.dir, path), tileWidth*maxSignature)
		if err != nil {
			return err
		}
		for range n {
			if len(b) < 2 || len(b) < 2+int(binary.BigEndian.Uint16(b)) {
				return fmt.Errorf("%s is cut off", path)
			}
			end := 2 + int(binary.BigEndian.Uint16(b))
			if err := l.add(b[2:end]); err != nil {
				return err
			}
			b = b[end:]
		}
		if len(b) > 0 {
			return fmt.Errorf("%s has more than its %d entries", path, n)
		}
	}
	root, err := tlog.TreeHash(l.head.tree.N, l)
	if err != nil {
		return err
	}
	if root != l.head.tree.Hash {
		return errors.New("its entries are not those of its checkpoint")
	}
	return nil
}

// ReadHashes implements tlog.HashReader.
func (l *Log) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	list := make([]tlog.Hash, len(indexes))
	for i, at := range indexes {
		if at < 0 || at >= int64(len(l.hashes)) {
			return nil, fmt.Errorf("no hash %d", at)
		}
		list[i] = l.hashes[at]
	}
	return list, nil
}

func (l *Log) add(leaf []byte) error {
	more, err := tlog.StoredHashes(int64(len(l.leaves)), leaf, l)
	if err != nil {
		return err
	}
	l.leaves, l.hashes = append(l.leaves, leaf), append(l.hashes, more...)
	return nil
}

// Append puts a signed release into the log, and returns the proof of that. A
// release that is in it already gets its proof anew; a version that is in it
// with another manifest is refused.
//
// The new tiles are written first and the checkpoint last: power that fails
// between them leaves the log as it was.
func (l *Log) Append(signature []byte, keys *Keys) (proofFile []byte, err error) {
	s, err := signed(signature, keys)
	if err != nil {
		return nil, err
	}
	for i, leaf := range l.leaves {
		old, err := parseStatement(leaf)
		switch {
		case err != nil || old.version != s.version:
		case string(leaf) == string(s.text()):
			return l.prove(int64(i))
		default:
			return nil, fmt.Errorf("log release %s: %w", s.version, &Fault{"this version is in the log already, with another manifest or key",
				"a version is released once: give it the next number"})
		}
	}
	if len(l.leaves) >= maxEntries {
		return nil, fmt.Errorf("log release %s: %d entries are the most", s.version, maxEntries)
	}
	old := int64(len(l.leaves))
	if err := l.add(s.text()); err != nil {
		return nil, err
	}
	if err := l.write(old); err != nil {
		return nil, fmt.Errorf("log release %s: %w", s.version, err)
	}
	return l.prove(old)
}

// write publishes what is behind the first old entries.
func (l *Log) write(old int64) error {
	n := int64(len(l.leaves))
	put := func(t tlog.Tile, b []byte) error {
		path := filepath.Join(l.dir, tilePath(t))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		return writeFile(path, b)
	}
	for _, t := range tlog.NewTiles(tileHeight, old, n) {
		b, err := tlog.ReadTileData(t, l)
		if err != nil {
			return err
		}
		if err := put(t, b); err != nil {
			return err
		}
		if t.L > 0 {
			continue
		}
		var bundle []byte
		for _, leaf := range l.leaves[t.N*tileWidth:][:t.W] {
			bundle = binary.BigEndian.AppendUint16(bundle, uint16(len(leaf)))
			bundle = append(bundle, leaf...)
		}
		t.L = -1
		if err := put(t, bundle); err != nil {
			return err
		}
	}
	root, err := tlog.TreeHash(n, l)
	if err != nil {
		return err
	}
	head := checkpoint{origin: l.head.origin, tree: tlog.Tree{N: n, Hash: root}}
	if head.note, err = note.Sign(&note.Note{Text: head.text()}, l.signer); err != nil {
		return err
	}
	if _, err := openCheckpoint(head.note, []note.Verifier{l.signer.verifier}); err != nil {
		return err // the token's signature is wrong
	}
	if err := writeFile(filepath.Join(l.dir, "checkpoint"), head.note); err != nil {
		return err
	}
	l.head = head
	return nil
}

func (l *Log) prove(index int64) ([]byte, error) {
	p := proof{index: index, head: l.head.note}
	var err error
	if p.hashes, err = tlog.ProveRecord(l.head.tree.N, index, l); err != nil {
		return nil, err
	}
	return p.text(), nil
}

// tilePath is where C2SP tlog-tiles has a tile: like tlog, without its height,
// and with entries in place of data.
func tilePath(t tlog.Tile) string {
	path := strings.TrimPrefix(t.Path(), fmt.Sprintf("tile/%d/", t.H))
	if t.L == -1 {
		path = "entries" + strings.TrimPrefix(path, "data")
	}
	return "tile/" + path
}

// Fetch reads a file of a log by its path in it: out of a folder, or from where
// a release was downloaded. What it returns is not trusted.
type Fetch func(path string) ([]byte, error)

// tiles reads the tiles of a log that somebody serves.
type tiles struct{ fetch Fetch }

// Height implements tlog.TileReader.
func (tiles) Height() int { return tileHeight }

// SaveTiles implements tlog.TileReader.
func (tiles) SaveTiles([]tlog.Tile, [][]byte) {}

// ReadTiles implements tlog.TileReader.
func (r tiles) ReadTiles(list []tlog.Tile) ([][]byte, error) {
	all := make([][]byte, len(list))
	for i, t := range list {
		b, err := r.fetch(tilePath(t))
		if err != nil && t.W < tileWidth {
			// Who serves a log may drop a partial tile for its full one.
			whole := t
			whole.W = tileWidth
			if b, err = r.fetch(tilePath(whole)); err == nil && len(b) >= t.W*tlog.HashSize {
				b = b[:t.W*tlog.HashSize]
			}
		}
		if err != nil {
			return nil, err
		}
		if len(b) != t.W*tlog.HashSize {
			return nil, fmt.Errorf("%s has %d bytes", tilePath(t), len(b))
		}
		all[i] = b
	}
	return all, nil
}

// continues checks that of two heads of a log one continues the other.
func continues(a, b checkpoint, fetch Fetch) error {
	if a.origin != b.origin {
		return fmt.Errorf("log %.80q in place of %.80q: %w", b.origin, a.origin, ErrFork)
	}
	if a.tree.N > b.tree.N {
		a, b = b, a
	}
	if a.tree.N == b.tree.N {
		if a.tree.Hash != b.tree.Hash {
			return fmt.Errorf("two logs of %d releases: %w", a.tree.N, ErrFork)
		}
		return nil
	}
	if fetch == nil {
		return ErrUnknown
	}
	// Every tile is checked against the root of b before it is believed.
	reader := tlog.TileHashReader(b.tree, tiles{fetch})
	old, err := tlog.TreeHash(a.tree.N, reader)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	if old != a.tree.Hash {
		return fmt.Errorf("what were the first %d releases has changed: %w", a.tree.N, ErrFork)
	}
	return nil
}

// included checks a proof for a statement, and returns the head it leads to.
func included(s statement, proofFile []byte, keys *Keys) (checkpoint, error) {
	p, err := parseProof(proofFile)
	if err != nil {
		return checkpoint{}, fmt.Errorf("read proof of release %s: %w: %w", s.version, ErrProof, err)
	}
	head, err := openCheckpoint(p.head, keys.logs)
	if err != nil {
		return head, fmt.Errorf("release %s: %w", s.version, err)
	}
	if p.index >= head.tree.N || tlog.CheckRecord(p.hashes, head.tree.N, head.tree.Hash, p.index, tlog.RecordHash(s.text())) != nil {
		return head, fmt.Errorf("release %s: %w", s.version, ErrProof)
	}
	return head, nil
}

// LogFolder reads the files of a log in a folder.
func LogFolder(dir string) Fetch {
	return func(path string) ([]byte, error) {
		return readFile(filepath.Join(dir, path), tileWidth*sha256.Size)
	}
}
