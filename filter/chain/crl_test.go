package chain

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"

	"postern/hsm/certtest"
)

// FuzzList reads lists beside crypto/x509, which decodes them whole: what that
// reads and is not refused here says the same of each serial number.
func FuzzList(f *testing.F) {
	key := certtest.Key(f)
	now := time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)
	issuer := &x509.Certificate{Subject: pkix.Name{CommonName: "ca"}, SubjectKeyId: []byte{1}, KeyUsage: x509.KeyUsageCRLSign}
	for _, l := range []x509.RevocationList{
		{},
		{RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: big.NewInt(7), RevocationTime: now, ReasonCode: 1}, {SerialNumber: big.NewInt(200), RevocationTime: now}}},
		{ExtraExtensions: []pkix.Extension{{Id: oidIssuingPoint, Critical: true, Value: []byte{0x30, 4, 0x83, 2, 5, 0x60}}, {Id: oidDelta, Critical: true, Value: []byte{2, 1, 1}}}},
		{ExtraExtensions: []pkix.Extension{{Id: oidIssuingPoint, Critical: true, Value: append([]byte{0x30, 10, 0xa0, 8, 0xa0, 6, 0x86, 4}, "http"...)}}},
		{ExtraExtensions: []pkix.Extension{{Id: oidIssuingPoint, Critical: true, Value: append([]byte{0x30, 17, 0xa0, 15, 0xa1, 13, 0x30, 11, 6, 3, 0x55, 4, 3, 12, 4}, "part"...)}}},
	} {
		l.Number, l.ThisUpdate, l.NextUpdate = big.NewInt(1), now, now.AddDate(0, 0, 1)
		raw, err := x509.CreateRevocationList(rand.Reader, &l, issuer, key)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		l, err := readCRL(raw)
		if err != nil {
			return
		}
		l.covers(&x509.Certificate{}, []point{{names: l.point, reasons: allReasons}})
		whole, wholeErr := x509.ParseRevocationList(raw)
		if wholeErr != nil {
			l.find(big.NewInt(7))
			return
		}
		want := map[string]x509.RevocationListEntry{}
		for _, e := range whole.RevokedCertificateEntries {
			want[e.SerialNumber.String()] = e
		}
		for number, e := range want {
			got, err := l.find(e.SerialNumber)
			if err != nil {
				return // an entry that is not understood
			}
			if got == nil || !got.since.Equal(e.RevocationTime) || got.reason != e.ReasonCode {
				t.Errorf("serial %s: got %+v, want %v, reason %d", number, got, e.RevocationTime, e.ReasonCode)
			}
		}
		if got, err := l.find(big.NewInt(123456789)); err == nil && got != nil && want["123456789"].SerialNumber == nil {
			t.Errorf("got %+v for a number that is not there", got)
		}
		if !l.ThisUpdate.Equal(whole.ThisUpdate) || !l.NextUpdate.Equal(whole.NextUpdate) || string(l.RawIssuer) != string(whole.RawIssuer) || string(l.tbs) != string(whole.RawTBSRevocationList) {
			t.Error("got another head than crypto/x509")
		}
	})
}
