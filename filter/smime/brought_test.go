package smime

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"testing"

	"postern/filter/keyring"
	"postern/filter/protect"
	"postern/hsm/certtest"
)

// TestBroughtWay: the authorities between the signer and an anchor come along,
// as a way and nothing more; the anchor does not, nor does an authority that is
// not on the way.
func TestBroughtWay(t *testing.T) {
	w := newWorld(t, ecPair)
	key := certtest.Key(t)
	sub := &authority{key: key, cert: w.ca.issue(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "Issuing"}, NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(2, 0, 0),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true,
	}, key.Public())}
	stranger := newAuthority(t, "Stranger")
	alice := sub.person(t, w.token, ecPair, "alice@company1.example")
	w.config.Chain = func(*x509.Certificate) []*x509.Certificate {
		return []*x509.Certificate{stranger.cert, sub.cert, w.ca.cert}
	}
	sealed, err := New(w.config).Seal(t.Context(), protect.SealRequest{Message: mail(t, letter), Signer: &alice.signs, Own: alice.both(), At: now, NewSpool: spools(t)})
	if err != nil {
		t.Fatal(err)
	}
	_, f, err := w.open(sealed)
	if err != nil || !f.Good || len(f.Brought) != 3 {
		t.Fatalf("got %+v, %v, want two certificates and the way", f, err)
	}
	if c := f.Brought[2]; c.Fingerprint != fingerprint(sub.cert.Raw) || c.Role != keyring.Intermediate || c.Trust != keyring.Seen || len(c.Addresses) > 0 {
		t.Errorf("got %+v, want the authority on the way", c)
	}
}
