package openpgp

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/asn1"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/big"
	"time"

	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"postern/hsm"
)

// signer is a key of the token with the public packet that names it.
type signer struct {
	token hsm.Token
	id    hsm.KeyID
	key   *packet.PublicKey
	pub   crypto.PublicKey
}

func newSigner(token hsm.Token, key *packet.PublicKey) (*signer, error) {
	m, ok := materialOf(key)
	if !ok {
		return nil, fmt.Errorf("sign with %X: no token can hold such a key: %w", key.Fingerprint, hsm.ErrInvalid)
	}
	return &signer{token: token, id: m.id, key: key, pub: m.public}, nil
}

// hash is the hash that signatures of the key are made with.
func (s *signer) hash() crypto.Hash {
	switch k := s.pub.(type) {
	case *ecdsa.PublicKey:
		for _, c := range nistCurves {
			if c.curve == k.Curve {
				return c.hash
			}
		}
	case ed25519.PublicKey:
		return crypto.SHA512
	}
	return crypto.SHA256
}

// algorithm is what the token is asked for with that hash.
func (s *signer) algorithm() hsm.SignAlg {
	switch s.pub.(type) {
	case *ecdsa.PublicKey:
		return hsm.ECDSA
	case ed25519.PublicKey:
		return hsm.PureEdDSA
	}
	return hsm.PKCS1SHA256
}

// begin gives a signature to be filled in, and the hash that what is signed goes into.
func (s *signer) begin(kind packet.SignatureType, at time.Time) (*packet.Signature, hash.Hash, error) {
	sig := &packet.Signature{Version: s.key.Version, SigType: kind, PubKeyAlgo: s.key.PubKeyAlgo, Hash: s.hash(), CreationTime: at, IssuerKeyId: &s.key.KeyId}
	h, err := sig.PrepareSign(config)
	if err != nil {
		return nil, nil, fmt.Errorf("prepare signature: %w", err)
	}
	return sig, h, nil
}

// digest keeps what comes out of a hash.
type digest struct {
	hash.Hash
	sum []byte
}

func (d *digest) Sum(b []byte) []byte {
	d.sum = d.Hash.Sum(nil)
	return append(b, d.sum...)
}

// finish has the token sign. Signature.Sign of go-crypto only lays out what is
// hashed: it gets a key without an algorithm and stops where it would sign,
// because it drops the errors of most signers and can't be given a foreign
// Ed25519 key at all. What the token answers is checked before it is used.
func (s *signer) finish(ctx context.Context, sig *packet.Signature, h hash.Hash) error {
	d := &digest{Hash: h}
	blank := &packet.PrivateKey{PublicKey: *s.key}
	blank.PubKeyAlgo = 0
	var stopped pgperrors.UnsupportedError
	if err := sig.Sign(d, blank, config); !errors.As(err, &stopped) || d.sum == nil {
		return fmt.Errorf("lay out signature: %w", errors.Join(err, errPacket))
	}
	made, err := s.token.Sign(ctx, s.id, s.algorithm(), d.sum)
	if err != nil {
		return fmt.Errorf("sign with %s: %w", s.id, err)
	}
	if !s.verify(d.sum, made) {
		return fmt.Errorf("sign with %s: signature of the token does not fit: %w", s.id, hsm.ErrOpaque)
	}
	return s.fill(sig, made)
}

func (s *signer) verify(digest, made []byte) bool {
	switch k := s.pub.(type) {
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(k, s.hash(), digest, made) == nil
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(k, digest, made)
	case ed25519.PublicKey:
		return ed25519.Verify(k, digest, made)
	}
	return false
}

// fill puts a raw signature where go-crypto prints it from.
func (s *signer) fill(sig *packet.Signature, made []byte) error {
	switch s.key.PubKeyAlgo {
	case packet.PubKeyAlgoRSA, packet.PubKeyAlgoRSASignOnly:
		sig.RSASignature = newMPI(made)
	case packet.PubKeyAlgoECDSA:
		var pair struct{ R, S *big.Int }
		if rest, err := asn1.Unmarshal(made, &pair); err != nil || len(rest) > 0 {
			return fmt.Errorf("read ECDSA signature: %w", hsm.ErrOpaque)
		}
		sig.ECDSASigR, sig.ECDSASigS = newMPI(pair.R.Bytes()), newMPI(pair.S.Bytes())
	case packet.PubKeyAlgoEdDSA:
		sig.EdDSASigR, sig.EdDSASigS = newMPI(made[:32]), newMPI(made[32:])
	case packet.PubKeyAlgoEd25519:
		sig.EdSig = made
	default:
		return fmt.Errorf("sign with algorithm %d: %w", s.key.PubKeyAlgo, hsm.ErrInvalid)
	}
	return nil
}

// mpi is an integer in the form that go-crypto's signatures hold.
type mpi struct{ encoded []byte }

func newMPI(n []byte) *mpi { return &mpi{appendMPI(nil, n)} }

func (m *mpi) Bytes() []byte         { return m.encoded[2:] }
func (m *mpi) BitLength() uint16     { return uint16(m.encoded[0])<<8 | uint16(m.encoded[1]) }
func (m *mpi) EncodedBytes() []byte  { return m.encoded }
func (m *mpi) EncodedLength() uint16 { return uint16(len(m.encoded)) }

// ReadFrom is there for the interface; nothing reads into a signature that was just made.
func (m *mpi) ReadFrom(io.Reader) (int64, error) { return 0, errPacket }

// packetOf prints a signature.
func packetOf(sig *packet.Signature) ([]byte, error) {
	var b bytes.Buffer
	if err := sig.Serialize(&b); err != nil {
		return nil, fmt.Errorf("print signature: %w", err)
	}
	return b.Bytes(), nil
}

// micalg is the name of a hash in multipart/signed (RFC 3156 §5).
func micalg(h crypto.Hash) string {
	switch h {
	case crypto.SHA384:
		return "pgp-sha384"
	case crypto.SHA512:
		return "pgp-sha512"
	}
	return "pgp-sha256"
}
