package smime

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"io"
	"math"
	netmail "net/mail"
	"slices"
	"time"

	"postern/filter/chain"
	"postern/filter/cms"
	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/protect"
	"postern/filter/protect/entity"
	"postern/filter/protect/headers"
)

const (
	maxKnown     = 16              // certificates of the keyring that one mail is judged by
	maxBrought   = 64              // certificates of a signature that are looked at
	maxTried     = 4               // of them, that a signer may mean
	maxVouched   = 4               // of them, that may be the signer's for encryption
	clockSkew    = 5 * time.Minute // by which a signature may come from the future
	signedBefore = 24 * time.Hour  // by which a signature may be older than the Date of its mail
)

// unsigned is the finding on a mail without a signature.
func unsigned() protect.Finding {
	return protect.Finding{Format: keyring.SMIME, Reason: protect.ReasonNone}
}

// signedBut is the finding on a signature that is not good.
func signedBut(reason string) protect.Finding {
	return protect.Finding{Format: keyring.SMIME, Signed: true, Reason: reason}
}

// hidden reports whether a part is encrypted or might be, in whatever format:
// a signature around that is no claim (R13).
func hidden(src message.Source, p *message.Part) bool {
	return entity.Sealed(src, p) || formOf(src, p) != none
}

// verifier judges the signatures of one mail.
type verifier struct {
	*Protector
	ctx    context.Context
	known  known
	author message.Address
	sent   time.Time // by the mail's Date, zero if that can't be read
	at     time.Time
}

// known are the certificates of the keyring for the sender, and those of them
// that can be read.
type known struct {
	entries []keyring.Cert
	certs   []*x509.Certificate
}

func (p *Protector) verifier(ctx context.Context, r protect.OpenRequest) *verifier {
	v := &verifier{Protector: p, ctx: ctx, at: r.At}
	for _, c := range r.Certs {
		if c.Format != keyring.SMIME || len(v.known.entries) == maxKnown {
			continue
		}
		v.known.entries = append(v.known.entries, c)
		if x, err := parseCert(c); err == nil {
			v.known.certs = append(v.known.certs, x)
		}
	}
	v.author, _ = r.Message.Author() // none: then no certificate of a domain speaks for it
	if sent, err := netmail.ParseDate(r.Message.Get("Date")); err == nil {
		v.sent = sent
	}
	return v
}

// openSigned judges a mail that anybody can read.
func (p *Protector) openSigned(ctx context.Context, r protect.OpenRequest) (protect.Finding, error) {
	v := p.verifier(ctx, r)
	m := r.Message
	if formOf(m.Source, m.Root) == detached {
		f, _, err := v.detached(m)
		if f.Good && headers.Denied(m, &message.Message{Source: m.Source, Root: m.Root.Parts[0]}) {
			f = signedBut(protect.ReasonPartial)
		}
		return f, err
	}
	l := &layers{max: p.MaxExpanded}
	defer l.close()
	content := &start{}
	signed, err := l.opaque(m.Source, m.Root, content)
	if err != nil {
		return signedBut(protect.ReasonBad), nil
	}
	f, _ := v.finding(signed)
	if f.Good && !content.plain(m) {
		f = signedBut(protect.ReasonPartial)
	}
	return f, nil
}

// detached judges a multipart/signed over its first part as received: from its
// header to before the CRLF that belongs to the boundary (RFC 8551 §3.5.3).
// Content in the signature is refused: nobody could say which one is signed
// (R11). The errors are those of the spool.
func (v *verifier) detached(m *message.Message) (f protect.Finding, fits bool, err error) {
	source := entity.Watch(m.Source)
	content, signature := m.Root.Parts[0], m.Root.Parts[1]
	signed, err := cms.ReadDetached(entity.Decoded(source, signature), message.SectionReader(source, content.Whole))
	if err := source.Err(); err != nil {
		return protect.Finding{}, false, err
	}
	if err != nil {
		return signedBut(protect.ReasonBad), false, nil
	}
	f, fits = v.finding(signed)
	if f.Good && hidden(m.Source, content) {
		f = signedBut(protect.ReasonPartial)
	}
	return f, fits, nil
}

// opaque reads the signature at the root of a mail, compressed or not, to its end.
func (l *layers) opaque(src message.Source, root *message.Part, content io.Writer) (*cms.Signed, error) {
	e := streamOf(src, root, math.MaxInt64)
	if e.form() == compressed {
		var err error
		if e, err = l.decompress(e); err != nil {
			return nil, err
		}
	}
	if e.form() != opaque {
		return nil, errLayers
	}
	return cms.ReadSigned(e.body, content)
}

// start keeps the beginning of what is written to it.
type start struct {
	data []byte
	more bool
}

func (s *start) Write(b []byte) (int, error) {
	n := min(len(b), maxHead-len(s.data))
	s.data = append(s.data, b[:n]...)
	s.more = s.more || n < len(b)
	return len(b), nil
}

// plain reports whether it begins an entity that hides nothing and whose header
// says nothing else than the header of the mail.
func (s *start) plain(mail *message.Message) bool {
	m, err := message.Parse(bytes.NewReader(s.data), message.Limits{})
	if err != nil || s.more && m.Root.Body.Len() == 0 {
		return false
	}
	return !hidden(m.Source, m.Root) && !headers.Denied(mail, m)
}

// weight orders what may be wrong with a signature itself: of several signers
// the heaviest one is told.
var weight = []string{protect.ReasonGood, protect.ReasonUnknownCert, protect.ReasonWeak, protect.ReasonBad}

// finding is the judgement on all signatures over one payload. Each has to be
// good (R11): of a signature that is not, nobody can tell who has put it there.
// fits says that each is right by its own certificate, whoever trusts it: then
// nobody has changed the content who did not know it.
func (v *verifier) finding(s *cms.Signed) (f protect.Finding, fits bool) {
	if len(s.Signers) == 0 {
		return signedBut(protect.ReasonBad), false
	}
	b := brought(s)
	f, fits = signedBut(protect.ReasonGood), true
	var signers []*judged
	for _, signer := range s.Signers {
		j := v.verify(signer, b)
		signers = append(signers, j)
		fits = fits && j.fits
		if slices.Index(weight, j.reason) > slices.Index(weight, f.Reason) {
			f.Reason = j.reason
		}
	}
	if !fits {
		return f, false
	}
	by := signers[0]
	for _, j := range signers {
		if j.reason = v.trust(j, b); j.reason != protect.ReasonGood {
			f.Reason = j.reason
			return f, true
		}
		if slices.Contains(j.addresses, v.author) && !slices.Contains(by.addresses, v.author) {
			by = j
		}
	}
	f.Good, f.Signer, f.Signers = true, fingerprint(by.cert.Raw), by.addresses
	f.Brought = v.bringing(by, b)
	return f, true
}

// bundle is what came along with a signature.
type bundle struct {
	*cms.Signed
	certs []*x509.Certificate
}

// brought reads the certificates that came along. What is none is no reason to
// mistrust the others.
func brought(s *cms.Signed) *bundle {
	b := &bundle{Signed: s}
	for _, der := range s.Certs[:min(len(s.Certs), maxBrought)] {
		if x, err := parse(der); err == nil {
			b.certs = append(b.certs, x)
		}
	}
	return b
}

// judged is one signer.
type judged struct {
	*cms.Signer
	reason    string
	fits      bool                // the signature is right
	cert      *x509.Certificate   // that it was made with; nil: not known
	addresses []message.Address   // that it speaks for, when it is good
	way       []*x509.Certificate // between it and an anchor
}

// verify finds the certificate of a signer, and checks the signature with it.
// Of several with that name, which only somebody who wants to waste time makes
// up, the first ones are tried.
func (v *verifier) verify(s *cms.Signer, b *bundle) *judged {
	j := &judged{Signer: s, reason: protect.ReasonUnknownCert}
	tried := 0
	for _, x := range append(slices.Clone(b.certs), v.known.certs...) {
		if !s.Names(x) || tried == maxTried {
			continue
		}
		tried++
		switch err := s.Verify(x); {
		case err == nil:
			j.fits, j.cert, j.reason = true, x, protect.ReasonGood
			return j
		case errors.Is(err, cms.ErrAlgorithm):
			j.reason = protect.ReasonWeak
		default:
			j.reason = protect.ReasonBad
		}
	}
	return j
}

// trust judges a signature that fits the bytes: by what it says, by the key, by
// what people said of the certificate, and by its path.
func (v *verifier) trust(j *judged, b *bundle) string {
	// The Date is not signed: old words under a new one are somebody's replay.
	// The other way round says nothing: clocks stand still, and gateways sign late.
	switch {
	case j.SigningTime.After(v.at.Add(clockSkew)):
		return protect.ReasonBad
	case !j.SigningTime.IsZero() && !v.sent.IsZero() && j.SigningTime.Before(v.sent.Add(-signedBefore)):
		return protect.ReasonPartial
	case weakKey(j.cert):
		return protect.ReasonWeak
	}
	j.addresses = chain.Addresses(j.cert)
	var entry *keyring.Cert
	name := fingerprint(j.cert.Raw)
	for i := range v.known.entries {
		if v.known.entries[i].Fingerprint == name {
			entry = &v.known.entries[i]
		}
	}
	if entry != nil {
		if entry.Trust == keyring.Distrusted {
			return protect.ReasonUntrusted
		}
		if !v.author.IsZero() && slices.Contains(entry.Domains, v.author.Domain) && !slices.Contains(j.addresses, v.author) {
			j.addresses = append(j.addresses, v.author)
		}
	}
	path, err := v.path(j.cert, b, chain.Signing)
	switch {
	case err == nil:
		j.way = path.Certs[1:max(1, len(path.Certs)-1)]
		return protect.ReasonGood
	case errors.Is(err, chain.ErrRevoked):
		return protect.ReasonRevoked
	case entry != nil && entry.Trust == keyring.Trusted: // a person's word stands for the path
		return v.pinned(j.cert)
	case errors.Is(err, chain.ErrExpired):
		return protect.ReasonExpired
	case errors.Is(err, chain.ErrWeak):
		return protect.ReasonWeak
	case errors.Is(err, chain.ErrUntrusted) && entry == nil:
		return protect.ReasonUnknownCert
	}
	return protect.ReasonUntrusted
}

// pinned judges a certificate that the keyring trusts, by itself.
func (v *verifier) pinned(c *x509.Certificate) string {
	switch {
	case v.at.Before(c.NotBefore), v.at.After(c.NotAfter):
		return protect.ReasonExpired
	case !maySign(c), fit(c, v.at) != nil:
		return protect.ReasonUntrusted
	}
	return protect.ReasonGood
}

// path looks for a way from a certificate to an anchor.
func (v *verifier) path(c *x509.Certificate, b *bundle, use chain.Use) (chain.Path, error) {
	if v.Judge == nil {
		return chain.Path{}, chain.ErrUntrusted
	}
	return v.Judge.Judge(v.ctx, chain.Request{Cert: c, Others: b.certs, CRLs: b.CRLs, OCSP: b.OCSP, At: v.at, Use: use})
}

// bringing are the certificates to be learned from a good signature (RFC 8551
// §2.5.3): the signer's own, and the one that he wants to be sealed to, with
// what he says that he reads. What stands beside a signature is not signed: a
// certificate for encryption is taken only if it names an address of the
// signer, and whoever issued his has issued it, or an anchor stands above it.
// The authorities on his good path come along, as a way for the next judgement.
func (v *verifier) bringing(j *judged, b *bundle) []keyring.Cert {
	own := describe(j.cert)
	own.Trust, own.Source = keyring.Seen, "mail"
	if j.Capabilities != nil {
		own.Capabilities, _ = j.Capabilities.DER() // they were read from DER
	}
	list := []keyring.Cert{own}
	looked := 0
	for _, x := range b.certs {
		wanted := j.EncryptTo == nil && !maySeal(j.cert) || j.EncryptTo != nil && j.EncryptTo.Names(x)
		if !wanted || x.Equal(j.cert) || !maySeal(x) || fit(x, v.at) != nil {
			continue
		}
		c := describe(x)
		shared := slices.ContainsFunc(c.Addresses, func(a message.Address) bool { return slices.Contains(own.Addresses, a) })
		if !shared || looked == maxVouched {
			continue
		}
		if looked++; !v.vouched(x, j.cert, b) {
			continue
		}
		c.Trust, c.Source, c.Capabilities = keyring.Seen, "mail", own.Capabilities
		list = append(list, c)
		break
	}
	for _, x := range j.way {
		if slices.ContainsFunc(b.certs, x.Equal) {
			c := describe(x)
			c.Trust, c.Source, c.Role, c.Addresses = keyring.Seen, "mail", keyring.Intermediate, nil
			list = append(list, c)
		}
	}
	return list
}

// vouched reports whether a certificate is as good as another one that is good.
func (v *verifier) vouched(x, good *x509.Certificate, b *bundle) bool {
	if _, err := v.path(x, b, chain.Encryption); err == nil {
		return true
	}
	return slices.ContainsFunc(b.certs, func(issuer *x509.Certificate) bool {
		return bytes.Equal(good.RawIssuer, issuer.RawSubject) && bytes.Equal(x.RawIssuer, issuer.RawSubject) &&
			good.CheckSignatureFrom(issuer) == nil && x.CheckSignatureFrom(issuer) == nil
	})
}
