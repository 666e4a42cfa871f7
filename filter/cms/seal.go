package cms

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"postern/filter/cms/ber"
)

// SealRequest says for whom to encrypt, and how.
type SealRequest struct {
	// Recipients are the certificates of those who can read the message. Their
	// keys are RSA, on P-256, P-384 or P-521, or X25519. Whether they are good
	// for it was judged before.
	Recipients []*x509.Certificate
	// Cipher is AES-CBC, which makes EnvelopedData, or AES-GCM, which makes
	// AuthEnvelopedData. There is no default: what the recipients read is not
	// known here.
	Cipher Cipher
	// OAEP wraps for RSA keys with RSAES-OAEP and SHA-256 (RFC 4055 §4.1), not
	// with RSAES-PKCS1-v1_5 (RFC 3370 §4.2.1).
	OAEP bool
}

var errNoRecipient = errors.New("no recipient")

// NewSealer writes the head of a message to w. The content is what is written
// to the WriteCloser, and Close ends the message; it does not close w. Content
// key, IV and ephemeral keys come from crypto/rand and are used once. The head
// is in DER; the content is in pieces of 32 KiB under indefinite lengths, as
// nobody knows its length before.
func NewSealer(w io.Writer, r SealRequest) (io.WriteCloser, error) {
	if len(r.Recipients) == 0 {
		return nil, fmt.Errorf("seal content: %w", errNoRecipient)
	}
	if !r.Cipher.seals() {
		return nil, fmt.Errorf("seal content with %s: %w", r.Cipher, ErrAlgorithm)
	}
	key := make([]byte, r.Cipher.KeySize())
	rand.Read(key)
	defer clear(key)
	content := contentCipher{Cipher: r.Cipher, iv: make([]byte, suites[r.Cipher].iv)}
	rand.Read(content.iv)
	if r.Cipher.Authenticated() {
		content.tag = gcmTag
	}
	head, err := r.head(content, key)
	if err != nil {
		return nil, fmt.Errorf("seal content: %w", err)
	}
	s := &sealing{w: w, buf: make([]byte, 0, pieceSize+pieceHeader)}
	s.buf = ber.AppendHeader(s.buf, ber.Tag{Number: ber.OctetString}, pieceSize)
	if s.sealer, err = content.sealer(key); err != nil {
		return nil, fmt.Errorf("seal content: %w", err)
	}
	if _, err := w.Write(head); err != nil {
		return nil, fmt.Errorf("seal content: %w", err)
	}
	return s, nil
}

// head is the message up to the ciphertext, whose header it has as well.
func (r SealRequest) head(content contentCipher, key []byte) ([]byte, error) {
	version := int64(0)
	var infos [][]byte
	for _, c := range r.Recipients {
		info, agreed, err := r.wrap(c, key)
		if err != nil {
			return nil, fmt.Errorf("wrap content key for serial %x: %w", c.SerialNumber, err)
		}
		if agreed && !r.Cipher.Authenticated() {
			version = 2 // RFC 5652 §6.1; RFC 5083 §2.1 has 0 alone
		}
		infos = append(infos, info)
	}
	slices.SortFunc(infos, bytes.Compare) // X.690 §11.6
	der, err := content.der()
	if err != nil {
		return nil, err
	}
	kind := oidEnveloped
	if r.Cipher.Authenticated() {
		kind = oidAuthEnveloped
	}
	var b cryptobyte.Builder
	open := func(class byte, number uint32) {
		b.AddBytes(ber.AppendHeader(nil, ber.Tag{Class: class, Number: number, Constructed: true}, ber.Indefinite))
	}
	open(ber.Universal, ber.Sequence) // ContentInfo
	b.AddASN1ObjectIdentifier(kind)
	open(ber.Context, 0)
	open(ber.Universal, ber.Sequence) // EnvelopedData, AuthEnvelopedData
	b.AddASN1Int64(version)
	b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) {
		for _, info := range infos {
			b.AddBytes(info)
		}
	})
	open(ber.Universal, ber.Sequence) // EncryptedContentInfo
	b.AddASN1ObjectIdentifier(oidData)
	b.AddBytes(der)
	open(ber.Context, 0)
	return b.Bytes()
}

// sealing is a message whose content is being written. Content is copied once,
// to where it is encrypted and written from.
type sealing struct {
	w      io.Writer
	sealer sealer
	buf    []byte // header of a full piece, then content that waits for more
	err    error  // the first one, or that it is closed
}

// pieceHeader is the length of the header of a full piece.
const pieceHeader = 4

var errClosed = errors.New("message is closed")

// Write implements io.Writer.
func (s *sealing) Write(p []byte) (n int, err error) {
	for len(p) > 0 && s.err == nil {
		d := min(len(p), cap(s.buf)-len(s.buf))
		s.buf = append(s.buf, p[:d]...)
		p = p[d:]
		n += d
		if len(s.buf) == cap(s.buf) {
			s.sealer.seal(s.buf[pieceHeader:])
			_, s.err = s.w.Write(s.buf)
			s.buf = s.buf[:pieceHeader]
		}
	}
	if s.err != nil {
		return n, fmt.Errorf("seal content: %w", s.err)
	}
	return n, nil
}

// Close ends the message.
func (s *sealing) Close() error {
	if s.err != nil {
		return fmt.Errorf("seal content: %w", s.err)
	}
	last, tag := s.sealer.close(s.buf[pieceHeader:])
	var foot []byte
	if len(last) > 0 {
		foot = append(ber.AppendHeader(foot, ber.Tag{Number: ber.OctetString}, int64(len(last))), last...)
	}
	foot = append(append(foot, ber.EndOfContents[:]...), ber.EndOfContents[:]...) // [0], EncryptedContentInfo
	if tag != nil {
		foot = append(ber.AppendHeader(foot, ber.Tag{Number: ber.OctetString}, int64(len(tag))), tag...)
	}
	for range 3 { // AuthEnvelopedData, [0], ContentInfo
		foot = append(foot, ber.EndOfContents[:]...)
	}
	_, err := s.w.Write(foot)
	s.err = errClosed
	if err != nil {
		return fmt.Errorf("seal content: %w", err)
	}
	return nil
}
