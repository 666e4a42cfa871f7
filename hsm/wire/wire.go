// Package wire is the language between the process that holds the PIN and
// those that ask it: frames over a Unix stream socket. The page protocol.md
// beside this file describes it; a test compares the two.
//
// The language is small on purpose. It has whole operations only, every field
// has a limit that stands below, nothing is allocated because a length says
// so, and an error is one byte that never explains a cryptographic failure.
package wire

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"postern/hsm"
)

// Limits of one frame and its fields, in bytes unless it says otherwise.
const (
	Version = 4

	MaxFrame      = 16 << 10 // after the length field
	MaxTrace      = 64
	MaxPIN        = 255
	MaxSPKI       = 2 << 10 // a public key as SubjectPublicKeyInfo
	MaxCiphertext = 4 << 10
	MaxEphemeral  = 1 << 10
	MaxOAEPLabel  = 1 << 10
	MaxUKM        = 1 << 10 // user keying material of CMS
	MaxShort      = 64      // fingerprint, curve OID, algorithm of the key wrap
	MaxSignature  = 1 << 10
	MaxSecret     = 64  // a session key
	MaxText       = 255 // words for people: cut, not refused
	MaxFaults     = 32  // faults in one finding, a count
	MaxParts      = 1 << 10
)

// ErrFrame is a frame that does not follow the protocol. The connection it
// came by is of no more use.
var ErrFrame = errors.New("frame malformed")

// Op is the operation of a frame. A reply carries the op of its request with
// the bit Reply set.
type Op uint8

// The operations of the use socket, then those of the keep socket only.
const (
	OpKeys   Op = 1
	OpSign   Op = 2
	OpUnwrap Op = 3

	OpStatus   Op = 16
	OpInit     Op = 17
	OpUnlock   Op = 18
	OpProbe    Op = 19
	OpAudit    Op = 20
	OpGenerate Op = 21
	OpRetire   Op = 22
	OpDestroy  Op = 23
	OpProve    Op = 24
)

// Reply marks the op of an answer.
const Reply Op = 0x80

var opNames = map[Op]string{
	OpKeys: "keys", OpSign: "sign", OpUnwrap: "unwrap",
	OpStatus: "status", OpInit: "init", OpUnlock: "unlock", OpProbe: "probe", OpAudit: "audit",
	OpGenerate: "generate", OpRetire: "retire", OpDestroy: "destroy", OpProve: "prove",
}

// String is the word for the op, as the audit record has it.
func (o Op) String() string {
	if s, ok := opNames[o&^Reply]; ok {
		return s
	}
	return "unknown"
}

// Known reports whether o is an operation of this version.
func (o Op) Known() bool { _, ok := opNames[o]; return ok }

// Keep reports whether o is refused on the use socket.
func (o Op) Keep() bool { return o >= OpStatus }

// The error bytes. 0 is success; a byte that is not listed is ErrOpaque.
var errorBytes = []error{
	1:  hsm.ErrAway,
	2:  hsm.ErrLocked,
	3:  hsm.ErrEmpty,
	4:  hsm.ErrNoKey,
	5:  hsm.ErrRefused,
	6:  hsm.ErrBudget,
	7:  hsm.ErrBusy,
	8:  hsm.ErrInvalid,
	9:  hsm.ErrExists,
	10: hsm.ErrPIN,
	11: hsm.ErrOpaque,
	12: hsm.ErrClock,
	13: hsm.ErrBroken,
}

// ErrorByte is the byte for err: 0 for nil, that of hsm.ErrOpaque for every
// error that wraps no sentinel of package hsm.
func ErrorByte(err error) byte {
	if err == nil {
		return 0
	}
	for b, e := range errorBytes {
		if e != nil && errors.Is(err, e) {
			return byte(b)
		}
	}
	return ErrorByte(hsm.ErrOpaque)
}

// ErrorOf is the error that b stands for, nil for 0.
func ErrorOf(b byte) error {
	switch {
	case b == 0:
		return nil
	case int(b) < len(errorBytes):
		return errorBytes[b]
	}
	return hsm.ErrOpaque
}

// Frame is one message of either direction.
type Frame struct {
	Op    Op
	ID    uint32 // chosen by the client; replies come in any order
	Trace string // at most MaxTrace bytes of printable ASCII; "" in replies
	Body  []byte
}

// Append writes f behind b, length field included.
func (f Frame) Append(b []byte) ([]byte, error) {
	n := 7 + len(f.Trace) + len(f.Body)
	if len(f.Trace) > MaxTrace || !printable(f.Trace) || n > MaxFrame {
		return b, fmt.Errorf("write %s frame: trace of %d, body of %d bytes: %w", f.Op, len(f.Trace), len(f.Body), hsm.ErrInvalid)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	b = append(b, Version, byte(f.Op))
	b = binary.BigEndian.AppendUint32(b, f.ID)
	b = append(b, byte(len(f.Trace)))
	b = append(b, f.Trace...)
	return append(b, f.Body...), nil
}

// ParseFrame reads what follows the length field. Body points into b.
func ParseFrame(b []byte) (Frame, error) {
	r := reader{b: b}
	if v := r.u8(); v != Version && !r.bad {
		return Frame{}, fmt.Errorf("version %d: %w", v, ErrFrame)
	}
	f := Frame{Op: Op(r.u8()), ID: r.u32()}
	f.Trace = string(r.short(MaxTrace))
	if r.bad || !printable(f.Trace) {
		return Frame{}, ErrFrame
	}
	f.Body = r.b
	return f, nil
}

// Reader reads frames through one buffer of fixed size: a length is believed
// only up to MaxFrame, and costs no memory beyond that buffer.
type Reader struct {
	br   *bufio.Reader
	skip int
}

// NewReader reads frames from r.
func NewReader(r io.Reader) *Reader {
	return &Reader{br: bufio.NewReaderSize(r, 4+MaxFrame)}
}

// Wait blocks until the first byte of a frame is there, so that a caller can
// give an idle connection more time than a frame that has begun.
func (r *Reader) Wait() error {
	r.drop()
	_, err := r.br.Peek(1)
	return err
}

// Next returns the next frame. Its Body is valid until the next call. The
// error is io.EOF between frames, ErrFrame for a frame against the protocol,
// else that of the connection.
func (r *Reader) Next() (Frame, error) {
	r.drop()
	head, err := r.br.Peek(4)
	if err != nil {
		if err == io.EOF && len(head) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return Frame{}, err
	}
	n := binary.BigEndian.Uint32(head)
	if n > MaxFrame {
		return Frame{}, fmt.Errorf("length %d: %w", n, ErrFrame)
	}
	b, err := r.br.Peek(4 + int(n))
	if err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return Frame{}, err
	}
	r.skip = len(b)
	return ParseFrame(b[4:])
}

func (r *Reader) drop() {
	// Wiped, because a frame may hold a PIN or a session key.
	if b, err := r.br.Peek(r.skip); err == nil {
		clear(b)
	}
	r.br.Discard(r.skip)
	r.skip = 0
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] < 0x21 || s[i] > 0x7e {
			return false
		}
	}
	return true
}

// reader takes fields off the front of b. After the first field that does not
// fit everything it returns is zero and bad stays true.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if r.bad || n > len(r.b) {
		r.bad = true
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) u8() byte {
	if v := r.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (r *reader) u16() int {
	if v := r.take(2); v != nil {
		return int(binary.BigEndian.Uint16(v))
	}
	return 0
}

func (r *reader) u32() uint32 {
	if v := r.take(4); v != nil {
		return binary.BigEndian.Uint32(v)
	}
	return 0
}

// flag is one byte, 0 or 1.
func (r *reader) flag() bool {
	v := r.u8()
	if v > 1 {
		r.bad = true
	}
	return v == 1
}

// short is a field of at most limit bytes behind one length byte.
func (r *reader) short(limit int) []byte { return r.field(int(r.u8()), limit) }

// long is a field of at most limit bytes behind two length bytes.
func (r *reader) long(limit int) []byte { return r.field(r.u16(), limit) }

func (r *reader) field(n, limit int) []byte {
	if n > limit {
		r.bad = true
	}
	v := r.take(n)
	if len(v) == 0 {
		return nil
	}
	return append([]byte(nil), v...)
}

func (r *reader) id() (id hsm.KeyID) {
	copy(id[:], r.take(len(id)))
	return id
}

// end is the verdict on a message of which nothing may be left over.
func (r *reader) end(what string) error {
	if r.bad || len(r.b) != 0 {
		return fmt.Errorf("read %s: %w", what, ErrFrame)
	}
	return nil
}

// writer appends fields; over notes a field beyond its limit.
type writer struct {
	b    []byte
	over bool
}

func (w *writer) u8(v byte) { w.b = append(w.b, v) }

func (w *writer) flag(v bool) {
	if v {
		w.u8(1)
	} else {
		w.u8(0)
	}
}

func (w *writer) u16(v int) {
	if v < 0 || v > 0xffff {
		w.over = true
	}
	w.b = binary.BigEndian.AppendUint16(w.b, uint16(v))
}

func (w *writer) u32(v uint32) { w.b = binary.BigEndian.AppendUint32(w.b, v) }

func (w *writer) short(v []byte, limit int) {
	if len(v) > limit {
		w.over, v = true, nil
	}
	w.u8(byte(len(v)))
	w.b = append(w.b, v...)
}

func (w *writer) long(v []byte, limit int) {
	if len(v) > limit {
		w.over, v = true, nil
	}
	w.u16(len(v))
	w.b = append(w.b, v...)
}

// text is for people: what is too long is cut.
func (w *writer) text(s string) {
	if len(s) > MaxText {
		s = s[:MaxText]
	}
	w.short([]byte(s), MaxText)
}

func (w *writer) done(what string) ([]byte, error) {
	if w.over {
		return nil, fmt.Errorf("write %s: a field does not fit: %w", what, hsm.ErrInvalid)
	}
	return w.b, nil
}
