package chain_test

import (
	"context"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"maps"
	"math/big"
	"slices"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"postern/filter/chain"
)

// answer is an OCSP response of signer, with its certificate in it where it is
// not the issuer, about a certificate of the issuer.
func (e *entity) answer(signer *entity, about *entity, change func(*ocsp.Response)) []byte {
	e.t.Helper()
	r := ocsp.Response{Status: ocsp.Good, SerialNumber: about.cert.SerialNumber, ThisUpdate: now.Add(-time.Hour), NextUpdate: now.Add(time.Hour), IssuerHash: crypto.SHA256}
	if signer != e {
		r.Certificate = signer.cert
	}
	if change != nil {
		change(&r)
	}
	raw, err := ocsp.CreateResponse(e.cert, signer.cert, r, signer.key)
	if err != nil {
		e.t.Fatal(err)
	}
	return raw
}

// wantStatus judges in all three modes: hard and soft are the errors wanted
// there, and off never minds.
func wantStatus(t *testing.T, c chain.Config, r chain.Request, hard, soft error, status chain.Status) {
	t.Helper()
	for mode, want := range map[chain.Mode]error{chain.Hard: hard, chain.Soft: soft, chain.Off: nil} {
		c.Mode = mode
		path := wants(t, c, r, want)
		if want == nil && mode != chain.Off && path.Status != status {
			t.Errorf("mode %d: got status %d (%v), want %d", mode, path.Status, path.Notes, status)
		}
		if mode == chain.Off && path.Status != chain.Unknown {
			t.Errorf("off: got status %d, want unknown", path.Status)
		}
	}
}

// TestLists holds R15: what a list says, and which says nothing.
func TestLists(t *testing.T) {
	w := newWorld(t)
	rootList := w.root.crl(nil)
	evil := newCA(t, "middle", nil)
	renamed := issue(t, w.root, w.middle.key, &x509.Certificate{Subject: pkix.Name{CommonName: "renamed"}, BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCRLSign})
	dated := func(this, next time.Time) func(*x509.RevocationList) {
		return func(l *x509.RevocationList) { l.ThisUpdate, l.NextUpdate = this, next }
	}
	reason := func(code int) func(*x509.RevocationList) {
		return func(l *x509.RevocationList) { l.RevokedCertificateEntries[0].ReasonCode = code }
	}
	extended := func(critical bool, value []byte, oid ...int) func(*x509.RevocationList) {
		return func(l *x509.RevocationList) {
			l.ExtraExtensions = append(l.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier(oid), Critical: critical, Value: value})
		}
	}
	both := func(a, b func(*x509.RevocationList)) func(*x509.RevocationList) {
		return func(l *x509.RevocationList) { a(l); b(l) }
	}
	entry := func(critical bool, value []byte, oid ...int) func(*x509.RevocationList) {
		return func(l *x509.RevocationList) {
			l.RevokedCertificateEntries[0].ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier(oid), Critical: critical, Value: value}}
		}
	}
	someone := newLeaf(t, w.middle)
	forged := slices.Clone(w.middle.crl(nil, w.leaf))
	forged[len(forged)-1] ^= 1
	day := 24 * time.Hour
	unknown := chain.ErrStatus
	for name, test := range map[string]struct {
		list       []byte
		hard, soft error
		status     chain.Status
	}{
		"good":                        {w.middle.crl(nil), nil, nil, chain.Good},
		"good among others":           {w.middle.crl(nil, someone), nil, nil, chain.Good},
		"missing":                     {nil, unknown, nil, chain.Unknown},
		"revoked":                     {w.middle.crl(nil, someone, w.leaf), chain.ErrRevoked, chain.ErrRevoked, 0},
		"revoked, key compromise":     {w.middle.crl(reason(1), w.leaf), chain.ErrRevoked, chain.ErrRevoked, 0},
		"on hold":                     {w.middle.crl(reason(6), w.leaf), chain.ErrRevoked, chain.ErrRevoked, 0},
		"removeFromCRL":               {w.middle.crl(reason(8), w.leaf), nil, nil, chain.Good},
		"expired":                     {w.middle.crl(dated(now.Add(-2*day), now.Add(-day))), unknown, nil, chain.Unknown},
		"expired, revoked":            {w.middle.crl(dated(now.Add(-2*day), now.Add(-day)), w.leaf), chain.ErrRevoked, chain.ErrRevoked, 0},
		"expired, on hold":            {w.middle.crl(both(dated(now.Add(-2*day), now.Add(-day)), reason(6)), w.leaf), unknown, nil, chain.Unknown},
		"of the future":               {w.middle.crl(dated(now.Add(day), now.Add(2*day))), unknown, nil, chain.Unknown},
		"of the future, revoked":      {w.middle.crl(dated(now.Add(day), now.Add(2*day)), w.leaf), chain.ErrRevoked, chain.ErrRevoked, 0},
		"forged":                      {forged, unknown, nil, chain.Unknown},
		"by another of the name":      {evil.crl(nil, w.leaf), unknown, nil, chain.Unknown},
		"by another, good":            {evil.crl(nil), unknown, nil, chain.Unknown},
		"of another issuer":           {w.root.crl(nil, w.leaf), unknown, nil, chain.Unknown},
		"of another name, same key":   {renamed.crl(nil, w.leaf), unknown, nil, chain.Unknown},
		"not a list":                  {[]byte("nonsense"), unknown, nil, chain.Unknown},
		"cut":                         {w.middle.crl(nil)[:100], unknown, nil, chain.Unknown},
		"unknown critical":            {w.middle.crl(extended(true, []byte{5, 0}, 1, 2, 3)), unknown, nil, chain.Unknown},
		"unknown, not critical":       {w.middle.crl(extended(false, []byte{5, 0}, 1, 2, 3)), nil, nil, chain.Good},
		"critical in an entry":        {w.middle.crl(entry(true, []byte{5, 0}, 1, 2, 3), someone), unknown, nil, chain.Unknown},
		"not critical in an entry":    {w.middle.crl(entry(false, []byte{5, 0}, 1, 2, 3), someone), nil, nil, chain.Good},
		"certificate issuer":          {w.middle.crl(entry(true, []byte{0x30, 0}, 2, 5, 29, 29), w.leaf), unknown, nil, chain.Unknown},
		"indirect":                    {w.middle.crl(extended(true, []byte{0x30, 3, 0x84, 1, 0xff}, 2, 5, 29, 28)), unknown, nil, chain.Unknown},
		"users only":                  {w.middle.crl(extended(true, []byte{0x30, 3, 0x81, 1, 0xff}, 2, 5, 29, 28)), nil, nil, chain.Good},
		"authorities only":            {w.middle.crl(extended(true, []byte{0x30, 3, 0x82, 1, 0xff}, 2, 5, 29, 28)), unknown, nil, chain.Unknown},
		"attribute certificates":      {w.middle.crl(extended(true, []byte{0x30, 3, 0x85, 1, 0xff}, 2, 5, 29, 28)), unknown, nil, chain.Unknown},
		"some reasons":                {w.middle.crl(extended(true, []byte{0x30, 4, 0x83, 2, 5, 0x60}, 2, 5, 29, 28)), unknown, nil, chain.Unknown},
		"some reasons, revoked":       {w.middle.crl(extended(true, []byte{0x30, 4, 0x83, 2, 5, 0x60}, 2, 5, 29, 28), w.leaf), chain.ErrRevoked, chain.ErrRevoked, 0},
		"of another point":            {w.middle.crl(extended(true, append([]byte{0x30, 10, 0xa0, 8, 0xa0, 6, 0x86, 4}, "http"...), 2, 5, 29, 28)), unknown, nil, chain.Unknown},
		"of another point, revoked":   {w.middle.crl(extended(true, append([]byte{0x30, 10, 0xa0, 8, 0xa0, 6, 0x86, 4}, "http"...), 2, 5, 29, 28), w.leaf), chain.ErrRevoked, chain.ErrRevoked, 0},
		"a delta alone":               {w.middle.crl(extended(true, []byte{2, 1, 1}, 2, 5, 29, 27)), unknown, nil, chain.Unknown},
		"a delta alone, revoked":      {w.middle.crl(extended(true, []byte{2, 1, 1}, 2, 5, 29, 27), w.leaf), chain.ErrRevoked, chain.ErrRevoked, 0},
		"revoked after the judgement": {w.middle.crl(both(dated(now.Add(day), now.Add(2*day)), func(l *x509.RevocationList) { l.RevokedCertificateEntries[0].RevocationTime = now.Add(time.Hour) }), w.leaf), unknown, nil, chain.Unknown},
		"compromised, found out later": {w.middle.crl(both(dated(now.Add(day), now.Add(2*day)), func(l *x509.RevocationList) {
			l.RevokedCertificateEntries[0].RevocationTime = now.Add(time.Hour)
			l.RevokedCertificateEntries[0].ReasonCode = 1
		}), w.leaf), chain.ErrRevoked, chain.ErrRevoked, 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := w.request()
			if test.list != nil {
				r.CRLs = [][]byte{test.list}
			}
			c := w.config()
			c.CRLs = [][]byte{rootList}
			wantStatus(t, c, r, test.hard, test.soft, test.status)
		})
	}
	t.Run("authority revoked", func(t *testing.T) {
		r := w.request()
		r.CRLs = [][]byte{w.middle.crl(nil), w.root.crl(nil, w.middle)}
		wantStatus(t, w.config(), r, chain.ErrRevoked, chain.ErrRevoked, 0)
	})
	t.Run("authority unknown", func(t *testing.T) {
		r := w.request()
		r.CRLs = [][]byte{w.middle.crl(nil)}
		wantStatus(t, w.config(), r, chain.ErrStatus, nil, chain.Unknown)
	})
	t.Run("operator's list broken", func(t *testing.T) {
		if _, err := chain.New(chain.Config{CRLs: [][]byte{[]byte("nonsense")}}); !errors.Is(err, chain.ErrForm) {
			t.Errorf("got %v, want %v", err, chain.ErrForm)
		}
	})
	t.Run("hidden in a heap", func(t *testing.T) { // what came along must not crowd out the operator's list
		r := w.request()
		for range 200 {
			r.CRLs = append(r.CRLs, evil.crl(nil))
			r.OCSP = append(r.OCSP, w.middle.answer(evil, w.leaf, nil))
		}
		c := w.config()
		c.CRLs = [][]byte{rootList, w.middle.crl(nil, w.leaf)}
		wantStatus(t, c, r, chain.ErrRevoked, chain.ErrRevoked, 0)
	})
	t.Run("no cRLSign", func(t *testing.T) {
		root := newCA(t, "root", nil)
		middle := newCA(t, "middle", root)
		mute := issue(t, root, middle.key, &x509.Certificate{Subject: middle.cert.Subject, BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign})
		w := world{root, mute, newLeaf(t, middle)}
		r := w.request()
		r.CRLs = [][]byte{root.crl(nil), middle.crl(nil, w.leaf)}
		wantStatus(t, w.config(), r, chain.ErrStatus, nil, chain.Unknown)
	})
}

// TestTwoPaths is an authority with two certificates for one key, of which one
// is not for lists: that must not hide what the lists say, in either order.
func TestTwoPaths(t *testing.T) {
	w := newWorld(t, func(c *x509.Certificate) { c.CRLDistributionPoints = []string{"http://crl.test/"} })
	mute := issue(t, w.root, w.middle.key, &x509.Certificate{Subject: w.middle.cert.Subject, BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign})
	for _, others := range [][]*x509.Certificate{{w.middle.cert, mute.cert}, {mute.cert, w.middle.cert}} {
		r := w.request()
		r.Others = others
		r.CRLs = [][]byte{w.root.crl(nil), w.middle.crl(nil, w.leaf)}
		wantStatus(t, w.config(), r, chain.ErrRevoked, chain.ErrRevoked, 0)
		r.CRLs[1] = w.middle.crl(nil)
		wantStatus(t, w.config(), r, nil, nil, chain.Good)

		r.CRLs = r.CRLs[:1]
		c, net := w.config(), &web{}
		c.Mode, c.Fetcher = chain.Soft, net
		wants(t, c, r, nil)
		if n := net.asked["http://crl.test/"]; n != 1 {
			t.Errorf("got %d questions for one list, want one", n)
		}
	}
}

// TestPoints are lists for a part of an issuer's certificates.
func TestPoints(t *testing.T) {
	w := newWorld(t, func(c *x509.Certificate) { c.CRLDistributionPoints = []string{"http://crl.test/1"} })
	point := func(url string, more ...byte) func(*x509.RevocationList) {
		return func(l *x509.RevocationList) {
			n := byte(len(url))
			value := append([]byte{0x30, n + 6 + byte(len(more)), 0xa0, n + 4, 0xa0, n + 2, 0x86, n}, url...)
			l.ExtraExtensions = append(l.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 28}, Critical: true, Value: append(value, more...)})
		}
	}
	const at = "http://crl.test/1"
	for name, test := range map[string]struct {
		lists []func(*x509.RevocationList)
		good  bool
	}{
		"its point":            {[]func(*x509.RevocationList){point(at)}, true},
		"another":              {[]func(*x509.RevocationList){point("http://crl.test/2")}, false},
		"some reasons":         {[]func(*x509.RevocationList){point(at, 0x83, 2, 5, 0x60)}, false},
		"all reasons, by two":  {[]func(*x509.RevocationList){point(at, 0x83, 2, 5, 0x60), point(at, 0x83, 3, 7, 0x1f, 0x80)}, true},
		"by two, one not here": {[]func(*x509.RevocationList){point(at, 0x83, 2, 5, 0x60), point("http://crl.test/2", 0x83, 3, 7, 0x1f, 0x80)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := w.request()
			r.CRLs = [][]byte{w.root.crl(nil)}
			for _, list := range test.lists {
				r.CRLs = append(r.CRLs, w.middle.crl(list))
			}
			if test.good {
				wantStatus(t, w.config(), r, nil, nil, chain.Good)
			} else {
				wantStatus(t, w.config(), r, chain.ErrStatus, nil, chain.Unknown)
			}
		})
	}
}

func TestDelta(t *testing.T) {
	w := newWorld(t)
	number := func(n int64) func(*x509.RevocationList) {
		return func(l *x509.RevocationList) { l.Number = big.NewInt(n) }
	}
	hold := func(l *x509.RevocationList) { l.Number = big.NewInt(5); l.RevokedCertificateEntries[0].ReasonCode = 6 }
	delta := func(base byte, n int64, reason int) func(*x509.RevocationList) {
		return func(l *x509.RevocationList) {
			number(n)(l)
			l.ExtraExtensions = append(l.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 27}, Critical: true, Value: []byte{2, 1, base}})
			for i := range l.RevokedCertificateEntries {
				l.RevokedCertificateEntries[i].ReasonCode = reason
			}
		}
	}
	for name, test := range map[string]struct {
		base, delta []byte
		want        error
	}{
		"nothing new":             {w.middle.crl(number(5)), w.middle.crl(delta(5, 6, 0)), nil},
		"revoked since":           {w.middle.crl(number(5)), w.middle.crl(delta(5, 6, 1), w.leaf), chain.ErrRevoked},
		"released":                {w.middle.crl(hold, w.leaf), w.middle.crl(delta(5, 6, 8), w.leaf), nil},
		"released, base too old":  {w.middle.crl(hold, w.leaf), w.middle.crl(delta(6, 7, 8), w.leaf), chain.ErrRevoked},
		"released before":         {w.middle.crl(hold, w.leaf), w.middle.crl(delta(3, 4, 8), w.leaf), chain.ErrRevoked},
		"not released if revoked": {w.middle.crl(number(5), w.leaf), w.middle.crl(delta(5, 6, 8), w.leaf), chain.ErrRevoked},
	} {
		t.Run(name, func(t *testing.T) {
			c, r := w.config(), w.request()
			c.Mode = chain.Hard
			r.CRLs = [][]byte{w.root.crl(nil), test.base, test.delta}
			wants(t, c, r, test.want)
		})
	}
}

// TestListKey is an authority that signs its lists with another key than its
// certificates.
func TestListKey(t *testing.T) {
	root := newCA(t, "root", nil)
	middle := newCA(t, "middle", root, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCertSign })
	w := world{root, middle, newLeaf(t, middle)}
	lister := func(by *entity, name string) *entity {
		return issue(t, by, nil, &x509.Certificate{Subject: pkix.Name{CommonName: name}, KeyUsage: x509.KeyUsageCRLSign, SubjectKeyId: []byte{1}})
	}
	good := lister(root, "middle")
	for name, test := range map[string]struct {
		by          *entity
		rootRevokes []*entity
		want        error
	}{
		"of the authority above":      {good, nil, nil},
		"of another name":             {lister(root, "other"), nil, chain.ErrStatus},
		"of another issuer's name":    {lister(issue(t, root, root.key, &x509.Certificate{Subject: pkix.Name{CommonName: "renamed"}, BasicConstraintsValid: true, IsCA: true}), "middle"), nil, chain.ErrStatus},
		"of nobody":                   {lister(newCA(t, "root", nil), "middle"), nil, chain.ErrStatus},
		"revoked":                     {good, []*entity{good}, chain.ErrStatus},
		"of the authority, unchecked": {lister(middle, "middle"), nil, chain.ErrStatus}, // no list speaks of it but its own
	} {
		t.Run(name, func(t *testing.T) {
			r := w.request()
			r.Others = append(r.Others, test.by.cert)
			r.CRLs = [][]byte{root.crl(nil, test.rootRevokes...), test.by.crl(func(l *x509.RevocationList) {})}
			c := w.config()
			c.Mode = chain.Hard
			wants(t, c, r, test.want)
			r.CRLs[1] = test.by.crl(nil, w.leaf)
			if test.want == nil {
				wants(t, c, r, chain.ErrRevoked)
			} else {
				wants(t, c, r, test.want)
			}
		})
	}
	t.Run("of another issuer's name, soft", func(t *testing.T) {
		renamed := issue(t, root, root.key, &x509.Certificate{Subject: pkix.Name{CommonName: "renamed"}, BasicConstraintsValid: true, IsCA: true})
		by := lister(renamed, "middle")
		r := w.request()
		r.Others = append(r.Others, by.cert)
		r.CRLs = [][]byte{by.crl(nil, w.leaf)}
		c := w.config()
		c.Mode = chain.Soft
		wants(t, c, r, nil)
	})
}

// TestResponses holds R15: what a responder says, and who is one.
func TestResponses(t *testing.T) {
	w := newWorld(t)
	rootList := w.root.crl(nil)
	responder := func(by *entity, changes ...change) *entity {
		c := &x509.Certificate{Subject: pkix.Name{CommonName: "responder"}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}}
		for _, f := range changes {
			f(c)
		}
		return issue(t, by, nil, c)
	}
	noCheck := extra(false, []byte{5, 0}, 1, 3, 6, 1, 5, 5, 7, 48, 1, 5)
	delegate := responder(w.middle, noCheck)
	revoke := func(r *ocsp.Response) {
		r.Status, r.RevokedAt, r.RevocationReason = ocsp.Revoked, now.Add(-time.Hour), 1
	}
	dated := func(this, next time.Time) func(*ocsp.Response) {
		return func(r *ocsp.Response) { r.ThisUpdate, r.NextUpdate = this, next }
	}
	namesake := newCA(t, "middle", w.root) // another issuer, one that gives the same serial number
	renamed := issue(t, w.root, w.middle.key, &x509.Certificate{Subject: pkix.Name{CommonName: "renamed"}, BasicConstraintsValid: true, IsCA: true})
	twin := issue(t, namesake, nil, &x509.Certificate{SerialNumber: w.leaf.cert.SerialNumber})
	forged := slices.Clone(w.middle.answer(w.middle, w.leaf, nil))
	forged[len(forged)-1] ^= 1
	day := 24 * time.Hour
	unknown := chain.ErrStatus
	for name, test := range map[string]struct {
		response   []byte
		hard, soft error
		status     chain.Status
	}{
		"good":                             {w.middle.answer(w.middle, w.leaf, nil), nil, nil, chain.Good},
		"good, with the issuer in it":      {w.middle.answer(w.middle, w.leaf, func(r *ocsp.Response) { r.Certificate = w.middle.cert }), nil, nil, chain.Good},
		"missing":                          {nil, unknown, nil, chain.Unknown},
		"revoked":                          {w.middle.answer(w.middle, w.leaf, revoke), chain.ErrRevoked, chain.ErrRevoked, 0},
		"unknown":                          {w.middle.answer(w.middle, w.leaf, func(r *ocsp.Response) { r.Status = ocsp.Unknown }), unknown, nil, chain.Unknown},
		"expired":                          {w.middle.answer(w.middle, w.leaf, dated(now.Add(-2*day), now.Add(-day))), unknown, nil, chain.Unknown},
		"expired, revoked":                 {w.middle.answer(w.middle, w.leaf, func(r *ocsp.Response) { dated(now.Add(-2*day), now.Add(-day))(r); revoke(r) }), chain.ErrRevoked, chain.ErrRevoked, 0},
		"of the future":                    {w.middle.answer(w.middle, w.leaf, dated(now.Add(day), now.Add(2*day))), unknown, nil, chain.Unknown},
		"no end, new":                      {w.middle.answer(w.middle, w.leaf, dated(now.Add(-time.Hour), time.Time{})), nil, nil, chain.Good},
		"no end, old":                      {w.middle.answer(w.middle, w.leaf, dated(now.Add(-2*day), time.Time{})), unknown, nil, chain.Unknown},
		"forged":                           {forged, unknown, nil, chain.Unknown},
		"about another":                    {w.middle.answer(w.middle, newLeaf(t, w.middle), nil), unknown, nil, chain.Unknown},
		"about another issuer's":           {namesake.answer(namesake, twin, nil), unknown, nil, chain.Unknown},
		"about another issuer's, revoked":  {namesake.answer(namesake, twin, revoke), unknown, nil, chain.Unknown},
		"about another name of the key":    {renamed.answer(renamed, twin, revoke), unknown, nil, chain.Unknown},
		"delegated":                        {w.middle.answer(delegate, w.leaf, nil), nil, nil, chain.Good},
		"delegated, revoked":               {w.middle.answer(delegate, w.leaf, revoke), chain.ErrRevoked, chain.ErrRevoked, 0},
		"delegated, status of its own":     {w.middle.answer(responder(w.middle), w.leaf, nil), unknown, nil, chain.Good},
		"delegated, no purpose":            {w.middle.answer(responder(w.middle, noCheck, func(c *x509.Certificate) { c.ExtKeyUsage = nil }), w.leaf, nil), unknown, nil, chain.Unknown},
		"delegated, no purpose, revoked":   {w.middle.answer(responder(w.middle, noCheck, func(c *x509.Certificate) { c.ExtKeyUsage = nil }), w.leaf, revoke), unknown, nil, chain.Unknown},
		"delegated, any purpose":           {w.middle.answer(responder(w.middle, noCheck, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }), w.leaf, nil), unknown, nil, chain.Unknown},
		"delegated, key usage":             {w.middle.answer(responder(w.middle, noCheck, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }), w.leaf, nil), unknown, nil, chain.Unknown},
		"delegated, expired":               {w.middle.answer(responder(w.middle, noCheck, func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Hour) }), w.leaf, nil), unknown, nil, chain.Unknown},
		"delegated, unknown critical":      {w.middle.answer(responder(w.middle, noCheck, extra(true, []byte{5, 0}, 1, 2, 3)), w.leaf, nil), unknown, nil, chain.Unknown},
		"delegated by the root":            {w.middle.answer(responder(w.root, noCheck), w.leaf, nil), unknown, nil, chain.Unknown},
		"delegated by another name":        {w.middle.answer(responder(renamed, noCheck), w.leaf, nil), unknown, nil, chain.Unknown},
		"delegated by itself":              {w.middle.answer(responder(nil, noCheck), w.leaf, nil), unknown, nil, chain.Unknown},
		"by another user of the authority": {w.middle.answer(newLeaf(t, w.middle), w.leaf, nil), unknown, nil, chain.Unknown},
		"says try later":                   {[]byte{0x30, 3, 0x0a, 1, 3}, unknown, nil, chain.Unknown},
		"not a response":                   {[]byte("nonsense"), unknown, nil, chain.Unknown},
	} {
		t.Run(name, func(t *testing.T) {
			r := w.request()
			if test.response != nil {
				r.OCSP = [][]byte{test.response}
			}
			c := w.config()
			c.CRLs = [][]byte{rootList}
			wantStatus(t, c, r, test.hard, test.soft, test.status)
			c.OCSP, r.OCSP = r.OCSP, nil // the operator keeps it
			wantStatus(t, c, r, test.hard, test.soft, test.status)
		})
	}
	t.Run("a list says otherwise", func(t *testing.T) {
		r := w.request()
		r.OCSP = [][]byte{w.middle.answer(w.middle, w.leaf, nil)}
		r.CRLs = [][]byte{w.middle.crl(nil, w.leaf)}
		c := w.config()
		c.CRLs = [][]byte{rootList}
		wantStatus(t, c, r, chain.ErrRevoked, chain.ErrRevoked, 0)
	})
	t.Run("responder revoked", func(t *testing.T) {
		by := responder(w.middle)
		r := w.request()
		r.OCSP = [][]byte{w.middle.answer(by, w.leaf, revoke)}
		r.CRLs = [][]byte{w.middle.crl(nil, by)}
		c := w.config()
		c.CRLs = [][]byte{rootList}
		wantStatus(t, c, r, nil, nil, chain.Good) // by the list; what a revoked responder says does not count
	})
}

// web is a network in memory.
type web struct {
	pages map[string][]byte
	asked map[string]int
	wait  bool // until the budget is gone
}

func (w *web) Fetch(ctx context.Context, url string, body []byte, until func([]byte) time.Time) ([]byte, error) {
	if w.asked == nil {
		w.asked = map[string]int{}
	}
	w.asked[url]++
	if w.wait {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	page, ok := w.pages[url]
	if !ok {
		return nil, errors.New("not there")
	}
	until(page)
	return page, nil
}

// TestFetch holds R15: who is asked, what for, and for how long.
func TestFetch(t *testing.T) {
	const crl, rootCRL, responder = "http://crl.test/m", "http://crl.test/r", "http://ocsp.test/"
	root := newCA(t, "root", nil)
	middle := newCA(t, "middle", root, func(c *x509.Certificate) { c.CRLDistributionPoints = []string{rootCRL} })
	w := world{root, middle, newLeaf(t, middle, func(c *x509.Certificate) {
		c.CRLDistributionPoints, c.OCSPServer = []string{crl}, []string{responder}
	})}
	evil := newCA(t, "middle", nil)
	good := middle.answer(middle, w.leaf, nil)
	for name, test := range map[string]struct {
		pages      map[string][]byte
		hard, soft error
		status     chain.Status
		asked      []string
	}{
		"by OCSP":                 {map[string][]byte{responder: good, rootCRL: root.crl(nil)}, nil, nil, chain.Good, []string{rootCRL, responder}},
		"by a list":               {map[string][]byte{crl: middle.crl(nil), rootCRL: root.crl(nil)}, nil, nil, chain.Good, []string{crl, rootCRL, responder}},
		"nobody answers":          {nil, chain.ErrStatus, nil, chain.Unknown, nil},
		"only the leaf":           {map[string][]byte{responder: good}, chain.ErrStatus, nil, chain.Unknown, nil},
		"revoked":                 {map[string][]byte{crl: middle.crl(nil, w.leaf), rootCRL: root.crl(nil)}, chain.ErrRevoked, chain.ErrRevoked, 0, []string{crl, responder}},
		"forged":                  {map[string][]byte{crl: evil.crl(nil), responder: evil.answer(evil, w.leaf, nil), rootCRL: root.crl(nil)}, chain.ErrStatus, nil, chain.Unknown, nil},
		"nonsense":                {map[string][]byte{crl: []byte("x"), responder: {}, rootCRL: nil}, chain.ErrStatus, nil, chain.Unknown, nil},
		"authority above revoked": {map[string][]byte{responder: good, rootCRL: root.crl(nil, middle)}, chain.ErrRevoked, chain.ErrRevoked, 0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			c := w.config()
			net := &web{pages: test.pages}
			c.Fetcher = net
			wantStatus(t, c, w.request(), test.hard, test.soft, test.status)
			net.asked = nil
			c.Mode = chain.Soft
			wants(t, c, w.request(), test.soft)
			if got := slices.Sorted(maps.Keys(net.asked)); test.asked != nil && !slices.Equal(got, test.asked) {
				t.Errorf("got questions to %v, want %v", got, test.asked)
			}
			for url, n := range net.asked {
				if n > 1 {
					t.Errorf("%s was asked %d times, want once", url, n)
				}
			}
		})
	}
	// Nobody is called because of a certificate that no anchor stands behind,
	// or that is not for mail anyway, or when what is needed is there.
	quiet := func(name string, c chain.Config, r chain.Request, want error) {
		t.Run(name, func(t *testing.T) {
			net := &web{}
			c.Fetcher = net
			wants(t, c, r, want)
			if len(net.asked) > 0 {
				t.Errorf("got questions to %v, want none", net.asked)
			}
		})
	}
	c := w.config()
	c.Mode = chain.Soft
	strange := newWorld(t, func(c *x509.Certificate) { c.OCSPServer = []string{responder} })
	quiet("no anchor", c, strange.request(), chain.ErrUntrusted)
	bare := newLeaf(t, middle, func(c *x509.Certificate) { c.OCSPServer, c.ExtKeyUsage = []string{responder}, nil })
	quiet("no purpose", c, chain.Request{Cert: bare.cert, Others: []*x509.Certificate{middle.cert}, At: now, Use: chain.Signing}, chain.ErrPurpose)
	r := w.request()
	r.At = now.AddDate(5, 0, 0)
	quiet("expired", c, r, chain.ErrExpired)
	r = w.request()
	r.OCSP, r.CRLs = [][]byte{good}, [][]byte{root.crl(nil)}
	quiet("stapled", c, r, nil)
	c.Mode = chain.Off
	quiet("off", c, w.request(), nil)

	t.Run("budget", func(t *testing.T) {
		c.Fetcher, c.Budget = &web{wait: true}, 50*time.Millisecond
		for mode, want := range map[chain.Mode]error{chain.Soft: nil, chain.Hard: chain.ErrStatus} {
			c.Mode = mode
			begin := time.Now()
			wants(t, c, w.request(), want)
			if d := time.Since(begin); d > 2*time.Second {
				t.Errorf("got a judgement after %v, want it when the budget of 50 ms is gone", d)
			}
		}
	})
	t.Run("budget of a mail", func(t *testing.T) {
		net := &web{wait: true}
		c.Fetcher, c.Budget, c.Mode = net, 50*time.Millisecond, chain.Hard
		j := newJudge(t, c)
		ctx := chain.Mail(t.Context(), c.Budget)
		for range 3 {
			if _, err := j.Judge(ctx, w.request()); !errors.Is(err, chain.ErrStatus) {
				t.Errorf("got %v, want %v", err, chain.ErrStatus)
			}
		}
		if n := net.asked[responder]; n != 1 || len(net.asked) != 1 {
			t.Errorf("got questions %v, want one to the responder, which takes the whole budget", net.asked)
		}
	})
}
