package e2e

import (
	"encoding/json"
	"encoding/xml"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"postern/appliance/trial"
)

// explained are findings above informational that say nothing of the listener.
var explained = map[string]string{
	// testssl has its own idea of what an old openssl should do.
	"engine_problem": "about the auditor's openssl",
	// crypto/tls writes seven days into every ticket. The keys that open them
	// are gone within a day: transport.TestTicketsRotate.
	"TLS_session_ticket": "the lifetime that is named is not the one that holds",
	// testssl 3.2 grades; its guide gives T to everything over STARTTLS.
	"overall_grade": "STARTTLS caps it",
}

// finding is one of testssl.
type finding struct {
	ID       string `json:"id"`
	Severity string `json:"severity"`
	Finding  string `json:"finding"`
}

// testssl runs some checks of testssl against the outside listener, with the
// authority of the site known to it and without a look outside.
func testssl(t *testing.T, b *trial.Box, ca string, checks ...string) (list []finding) {
	t.Helper()
	out := folder(t) + "/findings.json"
	_, port, _ := strings.Cut(b.Outside, ":")
	args := append([]string{"--quiet", "--color", "0", "--warnings", "off", "--nodns", "none", "--openssl", "/usr/bin/openssl", "--add-ca", ca,
		"--jsonfile", out, "--ip", "127.0.0.1", "-t", "smtp"}, append(checks, b.Server+":"+port)...)
	cmd := exec.CommandContext(t.Context(), "testssl", args...)
	said, err := cmd.CombinedOutput()
	text, rerr := os.ReadFile(out)
	if rerr != nil || json.Unmarshal(text, &list) != nil {
		t.Fatalf("testssl %s: %v: %s", strings.Join(args, " "), err, tail(said, 4000))
	}
	return list
}

// Two auditors find nothing above informational on the outside listener that
// is not explained, and see keys of both kinds. The certificates are those of
// an authority of the site, brought in while filterd runs.
func TestAuditors(t *testing.T) {
	b := open(t, trial.Config{TLS: "offer"})
	site := newSiteCA(t)
	ca := site.file(b.Dir)
	site.enrol(b)

	t.Run("sslscan", func(t *testing.T) {
		t.Parallel()
		var report struct {
			Test struct {
				Protocols []struct {
					Type    string `xml:"type,attr"`
					Version string `xml:"version,attr"`
					Enabled int    `xml:"enabled,attr"`
				} `xml:"protocol"`
				Renegotiation struct {
					Supported int `xml:"supported,attr"`
					Secure    int `xml:"secure,attr"`
				} `xml:"renegotiation"`
				Heartbleed []struct {
					Vulnerable int `xml:"vulnerable,attr"`
				} `xml:"heartbleed"`
				Ciphers []struct {
					Version string `xml:"sslversion,attr"`
					Bits    int    `xml:"bits,attr"`
					Cipher  string `xml:"cipher,attr"`
				} `xml:"cipher"`
			} `xml:"ssltest"`
		}
		out := run(t, nil, "sslscan", "--starttls-smtp", "--no-colour", "--sni-name="+b.Server, "--xml=-", b.Outside)
		if err := xml.Unmarshal(out, &report); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		var enabled []string
		for _, p := range report.Test.Protocols {
			if p.Enabled == 1 {
				enabled = append(enabled, p.Type+" "+p.Version)
			}
		}
		if want := []string{"tls 1.2", "tls 1.3"}; !slices.Equal(enabled, want) {
			t.Errorf("got protocols %q, want %q", enabled, want)
		}
		if r := report.Test.Renegotiation; r.Supported == 1 && r.Secure == 0 {
			t.Error("renegotiation is insecure")
		}
		for _, h := range report.Test.Heartbleed {
			if h.Vulnerable != 0 {
				t.Error("heartbleed")
			}
		}
		kinds := map[string]bool{}
		for _, c := range report.Test.Ciphers {
			aead := strings.Contains(c.Cipher, "GCM") || strings.Contains(c.Cipher, "CHACHA20")
			forward := c.Version == "TLSv1.3" || strings.HasPrefix(c.Cipher, "ECDHE-")
			if !aead || !forward || c.Bits < 128 {
				t.Errorf("%s %s with %d bits: want forward secrecy and authenticated encryption", c.Version, c.Cipher, c.Bits)
			}
			for _, kind := range []string{"RSA", "ECDSA"} {
				kinds[kind] = kinds[kind] || strings.HasPrefix(c.Cipher, "ECDHE-"+kind+"-")
			}
		}
		if !kinds["RSA"] || !kinds["ECDSA"] {
			t.Errorf("got keys of %v, want both kinds: %s", kinds, out)
		}
	})

	for name, checks := range map[string][]string{
		"testssl profile":         {"-p", "-f", "-P", "-S"},
		"testssl vulnerabilities": {"-U"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			found := map[string][]string{}
			for _, f := range testssl(t, b, ca, checks...) {
				id, _, _ := strings.Cut(f.ID, " ") // which certificate, as each version names it
				found[id] = append(found[id], f.Finding)
				switch {
				case f.Severity == "OK" || f.Severity == "INFO":
				case explained[id] != "":
					t.Logf("%s %s: %s (%s)", f.Severity, f.ID, f.Finding, explained[id])
				default:
					t.Errorf("%s %s: %s", f.Severity, f.ID, f.Finding)
				}
			}
			if name == "testssl vulnerabilities" {
				if len(found["heartbleed"]) == 0 || len(found["ROBOT"]) == 0 {
					t.Errorf("got %v, want the attacks to be tried", found)
				}
				return
			}
			for id, want := range map[string][]string{
				"TLS1_3": {"offered"}, "TLS1_2": {"offered"}, "TLS1_1": {"not offered"}, "TLS1": {"not offered"},
				"cert_keySize": {"RSA 3072", "EC 256"}, "cert_chain_of_trust": {"passed"}, "cert_trust": {"Ok via SAN"},
			} {
				got := strings.Join(found[id], ", ")
				for _, w := range want {
					if !strings.Contains(got, w) {
						t.Errorf("%s: got %q, want %q in it", id, got, w)
					}
				}
			}
		})
	}
}
