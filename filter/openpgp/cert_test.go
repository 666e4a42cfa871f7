package openpgp

import (
	"errors"
	"strings"
	"testing"
	"time"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/openpgp/peertest"
	"postern/filter/protect"
	"postern/hsm"
	"postern/hsm/hsmtest"
)

// Certificates of every suite are read back whole, and gpg and sq take them.
func TestCreate(t *testing.T) {
	token := soft(t)
	for _, s := range suites {
		t.Run(s.String(), func(t *testing.T) {
			id := newIdentity(t, token, s, "alice@company1.example")
			if got, want := len(id.Fingerprint), map[bool]int{false: 40, true: 64}[s.v6]; got != want {
				t.Errorf("fingerprint %s: got %d digits, want %d", id.Fingerprint, got, want)
			}
			if len(id.KeyIDs) != 2 {
				t.Errorf("key ids: got %d, want 2", len(id.KeyIDs))
			}
			if want := now.Add(364 * 24 * time.Hour); !id.Expires.Equal(want) {
				t.Errorf("expires: got %s, want %s", id.Expires, want)
			}
			p := New(Config{Token: token})
			if err := p.Usable(id.Cert, now); err != nil {
				t.Errorf("usable: %v", err)
			}
			if err := p.Usable(id.Cert, now.Add(400*24*time.Hour)); !errors.Is(err, protect.ErrNoCert) || !strings.Contains(err.Error(), "expired") {
				t.Errorf("usable after its end: got %v, want expired", err)
			}
			if err := p.Usable(id.Cert, now.Add(-48*time.Hour)); !errors.Is(err, protect.ErrNoCert) {
				t.Errorf("usable before its beginning: got %v, want %v", err, protect.ErrNoCert)
			}
			text, err := Describe(id.Cert)
			if err != nil || !strings.Contains(text, "for certify+sign") || !strings.Contains(text, "for encrypt") || strings.Count(text, "\n") != 3 {
				t.Errorf("describe: got %q, %v", text, err)
			}
			again, err := Read([]byte("text before\r\n" + armored(t, id.Cert) + "and behind"))
			if err != nil || len(again) != 1 || again[0].Fingerprint != id.Fingerprint {
				t.Errorf("read armour: got %d, %v", len(again), err)
			}
			if s.v6 {
				return // gpg and the sq of Debian 12 do not know version 6
			}
			g := newGnuPG(t)
			g.run(armored(t, id.Cert), "--import")
			if got := g.run("", "--with-colons", "--list-keys"); !strings.Contains(got, "fpr:::::::::"+id.Fingerprint) || !strings.Contains(got, "alice@company1.example") {
				t.Errorf("gpg lists\n%s", got)
			}
			if _, status, err := g.try("text", "--encrypt", "--armor", "-r", "alice@company1.example"); err != nil {
				t.Errorf("gpg encrypt: %v\n%s", err, status)
			}
			if _, status, err := peer(t, "text", "sq", append(peertest.NewSq().Encrypt(write(t, "cert.asc", armored(t, id.Cert)), ""), "--time", now.Format("20060102T150405Z"))...); err != nil {
				t.Errorf("sq encrypt: %v\n%s", err, status)
			}
		})
	}
}

// A domain's certificate is an ordinary one that names postmaster.
func TestCreateDomain(t *testing.T) {
	token := soft(t)
	sign, err := token.Generate(t.Context(), hsm.KeySpec{Algorithm: hsm.P256, Usage: hsm.Sign, Label: "openpgp/sign"})
	if err != nil {
		t.Fatal(err)
	}
	unwrap, err := token.Generate(t.Context(), hsm.KeySpec{Algorithm: hsm.P256, Usage: hsm.Unwrap, Label: "openpgp/unwrap"})
	if err != nil {
		t.Fatal(err)
	}
	spec := CertSpec{Domain: "company1.example", Primary: sign, Subkey: unwrap, Created: now}
	c, err := Create(t.Context(), token, spec)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Addresses) != 1 || c.Addresses[0] != (message.Address{Local: "postmaster", Domain: "company1.example"}) {
		t.Errorf("addresses: got %v", c.Addresses)
	}
	if !c.Expires.IsZero() {
		t.Errorf("expires: got %s, want never", c.Expires)
	}
	g := newGnuPG(t)
	g.run(armored(t, c), "--import")
	if _, status, err := g.try("text", "--encrypt", "-r", c.Fingerprint); err != nil {
		t.Errorf("gpg encrypt to the domain: %v\n%s", err, status)
	}
	for what, change := range map[string]func(*CertSpec){
		"keys swapped":      func(s *CertSpec) { s.Primary, s.Subkey = s.Subkey, s.Primary },
		"nobody":            func(s *CertSpec) { s.Domain = "" },
		"line end in name":  func(s *CertSpec) { s.Name = "a\r\nb" },
		"address in name":   func(s *CertSpec) { s.Name = "a <b@c.example>" },
		"no time":           func(s *CertSpec) { s.Created = time.Time{} },
		"negative lifetime": func(s *CertSpec) { s.Lifetime = -time.Hour },
	} {
		bad := spec
		change(&bad)
		if _, err := Create(t.Context(), token, bad); err == nil {
			t.Errorf("%s: got a certificate", what)
		}
	}
}

// An error of the token is told, for every kind of key: go-crypto drops it for most.
func TestCreateSignerFails(t *testing.T) {
	token := soft(t)
	for _, s := range []suiteUnderTest{{hsm.RSA2048, hsm.RSA2048, false}, {hsm.P256, hsm.P256, false}, {hsm.Ed25519, hsm.X25519, false}, {hsm.Ed25519, hsm.X25519, true}} {
		var keys []hsm.Key
		for _, k := range []hsm.KeySpec{{Algorithm: s.primary, Usage: hsm.Sign}, {Algorithm: s.subkey, Usage: hsm.Unwrap}} {
			k.Label = s.String() + "/" + k.Usage.String()
			made, err := token.Generate(t.Context(), k)
			if err != nil {
				t.Fatal(err)
			}
			keys = append(keys, made)
		}
		spec := CertSpec{Domain: "company1.example", Primary: keys[0], Subkey: keys[1], Created: now, V6: s.v6}
		if _, err := Create(t.Context(), failing{Token: token, err: hsm.ErrAway}, spec); !errors.Is(err, hsm.ErrAway) {
			t.Errorf("%s: got %v, want %v", s, err, hsm.ErrAway)
		}
		if _, err := Create(t.Context(), failing{Token: token}, spec); !errors.Is(err, hsm.ErrOpaque) {
			t.Errorf("%s: token that signs something else: got %v, want %v", s, err, hsm.ErrOpaque)
		}
	}
}

// Private keys are refused in every form, with a word of their own.
func TestReadSecret(t *testing.T) {
	g := newGnuPG(t)
	g.run("", "--quick-gen-key", "Bob <bob@partner.example>", "ed25519", "sign", "never")
	for _, args := range [][]string{{"--export-secret-keys"}, {"--export-secret-keys", "--armor"}} {
		if _, err := Read([]byte(g.run("", args...))); !errors.Is(err, ErrSecret) {
			t.Errorf("%v: got %v, want %v", args, err, ErrSecret)
		}
	}
}

func TestReadMalformed(t *testing.T) {
	id := newIdentity(t, soft(t), suiteUnderTest{hsm.P256, hsm.P256, false}, "alice@company1.example")
	many := []byte(nil)
	for range maxCertPackets {
		many = append(many, appendPacket(nil, tagUserID, []byte("x"))...)
	}
	for what, c := range map[string]struct {
		data []byte
		want error
	}{
		"nothing":          {nil, ErrCert},
		"text":             {[]byte("hello"), ErrCert},
		"half":             {id.Raw[:len(id.Raw)/2], ErrCert},
		"no primary":       {appendPacket(nil, tagUserID, []byte("x")), ErrCert},
		"too big":          {make([]byte, maxCertBytes+1), ErrCertLimit},
		"user ids":         {append(append([]byte(nil), id.Raw...), many...), ErrCertLimit},
		"message":          {appendPacket(nil, tagIntegrity, []byte{1, 2, 3}), ErrCert},
		"armour of a mail": {[]byte("-----BEGIN PGP MESSAGE-----\n\nAAAA\n-----END PGP MESSAGE-----\n"), ErrCert},
	} {
		if got, err := Read(c.data); !errors.Is(err, c.want) || got != nil {
			t.Errorf("%s: got %d certificates, %v, want %v", what, len(got), err, c.want)
		}
	}
	two, err := Read([]byte(armored(t, id.Cert) + "\n" + armored(t, id.Cert)))
	if err != nil || len(two) != 1 {
		t.Errorf("the same twice: got %d, %v, want 1", len(two), err)
	}
}

// A subkey that the primary key has not bound is not taken (R17).
func TestReadForeignSubkey(t *testing.T) {
	token := soft(t)
	alice := newIdentity(t, token, suiteUnderTest{hsm.P256, hsm.P256, false}, "alice@company1.example")
	mallory := newIdentity(t, token, suiteUnderTest{hsm.P384, hsm.P384, false}, "mallory@evil.example")
	forged := forge(t, alice.Cert, mallory.Cert)
	certs, err := Read(forged)
	if err != nil {
		t.Fatal(err)
	}
	if len(certs) != 1 || len(certs[0].KeyIDs) != 1 || certs[0].KeyIDs[0] != alice.KeyIDs[0] {
		t.Errorf("got %d keys of %d certificates, want the primary key of one", len(certs[0].KeyIDs), len(certs))
	}
	if err := New(Config{}).Usable(certs[0], now); !errors.Is(err, protect.ErrNoCert) {
		t.Errorf("usable: got %v, want %v", err, protect.ErrNoCert)
	}
	if text, err := Describe(certs[0]); err != nil || !strings.Contains(text, "never used") {
		t.Errorf("describe: got %q, %v", text, err)
	}
}

// forge puts the subkey of one certificate, with its binding, behind the primary key and user id of another.
func forge(t *testing.T, front, back keyring.Cert) []byte {
	t.Helper()
	cut := func(raw []byte) (head, tail []byte) {
		r := newPacketReader(strings.NewReader(string(raw)))
		behind := false
		for {
			tag, body, err := r.next()
			if err != nil {
				return head, tail
			}
			content, err := body.all(maxCertBytes)
			if err != nil {
				t.Fatal(err)
			}
			if behind = behind || tag == tagPublicSubkey; behind {
				tail = appendPacket(tail, tag, content)
			} else {
				head = appendPacket(head, tag, content)
			}
		}
	}
	head, _ := cut(front.Raw)
	_, tail := cut(back.Raw)
	return append(head, tail...)
}

// What is weak (R14), revoked or without an encryption key (R17) is not sealed
// to, and the reason is told.
func TestUsable(t *testing.T) {
	p := New(Config{})
	for _, c := range []struct {
		name, algorithm, usage, want string
		revoke                       bool
	}{
		{"rsa 1024", "rsa1024", "default", "weak algorithm", false},
		{"dsa", "dsa2048", "default", "weak algorithm", false},
		{"sign only", "ed25519", "sign", "no key to encrypt with", false},
		{"revoked", "rsa2048", "default", "revoked", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGnuPG(t)
			g.run("", "--quick-gen-key", "Bob <bob@partner.example>", c.algorithm, c.usage, "never")
			if c.revoke {
				list := g.run("", "--with-colons", "--list-keys")
				_, rest, _ := strings.Cut(list, "fpr:::::::::")
				fpr, _, _ := strings.Cut(rest, ":")
				rev, status, err := peer(t, "y\n0\n\ny\n", "gpg", "--homedir", g.home, "--no-tty", "--command-fd", "0", "--pinentry-mode", "loopback", "--passphrase", "", "--status-fd", "2", "--gen-revoke", fpr)
				if err != nil {
					t.Fatalf("revoke: %v\n%s", err, status)
				}
				g.run(rev, "--import")
			}
			certs, err := Read([]byte(g.run("", "--export")))
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Usable(certs[0], now.Add(time.Hour)); !errors.Is(err, protect.ErrNoCert) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
	other := newIdentity(t, hsmtest.Memory(t), suiteUnderTest{hsm.P256, hsm.P256, false}, "alice@company1.example").Cert
	other.Fingerprint = strings.Repeat("0", 40)
	if err := p.Usable(other, now); !errors.Is(err, protect.ErrNoCert) {
		t.Errorf("bytes of another certificate: got %v, want %v", err, protect.ErrNoCert)
	}
}
