package openpgp

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/binary"
	"fmt"
	"math/big"
	"math/bits"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"postern/hsm"
)

// OpenPGP's names of curves (RFC 9580 §9.2).
var (
	oidP256       = []byte{0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}
	oidP384       = []byte{0x2b, 0x81, 0x04, 0x00, 0x22}
	oidP521       = []byte{0x2b, 0x81, 0x04, 0x00, 0x23}
	oidEd25519    = []byte{0x2b, 0x06, 0x01, 0x04, 0x01, 0xda, 0x47, 0x0f, 0x01}
	oidCurve25519 = []byte{0x2b, 0x06, 0x01, 0x04, 0x01, 0x97, 0x55, 0x01, 0x05, 0x01}
)

// nist is one NIST curve as OpenPGP speaks of it, with the hash its
// signatures take and the KDF its keys name (RFC 9580 §11.5.1): GnuPG refuses
// a shorter hash.
type nist struct {
	algorithm hsm.Algorithm
	oid       []byte
	curve     elliptic.Curve
	hash      crypto.Hash
	kdf       [2]byte // hash, cipher
}

var nistCurves = []nist{
	{hsm.P256, oidP256, elliptic.P256(), crypto.SHA256, [2]byte{8, 7}},
	{hsm.P384, oidP384, elliptic.P384(), crypto.SHA384, [2]byte{9, 8}},
	{hsm.P521, oidP521, elliptic.P521(), crypto.SHA512, [2]byte{10, 9}},
}

// publicKey writes the public-key packet of a token key, and reads it again:
// go-crypto has no other way to take a key on a curve that it did not make.
func publicKey(k hsm.Key, created time.Time, v6, subkey bool) (*packet.PublicKey, error) {
	algorithm, fields, err := keyFields(k, v6)
	if err != nil {
		return nil, err
	}
	body := []byte{4}
	if v6 {
		body[0] = 6
	}
	body = binary.BigEndian.AppendUint32(body, uint32(created.Unix()))
	body = append(body, algorithm)
	if v6 {
		body = binary.BigEndian.AppendUint32(body, uint32(len(fields)))
	}
	body = append(body, fields...)
	tag := tagPublicKey
	if subkey {
		tag = tagPublicSubkey
	}
	p, err := packet.Read(bytes.NewReader(appendPacket(nil, tag, body)))
	if err != nil {
		return nil, fmt.Errorf("read public key back: %w", err)
	}
	pub, ok := p.(*packet.PublicKey)
	if !ok {
		return nil, fmt.Errorf("read public key back: it is a %T", p)
	}
	return pub, nil
}

// keyFields are the algorithm and its fields (RFC 9580 §5.5.5).
func keyFields(k hsm.Key, v6 bool) (algorithm byte, fields []byte, err error) {
	refuse := func() (byte, []byte, error) {
		return 0, nil, fmt.Errorf("%s key for %s: OpenPGP has no such key", hsm.AlgorithmOf(k.Public), k.Usage)
	}
	switch pub := k.Public.(type) {
	case *rsa.PublicKey:
		fields = appendMPI(nil, pub.N.Bytes())
		return byte(packet.PubKeyAlgoRSA), appendMPI(fields, big.NewInt(int64(pub.E)).Bytes()), nil
	case *ecdsa.PublicKey:
		for _, c := range nistCurves {
			if c.curve != pub.Curve {
				continue
			}
			point, err := pub.Bytes()
			if err != nil {
				return 0, nil, fmt.Errorf("write public key: %w", err)
			}
			fields = appendMPI(appendOID(nil, c.oid), point)
			if k.Usage == hsm.Sign {
				return byte(packet.PubKeyAlgoECDSA), fields, nil
			}
			return byte(packet.PubKeyAlgoECDH), append(fields, 3, 1, c.kdf[0], c.kdf[1]), nil
		}
	case ed25519.PublicKey:
		if k.Usage != hsm.Sign {
			return refuse()
		}
		if v6 {
			return byte(packet.PubKeyAlgoEd25519), pub, nil
		}
		return byte(packet.PubKeyAlgoEdDSA), appendMPI(appendOID(nil, oidEd25519), append([]byte{0x40}, pub...)), nil
	case *ecdh.PublicKey:
		if pub.Curve() != ecdh.X25519() || k.Usage != hsm.Unwrap {
			return refuse()
		}
		if v6 {
			return byte(packet.PubKeyAlgoX25519), pub.Bytes(), nil
		}
		fields = appendMPI(appendOID(nil, oidCurve25519), append([]byte{0x40}, pub.Bytes()...))
		return byte(packet.PubKeyAlgoECDH), append(fields, 3, 1, 8, 7), nil
	}
	return refuse()
}

// appendMPI appends an integer (RFC 9580 §3.2).
func appendMPI(dst, n []byte) []byte {
	n = bytes.TrimLeft(n, "\x00")
	size := 0
	if len(n) > 0 {
		size = 8*(len(n)-1) + bits.Len8(n[0])
	}
	return append(binary.BigEndian.AppendUint16(dst, uint16(size)), n...)
}

func appendOID(dst, oid []byte) []byte { return append(append(dst, byte(len(oid))), oid...) }

// fields reads what an algorithm wrote, front to back; ok turns false at the
// first thing that does not fit and stays so.
type fields struct {
	rest []byte
	ok   bool
}

func (f *fields) take(n int) []byte {
	if !f.ok || n < 0 || n > len(f.rest) {
		f.ok = false
		return nil
	}
	taken := f.rest[:n]
	f.rest = f.rest[n:]
	return taken
}

func (f *fields) octet() int {
	if b := f.take(1); f.ok {
		return int(b[0])
	}
	return 0
}

func (f *fields) mpi() []byte {
	if n := f.take(2); f.ok {
		return f.take((int(n[0])<<8 + int(n[1]) + 7) / 8)
	}
	return nil
}

// whole reports whether everything was read and nothing is left.
func (f *fields) whole() bool { return f.ok && len(f.rest) == 0 }

// keyMaterial is a public key as the token names it, and what the KDF of its
// ECDH wants to know.
type keyMaterial struct {
	public    crypto.PublicKey
	id        hsm.KeyID
	oid       []byte
	kdfHash   uint8
	kdfCipher uint8
}

// pointSize is the length of an uncompressed point on the key's NIST curve.
func (m keyMaterial) pointSize() int {
	if k, ok := m.public.(*ecdsa.PublicKey); ok {
		return 1 + 2*((k.Curve.Params().BitSize+7)/8)
	}
	return 0
}

// materialOf reads the key out of its packet; false when a token can't hold such a key.
func materialOf(pub *packet.PublicKey) (m keyMaterial, ok bool) {
	var b bytes.Buffer
	if pub.Serialize(&b) != nil {
		return m, false
	}
	_, body, err := newPacketReader(&b).next()
	if err != nil {
		return m, false
	}
	data, err := body.all(8 << 10)
	if err != nil {
		return m, false
	}
	f := &fields{rest: data, ok: true}
	version := f.octet()
	f.take(4)
	algorithm := packet.PublicKeyAlgorithm(f.octet())
	if version >= 5 {
		f.take(4)
	}
	if !f.ok {
		return m, false
	}
	switch algorithm {
	case packet.PubKeyAlgoRSA, packet.PubKeyAlgoRSAEncryptOnly, packet.PubKeyAlgoRSASignOnly:
		n, e := f.mpi(), f.mpi()
		if !f.ok || len(e) == 0 || len(e) > 3 {
			return m, false
		}
		m.public = &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
	case packet.PubKeyAlgoECDSA, packet.PubKeyAlgoECDH, packet.PubKeyAlgoEdDSA:
		m.oid = f.take(f.octet())
		point := f.mpi()
		if algorithm == packet.PubKeyAlgoECDH {
			if n := f.octet(); n < 3 || f.octet() != 1 {
				return m, false
			}
			m.kdfHash, m.kdfCipher = uint8(f.octet()), uint8(f.octet())
		}
		m.public = point25519(algorithm, m.oid, point)
		for _, c := range nistCurves {
			if bytes.Equal(c.oid, m.oid) && algorithm != packet.PubKeyAlgoEdDSA {
				if k, err := ecdsa.ParseUncompressedPublicKey(c.curve, point); err == nil {
					m.public = k
				}
			}
		}
	case packet.PubKeyAlgoEd25519:
		m.public = ed25519.PublicKey(f.take(ed25519.PublicKeySize))
	case packet.PubKeyAlgoX25519:
		if k, err := ecdh.X25519().NewPublicKey(f.take(32)); err == nil {
			m.public = k
		}
	}
	if !f.whole() || m.public == nil {
		return m, false
	}
	if m.id, err = hsm.IDOf(m.public); err != nil {
		return m, false
	}
	return m, true
}

// point25519 is the key on one of the curves whose points begin with 0x40
// (RFC 9580 §11.2.3), or nil.
func point25519(algorithm packet.PublicKeyAlgorithm, oid, point []byte) crypto.PublicKey {
	if len(point) != 33 || point[0] != 0x40 {
		return nil
	}
	switch {
	case algorithm == packet.PubKeyAlgoEdDSA && bytes.Equal(oid, oidEd25519):
		return ed25519.PublicKey(point[1:])
	case algorithm == packet.PubKeyAlgoECDH && bytes.Equal(oid, oidCurve25519):
		if k, err := ecdh.X25519().NewPublicKey(point[1:]); err == nil {
			return k
		}
	}
	return nil
}
