package filter

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"slices"
	"strings"
	"testing"

	"postern/filter/cms"
	"postern/filter/keyring"
	"postern/filter/policy"
	"postern/filter/smime"
	"postern/hsm/certtest"
)

// reader is a certificate that S/MIME mail is sealed to, of a key that nobody keeps.
func reader(t *testing.T, who string, pub crypto.PublicKey, usage x509.KeyUsage) (keyring.Cert, *x509.Certificate) {
	t.Helper()
	template := certtest.Mail(who, usage)
	template.NotBefore, template.NotAfter = made, made.AddDate(2, 0, 0)
	x := certtest.New(t, certtest.CA("CA")).Sign(t, template, pub)
	list, err := smime.Read(x.Raw)
	if err != nil {
		t.Fatal(err)
	}
	c := list[0]
	c.Trust, c.Source, c.FirstSeen, c.LastSeen = keyring.Trusted, "test", made, made
	return c, x
}

// TestHiddenInSMIME (R42): each hidden recipient's copy is sealed to him and to
// who reads along, and no other copy names him; recipients of RSA and of curves
// share none.
func TestHiddenInSMIME(t *testing.T) {
	rsaKey := func() crypto.PublicKey {
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		return &k.PublicKey
	}
	const archive = "archive@company1.example"
	w := newWorld(t)
	known := map[string]*x509.Certificate{}
	for _, c := range []struct {
		who string
		ec  bool
	}{
		{"anna@rsa.example", false}, {"ben@rsa.example", false}, {"hidden1@rsa.example", false}, {"hidden2@rsa.example", false},
		{"eva@ec.example", true}, {"hidden3@ec.example", true}, {archive, false}, {archive, true},
	} {
		pub, usage := rsaKey(), x509.KeyUsageKeyEncipherment
		name := c.who
		if c.ec {
			pub, usage = certtest.Key(t).Public(), x509.KeyUsageKeyAgreement
		}
		cert, x := reader(t, c.who, pub, usage)
		if c.who == archive {
			name += map[bool]string{true: " ec", false: " rsa"}[c.ec]
			w.ring.ours = append([]keyring.Identity{{Cert: cert, Address: address(t, archive)}}, w.ring.ours...)
		} else {
			w.ring.partners = append(w.ring.partners, cert)
		}
		known[name] = x
	}
	w.gate.Protectors = append(w.gate.Protectors, smime.New(smime.Config{Token: w.token}))
	w.gate.Policy.Domains["company1.example"] = policy.SignNever
	w.gate.Policy.Escrow = map[string]policy.Escrow{"company1.example": {archive}}
	mail := crlf("From: alice@company1.example\nTo: anna@rsa.example, eva@ec.example\nCc: ben@rsa.example\nBcc: hidden1@rsa.example\nSubject: out\n\nMarker-Text-7f3a\n")
	to := []string{"anna@rsa.example", "hidden1@rsa.example", "eva@ec.example", "ben@rsa.example", "hidden3@ec.example", "hidden2@rsa.example"}
	w.want("hidden", w.send(policy.Outbound, mail, "alice@company1.example", to...), "250 2.0.0")
	want := map[string]string{
		"anna@rsa.example ben@rsa.example": "anna@rsa.example archive@company1.example rsa ben@rsa.example",
		"eva@ec.example":                   "archive@company1.example ec eva@ec.example",
		"hidden1@rsa.example":              "archive@company1.example rsa hidden1@rsa.example",
		"hidden2@rsa.example":              "archive@company1.example rsa hidden2@rsa.example",
		"hidden3@ec.example":               "archive@company1.example ec hidden3@ec.example",
	}
	for i, envelope := range w.hop.recipients() {
		if got := readers(t, w.hop.got[i].mail, known); got != want[envelope] {
			t.Errorf("copy for %s: got readers %q, want %q", envelope, got, want[envelope])
		}
		delete(want, envelope)
		head, _, _ := strings.Cut(string(w.hop.got[i].mail), "\r\n\r\n")
		if strings.Contains(head, "hidden") || strings.Contains(string(w.hop.got[i].mail), "Marker-Text") {
			t.Errorf("copy for %s: tells of who is hidden, or is in clear:\n%s", envelope, head)
		}
	}
	if len(want) > 0 {
		t.Errorf("got no copy for %v", want)
	}
}

// readers are whom the recipient infos of a mail name.
func readers(t *testing.T, mail []byte, known map[string]*x509.Certificate) string {
	t.Helper()
	_, body, _ := strings.Cut(string(mail), "\r\n\r\n")
	der, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(body, "\r\n", ""))
	if err != nil {
		t.Fatalf("read copy: %v\n%s", err, mail)
	}
	e, err := cms.ReadEnvelope(strings.NewReader(string(der)))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range e.Recipients {
		named := "nobody known"
		for who, x := range known {
			if r.Names(x) {
				named = who
			}
		}
		names = append(names, named)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}
