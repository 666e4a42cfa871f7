package e2e

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"postern/appliance/e2e/placetest"
	"postern/appliance/trial"
	"postern/filter/dkim"
	"postern/filter/resolver/resolvertest"
)

// judges are programs that know DKIM and ARC, in a place where the one resolver
// of the system is the test's.
type judges struct {
	t     *testing.T
	place *placetest.Place
	names *resolvertest.World
}

func newJudges(t *testing.T, zones ...resolvertest.Zone) *judges {
	t.Helper()
	j := &judges{t: t, place: placetest.New(t, "judges")}
	j.names = resolvertest.Config{
		Port: 53,
		Command: func(name string, args ...string) *exec.Cmd {
			return j.place.Command(context.Background(), name, args...)
		},
		Dial: func(_ context.Context, network, address string) (net.Conn, error) {
			return j.place.Dial(network, address)
		},
	}.Start(t, zones...)
	conf := filepath.Join(folder(t), "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver 127.0.0.1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	j.place.Mount(t, conf, "/etc/resolv.conf")
	return j
}

func (j *judges) run(mail, name string, args ...string) (string, error) {
	j.t.Helper()
	ctx, cancel := context.WithTimeout(j.t.Context(), patience)
	defer cancel()
	cmd := j.place.Command(ctx, name, args...)
	cmd.Stdin = strings.NewReader(mail)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("%s %q: %w: %s%s", name, args, err, &out, &complaint)
	}
	return out.String(), err
}

// dkimpy is what testdata/judge.py says.
func (j *judges) dkimpy(mail string, args ...string) string {
	j.t.Helper()
	script, err := filepath.Abs("testdata/judge.py") // a place has a folder of its own
	if err != nil {
		j.t.Fatal(err)
	}
	out, err := j.run(mail, "/usr/bin/python3", append([]string{script}, args...)...)
	if err != nil {
		j.t.Fatal(err)
	}
	return out
}

// opendkim says whether all signatures of a mail hold.
func (j *judges) opendkim(mail string) error {
	j.t.Helper()
	_, err := j.run(strings.ReplaceAll(mail, "\r\n", "\n"), "/usr/sbin/opendkim-testmsg")
	return err
}

// opendkimSigns is a mail with the signature field that opendkim itself puts on
// it, with SHA-256; its judge by hand, opendkim-testmsg, can only SHA-1.
func (j *judges) opendkimSigns(mail, key, domain, selector string) string {
	j.t.Helper()
	dir := folder(j.t)
	conf, file := filepath.Join(dir, "opendkim.conf"), filepath.Join(dir, "mail")
	for path, text := range map[string]string{
		file: strings.ReplaceAll(mail, "\r\n", "\n"),
		conf: fmt.Sprintf("Mode s\nDomain %s\nSelector %s\nKeyFile %s\nSignatureAlgorithm rsa-sha256\nCanonicalization relaxed/simple\nRequireSafeKeys false\nInternalHosts 0.0.0.0/0\n", domain, selector, key),
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			j.t.Fatal(err)
		}
	}
	out, err := j.run("", "/usr/sbin/opendkim", "-x", conf, "-t", file, "-vv")
	if err != nil {
		j.t.Fatal(err)
	}
	_, value, _ := strings.Cut(out, "hname='DKIM-Signature' hvalue='")
	value, _, found := strings.Cut(value, "'")
	if !found {
		j.t.Fatalf("opendkim made no signature:\n%s", out)
	}
	return "DKIM-Signature: " + strings.ReplaceAll(strings.ReplaceAll(value, "\r\n", "\n"), "\n", "\r\n") + "\r\n" + mail
}

// zoneLines are the records of what dns print wrote.
func zoneLines(printed []byte) (lines []string) {
	for _, l := range strings.Split(string(printed), "\n") {
		if l != "" && l[0] != ';' {
			lines = append(lines, l)
		}
	}
	return lines
}

// signer is a domain outside with keys of its own, in files that dkimpy reads.
type signer struct{ rsa, ed string }

func newSigner(t *testing.T, domain string) (signer, resolvertest.Zone) {
	t.Helper()
	dir := folder(t)
	s := signer{filepath.Join(dir, "rsa.pem"), filepath.Join(dir, "ed25519")}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	z := resolvertest.Zone{Name: domain, Records: []string{"@ TXT \"v=spf1 -all\"", "_dmarc TXT \"v=DMARC1; p=reject\""}}
	for name, k := range map[string]crypto.PublicKey{"r": key.Public(), "e": public} {
		record, err := dkim.Record(k)
		if err != nil {
			t.Fatal(err)
		}
		z.Records = append(z.Records, fmt.Sprintf("%s._domainkey TXT %q %q", name, record[:40], record[40:]))
	}
	for path, text := range map[string][]byte{
		s.rsa: pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}),
		s.ed:  []byte(base64.StdEncoding.EncodeToString(private.Seed())),
	} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s, z
}

// What the gateway signs after sealing, with its token's keys and under the
// records that it prints, holds for opendkim and dkimpy, and no byte of it can be
// changed; dkimpy takes the ARC chain of a mail that was opened; and what they
// sign holds for the gateway, without tricks.
func TestDKIMAndARC(t *testing.T) {
	const bob = "bob@partner.example"
	peer, zone := newSigner(t, "partner.example")
	ourNames := resolvertest.Start(t, zone)
	j := newJudges(t, zone)
	b := open(t, trial.Config{DomainFields: `dkim = "sign"`, FilterdTables: `[resolver]
address = "` + ourNames.Address + `"
[authentication]
dmarc = "mark"
budget = "60s"
arc = "opened"
`})
	p := gpg("rsa3072", "rsa3072")(t, bob)
	trust(t, b, p.cert())
	header := "From: Bob <" + bob + ">\nTo: " + alice + "\nSubject: offer\nMessage-ID: <1@partner.example>\n"
	sealed := trial.Encrypted(header, p.seal(ours(t, b, "company1.example"), []byte("Content-Type: text/plain\r\n\r\n"+secret+"\r\n")))
	plain := "From: Alice <" + alice + ">\r\nTo: " + bob + "\r\nSubject: answer\r\nDate: Wed, 25 Nov 2026 12:00:00 +0000\r\nMessage-ID: <2@company1.example>\r\n\r\n" + secret + "\r\n"

	// Without a key nothing leaves.
	refused(t, b, b.Inside, alice, bob, []byte(plain), "451 4.3.5")
	if out, err := b.Postern(t.Context(), nil, "dkim", "rotate", "--domain", "company1.example"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	printed, err := b.Postern(t.Context(), nil, "dns", "print", "--domain", "company1.example")
	if err != nil {
		t.Fatal(err)
	}
	records := zoneLines(printed)
	if n := strings.Count(string(printed), "._domainkey.company1.example. 3600 IN TXT"); n != 2 {
		t.Fatalf("got %d selectors in\n%s", n, printed)
	}
	checkzone(t, "company1.example", records)
	zones := []resolvertest.Zone{zone, {Name: "company1.example", Records: records}}
	ourNames.Set(t, zones...)
	j.names.Set(t, zones...)
	if out, err := b.Postern(t.Context(), nil, "dns", "check", "--domain", "company1.example"); err != nil || !strings.Contains(string(out), "are as they should be") {
		t.Errorf("dns check: got %v\n%s", err, out)
	}
	// A key that is not published, one that is not ours, and a server that is not.
	changed := slices.DeleteFunc(slices.Clone(records), func(l string) bool {
		return strings.Contains(l, "-rsa._domainkey") || strings.Contains(l, "OPENPGPKEY")
	})
	ourNames.Set(t, zone, resolvertest.Zone{Name: "company1.example", Unsigned: true, Records: append(changed, "@ MX 5 past.example.", "@ TXT \"v=spf1 +all\"")})
	out, err := b.Postern(t.Context(), nil, "dns", "check", "--domain", "company1.example")
	for _, want := range []string{`(?m)^TXT \d+-rsa._domainkey.company1.example: missing: .*\(hint: add: `, `(?m)^MX company1.example: another server: past.example. \(hint: `,
		`(?m)^TXT company1.example: 2 records of v=spf1 \(hint: `, `(?m)^OPENPGPKEY \*._openpgpkey.company1.example: missing: `} {
		if err == nil || !regexp.MustCompile(want).Match(out) {
			t.Errorf("dns check: got %v, want %s in\n%s", err, want, out)
		}
	}
	ourNames.Set(t, zones...)

	got := one(t, b, b.Inside, alice, bob, []byte(plain))
	if strings.Contains(got, secret) || !strings.Contains(got, "BEGIN PGP MESSAGE") {
		t.Fatalf("got %s\nwant it sealed", got)
	}
	if said := j.dkimpy(got, "dkim"); said != "pass\npass\n" {
		t.Errorf("dkimpy: got %q, want two that pass\n%s", said, got)
	}
	if err := j.opendkim(got); err != nil {
		t.Errorf("opendkim: %v\n%s", err, got)
	}
	for what, bad := range map[string]string{
		"body":        strings.Replace(got, "END PGP MESSAGE", "END PGP MESSAGES", 1),
		"subject":     strings.Replace(got, "\r\nSubject: ", "\r\nSubject: x", 1),
		"another one": strings.Replace(got, "\r\nSubject: ", "\r\nFrom: eve@evil.example\r\nSubject: ", 1),
	} {
		if said := j.dkimpy(bad, "dkim"); strings.Contains(said, "pass") {
			t.Errorf("dkimpy, %s changed: got %q", what, said)
		}
		if err := j.opendkim(bad); err == nil {
			t.Errorf("opendkim, %s changed: got no complaint", what)
		}
	}
	if out, err := b.Postern(t.Context(), strings.NewReader(plain), "explain", "--direction", "outbound", "--from", alice, "--to", bob); err != nil || !strings.Contains(string(out), "signed with DKIM by the key of ") {
		t.Errorf("explain: got %v\n%s", err, out)
	}

	// Opened, and sealed anew.
	lf := strings.ReplaceAll(string(sealed), "\r\n", "\n")
	crlf := strings.ReplaceAll(lf, "\n", "\r\n")
	signed := j.dkimpy(crlf, "sign", "rsa-sha256", peer.rsa, "partner.example", "r") + crlf
	chained := j.dkimpy("Authentication-Results: list.partner.example; none\r\n"+signed, "seal", peer.rsa, "partner.example", "r", "list.partner.example") + "Authentication-Results: list.partner.example; none\r\n" + signed
	for name, c := range map[string]struct{ mail, results string }{
		"signed": {signed, "dkim=pass header.d=partner.example"}, "with a chain": {chained, "arc=pass header.d=partner.example"},
	} {
		got := one(t, b, b.Outside, bob, alice, []byte(c.mail))
		if !strings.Contains(got, secret) || parameter(field(got, "Postern-Status"), "verified") != "yes" {
			t.Errorf("%s: got %s\nwant it opened", name, got)
		}
		if results := field(got, "Authentication-Results"); !strings.Contains(results, c.results) || !strings.Contains(results, "dmarc=pass header.from=partner.example") {
			t.Errorf("%s: got %q, want %q", name, results, c.results)
		}
		if said := j.dkimpy(got, "arc"); !strings.HasPrefix(said, "pass ") {
			t.Errorf("%s: dkimpy says of the chain %q\n%s", name, said, got)
		}
		if said := j.dkimpy(strings.Replace(got, secret, "The offer stands: 4712.", 1), "arc"); !strings.HasPrefix(said, "fail ") {
			t.Errorf("%s, changed: dkimpy says of the chain %q", name, said)
		}
	}

	// What they sign, and what may not count.
	mail := "From: Bob <" + bob + ">\r\nTo: " + alice + "\r\nSubject: news\r\nDate: Wed, 25 Nov 2026 12:00:00 +0000\r\nMessage-ID: <3@partner.example>\r\n\r\nGood  day \r\n\r\n"
	rsaSigned := j.dkimpy(mail, "sign", "rsa-sha256", peer.rsa, "partner.example", "r") + mail
	edSigned := j.dkimpy(mail, "sign", "ed25519-sha256", peer.ed, "partner.example", "e") + mail
	short := j.dkimpy(mail, "sign", "rsa-sha256", peer.rsa, "partner.example", "r", "l") + mail
	byOpenDKIM := j.opendkimSigns(mail, peer.rsa, "partner.example", "r")
	opendkim, err := j.run(strings.ReplaceAll(mail, "\r\n", "\n"), "/usr/sbin/opendkim-testmsg", "-d", "partner.example", "-s", "r", "-k", peer.rsa)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, mail, want string }{
		{"dkimpy, RSA", rsaSigned, "dkim=pass header.d=partner.example header.s=r header.a=rsa-sha256"},
		{"dkimpy, Ed25519", edSigned, "dkim=pass header.d=partner.example header.s=e header.a=ed25519-sha256"},
		{"opendkim", byOpenDKIM, "dkim=pass header.d=partner.example header.s=r header.a=rsa-sha256"},
		{"opendkim, body changed", strings.Replace(byOpenDKIM, "Good", "Bad", 1), `dkim=fail reason="body-changed"`},
		{"opendkim, header changed", strings.Replace(byOpenDKIM, "Subject: news", "Subject: spam", 1), `dkim=fail reason="header-changed"`},
		// opendkim-testmsg signs with SHA-1, which nobody may believe (RFC 8301 §3.1).
		{"opendkim's SHA-1", strings.ReplaceAll(strings.ReplaceAll(opendkim, "\r\n", "\n"), "\n", "\r\n"), `dkim=permerror reason="weak" header.d=partner.example`},
		{"body changed", strings.Replace(rsaSigned, "Good", "Bad", 1), `dkim=fail reason="body-changed"`},
		{"header changed", strings.Replace(edSigned, "Subject: news", "Subject: spam", 1), `dkim=fail reason="header-changed"`},
		{"l= over the whole", short, "dkim=pass"},
		{"l= and more behind", short + "Send money.\r\n", `dkim=policy reason="partial-body"`},
		{"a second From", strings.Replace(rsaSigned, "\r\nTo: ", "\r\nFrom: eve@evil.example\r\nTo: ", 1), `dkim=policy reason="field-twice"`},
		{"a second From on top", "From: eve@evil.example\r\n" + rsaSigned, `dkim=policy reason="field-twice"`},
		{"expired", strings.Replace(rsaSigned, "; t=", "; x=1000000001; t=", 1), `dkim=permerror reason="expired"`},
	} {
		got := one(t, b, b.Outside, bob, alice, []byte(c.mail))
		if results := field(got, "Authentication-Results"); !strings.Contains(results, c.want) || strings.Contains(results, "dmarc=pass") != strings.Contains(c.want, "dkim=pass") {
			t.Errorf("%s: got %q, want %q", c.name, results, c.want)
		}
	}
	// DNS away is a mark, and no refusal.
	ourNames.Stop()
	got = one(t, b, b.Outside, bob, alice, []byte(rsaSigned))
	if results := field(got, "Authentication-Results"); !strings.Contains(results, "dkim=temperror") || !strings.Contains(results, "dmarc=temperror") {
		t.Errorf("DNS away: got %q", results)
	}
	if out, err := b.Postern(t.Context(), nil, "dns", "check", "--domain", "company1.example"); err == nil || len(out) > 0 {
		t.Errorf("dns check, DNS away: got %v\n%s", err, out)
	}
}

// checkzone asks nsd whether records make a zone.
func checkzone(t *testing.T, domain string, records []string) {
	t.Helper()
	path := filepath.Join(folder(t), "zone")
	text := "@ 3600 IN SOA ns." + domain + ". hostmaster." + domain + ". 1 3600 600 86400 1\n@ 3600 IN NS ns." + domain + ".\nns 3600 IN A 192.0.2.1\n" + strings.Join(records, "\n") + "\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "/usr/sbin/nsd-checkzone", domain, path).CombinedOutput(); err != nil {
		t.Errorf("nsd-checkzone: %v\n%s\n%s", err, out, text)
	}
}
