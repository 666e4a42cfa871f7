package acme_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/emersion/go-msgauth/dkim"
	"github.com/emersion/go-smtp"

	"postern/filter/challenge"
	"postern/filter/message"
	"postern/hsm"
	"postern/hsm/certtest"
	"postern/provisioning/acme"
	"postern/provisioning/acme/acmetest"
)

const alice = "alice@company1.example"

func request(t testing.TB, k crypto.Signer, address string) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: address}, EmailAddresses: []string{address}}, k)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// person is somebody with a mailbox, at a domain that signs.
type person struct {
	key   *rsa.PrivateKey
	mails chan *message.Message
}

func newPerson(t testing.TB) (*person, string) {
	t.Helper()
	p := &person{mails: make(chan *message.Message, 8)}
	var err error
	if p.key, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := smtp.NewServer(p)
	s.Domain = "mx.company1.example"
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return p, l.Addr().String()
}

func (p *person) NewSession(*smtp.Conn) (smtp.Session, error) { return mailbox{p}, nil }
func (p *person) texts(name string) (texts []string, err error) {
	der, err := x509.MarshalPKIXPublicKey(p.key.Public())
	if name != "s._domainkey.company1.example" || err != nil {
		return nil, err
	}
	return []string{"v=DKIM1; p=" + base64.StdEncoding.EncodeToString(der)}, nil
}

type mailbox struct{ *person }

func (mailbox) Reset()                               {}
func (mailbox) Logout() error                        { return nil }
func (mailbox) Mail(string, *smtp.MailOptions) error { return nil }
func (mailbox) Rcpt(string, *smtp.RcptOptions) error { return nil }

func (b mailbox) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	m, err := message.Parse(bytes.NewReader(raw), message.Limits{})
	if err == nil {
		b.mails <- m
	}
	return err
}

// sign signs as the domain, over what RFC 8823 §3.2 wants.
func (p *person) sign(t testing.TB, mail []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := dkim.Sign(&b, bytes.NewReader(mail), &dkim.SignOptions{Domain: "company1.example", Selector: "s", Signer: p.key,
		HeaderKeys: []string{"From", "Sender", "Reply-To", "To", "CC", "Subject", "Date", "In-Reply-To", "References", "Message-ID", "Content-Type", "Content-Transfer-Encoding"}}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// house is a server with somebody to ask it.
type house struct {
	*person
	ca     *acmetest.Server
	config acme.Config
}

func newHouse(t testing.TB, c acmetest.Config) *house {
	t.Helper()
	p, at := newPerson(t)
	c.Texts = p.texts
	h := &house{person: p, ca: acmetest.Open(t, c)}
	h.ca.Deliver(at)
	h.config = acme.Config{URL: h.ca.URL, Roots: h.ca.Pool(), Key: certtest.Key(t), Join: challenge.Text}
	return h
}

func open(t testing.TB, c acme.Config) *acme.Server {
	t.Helper()
	s, err := acme.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// begin orders, and reads the mail.
func (h *house) begin(t testing.TB, s *acme.Server) (order string, c acme.Challenge, m challenge.Mail) {
	t.Helper()
	order, _, err := s.Order(t.Context(), alice)
	if err == nil {
		c, err = s.Challenge(t.Context(), order)
	}
	if err != nil {
		t.Fatalf("order: %v\n%q", err, h.ca.Said())
	}
	select {
	case got := <-h.mails:
		if m, err = challenge.Read(got); err != nil {
			t.Fatal(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("no mail has come")
	}
	if m.From.Key() != c.Sender {
		t.Errorf("the mail is from %s, want %s", m.From.Key(), c.Sender)
	}
	return order, c, m
}

func (h *house) answer(t testing.TB, s *acme.Server, c acme.Challenge, m challenge.Mail) challenge.Answer {
	t.Helper()
	digest, err := s.Digest(m.Token, c.Token)
	if err != nil {
		t.Fatal(err)
	}
	return challenge.Answer{From: m.To, To: m.ReplyTo, Token: m.Token, InReplyTo: m.MessageID, Digest: digest, Host: "company1.example", At: time.Now()}
}

// TestServer goes the whole way, by both ways to join halves of a token, and has
// OpenSSL judge what comes of it.
func TestServer(t *testing.T) {
	for _, join := range []challenge.Join{challenge.Text, challenge.Bytes} {
		h := newHouse(t, acmetest.Config{Bytes: join == challenge.Bytes, Terms: "https://ca.example/terms", Binding: "k", MAC: bytes.Repeat([]byte{7}, 32)})
		h.config.Join, h.config.Agreed, h.config.Contact = join, true, []string{"postmaster@company1.example"}
		h.config.Binding, h.config.MAC = "k", base64.RawURLEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))
		s := open(t, h.config)
		order, c, m := h.begin(t, s)
		if state, err := s.Look(t.Context(), order); state != acme.Pending || err != nil {
			t.Fatalf("got %s, %v, want it pending", state, err)
		}
		h.ca.Answer(h.sign(t, h.answer(t, s, c, m).Mail()))
		if state, err := s.Look(t.Context(), order); state != acme.Pending || err != nil {
			t.Fatalf("before it is told: got %s, %v, want it pending", state, err)
		}
		if err := s.Answered(t.Context(), c.URL); err != nil {
			t.Fatal(err)
		}
		s = open(t, h.config) // a second run knows nothing but the key
		if state, err := s.Look(t.Context(), order); state != acme.Ready || err != nil {
			t.Fatalf("got %s, %v, want it ready\n%q", state, err, h.ca.Said())
		}
		k := certtest.Key(t)
		certs, err := s.Finish(t.Context(), order, request(t, k, alice))
		if err != nil || len(certs) != 2 || !k.PublicKey.Equal(certs[0].PublicKey) {
			t.Fatalf("got %d certificates, %v, want that of the key and the one above\n%q", len(certs), err, h.ca.Said())
		}
		if again, err := s.Finish(t.Context(), order, request(t, k, alice)); err != nil || !again[0].Equal(certs[0]) {
			t.Errorf("again: got %v, want the same", err)
		}
		if _, err := s.Finish(t.Context(), order, request(t, certtest.Key(t), alice)); !errors.Is(err, acme.ErrAnswer) {
			t.Errorf("for another key: got %v, want %v", err, acme.ErrAnswer)
		}
		if n, _ := h.ca.Accounts(); n != 1 {
			t.Errorf("got %d accounts, want one", n)
		}
		dir := t.TempDir()
		write := func(name string, x *x509.Certificate) string {
			path := filepath.Join(dir, name)
			if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: x.Raw}), 0o600); err != nil {
				t.Fatal(err)
			}
			return path
		}
		if out, err := exec.Command("openssl", "verify", "-purpose", "smimesign", "-CAfile", h.ca.Root, "-untrusted", write("way.pem", certs[1]), write("one.pem", certs[0])).CombinedOutput(); err != nil {
			t.Errorf("openssl: %v: %s", err, out)
		}
	}
}

// TestWrongAnswers: the server minds what it must, and a client hears what came
// of it.
func TestWrongAnswers(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*challenge.Answer)
		mail   func(h *house, mail []byte) []byte // nil: signed
		said   string
		over   bool // the order is lost
	}{
		{"another digest", func(a *challenge.Answer) { a.Digest = strings.Repeat("A", 43) }, nil, "the digest is another one", true},
		{"joined in the other way", func(a *challenge.Answer) { a.Digest = "" }, nil, "the digest is another one", true},
		{"not signed", nil, func(_ *house, m []byte) []byte { return m }, "no DKIM signature", false},
		{"changed", nil, func(h *house, m []byte) []byte {
			return bytes.Replace(h.sign(t, m), []byte("Date: "), []byte("Date:  \t"), 1)
		}, "did not verify", false},
		{"of somebody else", func(a *challenge.Answer) { a.From.Local = "mallory" }, nil, "from", false},
		{"to somebody else", func(a *challenge.Answer) { a.To.Local = "elsewhere" }, nil, "to \"", false},
		{"to another mail", func(a *challenge.Answer) { a.InReplyTo = "<x@ca.example>" }, nil, "want", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHouse(t, acmetest.Config{})
			s := open(t, h.config)
			order, ch, m := h.begin(t, s)
			a := h.answer(t, s, ch, m)
			if c.change != nil {
				c.change(&a)
			}
			if a.Digest == "" {
				other := h.config
				other.Join = challenge.Bytes
				a.Digest, _ = open(t, other).Digest(m.Token, ch.Token)
			}
			if c.mail == nil {
				c.mail = func(h *house, m []byte) []byte { return h.sign(t, m) }
			}
			h.ca.Answer(c.mail(h, a.Mail()))
			if err := s.Answered(t.Context(), ch.URL); err != nil {
				t.Fatal(err)
			}
			state, err := s.Look(t.Context(), order)
			if c.over != errors.Is(err, acme.ErrInvalid) || c.over != (state == acme.Invalid) || c.over && !strings.Contains(err.Error(), "incorrectResponse") {
				t.Errorf("got %s, %v, want it lost: %v", state, err, c.over)
			}
			if said := strings.Join(h.ca.Said(), "\n"); !strings.Contains(said, c.said) {
				t.Errorf("the server says %q, want %q", said, c.said)
			}
			if _, err := s.Finish(t.Context(), order, request(t, certtest.Key(t), alice)); err == nil || len(h.ca.Issued()) > 0 {
				t.Errorf("finish: got %v and %q, want no certificate", err, h.ca.Issued())
			}
		})
	}
}

// TestRefusals: each has its kind.
func TestRefusals(t *testing.T) {
	mac := bytes.Repeat([]byte{7}, 32)
	for _, c := range []struct {
		name   string
		server acmetest.Config
		change func(*acme.Config)
		order  string
		want   error
	}{
		{"terms", acmetest.Config{Terms: "https://ca.example/terms"}, nil, alice, acme.ErrTerms},
		{"no binding", acmetest.Config{Binding: "k", MAC: mac}, nil, alice, acme.ErrDenied},
		{"another binding", acmetest.Config{Binding: "k", MAC: mac}, func(c *acme.Config) {
			c.Binding, c.MAC = "k", base64.RawURLEncoding.EncodeToString(bytes.Repeat([]byte{8}, 32))
		}, alice, acme.ErrDenied},
		{"busy", acmetest.Config{Busy: 1}, nil, alice, acme.ErrLater},
		{"an address that it does not certify", acmetest.Config{}, nil, "x@denied.example", acme.ErrRefused},
		{"nobody vouches for it", acmetest.Config{}, func(c *acme.Config) { c.Roots = x509.NewCertPool() }, alice, acme.ErrAway},
		{"nobody there", acmetest.Config{}, func(c *acme.Config) { c.URL = "https://127.0.0.1:1/directory" }, alice, acme.ErrAway},
		{"no directory there", acmetest.Config{}, func(c *acme.Config) { c.URL += "/x" }, alice, acme.ErrAnswer},
		{"a key that does not sign", acmetest.Config{}, func(c *acme.Config) { c.Key = dumb{c.Key} }, alice, hsm.ErrAway},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHouse(t, c.server)
			if c.change != nil {
				c.change(&h.config)
			}
			_, _, err := open(t, h.config).Order(t.Context(), c.order)
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if later, ok := errors.AsType[*acme.Later](err); ok && later.After != time.Second {
				t.Errorf("got %v, want a second", later.After)
			}
			if terms, ok := errors.AsType[*acme.Terms](err); ok && terms.URL != c.server.Terms {
				t.Errorf("got terms at %q", terms.URL)
			}
			if h.config.MAC != "" && strings.Contains(err.Error(), h.config.MAC) {
				t.Errorf("got %v, which tells the key", err)
			}
		})
	}
	for name, bad := range map[string]acme.Config{
		"no TLS":          {URL: "http://ca.example/", Key: certtest.Key(t)},
		"with a password": {URL: "https://u:p@ca.example/", Key: certtest.Key(t)},
		"no key":          {URL: "https://ca.example/"},
		"a short MAC":     {URL: "https://ca.example/", Key: certtest.Key(t), Binding: "k", MAC: "c2hvcnQ"},
	} {
		if _, err := acme.New(bad); !errors.Is(err, acme.ErrConfig) {
			t.Errorf("%s: got %v, want %v", name, err, acme.ErrConfig)
		}
	}
}

// dumb is a key whose daemon is away.
type dumb struct{ crypto.Signer }

func (dumb) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return nil, hsm.ErrAway }

// TestHostileServer: whatever a server answers ends soon in an error that says
// what to think of it, and nobody is sent elsewhere.
func TestHostileServer(t *testing.T) {
	var asked []string
	var answer http.HandlerFunc
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = append(asked, "elsewhere") }))
	defer elsewhere.Close()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.Path)
		w.Header().Set("Replay-Nonce", "n")
		answer(w, r)
	}))
	defer s.Close()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	say := func(w http.ResponseWriter, kind, body string, status int) {
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
	directory := func(newOrder string) string {
		return `{"newNonce":"` + s.URL + `/n","newAccount":"` + s.URL + `/account","newOrder":"` + newOrder + `"}`
	}
	// by path: what a server answers that is good until then
	site := func(paths map[string]string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/account" {
				w.Header().Set("Location", s.URL+"/account/1")
			}
			if r.URL.Path == "/order" {
				w.Header().Set("Location", s.URL+"/order/1")
			}
			body, ok := paths[r.URL.Path]
			if !ok {
				body = map[string]string{"/n": "", "/account": `{"status":"valid"}`, "/order": `{"status":"pending","identifiers":[{"type":"email","value":"` + alice + `"}],"authorizations":["` + s.URL + `/authorization"]}`}[r.URL.Path]
			}
			say(w, "application/json", body, http.StatusOK)
		}
	}
	for i, c := range []struct {
		name   string
		answer http.HandlerFunc
		want   error
	}{
		{"sends away", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, http.StatusFound) }, acme.ErrAnswer},
		{"a page", func(w http.ResponseWriter, _ *http.Request) { say(w, "text/html", "<html>", 200) }, acme.ErrAnswer},
		{"no JSON", func(w http.ResponseWriter, _ *http.Request) { say(w, "application/json", "{", 200) }, acme.ErrAnswer},
		{"nothing in it", func(w http.ResponseWriter, _ *http.Request) { say(w, "application/json", "{}", 200) }, acme.ErrAnswer},
		{"without an end", func(w http.ResponseWriter, _ *http.Request) {
			say(w, "application/json", strings.Repeat(" ", 2<<20)+"{}", 200)
		}, acme.ErrAnswer},
		{"nonces for ever", func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet {
				say(w, "application/json", directory(s.URL+"/order"), 200)
				return
			}
			say(w, "application/problem+json", `{"type":"urn:ietf:params:acme:error:badNonce","status":400}`, 400)
		}, acme.ErrAway},
		{"busy", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }, acme.ErrAway},
		{"steers the terminal", func(w http.ResponseWriter, _ *http.Request) {
			say(w, "application/problem+json", `{"type":"urn:ietf:params:acme:error:rejectedIdentifier","detail":"\u001b[2Jevil\r\nmore","status":400}`, 400)
		}, acme.ErrRefused},
		{"an endless refusal", func(w http.ResponseWriter, _ *http.Request) {
			say(w, "application/problem+json", `{"type":"x","detail":"`+strings.Repeat("y", 100_000)+`","status":403}`, 403)
		}, acme.ErrRefused},
		{"orders in clear", site(map[string]string{"/directory": directory(elsewhere.URL + "/order")}), acme.ErrAnswer},
		{"another's order", site(map[string]string{"/directory": directory(s.URL + "/order"), "/order": `{"status":"pending","identifiers":[{"type":"email","value":"bob@company1.example"}]}`}), acme.ErrAnswer},
		{"a suspended account", site(map[string]string{"/directory": directory(s.URL + "/order"), "/account": `{"status":"revoked"}`}), acme.ErrDenied},
	} {
		t.Run(c.name, func(t *testing.T) {
			asked, answer = nil, c.answer
			_, _, err := open(t, acme.Config{URL: s.URL + "/directory?" + string(rune('a'+i)), Roots: roots, Key: certtest.Key(t)}).Order(t.Context(), alice)
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if text := err.Error(); !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) || len(text) > 1000 {
				t.Errorf("got %q, want one printable line", err)
			}
			if slices.Contains(asked, "elsewhere") || len(asked) > 64 {
				t.Errorf("asked %d times: %q", len(asked), asked[:min(len(asked), 80)])
			}
		})
	}
	// A chain of certificates whose links have no end.
	answer = func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/certificate" {
			w.Header().Add("Link", "<"+s.URL+`/certificate>;rel="up"`)
			say(w, "application/pem-certificate-chain", "-----BEGIN CERTIFICATE-----\n", 200)
			return
		}
		site(map[string]string{"/directory": directory(s.URL + "/order"), "/order/1": `{"status":"valid","certificate":"` + s.URL + `/certificate"}`})(w, r)
	}
	asked = nil
	if _, err := open(t, acme.Config{URL: s.URL + "/directory?links", Roots: roots, Key: certtest.Key(t)}).Finish(t.Context(), s.URL+"/order/1", request(t, certtest.Key(t), alice)); !errors.Is(err, acme.ErrAnswer) || len(asked) > 64 {
		t.Errorf("endless links: got %v after %d questions, want %v", err, len(asked), acme.ErrAnswer)
	}
}
