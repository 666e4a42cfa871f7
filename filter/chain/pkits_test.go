package chain_test

import (
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postern/filter/chain"
	"postern/hsm/hsmtest"
)

// pkitsExceptions are cases whose verdict is not asked for, with the reason.
var pkitsExceptions = map[string]string{}

// TestPKITS holds R15: it runs the path cases of the corpus, which are of the
// NIST suite, with revocation insisted on.
func TestPKITS(t *testing.T) {
	dir := hsmtest.Corpora(t)
	manifest := read(t, filepath.Join(dir, "manifest.tsv"))
	keys := filepath.Join(dir, "keys/nist-pkits")
	certificate := func(t *testing.T, path string) *x509.Certificate {
		t.Helper()
		c, err := x509.ParseCertificate(read(t, path))
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		return c
	}
	anchor := certificate(t, filepath.Join(keys, "certs/TrustAnchorRootCertificate.crt"))
	judge := newJudge(t, chain.Config{
		Anchors: []chain.Anchor{{Cert: anchor, Own: true}},
		BareOwn: true, // the suite knows no purposes
		CRLs:    [][]byte{read(t, filepath.Join(keys, "crls/TrustAnchorRootCRL.crl"))},
	})
	cases, good := 0, 0
	for line := range strings.SplitSeq(string(manifest), "\n") {
		cells := strings.Split(line, "\t")
		if len(cells) < 5 || cells[1] != "x509-path" {
			continue
		}
		cases++
		t.Run(strings.TrimSuffix(filepath.Base(cells[0]), ".crt"), func(t *testing.T) {
			if why, ok := pkitsExceptions[filepath.Base(cells[0])]; ok {
				t.Skip(why)
			}
			r := chain.Request{Cert: certificate(t, filepath.Join(dir, cells[0])), At: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), Use: chain.Signing}
			for name := range strings.SplitSeq(strings.TrimPrefix(cells[2], "intermediates: "), ",") {
				if name != "" {
					r.Others = append(r.Others, certificate(t, filepath.Join(keys, "certs", name)))
				}
			}
			for name := range strings.SplitSeq(strings.TrimPrefix(cells[3], "crls: "), ",") {
				if name != "" {
					r.CRLs = append(r.CRLs, read(t, filepath.Join(keys, "crls", name)))
				}
			}
			path, err := judge.Judge(t.Context(), r)
			switch verdict := cells[4]; {
			case strings.HasPrefix(verdict, "valid"):
				if err != nil || path.Status != chain.Good {
					t.Errorf("got status %d, %v, want a good path", path.Status, err)
				}
			case strings.HasPrefix(verdict, "invalid (RevokedError)"):
				if !errors.Is(err, chain.ErrRevoked) {
					t.Errorf("got %v, want %v", err, chain.ErrRevoked)
				}
			default:
				if err == nil || errors.Is(err, chain.ErrRevoked) {
					t.Errorf("got %v, want that the path is refused", err)
				}
			}
			if !t.Failed() {
				t.Logf("%v", err)
				good++
			}
		})
	}
	if want := 79; cases != want {
		t.Errorf("got %d cases, want %d", cases, want)
	}
	t.Logf("%d of %d cases as expected, %d exceptions", good, cases, len(pkitsExceptions))
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func newJudge(t testing.TB, c chain.Config) *chain.Judge {
	t.Helper()
	j, err := chain.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return j
}
