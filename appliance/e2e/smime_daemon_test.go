package e2e

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"

	"postern/appliance/trial"
	"postern/hsm"
)

// What the matrix measures in one process holds between programs, too: each
// peer's mail goes by SMTP through the real daemons, signed and sealed, and
// costs one operation of the token; what leaves for the peer he reads.
func TestSMIMEPeers(t *testing.T) {
	const bob = "bob@partner.example"
	ca, dir := newAuthority(t, "Trade Root"), folder(t)
	them := newPartner(t, ca, bob)
	c := &company{Box: open(t, trial.Config{Create: sMIME("company1.example", "rsa-3072", dir), FilterdTables: "[smime]\nroots = \"own\"\nrevocation = \"off\"\n"})}
	c.anchor(t, ca)
	c.certify(t, ca, dir)
	reader := c.exported(t, x509.KeyUsageKeyEncipherment)
	out := way{&sealing{to: hsm.RSA2048, cipher: "aes-256-cbc", wrap: "pkcs1"}, &signing{by: hsm.RSA3072, hash: crypto.SHA256}}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: them.opens[out.seal.to].cert.Raw})
	trust(t, c.Box, cert)
	for _, m := range peers(t, them) {
		t.Run(strings.ReplaceAll(m.name(), " ", "-"), func(t *testing.T) {
			var mail []byte
			var err error
			for _, cipher := range []string{"aes-256-cbc", "aes-128-cbc"} { // some choose for themselves
				if mail == nil {
					in := way{&sealing{to: hsm.RSA3072, cipher: cipher, wrap: "pkcs1"}, &signing{by: hsm.RSA2048, hash: crypto.SHA256}}
					mail, err = in.made(m, them, bob, alice, reader)
				}
			}
			if mail == nil {
				t.Fatal(err)
			}
			got := one(t, c.Box, c.Outside, bob, alice, mail)
			status := field(got, "Postern-Status")
			for name, want := range map[string]string{"opened": "smime", "verified": "yes", "signer": bob, "reason": "good"} {
				if got := parameter(status, name); got != want {
					t.Errorf("%s: got %q, want %q: %s", name, got, want, status)
				}
			}
			if !strings.Contains(got, secret) {
				t.Errorf("got %s\nwant the opened mail", got)
			}
			if ops := operations(t, c.Box, parameter(status, "trace")); len(ops) != 1 || ops[0].Op != "unwrap" || ops[0].Verdict != "ok" {
				t.Errorf("got operations %v, want one unwrap", ops)
			}

			got = one(t, c.Box, c.Inside, alice, bob, []byte(header(alice, bob)+offer))
			_, got, _ = strings.Cut(got, "\r\n") // the sink's own fields
			_, got, _ = strings.Cut(got, "\r\n")
			if strings.Contains(got, secret) {
				t.Fatalf("got %s\nwant a sealed mail", got)
			}
			if err := out.read(m, []byte(got)); err != nil {
				t.Errorf("%s reads: %v\n%s", m.name(), err, got)
			}
		})
	}
}

// exported is the certificate of the company's domain with a key usage.
func (c *company) exported(t testing.TB, usage x509.KeyUsage) *x509.Certificate {
	t.Helper()
	certs, err := c.Postern(t.Context(), nil, "identity", "export", c.Domain)
	if err != nil {
		t.Fatal(err)
	}
	for block, rest := pem.Decode(certs); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if cert.KeyUsage&usage != 0 {
			return cert
		}
	}
	t.Fatal("got no such certificate")
	return nil
}
