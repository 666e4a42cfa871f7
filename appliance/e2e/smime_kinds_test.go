package e2e

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"slices"
	"strconv"
	"strings"

	"postern/hsm"
)

// sealing is one way to encrypt to one recipient: a row of the matrix.
type sealing struct {
	to     hsm.Algorithm
	cipher string      // of ciphers
	wrap   string      // "pkcs1", "oaep", or one of agreements
	hash   crypto.Hash // of OAEP or of the KDF
	mgf    crypto.Hash // of OAEP, where it is another
	keyID  bool        // the recipient is named by key identifier, not by issuer and serial number
}

// signing is one way to sign.
type signing struct {
	by     hsm.Algorithm
	hash   crypto.Hash
	pss    bool
	keyID  bool
	opaque bool
}

// ciphers are those of content, by the name that OpenSSL has for them, with
// their identifiers (RFC 3565, RFC 5084, RFC 8103, RFC 3370 §5.1).
var ciphers = map[string]string{
	"aes-128-cbc": "2.16.840.1.101.3.4.1.2", "aes-192-cbc": "2.16.840.1.101.3.4.1.22", "aes-256-cbc": "2.16.840.1.101.3.4.1.42",
	"aes-128-gcm": "2.16.840.1.101.3.4.1.6", "aes-192-gcm": "2.16.840.1.101.3.4.1.26", "aes-256-gcm": "2.16.840.1.101.3.4.1.46",
	"chacha20-poly1305": "1.2.840.113549.1.9.16.3.18", "des-ede3-cbc": "1.2.840.113549.3.7",
}

// hashes are the identifiers of digests (RFC 5754 §2).
var hashes = map[crypto.Hash]string{
	crypto.SHA1: "1.3.14.3.2.26", crypto.SHA224: "2.16.840.1.101.3.4.2.4", crypto.SHA256: "2.16.840.1.101.3.4.2.1",
	crypto.SHA384: "2.16.840.1.101.3.4.2.2", crypto.SHA512: "2.16.840.1.101.3.4.2.3",
}

// agreements are the schemes of key agreement with their KDF (RFC 5753
// §7.1.4, RFC 8418 §2.2).
var agreements = map[string]map[crypto.Hash]string{
	"x9.63": {crypto.SHA1: "1.3.133.16.840.63.0.2", crypto.SHA224: "1.3.132.1.11.0", crypto.SHA256: "1.3.132.1.11.1",
		crypto.SHA384: "1.3.132.1.11.2", crypto.SHA512: "1.3.132.1.11.3"},
	"cofactor": {crypto.SHA1: "1.3.133.16.840.63.0.3", crypto.SHA224: "1.3.132.1.14.0", crypto.SHA256: "1.3.132.1.14.1",
		crypto.SHA384: "1.3.132.1.14.2", crypto.SHA512: "1.3.132.1.14.3"},
	"hkdf": {crypto.SHA256: "1.2.840.113549.1.9.16.3.19", crypto.SHA384: "1.2.840.113549.1.9.16.3.20", crypto.SHA512: "1.2.840.113549.1.9.16.3.21"},
}

const (
	oidOAEP          = "1.2.840.113549.1.1.7"
	oidPSS           = "1.2.840.113549.1.1.10"
	oidEnveloped     = "1.2.840.113549.1.7.3"
	oidSigned        = "1.2.840.113549.1.7.2"
	oidAuthEnveloped = "1.2.840.113549.1.9.16.1.23"
)

// aead reports whether the message is AuthEnvelopedData (RFC 5083).
func (k sealing) aead() bool {
	return strings.HasSuffix(k.cipher, "-gcm") || k.cipher == "chacha20-poly1305"
}

// agrees reports whether the session key is wrapped with an agreed one.
func (k sealing) agrees() bool { return agreements[k.wrap] != nil }

// wrapCipher is the AES of the key wrap: as strong as that of the content.
func (k sealing) wrapCipher() (name, oid string) {
	switch bits := strings.TrimSuffix(strings.TrimSuffix(strings.TrimPrefix(k.cipher, "aes-"), "-cbc"), "-gcm"); bits {
	case "128":
		return "aes128-wrap", "2.16.840.1.101.3.4.1.5"
	case "192":
		return "aes192-wrap", "2.16.840.1.101.3.4.1.25"
	}
	return "aes256-wrap", "2.16.840.1.101.3.4.1.45"
}

// mgfHash is the hash of OAEP's mask.
func (k sealing) mgfHash() crypto.Hash {
	if k.mgf != 0 {
		return k.mgf
	}
	return k.hash
}

func (k sealing) String() string {
	name := strings.ToUpper(k.cipher)
	switch k.cipher {
	case "des-ede3-cbc":
		name = "3DES-CBC"
	case "chacha20-poly1305":
		name = "ChaCha20-Poly1305"
	}
	name = string(k.to) + ", " + name
	switch k.wrap {
	case "pkcs1":
		name += ", PKCS #1 v1.5"
	case "oaep":
		name += ", OAEP " + k.hash.String()
		if k.mgf != 0 {
			name += " with MGF1 " + k.mgf.String()
		}
	case "x9.63":
		name += ", X9.63 " + k.hash.String()
	case "cofactor":
		name += ", cofactor, X9.63 " + k.hash.String()
	case "hkdf":
		name += ", HKDF " + k.hash.String()
	}
	if k.keyID {
		name += ", by key identifier"
	}
	return name
}

func (k signing) String() string {
	name := string(k.by) + ", " + k.hash.String()
	if k.pss {
		name += ", PSS"
	}
	if k.opaque {
		name += ", opaque"
	} else {
		name += ", detached"
	}
	if k.keyID {
		name += ", by key identifier"
	}
	return name
}

// check looks whether a message is of this kind indeed: a peer may choose for
// itself, and say nothing.
func (k sealing) check(message []byte, to *x509.Certificate) error {
	want := []string{ciphers[k.cipher]}
	if k.aead() && !bytes.Contains(message, derOID(oidAuthEnveloped)) {
		return errors.New("makes no AuthEnvelopedData")
	}
	switch {
	case k.wrap == "oaep":
		want = append(want, oidOAEP)
		for _, h := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} { // SHA-1 is the default, and left out (RFC 4055 §4.1)
			n := 0
			for _, named := range []crypto.Hash{k.hash, k.mgfHash()} {
				if named == h {
					n++
				}
			}
			if bytes.Count(message, derOID(hashes[h])) != n {
				return errOther
			}
		}
	case k.agrees():
		_, wrap := k.wrapCipher()
		want = append(want, agreements[k.wrap][k.hash], wrap)
	}
	if err := has(message, want); err != nil {
		return err
	}
	id := append([]byte{0x80, byte(len(to.SubjectKeyId))}, to.SubjectKeyId...)
	if k.agrees() {
		id[0] = 4 // RecipientKeyIdentifier, RFC 5652 §6.2.2
	}
	return identified(bytes.Contains(message, id), k.keyID)
}

func (k signing) check(message []byte, by *x509.Certificate) error {
	want := []string{hashes[k.hash]}
	if k.pss {
		want = append(want, oidPSS)
	}
	if err := has(message, want); err != nil {
		return err
	}
	return identified(bytes.Contains(message, append([]byte{0x80, byte(len(by.SubjectKeyId))}, by.SubjectKeyId...)), k.keyID)
}

var errOther = errors.New("chooses another algorithm than it was asked for")

func identified(byKeyID, want bool) error {
	switch {
	case byKeyID && !want:
		return errors.New("names the certificate by key identifier")
	case !byKeyID && want:
		return errors.New("names the certificate by issuer and serial number")
	}
	return nil
}

// has looks for object identifiers.
func has(message []byte, dotted []string) error {
	for _, d := range dotted {
		if !bytes.Contains(message, derOID(d)) {
			return errOther
		}
	}
	return nil
}

// derOID is the encoding of an object identifier.
func derOID(dotted string) []byte {
	var oid asn1.ObjectIdentifier
	for part := range strings.SplitSeq(dotted, ".") {
		n, err := strconv.Atoi(part)
		if err != nil {
			return nil
		}
		oid = append(oid, n)
	}
	der, err := asn1.Marshal(oid)
	if err != nil {
		return nil
	}
	return der
}

// sealings are the rows of the matrix about encryption.
func sealings() (all []sealing) {
	for _, c := range []string{"aes-128-cbc", "aes-192-cbc", "aes-256-cbc", "aes-128-gcm", "aes-192-gcm", "aes-256-gcm", "chacha20-poly1305", "des-ede3-cbc"} {
		all = append(all, sealing{to: hsm.RSA2048, cipher: c, wrap: "pkcs1"})
	}
	all = append(all,
		sealing{to: hsm.RSA2048, cipher: "aes-256-cbc", wrap: "pkcs1", keyID: true},
		sealing{to: hsm.RSA3072, cipher: "aes-256-cbc", wrap: "pkcs1"},
		sealing{to: hsm.RSA3072, cipher: "aes-256-gcm", wrap: "pkcs1"})
	for _, h := range []crypto.Hash{crypto.SHA1, crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		all = append(all, sealing{to: hsm.RSA2048, cipher: "aes-256-cbc", wrap: "oaep", hash: h})
	}
	all = append(all,
		sealing{to: hsm.RSA2048, cipher: "aes-256-cbc", wrap: "oaep", hash: crypto.SHA256, mgf: crypto.SHA1},
		sealing{to: hsm.RSA2048, cipher: "aes-128-gcm", wrap: "oaep", hash: crypto.SHA256},
		sealing{to: hsm.RSA2048, cipher: "aes-256-gcm", wrap: "oaep", hash: crypto.SHA256},
		sealing{to: hsm.RSA2048, cipher: "aes-256-gcm", wrap: "oaep", hash: crypto.SHA256, keyID: true},
		sealing{to: hsm.RSA3072, cipher: "aes-256-gcm", wrap: "oaep", hash: crypto.SHA256})
	for _, h := range []crypto.Hash{crypto.SHA1, crypto.SHA224, crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		all = append(all, sealing{to: hsm.P256, cipher: "aes-256-cbc", wrap: "x9.63", hash: h})
	}
	all = append(all,
		sealing{to: hsm.P256, cipher: "aes-128-cbc", wrap: "x9.63", hash: crypto.SHA256},
		sealing{to: hsm.P256, cipher: "aes-192-cbc", wrap: "x9.63", hash: crypto.SHA256},
		sealing{to: hsm.P256, cipher: "aes-128-gcm", wrap: "x9.63", hash: crypto.SHA256},
		sealing{to: hsm.P256, cipher: "aes-256-gcm", wrap: "x9.63", hash: crypto.SHA256},
		sealing{to: hsm.P256, cipher: "aes-256-cbc", wrap: "x9.63", hash: crypto.SHA256, keyID: true},
		sealing{to: hsm.P256, cipher: "aes-256-cbc", wrap: "cofactor", hash: crypto.SHA1},
		sealing{to: hsm.P256, cipher: "aes-256-cbc", wrap: "cofactor", hash: crypto.SHA256},
		sealing{to: hsm.P384, cipher: "aes-256-cbc", wrap: "x9.63", hash: crypto.SHA384},
		sealing{to: hsm.P384, cipher: "aes-256-cbc", wrap: "cofactor", hash: crypto.SHA384},
		sealing{to: hsm.P384, cipher: "aes-256-gcm", wrap: "x9.63", hash: crypto.SHA384},
		sealing{to: hsm.P521, cipher: "aes-256-cbc", wrap: "x9.63", hash: crypto.SHA512},
		sealing{to: hsm.P521, cipher: "aes-256-cbc", wrap: "cofactor", hash: crypto.SHA512},
		sealing{to: hsm.P521, cipher: "aes-256-gcm", wrap: "x9.63", hash: crypto.SHA512})
	for _, h := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		all = append(all, sealing{to: hsm.X25519, cipher: "aes-256-cbc", wrap: "hkdf", hash: h})
	}
	return append(all,
		sealing{to: hsm.X25519, cipher: "aes-256-gcm", wrap: "hkdf", hash: crypto.SHA256},
		sealing{to: hsm.X25519, cipher: "aes-256-cbc", wrap: "x9.63", hash: crypto.SHA256},
		sealing{to: hsm.X25519, cipher: "aes-256-cbc", wrap: "hkdf", hash: crypto.SHA256, keyID: true})
}

// signings are those about signatures.
func signings() (all []signing) {
	for _, pss := range []bool{false, true} {
		for _, h := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
			all = append(all, signing{by: hsm.RSA2048, hash: h, pss: pss})
		}
	}
	all = append(all,
		signing{by: hsm.RSA2048, hash: crypto.SHA256, keyID: true},
		signing{by: hsm.RSA3072, hash: crypto.SHA256},
		signing{by: hsm.RSA3072, hash: crypto.SHA256, pss: true},
		signing{by: hsm.P256, hash: crypto.SHA256},
		signing{by: hsm.P256, hash: crypto.SHA256, keyID: true},
		signing{by: hsm.P384, hash: crypto.SHA384},
		signing{by: hsm.P521, hash: crypto.SHA512},
		signing{by: hsm.Ed25519, hash: crypto.SHA512})
	for _, k := range slices.Clone(all) {
		if !k.keyID {
			k.opaque = true
			all = append(all, k)
		}
	}
	return all
}
