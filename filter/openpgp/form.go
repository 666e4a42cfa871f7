package openpgp

import (
	"bytes"
	"io"
	"strings"

	"postern/filter/message"
	"postern/filter/protect/entity"
)

// mangled reports whether a part is what Exchange makes of a
// multipart/encrypted: a multipart/mixed, mostly with an empty text in front,
// in which both parts still have their types. Nothing else may stand in there:
// the ciphertext is all that the mail says (R7).
//
// Mail in which each part is encrypted by itself ("partitioned") is not taken
// for sealed: every part has a session key of its own, and would cost a token
// operation (R4).
func mangled(m *message.Message, p *message.Part) bool {
	parts := p.Parts
	if len(parts) == 3 && parts[0].Type == "text/plain" && empty(m, parts[0]) {
		parts = parts[1:]
	}
	return len(parts) == 2 && parts[0].Type == "application/pgp-encrypted" && parts[1].Type == "application/octet-stream" &&
		entity.Blank(m.Source, p.Preamble) && entity.Blank(m.Source, p.Epilogue) &&
		versionOne(m, parts[0]) && armoured(m, parts[1])
}

// empty reports whether a part shows nothing.
func empty(m *message.Message, p *message.Part) bool {
	text, err := io.ReadAll(io.LimitReader(entity.Decoded(m.Source, p), maxVersion+1))
	return err == nil && len(text) <= maxVersion && len(bytes.TrimSpace(text)) == 0
}

// armoured reports whether a part begins as an encrypted message in armour.
func armoured(m *message.Message, p *message.Part) bool {
	return strings.HasPrefix(entity.FirstLine(m.Source, p), "-----BEGIN "+labelMessage+"-----")
}
