package smime

import (
	"errors"
	"io"
	"math"

	"postern/filter/cms"
	"postern/filter/message"
	"postern/filter/protect/entity"
)

var errLayers = errors.New("take layers off: not what it should be")

// layers takes layers off a mail as a stream, from the outside in.
type layers struct {
	max    int64 // bytes that compressed data may become
	pulled []*entity.Pulled
	signed *cms.Signed // the opaque signature inside the encryption, once all was read
}

// close lets go of what was not read to its end.
func (l *layers) close() {
	for i := len(l.pulled) - 1; i >= 0; i-- {
		l.pulled[i].Close()
	}
}

func (l *layers) pull(write func(io.Writer) error) *entity.Pulled {
	p := entity.Pull(write)
	l.pulled = append(l.pulled, p)
	return p
}

// verify is the content of a signature, that of decompress what was
// compressed. Both end with an error if the structure around it is wrong.
func (l *layers) verify(e *stream, into **cms.Signed) (*stream, error) {
	return newStream(l.pull(func(w io.Writer) error {
		s, err := cms.ReadSigned(e.body, w)
		if err == nil && !s.Content {
			err = errLayers // it would vanish
		}
		*into = s
		return err
	}))
}

func (l *layers) decompress(e *stream) (*stream, error) {
	return newStream(l.pull(func(w io.Writer) error { return cms.Decompress(e.body, w, l.max) }))
}

// around takes off what stands around the encryption, and gives that.
func (l *layers) around(src message.Source, root *message.Part) (*stream, error) {
	if formOf(src, root) == detached {
		root = root.Parts[0]
	}
	var ignored *cms.Signed // R13
	e := streamOf(src, root, math.MaxInt64)
	for range maxLayers {
		var err error
		switch e.form() {
		case enveloped:
			return e, nil
		case opaque:
			e, err = l.verify(e, &ignored)
		case compressed:
			e, err = l.decompress(e)
		default:
			err = errLayers
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, errLayers
}

// inside takes off what stands directly inside the encryption: one signature
// and one compression, in any order. Another layer is part of the payload.
func (l *layers) inside(plain io.Reader) (e *stream, err error) {
	e, err = newStream(plain)
	signed, expanded := false, false
	for err == nil {
		switch f := e.form(); {
		case f == opaque && !signed && e.part.Params["smime-type"] != "certs-only":
			signed = true
			e, err = l.verify(e, &l.signed)
		case f == compressed && !expanded:
			expanded = true
			e, err = l.decompress(e)
		default:
			return e, nil
		}
	}
	return nil, err
}

// open decrypts, and writes the payload. What was written counts only if the
// error is nil. Whatever is wrong, the ciphertext is read to its end, so that
// the time does not tell a wrong key from a payload that makes no sense (R2).
func (l *layers) open(envelope *cms.Envelope, key []byte, payload *entity.Writer) error {
	plain := l.pull(func(w io.Writer) error { return envelope.Decrypt(key, w) })
	err := l.write(plain, payload)
	if _, end := io.Copy(io.Discard, plain); err == nil {
		err = end
	}
	return err
}

func (l *layers) write(plain io.Reader, payload *entity.Writer) error {
	e, err := l.inside(plain)
	if err != nil {
		return err
	}
	if _, err := message.Copy(payload, e.whole()); err != nil {
		return err
	}
	return payload.Close()
}
