package chain

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
)

// node is a certificate that may stand in a path.
type node struct {
	cert   *x509.Certificate
	anchor *Anchor // nil: it isn't one
}

// pool finds certificates by the canonical form of their subject.
type pool map[string][]*node

func (p pool) add(n *node) {
	if n.cert == nil || len(n.cert.Raw) > maxCert {
		return
	}
	key := canonical(n.cert.RawSubject).key()
	p[key] = append(p[key], n)
}

// step is a partial path: a certificate, and those below it down to the leaf.
type step struct {
	*node
	below *step // nil for the leaf
	depth int   // certificates, this one included
}

// certs is the path, leaf first.
func (s *step) certs() []*x509.Certificate {
	all := make([]*x509.Certificate, s.depth)
	for ; s != nil; s = s.below {
		all[s.depth-1] = s.cert
	}
	return all
}

// has reports whether a certificate of the same name and key is in the path:
// a second one leads nowhere that the first does not (RFC 4158 §5.2).
func (s *step) has(c *x509.Certificate) bool {
	for ; s != nil; s = s.below {
		if bytes.Equal(s.cert.RawSubject, c.RawSubject) && bytes.Equal(s.cert.RawSubjectPublicKeyInfo, c.RawSubjectPublicKeyInfo) {
			return true
		}
	}
	return false
}

// search walks from the leaf upwards, depth first, over a stack of its own,
// and gives one path that reaches an anchor after another. Steps, signatures
// and paths are counted, so that a set of certificates that sign each other
// ends as soon as one that leads nowhere.
type search struct {
	leaf    *x509.Certificate
	known   pool // of the judge
	brought pool // of the mail
	todo    []*step
	checked map[edge]error
	steps   int
	paths   int
	failed  error // the most telling one of the paths that reached an anchor
	dead    error // and of those that didn't
}

// edge is a signature: of which certificate, by which key.
type edge struct{ signed, signer *x509.Certificate }

func newSearch(j *Judge, r Request) *search {
	s := &search{leaf: r.Cert, known: j.known, brought: pool{}, checked: map[edge]error{}}
	for _, c := range r.Others[:min(len(r.Others), maxOthers)] {
		if c != nil {
			s.brought.add(&node{cert: c})
		}
	}
	first := &step{node: &node{cert: r.Cert}, depth: 1}
	s.todo = []*step{first}
	for i := range j.config.Anchors {
		if a := &j.config.Anchors[i]; a.Own && a.Cert != nil && bytes.Equal(a.Cert.Raw, r.Cert.Raw) {
			s.todo = append(s.todo, &step{node: &node{cert: r.Cert, anchor: a}, depth: 1})
		}
	}
	return s
}

// next gives the next path that ends at an anchor with all its signatures
// right, as its topmost step; nil when there is none left.
func (s *search) next() *step {
	for len(s.todo) > 0 && s.paths < maxPaths {
		top := s.todo[len(s.todo)-1]
		s.todo = s.todo[:len(s.todo)-1]
		if top.anchor != nil {
			s.paths++
			return top
		}
		if top.depth < maxPath {
			s.climb(top)
		}
	}
	return nil
}

// climb puts what may have issued the certificate on the stack, the most
// promising last.
func (s *search) climb(top *step) {
	key := canonical(top.cert.RawIssuer).key()
	candidates := slices.Concat(s.known[key], s.brought[key])
	promise := func(n *node) (p int) {
		if n.anchor != nil {
			p += 2
		}
		if id := top.cert.AuthorityKeyId; len(id) > 0 && bytes.Equal(id, n.cert.SubjectKeyId) {
			p++
		}
		return p
	}
	slices.SortStableFunc(candidates, func(a, b *node) int { return promise(a) - promise(b) })
	for _, n := range candidates {
		if s.steps++; s.steps > maxSteps {
			keep(&s.dead, fmt.Errorf("find path: more than %d steps: %w", maxSteps, ErrUntrusted))
			s.todo = nil
			return
		}
		if top.has(n.cert) {
			continue
		}
		if err := s.check(top.cert, n.cert); err != nil {
			keep(&s.dead, err)
			continue
		}
		s.todo = append(s.todo, &step{node: n, below: top, depth: top.depth + 1})
	}
}

// check checks one signature, each only once.
func (s *search) check(signed, signer *x509.Certificate) error {
	e := edge{signed, signer}
	err, done := s.checked[e]
	if !done {
		if len(s.checked) >= maxChecks {
			return fmt.Errorf("find path: more than %d signatures: %w", maxChecks, ErrUntrusted)
		}
		err = signedBy(signer, signed.SignatureAlgorithm, signed.RawTBSCertificate, signed.Signature)
		if err != nil {
			err = fmt.Errorf("check %s by %s: %w", name(signed), name(signer), err)
		}
		s.checked[e] = err
	}
	return err
}

// keep keeps an error if it tells more than the one before.
func keep(known *error, err error) {
	if *known == nil || rank(err) < rank(*known) {
		*known = err
	}
}

// failure says why no path was good.
func (s *search) failure() error {
	switch {
	case s.failed != nil:
		return s.failed
	case s.dead != nil:
		return s.dead
	}
	return fmt.Errorf("judge %s: nobody known issued it or those above it: %w", name(s.leaf), ErrUntrusted)
}

func rank(err error) int {
	return slices.IndexFunc(ranks, func(e error) bool { return errors.Is(err, e) })
}
