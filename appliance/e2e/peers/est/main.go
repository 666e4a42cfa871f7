// Est is an authority that is asked by EST: the server of GlobalSign's library
// in front of a small authority of our own, which certifies what a request
// asks for. It is a module of its own, so that what it needs is nothing that
// the gateway needs.
//
//	est -dir DIR [-listen 127.0.0.1:0] [-user U -password P]
//
// It writes root.pem to the folder, says "ready URL", and a line for every
// certificate that it makes. The label "old" gives certificates of last year
// that end in ten days, "later" wants to be asked again, "never" refuses.
package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/globalsign/est"
)

func main() {
	dir := flag.String("dir", ".", "folder for root.pem")
	listen := flag.String("listen", "127.0.0.1:0", "address")
	user := flag.String("user", "", "who may ask")
	password := flag.String("password", "", "his password")
	flag.Parse()
	if err := run(*dir, *listen, *user, *password); err != nil {
		log.Fatal(err)
	}
}

func run(dir, listen, user, password string) error {
	a, err := newAuthority()
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "root.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.root.Raw}), 0o644); err != nil {
		return err
	}
	credential, err := a.server()
	if err != nil {
		return err
	}
	handler, err := est.NewRouter(&est.ServerConfig{CA: a, CheckBasicAuth: func(_ context.Context, r *http.Request, _, u, p string) error {
		if len(r.TLS.PeerCertificates) > 0 || u == user && p == password && u != "" {
			return nil
		}
		return errors.New("nobody we know")
	}})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	fmt.Printf("ready https://%s\n", l.Addr())
	clients := x509.NewCertPool()
	clients.AddCert(a.root)
	s := &http.Server{Handler: handler, TLSConfig: &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{credential}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: clients,
	}}
	return s.ServeTLS(l, "", "")
}

// authority is a root and the authority below it that certifies.
type authority struct {
	root, issuing *x509.Certificate
	key           *ecdsa.PrivateKey
	mu            sync.Mutex // of the lines
}

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic(err)
	}
	return n.Add(n, big.NewInt(1))
}

func newAuthority() (*authority, error) {
	from, to := time.Now().AddDate(-2, 0, 0), time.Now().AddDate(10, 0, 0)
	template := func(name string) *x509.Certificate {
		return &x509.Certificate{SerialNumber: serial(), Subject: pkix.Name{CommonName: name}, NotBefore: from, NotAfter: to,
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	}
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	a := &authority{}
	if a.root, err = certify(template("EST root"), nil, &rootKey.PublicKey, rootKey); err != nil {
		return nil, err
	}
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	a.issuing, err = certify(template("EST issuing"), a.root, &a.key.PublicKey, rootKey)
	return a, err
}

func certify(template, parent *x509.Certificate, key, by any) (*x509.Certificate, error) {
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, by)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// server is what the server shows.
func (a *authority) server() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	x, err := certify(&x509.Certificate{SerialNumber: serial(), Subject: pkix.Name{CommonName: "EST"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, a.issuing, &key.PublicKey, a.key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{x.Raw, a.issuing.Raw}, PrivateKey: key}, nil
}

// answer is one that is no certificate.
type answer struct {
	status, after int
	text          string
}

func (e answer) Error() string   { return e.text }
func (e answer) StatusCode() int { return e.status }
func (e answer) RetryAfter() int { return e.after }

// CACerts implements est.CA.
func (a *authority) CACerts(context.Context, string, *http.Request) ([]*x509.Certificate, error) {
	return []*x509.Certificate{a.issuing, a.root}, nil
}

// CSRAttrs implements est.CA.
func (a *authority) CSRAttrs(context.Context, string, *http.Request) (est.CSRAttrs, error) {
	return est.CSRAttrs{}, nil
}

var (
	oidKeyUsage    = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidExtKeyUsage = asn1.ObjectIdentifier{2, 5, 29, 37}
)

// Enroll implements est.CA: what the request asks for, and for a key that signs
// the right to be a client.
func (a *authority) Enroll(_ context.Context, r *x509.CertificateRequest, label string, _ *http.Request) (*x509.Certificate, error) {
	return a.make(r, label, "enrol")
}

// Reenroll implements est.CA.
func (a *authority) Reenroll(_ context.Context, _ *x509.Certificate, r *x509.CertificateRequest, label string, _ *http.Request) (*x509.Certificate, error) {
	return a.make(r, label, "reenrol")
}

func (a *authority) make(r *x509.CertificateRequest, label, how string) (*x509.Certificate, error) {
	switch label {
	case "later":
		return nil, answer{http.StatusAccepted, 3600, "a person has to look at it"}
	case "never":
		return nil, answer{http.StatusBadRequest, 0, "nobody gets one here"}
	}
	t := &x509.Certificate{SerialNumber: serial(), Subject: r.Subject, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().AddDate(1, 0, 0), BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature}
	if label == "old" {
		t.NotBefore, t.NotAfter = time.Now().AddDate(-1, 0, 10), time.Now().AddDate(0, 0, 10)
	}
	for _, e := range r.Extensions {
		switch {
		case e.Id.Equal(oidKeyUsage):
			var bits asn1.BitString
			if _, err := asn1.Unmarshal(e.Value, &bits); err != nil {
				return nil, answer{http.StatusBadRequest, 0, "key usage"}
			}
			t.KeyUsage = 0
			for i := range 9 {
				t.KeyUsage |= x509.KeyUsage(bits.At(i) << i)
			}
		case e.Id.Equal(oidExtKeyUsage):
			if mail := []byte{0x2b, 6, 1, 5, 5, 7, 3, 4}; bytes.Contains(e.Value, mail) {
				t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageEmailProtection)
			}
		default:
			t.ExtraExtensions = append(t.ExtraExtensions, e)
		}
	}
	if t.ExtKeyUsage == nil {
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	if t.KeyUsage == x509.KeyUsageDigitalSignature {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}
	x, err := certify(t, a.issuing, r.PublicKey, a.key)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	fmt.Printf("%s %s %x\n", how, r.Subject, x.SerialNumber)
	return x, nil
}

// ServerKeyGen implements est.CA.
func (a *authority) ServerKeyGen(context.Context, *x509.CertificateRequest, string, *http.Request) (*x509.Certificate, []byte, error) {
	return nil, nil, answer{http.StatusNotImplemented, 0, "keys are made where they stay"}
}

// TPMEnroll implements est.CA.
func (a *authority) TPMEnroll(context.Context, *x509.CertificateRequest, []*x509.Certificate, []byte, []byte, string, *http.Request) ([]byte, []byte, []byte, error) {
	return nil, nil, nil, answer{http.StatusNotImplemented, 0, "no"}
}
