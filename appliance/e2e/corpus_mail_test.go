package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"net"
	"net/textproto"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"postern/appliance/trial"
)

// crlf gives a file the line ends of SMTP.
func crlf(b []byte) []byte {
	return bytes.ReplaceAll(bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")), []byte("\n"), []byte("\r\n"))
}

// mailOf is the mail of a sample and its envelope.
func (w *world) mailOf(t testing.TB, s *sample, file string) (from, to string, mail []byte) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if s.work() == workCMS {
		to = w.to(s, b)
		return unnamed, to, wrapped509("From: "+unnamed+"\nTo: "+to+"\nSubject: corpus\nMessage-ID: <"+s.path[strings.LastIndexByte(s.path, '/')+1:]+"@corpora>\n", b)
	}
	if s.work() != workRaw {
		if bytes.HasPrefix(b, []byte("From ")) { // the separator of an mbox
			_, b, _ = bytes.Cut(b, []byte("\n"))
		}
		if s.kind == "mime-malformed" && bytes.IndexByte(b, '\r') >= 0 {
			return unnamed, w.to(s, b), b // its line ends may be what is wrong with it
		}
		return unnamed, w.to(s, b), crlf(b)
	}
	s.plain = false // who calls a signed message inline, or no message at all, one that did not open, says no more than that
	from = unnamed
	if c := w.signer(s); c != nil && c.address() != "" {
		from = c.address()
	}
	if body := dearmoured(b); s.signer != "" && !ciphertext(body) && !bytes.Contains(b, []byte("-----BEGIN PGP SIGNED MESSAGE-----")) {
		s.verified = either // RFC 3156 has no form for it; as text it need not count as signed
	} else if s.opened == wantYes && beyondTokens(body) {
		s.opened, s.verified, s.beyond = wantNo, wantNo, true // the verdict is of a program with passphrases and keys in files
	}
	to = w.to(s, b)
	header := "From: " + from + "\nTo: " + to + "\nSubject: corpus\nMessage-ID: <" + s.path[strings.LastIndexByte(s.path, '/')+1:] + "@corpora>\n"
	return from, to, wrapped(header, b)
}

// wrapped puts an OpenPGP message into a mail, by what its first packet is:
// sealed as RFC 3156 §4, a signature that stands alone as §5 around a text
// that it may not fit, the cleartext framework and any other as text.
func wrapped(header string, b []byte) []byte {
	plain := header + "MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n\n"
	if bytes.Contains(b, []byte("-----BEGIN PGP SIGNED MESSAGE-----")) {
		return crlf([]byte(plain + string(bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")))))
	}
	binary := dearmoured(b)
	switch first(binary) {
	case 2: // a signature first: alone, or before what it signs
		if !onlySignatures(binary) {
			return crlf([]byte(plain + armoured64(binary, "MESSAGE")))
		}
		return crlf([]byte(header + "MIME-Version: 1.0\nContent-Type: multipart/signed; micalg=pgp-sha256;\n protocol=\"application/pgp-signature\"; boundary=\"=_c\"\n\n" +
			"--=_c\nContent-Type: text/plain\n\nThis is no text that anybody signed.\n--=_c\nContent-Type: application/pgp-signature\n\n" + armoured64(binary, "SIGNATURE") + "--=_c--\n"))
	case 4, 8, 11: // one-pass signature, compressed data, literal data
		return crlf([]byte(plain + armoured64(binary, "MESSAGE")))
	}
	if bytes.HasPrefix(b, []byte("-----BEGIN PGP MESSAGE-----")) {
		return trial.Encrypted(header, b) // its armour may be what is wrong with it
	}
	return trial.Encrypted(header, []byte(armoured64(binary, "MESSAGE")))
}

// armoured64 is armour without a checksum (RFC 9580 §6.1 has none any more).
func armoured64(b []byte, what string) string {
	var out strings.Builder
	out.WriteString("-----BEGIN PGP " + what + "-----\n\n")
	text := base64.StdEncoding.EncodeToString(b)
	for len(text) > 64 {
		out.WriteString(text[:64] + "\n")
		text = text[64:]
	}
	out.WriteString(text + "\n-----END PGP " + what + "-----\n")
	return out.String()
}

// first is the tag of the first packet that is no marker, or 0.
func first(b []byte) uint8 {
	for _, tag := range tags(b) {
		if tag != 10 {
			return tag
		}
	}
	switch {
	case len(b) == 0 || b[0]&0x80 == 0:
		return 0
	case b[0]&0x40 != 0:
		return b[0] & 0x3F
	}
	return b[0] >> 2 & 0x0F
}

func onlySignatures(b []byte) bool {
	return !slices.ContainsFunc(tags(b), func(tag uint8) bool { return tag != 2 })
}

// ciphertext reports whether a message has an encrypted packet at its root.
func ciphertext(b []byte) bool {
	return slices.ContainsFunc(tags(b), func(tag uint8) bool { return tag == 9 || tag == 18 || tag == 20 })
}

// beyondTokens reports whether a session key is wrapped with passphrases, or
// for keys of ElGamal, and in no way that a token could open.
func beyondTokens(b []byte) bool {
	wrapped := false
	for _, p := range packets(b) {
		switch {
		case p.Tag == 1 && !(len(p.Contents) > 9 && p.Contents[0] == 3 && p.Contents[9] == 16):
			return false
		case p.Tag == 1, p.Tag == 3:
			wrapped = true
		}
	}
	return wrapped
}

// packets are those at the root, as far as they can be read.
func packets(b []byte) (all []*packet.OpaquePacket) {
	if len(b) == 0 || b[0]&0x80 == 0 {
		return nil
	}
	for r := packet.NewOpaqueReader(bytes.NewReader(b)); ; {
		p, err := r.Next()
		if err != nil {
			return all
		}
		all = append(all, p)
	}
}

// tags are theirs.
func tags(b []byte) (all []uint8) {
	for _, p := range packets(b) {
		all = append(all, p.Tag)
	}
	return all
}

// recipientIDs are the key ids that a message says it is for, of the first
// armour in a mail (RFC 9580 §5.1).
func recipientIDs(b []byte) (ids []uint64) {
	if i := bytes.Index(b, []byte("-----BEGIN PGP MESSAGE-----")); i > 0 {
		b = b[i:]
	}
	for _, p := range packets(dearmoured(b)) {
		switch c := p.Contents; {
		case p.Tag == 1 && len(c) > 9 && c[0] == 3:
			ids = append(ids, binary.BigEndian.Uint64(c[1:]))
		case p.Tag == 1 && len(c) > 11 && c[0] == 6 && c[1] == 33 && c[2] == 6:
			ids = append(ids, binary.BigEndian.Uint64(c[3:]))
		case p.Tag == 1 && len(c) > 23 && c[0] == 6 && c[1] == 21 && c[2] == 4:
			ids = append(ids, binary.BigEndian.Uint64(c[15:]))
		}
	}
	return ids
}

// stuffed is a mail as it follows DATA (RFC 5321 §4.5.2).
func stuffed(mail []byte) []byte {
	data := bytes.ReplaceAll(mail, []byte("\r\n."), []byte("\r\n.."))
	if bytes.HasPrefix(data, []byte(".")) {
		data = append([]byte("."), data...)
	}
	if !bytes.HasSuffix(data, []byte("\r\n")) {
		data = append(bytes.Clone(data), "\r\n"...)
	}
	return append(data, ".\r\n"...)
}

// submit sends one mail in a session of its own, and all that follows DATA as
// it is given: the corpus has line ends that a decent client would mend.
func submit(server, from, to string, data []byte) (answer, error) {
	conn, err := net.DialTimeout("tcp", server, patience)
	if err != nil {
		return answer{}, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	c := textproto.NewConn(conn)
	if _, _, err := c.ReadResponse(220); err != nil {
		return answer{}, err
	}
	for _, step := range []struct {
		line string
		want int
	}{{"EHLO peer.example", 250}, {"MAIL FROM:<" + from + "> BODY=8BITMIME", 250}, {"RCPT TO:<" + to + ">", 250}, {"DATA", 354}} {
		if err := c.PrintfLine("%s", step.line); err != nil {
			return answer{}, err
		}
		code, text, err := c.ReadResponse(step.want)
		if _, refused := err.(*textproto.Error); refused {
			return answer{code: code, text: text}, nil
		}
		if err != nil {
			return answer{}, err
		}
	}
	if _, err := c.W.Write(data); err != nil {
		return answer{}, err
	}
	if err := c.W.Flush(); err != nil {
		return answer{}, err
	}
	code, text, err := c.ReadResponse(250)
	if _, refused := err.(*textproto.Error); err != nil && !refused {
		return answer{}, err
	}
	return answer{code: code, text: text}, nil
}
