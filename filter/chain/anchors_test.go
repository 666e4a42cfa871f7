package chain_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"postern/filter/chain"
)

func TestBundle(t *testing.T) {
	all, err := chain.Bundle()
	if err != nil {
		t.Fatal(err)
	}
	if n := len(all); n < 60 || n > 200 {
		t.Errorf("got %d roots, want as many as NSS has for mail: about a hundred", n)
	}
	seen, dated := map[string]bool{}, 0
	for _, a := range all {
		subject := a.Cert.Subject.String()
		if seen[string(a.Cert.Raw)] {
			t.Errorf("%s: twice in the bundle", subject)
		}
		seen[string(a.Cert.Raw)] = true
		if a.Own || !a.Cert.IsCA || !a.Cert.BasicConstraintsValid {
			t.Errorf("%s: got own %t, CA %t, want an authority that the site did not add", subject, a.Own, a.Cert.IsCA)
		}
		for _, web := range []string{"TLS", "ISRG", "HARICA TLS", "Certainly", "vTrus", "SSL.com EV", "Server"} {
			if strings.Contains(a.Cert.Subject.CommonName, web) {
				t.Errorf("%s: is for web servers", subject)
			}
		}
		if !a.DistrustAfter.IsZero() {
			dated++
		}
	}
	if dated == 0 {
		t.Error("got no root with a date of distrust, want what NSS has")
	}
	for _, mail := range []string{"GlobalSign Secure Mail Root R45", "HARICA Client RSA Root CA 2021", "DigiCert SMIME ECC P384 Root G5"} {
		found := false
		for _, a := range all {
			found = found || a.Cert.Subject.CommonName == mail
		}
		if !found {
			t.Errorf("got no %s, want the roots that are for mail only", mail)
		}
	}
}

// TestBundleIsTrusted asks the NSS of the machine what it thinks of the bundle.
// It may be older; what it doesn't know is told, and what it refuses is wrong.
func TestBundleIsTrusted(t *testing.T) {
	files, err := exec.Command("dpkg", "-L", "libnss3").Output()
	module := regexp.MustCompile(`(?m)^/.*/libnssckbi\.so$`).FindString(string(files))
	if err != nil || module == "" {
		t.Fatalf("no module of libnss3: %v (Debian package libnss3)", err)
	}
	headers, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/miekg/pkcs11").Output()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "roots")
	if out, err := exec.Command("cc", "-O1", "-Wall", "-Wextra", "-Werror", "-I"+strings.TrimSpace(string(headers)), "-o", program, "anchors/roots.c", "-ldl").CombinedOutput(); err != nil {
		t.Fatalf("build roots.c: %v\n%s", err, out)
	}
	installed, err := exec.Command(program, module, "all").Output()
	if err != nil {
		t.Fatal(err)
	}
	roots := map[string]bool{} // PEM: for mail
	for _, part := range bytes.SplitAfter(installed, []byte("-----END CERTIFICATE-----\n")) {
		if comment, body, ok := strings.Cut(string(part), "-----BEGIN"); ok {
			roots[body] = !strings.Contains(comment, "\n# not for mail\n")
		}
	}
	bundle, err := os.ReadFile("anchors.pem")
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := builtins(bundle), builtins(installed)
	t.Logf("the bundle is of builtins %v, the machine has %v with %d roots", ours, theirs, len(roots))
	known := map[string]bool{}
	for _, part := range bytes.SplitAfter(bundle, []byte("-----END CERTIFICATE-----\n")) {
		comment, body, ok := strings.Cut(string(part), "-----BEGIN")
		if !ok {
			continue
		}
		known[body] = true
		label := strings.TrimSpace(comment[strings.LastIndex(strings.SplitN(comment, "\n# distrust-after", 2)[0], "\n# ")+3:])
		switch mail, there := roots[body]; {
		case there && !mail && theirs >= ours:
			t.Errorf("%s: the NSS of the machine trusts it for mail no more: run make anchors", label)
		case !there && theirs >= ours:
			t.Errorf("%s: the NSS of the machine has it no more: run make anchors", label)
		case !mail:
			t.Logf("%s: the NSS of the machine, which is older, does not trust it for mail yet", label)
		}
	}
	for body, mail := range roots {
		if mail && !known[body] {
			t.Logf("the NSS of the machine trusts a root for mail that the bundle hasn't: %.60s", strings.ReplaceAll(body[len(" CERTIFICATE-----\n"):], "\n", ""))
		}
	}
}

// builtins is the version of NSS's roots, as a number that grows.
func builtins(pem []byte) (n int) {
	var major, minor int
	if m := regexp.MustCompile(`(?m)^# builtins: (\d+\.\d+)$`).FindSubmatch(pem); m != nil {
		fmt.Sscanf(string(m[1]), "%d.%d", &major, &minor)
	}
	return major*1000 + minor
}

func TestReadAnchors(t *testing.T) {
	ca := newCA(t, "root", nil)
	pem := string(ca.pem())
	for name, test := range map[string]struct {
		in   string
		want int
		err  error
		date time.Time
	}{
		"none":            {"# nothing\n", 0, nil, time.Time{}},
		"one":             {pem, 1, nil, time.Time{}},
		"two":             {pem + "\n# more\n" + pem, 2, nil, time.Time{}},
		"date":            {"# x\n# distrust-after: 2024-06-30T00:00:00Z\n" + pem, 1, nil, time.Date(2024, 6, 30, 0, 0, 0, 0, time.UTC)},
		"date wrong":      {"# distrust-after: soon\n" + pem, 0, chain.ErrForm, time.Time{}},
		"cut":             {pem[:len(pem)-40], 0, chain.ErrForm, time.Time{}},
		"not certificate": {strings.ReplaceAll(pem, "CERTIFICATE", "PUBLIC KEY"), 0, chain.ErrForm, time.Time{}},
	} {
		got, err := chain.ReadAnchors([]byte(test.in))
		if len(got) != test.want || !errors.Is(err, test.err) {
			t.Errorf("%s: got %d anchors, %v, want %d, %v", name, len(got), err, test.want, test.err)
		}
		if len(got) > 0 && !got[0].DistrustAfter.Equal(test.date) {
			t.Errorf("%s: got distrust after %v, want %v", name, got[0].DistrustAfter, test.date)
		}
	}
}
