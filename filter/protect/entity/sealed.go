package entity

import (
	"bufio"
	"io"
	"strings"

	"postern/filter/message"
)

// maxLead is what is looked at of a body to see how it begins, in bytes.
const maxLead = 64 << 10

// FirstLine is the first line of a body that is not blank, without its
// transfer encoding and white space at its end.
func FirstLine(src message.Source, p *message.Part) string {
	in := bufio.NewReader(io.LimitReader(Decoded(src, p), maxLead))
	for {
		line, err := in.ReadString('\n')
		if line = strings.TrimRight(line, " \t\r\n"); line != "" || err != nil {
			return line
		}
	}
}

// Sealed reports whether an entity looks encrypted, in whatever format, or
// might be: who signs around that has signed what he may not have read (R13).
func Sealed(src message.Source, p *message.Part) bool {
	switch p.Type {
	case "multipart/encrypted", "application/pkcs7-mime", "application/x-pkcs7-mime", "application/pgp-encrypted":
		return true
	case "multipart/mixed": // what Exchange makes of a multipart/encrypted
		for _, part := range p.Parts {
			if part.Type == "application/pgp-encrypted" {
				return true
			}
		}
	case "text/plain", "application/pgp":
		return strings.HasPrefix(FirstLine(src, p), "-----BEGIN PGP MESSAGE-----")
	}
	return false
}
