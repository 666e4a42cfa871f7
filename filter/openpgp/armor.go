package openpgp

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"postern/filter/keyring"
	"postern/filter/protect/entity"
)

// Labels of armour (RFC 9580 §6.2).
const (
	labelMessage   = "PGP MESSAGE"
	labelSignature = "PGP SIGNATURE"
	labelCert      = "PGP PUBLIC KEY BLOCK"
)

// maxArmorLine is the longest line of armour, in bytes; those of mail are shorter (RFC 5322 §2.1.1).
const maxArmorLine = 1000

// errArmor is text that is not exactly one armoured block.
var errArmor = errors.New("armour malformed")

// unarmor reads one armoured block (RFC 9580 §6.2) as it comes. Before and
// behind it stand blank lines only: what else a mail says must not vanish with
// the ciphertext. The checksum is not looked at (RFC 9580 §6.1.1).
type unarmor struct {
	in      *bufio.Reader
	label   string
	Charset string // of the header field with that name
	line    []byte // base64 of the present line that is not handed out
	padded  bool   // base64 has ended; the decoder would begin anew
	end     error  // why there is no more
	decoder io.Reader
}

// Size is that of the buffer below.
func (a *unarmor) Size() int { return a.in.Size() }

// newUnarmor finds the beginning of the block.
func newUnarmor(r io.Reader, label string) (*unarmor, error) {
	a := &unarmor{in: bufio.NewReaderSize(r, bufferSize(r)), label: label}
	line, err := a.text()
	for err == nil && line == "" {
		line, err = a.text()
	}
	if err != nil || line != "-----BEGIN "+label+"-----" {
		return nil, armorError(err)
	}
	for n := 0; ; n++ {
		line, err := a.text()
		if err != nil || n > 32 {
			return nil, armorError(err)
		}
		if line == "" {
			break
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			return nil, errArmor
		}
		if strings.EqualFold(name, "Charset") {
			a.Charset = strings.TrimSpace(value)
		}
	}
	a.decoder = base64.NewDecoder(base64.StdEncoding, base64Lines{a})
	return a, nil
}

// armorError keeps an error of the reader below, which is not about the text.
func armorError(err error) error {
	if err == nil || err == io.EOF || errors.Is(err, bufio.ErrBufferFull) {
		return errArmor
	}
	return err
}

// text is the next line without its end and white space behind.
func (a *unarmor) text() (string, error) {
	line, err := a.raw()
	return string(line), err
}

// raw is text without a copy: it stands until the next call.
func (a *unarmor) raw() ([]byte, error) {
	line, err := a.in.ReadSlice('\n')
	if err == io.EOF && len(line) > 0 {
		err = nil
	}
	if err == nil && len(line) > maxArmorLine {
		err = errArmor
	}
	return bytes.TrimRight(line, " \t\r\n"), err
}

func (a *unarmor) Read(p []byte) (int, error) {
	n, err := a.decoder.Read(p)
	if err == nil || err == io.EOF {
		return n, err
	}
	var corrupt base64.CorruptInputError
	if errors.As(err, &corrupt) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errArmor
	}
	return n, err
}

// base64Lines hands out what stands between the lines of the block.
type base64Lines struct{ *unarmor }

func (b base64Lines) Read(p []byte) (int, error) {
	for len(b.line) == 0 {
		if b.end == nil {
			b.end = b.advance()
		}
		if b.end != nil {
			return 0, b.end
		}
	}
	n := copy(p, b.line)
	b.line = b.line[n:]
	return n, nil
}

// advance reads the next line of the block; io.EOF is its regular end.
func (a *unarmor) advance() error {
	line, err := a.raw()
	if err != nil {
		return armorError(err)
	}
	if len(line) == 0 || line[0] != '-' && line[0] != '=' {
		if a.padded && len(line) > 0 {
			return errArmor
		}
		a.line, a.padded = line, a.padded || bytes.HasSuffix(line, []byte("="))
		return nil
	}
	text := string(line)
	if text[0] == '=' { // the checksum
		if text, err = a.text(); err != nil {
			return armorError(err)
		}
	}
	if text != "-----END "+a.label+"-----" {
		return errArmor
	}
	for {
		text, err := a.text()
		if err == io.EOF {
			return io.EOF
		}
		if err != nil || text != "" {
			return armorError(err)
		}
	}
}

// dearmorCerts gives the binary form of certificates; blocks may follow each
// other with any text between them, as people keep them.
func dearmorCerts(data []byte) ([]byte, error) {
	if len(data) == 0 || data[0]&0x80 != 0 {
		return data, nil
	}
	if bytes.Contains(data, []byte("-----BEGIN PGP PRIVATE KEY BLOCK-----")) {
		return nil, ErrSecret
	}
	begin, end := []byte("-----BEGIN "+labelCert+"-----"), []byte("-----END "+labelCert+"-----")
	var binary []byte
	for n := 0; ; n++ {
		from := bytes.Index(data, begin)
		if from < 0 {
			break
		}
		to := bytes.Index(data, end)
		if to < from || n >= maxCerts {
			return nil, ErrCert
		}
		a, err := newUnarmor(bytes.NewReader(data[from:to+len(end)]), labelCert)
		if err != nil {
			return nil, ErrCert
		}
		block, err := io.ReadAll(a)
		if err != nil {
			return nil, ErrCert
		}
		binary = append(binary, block...)
		data = data[to+len(end):]
	}
	if binary == nil {
		return nil, ErrCert
	}
	return binary, nil
}

// armorer writes armour with CRLF, lines of 64 characters and, if asked, the
// checksum: the standard calls it optional, but old programs miss it (RFC 9580 §6.1).
type armorer struct {
	w     io.Writer
	label string
	sum   *crc24
	body  *entity.Encoder
}

func newArmorer(w io.Writer, label string, checksum bool) (*armorer, error) {
	a := &armorer{w: w, label: label, body: entity.NewEncoder(w, 64)}
	if checksum {
		a.sum = newCRC24()
	}
	_, err := io.WriteString(w, "-----BEGIN "+label+"-----\r\n\r\n")
	return a, err
}

func (a *armorer) Write(p []byte) (int, error) {
	if a.sum != nil {
		a.sum.add(p)
	}
	return a.body.Write(p)
}

// Close writes the end of the block.
func (a *armorer) Close() error {
	if err := a.body.Close(); err != nil {
		return err
	}
	tail := ""
	if a.sum != nil {
		tail = "=" + base64.StdEncoding.EncodeToString(a.sum.bytes()) + "\r\n"
	}
	_, err := io.WriteString(a.w, tail+"-----END "+a.label+"-----\r\n")
	return err
}

// crc24 is the checksum of RFC 9580 §6.1, held in the upper bits of value.
type crc24 struct{ value uint32 }

// crcTables take eight bytes at a step: byte by byte the checksum would cost
// more than the encryption.
var crcTables = sync.OnceValue(func() *[8][256]uint32 {
	var t [8][256]uint32
	for i := range t[0] {
		v := uint32(i) << 24
		for range 8 {
			top := v & (1 << 31)
			if v <<= 1; top != 0 {
				v ^= 0x864cfb00
			}
		}
		t[0][i] = v
	}
	for k := 1; k < len(t); k++ {
		for i, v := range t[k-1] {
			t[k][i] = v<<8 ^ t[0][v>>24]
		}
	}
	return &t
})

func newCRC24() *crc24 { return &crc24{value: 0xb704ce00} }

func (c *crc24) add(p []byte) {
	t, v := crcTables(), c.value
	for ; len(p) >= 8; p = p[8:] {
		v ^= binary.BigEndian.Uint32(p)
		v = t[7][v>>24] ^ t[6][v>>16&0xff] ^ t[5][v>>8&0xff] ^ t[4][v&0xff] ^ t[3][p[4]] ^ t[2][p[5]] ^ t[1][p[6]] ^ t[0][p[7]]
	}
	for _, b := range p {
		v = v<<8 ^ t[0][byte(v>>24)^b]
	}
	c.value = v
}

func (c *crc24) bytes() []byte {
	return []byte{byte(c.value >> 24), byte(c.value >> 16), byte(c.value >> 8)}
}

// Armor writes a certificate for people.
func Armor(w io.Writer, c keyring.Cert) error {
	a, err := newArmorer(w, labelCert, len(c.Fingerprint) == 40)
	if err != nil {
		return fmt.Errorf("armor certificate: %w", err)
	}
	if _, err := a.Write(c.Raw); err != nil {
		return fmt.Errorf("armor certificate: %w", err)
	}
	if err := a.Close(); err != nil {
		return fmt.Errorf("armor certificate: %w", err)
	}
	return nil
}
