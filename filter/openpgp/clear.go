package openpgp

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	netmail "net/mail"
	"strings"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/protect"
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
	source := &watched{Source: m.Source}
	claims, err := v.signatures(decoded(source, p.Parts[1]))
	if err != nil {
		if source.err != nil {
			return nil, source.verdict(err)
		}
		return []*claim{{verifier: v}}, nil
	}
	if err := cover(claims, message.SectionReader(source, p.Parts[0].Whole)); err != nil {
		return nil, source.verdict(err)
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
	if f.Good && isSealed(m, m.Root.Parts[0]) {
		f = partial()
	}
	return f, nil
}

// partial is the finding on a signature that is right, and covers less than what is shown.
func partial() protect.Finding {
	return protect.Finding{Format: keyring.OpenPGP, Signed: true, Reason: protect.ReasonPartial}
}

// denied reports whether the header of a mail that anybody could read says
// other than what was signed: its signed part protects fields (RFC 9788 §2.1.1,
// or the draft form before it), and one of them stands outside with another
// value. Under encryption the two differ by design, here nobody hides anything.
func denied(m *message.Message) bool {
	part := m.Root.Parts[0]
	if part.Params["hp"] == "" && part.Params["protected-headers"] == "" {
		return false
	}
	signed := &message.Message{Source: m.Source, Root: part}
	for _, name := range []string{"From", "Subject", "Date", "Message-ID"} {
		inside, outside := signed.Get(name), m.Get(name)
		if signed.Count(name) == 0 || plainly(inside) == plainly(outside) {
			continue
		}
		was, err := netmail.ParseDate(inside)
		is, outer := netmail.ParseDate(outside)
		if name != "Date" || err != nil || outer != nil || !was.Equal(is) {
			return true
		}
	}
	return false
}

// plainly is the value of a field without its folding and encoding.
func plainly(value string) string {
	return strings.Join(strings.Fields(message.DecodeWords(value)), " ")
}

// isSealed reports whether a part is encrypted, in whatever format.
func isSealed(m *message.Message, p *message.Part) bool {
	switch p.Type {
	case "multipart/encrypted", "application/pkcs7-mime", "application/x-pkcs7-mime":
		return true
	case "multipart/mixed":
		return mangled(m, p)
	case "text/plain", "application/pgp":
		return armoured(m, p)
	}
	return false
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
	source := &watched{Source: m.Source}
	text, armour, err := splitClear(decoded(source, m.Root))
	if source.err != nil {
		return protect.Finding{}, source.verdict(err)
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
