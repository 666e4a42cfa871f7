package openpgp

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"encoding/binary"
	"io"

	"github.com/ProtonMail/go-crypto/eax"
	"github.com/ProtonMail/go-crypto/ocb"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"golang.org/x/crypto/blowfish" //lint:ignore SA1019 old mail is sealed with it
	"golang.org/x/crypto/cast5"    //lint:ignore SA1019 old mail is sealed with it
	"golang.org/x/crypto/twofish"  //lint:ignore SA1019 old mail is sealed with it
)

// Ciphers of old mail (RFC 9580 §9.3), opened only with Config.Legacy.
// Camellia is not there.
const (
	cipherBlowfish packet.CipherFunction = 4
	cipherTwofish  packet.CipherFunction = 10
)

// newBlock is the cipher with the key, or nil where the two don't fit, or the
// cipher is an old one and these are not wanted.
func newBlock(c packet.CipherFunction, key []byte, legacy bool) cipher.Block {
	size, make := c.KeySize(), func(key []byte) (cipher.Block, error) { return aes.NewCipher(key) }
	switch {
	case isAES(c):
	case !legacy:
		return nil
	case c == packet.Cipher3DES:
		make = des.NewTripleDESCipher
	case c == packet.CipherCAST5:
		make = func(key []byte) (cipher.Block, error) { return cast5.NewCipher(key) }
	case c == cipherIDEA:
		size, make = 16, newIDEA
	case c == cipherBlowfish:
		size, make = 16, func(key []byte) (cipher.Block, error) { return blowfish.NewCipher(key) }
	case c == cipherTwofish:
		size, make = 32, func(key []byte) (cipher.Block, error) { return twofish.NewCipher(key) }
	default:
		return nil
	}
	if len(key) != size {
		return nil
	}
	block, err := make(key)
	if err != nil {
		return nil
	}
	return block
}

func isAES(c packet.CipherFunction) bool {
	return c == packet.CipherAES128 || c == packet.CipherAES192 || c == packet.CipherAES256
}

// libreHeader reads what stands before the ciphertext of LibrePGP's OCB packet,
// version 1: cipher, mode, size of chunks, nonce. It ties the session key to
// nothing (RFC 9580 §5.13.2 does), so that the same ciphertext may be shown as
// another packet; our certificates never ask for it.
func (d *data) libreHeader(body *packetBody) error {
	var fixed [4]byte
	if _, err := io.ReadFull(body, fixed[:]); err != nil {
		return cut(err)
	}
	d.Version, d.Contents, d.libre = 1, body, true
	d.Cipher, d.Mode, d.ChunkSizeByte = packet.CipherFunction(fixed[1]), packet.AEADMode(fixed[2]), fixed[3]
	if fixed[0] != 1 || !isAES(d.Cipher) || d.Mode != packet.AEADModeEAX && d.Mode != packet.AEADModeOCB || d.ChunkSizeByte > 56 {
		return errPacket
	}
	d.nonce = make([]byte, d.Mode.IvLength())
	_, err := io.ReadFull(body, d.nonce)
	return cut(err)
}

// maxLibreChunk is how much of a packet is held to see its integrity, in bytes.
const maxLibreChunk = 4 << 20

// libreOpener decrypts the OCB packet chunk by chunk; each has a tag of its
// own, and the last one tells how many bytes there were.
type libreOpener struct {
	in     io.Reader
	aead   cipher.AEAD
	nonce  []byte
	prefix []byte // of the associated data
	chunk  int
	buf    []byte // read, not decrypted
	plain  []byte // decrypted, not handed out
	index  uint64
	total  uint64
	err    error
}

func newLibreOpener(d *data, block cipher.Block) (*libreOpener, error) {
	o := &libreOpener{in: d.Contents, nonce: d.nonce, prefix: []byte{0xc0 | tagLibreAEAD, 1, byte(d.Cipher), byte(d.Mode), d.ChunkSizeByte}, chunk: maxLibreChunk}
	if bits := d.ChunkSizeByte + 6; bits < 22 {
		o.chunk = 1 << bits
	}
	var err error
	if d.Mode == packet.AEADModeEAX {
		o.aead, err = eax.NewEAX(block)
	} else {
		o.aead, err = ocb.NewOCB(block)
	}
	if err != nil {
		return nil, errPacket
	}
	return o, nil
}

// next decrypts one more chunk, and at the end of the stream looks at the last tag.
func (o *libreOpener) next() error {
	tag := o.aead.Overhead()
	more, err := io.ReadAll(io.LimitReader(o.in, int64(o.chunk+2*tag-len(o.buf))))
	if err != nil {
		return err
	}
	o.buf = append(o.buf, more...)
	ends := len(o.buf) < o.chunk+2*tag
	if !ends && 1<<(o.prefix[4]+6) > o.chunk || len(o.buf) < tag {
		return errPacket
	}
	if n := min(len(o.buf)-tag, o.chunk+tag); n > 0 {
		plain, err := o.aead.Open(nil, o.chunkNonce(), o.buf[:n], binary.BigEndian.AppendUint64(o.prefix[:5:5], o.index))
		if err != nil {
			return errPacket
		}
		o.index++
		o.total += uint64(len(plain))
		o.plain, o.buf = plain, append(o.buf[:0], o.buf[n:]...)
	}
	if !ends {
		return nil
	}
	last := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(o.prefix[:5:5], o.index), o.total)
	if _, err := o.aead.Open(nil, o.chunkNonce(), o.buf, last); err != nil {
		return errPacket
	}
	return io.EOF
}

// chunkNonce is the nonce of the packet with the number of the chunk in its last bytes.
func (o *libreOpener) chunkNonce() []byte {
	n := append([]byte(nil), o.nonce...)
	tail := n[len(n)-8:]
	binary.BigEndian.PutUint64(tail, binary.BigEndian.Uint64(tail)^o.index)
	return n
}

func (o *libreOpener) Read(p []byte) (int, error) {
	for len(o.plain) == 0 {
		if o.err != nil {
			return 0, o.err
		}
		if o.err = o.next(); o.err != nil && o.err != io.EOF {
			_, _ = io.Copy(io.Discard, o.in) // it has failed already
			o.plain = nil
		}
	}
	n := copy(p, o.plain)
	o.plain = o.plain[n:]
	return n, nil
}

// Close tells whether all was read and is whole.
func (o *libreOpener) Close() error {
	if o.err != io.EOF || len(o.plain) > 0 {
		return errPacket
	}
	return nil
}
