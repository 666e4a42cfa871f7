package cms

import (
	"bytes"
	"crypto"
	"encoding/asn1"
	"fmt"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Capability is one SMIMECapability (RFC 8551 §2.5.2).
type Capability struct {
	OID    asn1.ObjectIdentifier
	Params []byte // one element in DER, or nil
}

// Capabilities are what a program can read, the best first.
type Capabilities []Capability

const maxCapabilities = 64

// ParseCapabilities reads SMIMECapabilities in DER, at most 64 of them.
func ParseCapabilities(der []byte) (Capabilities, error) {
	s := cryptobyte.String(der)
	var list cryptobyte.String
	if !s.ReadASN1(&list, cbasn1.SEQUENCE) || !s.Empty() {
		return nil, fmt.Errorf("read capabilities: %w", ErrForm)
	}
	all := Capabilities{}
	for !list.Empty() {
		var a algorithm
		if !readAlgorithm(&list, &a) || len(all) == maxCapabilities {
			return nil, fmt.Errorf("read capabilities: %w", ErrForm)
		}
		all = append(all, Capability{a.oid, a.params})
	}
	return all, nil
}

// DER is what ParseCapabilities reads.
func (c Capabilities) DER() ([]byte, error) {
	var b cryptobyte.Builder
	c.add(&b)
	return b.Bytes()
}

func (c Capabilities) add(b *cryptobyte.Builder) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, one := range c {
			algorithm{one.OID, one.Params}.add(b)
		}
	})
}

// Readable is what this package reads and makes sense to ask for.
func Readable() (Capabilities, error) {
	var all Capabilities
	for _, c := range []Cipher{AES256GCM, AES128GCM, ChaCha20Poly1305, AES256CBC, AES192CBC, AES128CBC} {
		all = append(all, Capability{OID: suites[c].oid}) // without parameters: RFC 8551 §2.5.2, RFC 3565 §4.1
	}
	params, err := pssParams(crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("print capabilities: %w", err)
	}
	return append(all, Capability{oidOAEP, oaepParams}, Capability{oidPSS, params}), nil
}

// Ciphers are those of which this package knows, the best first.
func (c Capabilities) Ciphers() (known []Cipher) {
	for _, one := range c {
		for i := range suites {
			if cipher := Cipher(i); cipher.known() && suites[i].oid.Equal(one.OID) && !slices.Contains(known, cipher) {
				known = append(known, cipher)
			}
		}
	}
	return known
}

// OAEP reports whether a key wrapped with RSAES-OAEP and SHA-256 can be read (RFC 4055 §4.1).
func (c Capabilities) OAEP() bool {
	return slices.ContainsFunc(c, func(one Capability) bool {
		return one.OID.Equal(oidOAEP) && bytes.Equal(one.Params, oaepParams)
	})
}

// PSS reports whether a signature with RSASSA-PSS and SHA-256 can be read (RFC 4056 §3).
func (c Capabilities) PSS() bool {
	return slices.ContainsFunc(c, func(one Capability) bool {
		if !one.OID.Equal(oidPSS) {
			return false
		}
		_, err := saltLength(one.Params, crypto.SHA256)
		return err == nil
	})
}
