package keyd_test

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"postern/hsm"
	"postern/hsm/certtest"
	"postern/hsm/hsmtest"
)

// certified writes a certificate of key, by an authority of this moment.
func certified(t testing.TB, key hsm.Key) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "cert.pem")
	if err := os.WriteFile(file, certtest.PEM(certtest.New(t, certtest.CA("test")).Sign(t, x509.Certificate{}, key.Public)), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

const peerText = "what OpenSSL encrypted\n"

// encrypted is what OpenSSL makes of peerText for one recipient: what stands
// in the RecipientInfo, and how to read the content with a session key.
func encrypted(t testing.TB, cert string, options ...string) (recipient asn1.RawValue, open func(key []byte) string) {
	t.Helper()
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Fatal("openssl is missing: install the package openssl (make deps)")
	}
	cmd := exec.Command(openssl, append([]string{"cms", "-encrypt", "-binary", "-outform", "DER", "-recip", cert}, options...)...)
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader([]byte(peerText)), &stderr
	b, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, stderr.String())
	}
	var m struct {
		Type      asn1.ObjectIdentifier
		Enveloped struct {
			Version    int
			Recipients []asn1.RawValue `asn1:"set"`
			Content    struct {
				Type      asn1.ObjectIdentifier
				Algorithm struct {
					OID asn1.ObjectIdentifier
					IV  []byte
				}
				Data []byte `asn1:"tag:0"`
			}
		} `asn1:"explicit,tag:0"`
	}
	if _, err := asn1.Unmarshal(b, &m); err != nil || len(m.Enveloped.Recipients) != 1 {
		t.Fatalf("%v: read %d recipients: %v", cmd, len(m.Enveloped.Recipients), err)
	}
	return m.Enveloped.Recipients[0], func(key []byte) string {
		content := m.Enveloped.Content
		newCipher := aes.NewCipher
		if len(content.Algorithm.IV) == des.BlockSize {
			newCipher = des.NewTripleDESCipher
		}
		block, err := newCipher(key)
		if err != nil {
			return err.Error()
		}
		text := make([]byte, len(content.Data))
		cipher.NewCBCDecrypter(block, content.Algorithm.IV).CryptBlocks(text, content.Data)
		return string(text[:max(0, len(text)-int(text[len(text)-1]))])
	}
}

// schemesX963 are the OIDs of RFC 5753 §7.1.4.
var schemesX963 = map[string]crypto.Hash{
	"1.3.133.16.840.63.0.2": crypto.SHA1, "1.3.132.1.11.0": crypto.SHA224, "1.3.132.1.11.1": crypto.SHA256,
	"1.3.132.1.11.2": crypto.SHA384, "1.3.132.1.11.3": crypto.SHA512,
}

// TestOpenSSLAgree opens what OpenSSL encrypts for curves: every hash and key
// wrap, with keys in a token.
func TestOpenSSLAgree(t *testing.T) {
	f := hsmtest.SoftHSM(t)
	d := opened(t, token(t, f), f.PIN)
	for _, a := range []hsm.Algorithm{hsm.P256, hsm.P384, hsm.P521} {
		key := generate(t, d.Keyd, a, hsm.Unwrap, "test/"+string(a))
		cert := certified(t, key)
		for _, hash := range []string{"sha1", "sha224", "sha256", "sha384", "sha512"} {
			for wrap := range hsmtest.CMSWraps {
				content := "-aes256"
				if wrap == "des3-wrap" && hash == "sha1" {
					content = "-des3" // as old mail has it
				}
				what := fmt.Sprintf("%s %s %s %s", a, hash, wrap, content)
				r, open := encrypted(t, cert, content, "-"+wrap, "-keyopt", "ecdh_kdf_md:"+hash)
				var info struct {
					Version    int
					Originator struct {
						Key struct {
							Algorithm pkix.AlgorithmIdentifier
							Point     asn1.BitString
						} `asn1:"tag:1"`
					} `asn1:"tag:0"`
					UKM    []byte `asn1:"explicit,optional,tag:1"`
					Scheme struct {
						OID  asn1.ObjectIdentifier
						Wrap asn1.RawValue
					}
					Keys []struct {
						Recipient asn1.RawValue
						Key       []byte
					}
				}
				if _, err := asn1.UnmarshalWithParams(r.FullBytes, &info, "tag:1"); err != nil || len(info.Keys) != 1 {
					t.Fatalf("%s: read recipient: %d keys, %v", what, len(info.Keys), err)
				}
				w := hsm.Wrapped{Scheme: hsm.CMSX963, Hash: schemesX963[info.Scheme.OID.String()], WrapAlgorithm: info.Scheme.Wrap.FullBytes,
					Ephemeral: info.Originator.Key.Point.Bytes, UKM: info.UKM, Ciphertext: info.Keys[0].Key}
				sk, err := d.Keyd.Unwrap(t.Context(), key.ID, w)
				if text := open(sk.Key); err != nil || text != peerText {
					t.Errorf("%s: got %q, %v, want %q", what, text, err, peerText)
				}
			}
		}
	}
}

// TestOpenSSLBareKeys opens what OpenSSL encrypts for RSA.
func TestOpenSSLBareKeys(t *testing.T) {
	f := hsmtest.SoftHSM(t)
	d := opened(t, token(t, f), f.PIN)
	key := generate(t, d.Keyd, hsm.RSA2048, hsm.Unwrap, "test")
	cert := certified(t, key)
	names := map[crypto.Hash]string{crypto.SHA1: "sha1", crypto.SHA224: "sha224", crypto.SHA256: "sha256", crypto.SHA384: "sha384", crypto.SHA512: "sha512"}
	try := func(what string, w hsm.Wrapped, options ...string) {
		t.Helper()
		r, open := encrypted(t, cert, append([]string{"-aes128"}, options...)...)
		var info struct {
			Version   int
			Recipient asn1.RawValue
			Algorithm pkix.AlgorithmIdentifier
			Key       []byte
		}
		if _, err := asn1.Unmarshal(r.FullBytes, &info); err != nil {
			t.Fatalf("%s: read recipient: %v", what, err)
		}
		w.Ciphertext = info.Key
		sk, err := d.Keyd.Unwrap(t.Context(), key.ID, w)
		if text := open(sk.Key); err != nil || text != peerText {
			t.Errorf("%s: got %q, %v, want %q", what, text, err, peerText)
		}
	}
	try("PKCS#1", hsm.Wrapped{Scheme: hsm.PKCS1, Size: 16})
	for _, hash := range oaepHashes {
		for _, mgf := range oaepHashes {
			what := fmt.Sprintf("OAEP %s, mask %s", hash, mgf)
			try(what, hsm.Wrapped{Scheme: hsm.OAEP, Hash: hash, MGFHash: mgf, Size: 16},
				"-keyopt", "rsa_padding_mode:oaep", "-keyopt", "rsa_oaep_md:"+names[hash], "-keyopt", "rsa_mgf1_md:"+names[mgf])
		}
	}
	try("OAEP with a label", hsm.Wrapped{Scheme: hsm.OAEP, Hash: crypto.SHA256, MGFHash: crypto.SHA256, Label: []byte("label")},
		"-keyopt", "rsa_padding_mode:oaep", "-keyopt", "rsa_oaep_md:sha256", "-keyopt", "rsa_oaep_label:6c6162656c")
}
