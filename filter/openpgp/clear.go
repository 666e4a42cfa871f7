package openpgp

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/protect"
	"postern/filter/protect/entity"
)

// labelClear begins text that is signed and readable (RFC 9580 §7).
const labelClear = "PGP SIGNED MESSAGE"

const (
	maxClear     = 4 << 20 // bytes of signed text that is looked at
	maxClearLine = 64 << 10
)

// multipart reads the signatures of a multipart/signed, and lets them cover
// its first part as received (RFC 3156 §5): from its header to before the
// CRLF that belongs to the boundary. A signature part that is malformed is one
// claim that fits nothing. Errors are those of the spool.
func (v *verifier) multipart(m *message.Message, p *message.Part) ([]*claim, error) {
	source := entity.Watch(m.Source)
	claims, err := v.signatures(entity.Decoded(source, p.Parts[1]))
	if err != nil {
		if err := source.Err(); err != nil {
			return nil, err
		}
		return []*claim{{verifier: v}}, nil
	}
	if err := cover(claims, message.SectionReader(source, p.Parts[0].Whole)); err != nil {
		return nil, source.Refusal()
	}
	return claims, nil
}

// signed judges a mail that is a multipart/signed. Around something sealed the
// signer has signed what he may not have read, so that is no claim (R13).
func (v *verifier) signed(m *message.Message, author message.Address) (protect.Finding, error) {
	claims, err := v.multipart(m, m.Root)
	if err != nil {
		return protect.Finding{}, err
	}
	f := finding(claims, author)
	if f.Good && entity.Sealed(m.Source, m.Root.Parts[0]) {
		f = partial()
	}
	return f, nil
}

// partial is the finding on a signature that is right, and covers less than what is shown.
func partial() protect.Finding {
	return protect.Finding{Format: keyring.OpenPGP, Signed: true, Reason: protect.ReasonPartial}
}

// signatures reads detached signatures out of their armour; at least one.
func (v *verifier) signatures(r io.Reader) ([]*claim, error) {
	a, err := newUnarmor(io.LimitReader(r, maxSignatures*maxSignatureBytes*2), labelSignature)
	if err != nil {
		return nil, err
	}
	claims, err := v.detached(a)
	if err == nil && len(claims) == 0 {
		err = errPacket
	}
	return claims, err
}

// clear verifies a mail whose one text part is a cleartext signed message and
// nothing else (RFC 9580 §7.1). Text before or after it makes it partial.
func (v *verifier) clear(m *message.Message, author message.Address) (protect.Finding, error) {
	source := entity.Watch(m.Source)
	text, armour, err := splitClear(entity.Decoded(source, m.Root))
	if err := source.Err(); err != nil {
		return protect.Finding{}, err
	}
	f := finding([]*claim{{verifier: v}}, author)
	if err != nil {
		f.Reason = protect.ReasonPartial
		return f, nil
	}
	claims, err := v.signatures(bytes.NewReader(armour))
	if err != nil {
		f.Reason = protect.ReasonPartial
		return f, nil
	}
	if err := cover(claims, bytes.NewReader(text)); err != nil {
		return f, err
	}
	return finding(claims, author), nil
}

// splitClear takes the signed text, in the form that was signed (without
// dashes and white space at the ends of lines, with CRLF between them), and
// the armour of the signatures.
func splitClear(r io.Reader) (text, armour []byte, err error) {
	in := bufio.NewScanner(io.LimitReader(r, maxClear))
	in.Buffer(nil, maxClearLine)
	trimmed := func() string { return strings.TrimRight(in.Text(), " \t\r") }
	begun, header, lines := false, true, 0
	for in.Scan() {
		line := trimmed()
		switch {
		case !begun:
			if line == "" {
				continue
			}
			if line != "-----BEGIN "+labelClear+"-----" {
				return nil, nil, errArmor
			}
			begun = true
		case header:
			if line == "" {
				header = false
			} else if !strings.HasPrefix(line, "Hash:") && !strings.HasPrefix(line, "SaltedHash:") {
				return nil, nil, errArmor // other fields would be shown, and are not signed (RFC 9580 §7.1)
			}
		case line == "-----BEGIN "+labelSignature+"-----":
			armour = append(armour, line...)
			for in.Scan() {
				armour = append(append(armour, '\n'), in.Bytes()...)
			}
			return text, armour, in.Err()
		default:
			if strings.HasPrefix(line, "-") {
				rest, ok := strings.CutPrefix(line, "- ")
				if !ok {
					return nil, nil, errArmor
				}
				line = rest
			}
			if lines++; lines > 1 {
				text = append(text, "\r\n"...)
			}
			text = append(text, line...)
		}
	}
	return nil, nil, errors.Join(errArmor, in.Err())
}
