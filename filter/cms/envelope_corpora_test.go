package cms

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io"
	"net/mail"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"postern/hsm/hsmtest"
)

// bare is the contents of a file that may be PEM.
func bare(t testing.TB, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if block, _ := pem.Decode(b); block != nil {
		return block.Bytes
	}
	return b
}

// corpusReaders are those whose keys are in a folder of the corpora.
func corpusReaders(t testing.TB, dir string) map[string]*reader {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.p8"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]*reader{}
	for _, file := range files {
		key, err := x509.ParsePKCS8PrivateKey(bare(t, file))
		if err != nil {
			continue // a kind of key that is not of ours
		}
		crt := strings.TrimSuffix(file, "p8") + "crt"
		if _, err := os.Stat(crt); err != nil {
			crt = filepath.Join(filepath.Dir(dir), filepath.Base(crt))
		}
		cert, err := x509.ParseCertificate(bare(t, crt))
		if err != nil {
			continue
		}
		name := strings.TrimSuffix(filepath.Base(file), ".p8")
		out[name] = &reader{name: name, cert: cert, key: key}
	}
	bring(t, out)
	return out
}

// rootCMS is the CMS that is all of a mail, or nil.
func rootCMS(t testing.TB, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.HasPrefix(b, []byte("From ")) {
		b = b[bytes.IndexByte(b, '\n')+1:]
	}
	m, err := mail.ReadMessage(bytes.NewReader(b))
	if err != nil || !strings.EqualFold(m.Header.Get("Content-Transfer-Encoding"), "base64") {
		return nil
	}
	out, err := io.ReadAll(base64.NewDecoder(base64.StdEncoding, m.Body))
	if err != nil {
		return nil
	}
	return out
}

// Enveloped mails of the corpora open, and what comes out is what others got.
func TestCorpusEnvelopes(t *testing.T) {
	dir := hsmtest.Corpora(t)
	manifest, err := os.ReadFile(filepath.Join(dir, "manifest.tsv"))
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]map[string]*reader{}
	opened, compared := 0, 0
	for line := range strings.Lines(string(manifest)) {
		f := strings.Split(strings.TrimRight(line, "\n"), "\t")
		if len(f) < 9 || !strings.Contains(f[1], "smime") {
			continue
		}
		message := rootCMS(t, filepath.Join(dir, f[0]))
		if kind := TypeOf(message[:min(len(message), 64)]); kind != TypeEnveloped && kind != TypeAuthEnveloped {
			continue
		}
		corpus := strings.Split(f[0], "/")[1]
		if known[corpus] == nil {
			known[corpus] = corpusReaders(t, filepath.Join(dir, "keys", corpus, "p8"))
		}
		e, err := ReadEnvelope(bytes.NewReader(message))
		if err != nil {
			t.Errorf("%s: %v", f[0], err)
			continue
		}
		for _, r := range known[corpus] {
			key, err := r.unwrap(e)
			if err != nil {
				continue
			}
			var out bytes.Buffer
			if err := e.Decrypt(key, &out); err != nil {
				t.Errorf("%s for %s: got %v, want nil; verdict: %s", f[0], r.name, err, f[4])
				break
			}
			opened++
			sum := sha256.Sum256(out.Bytes())
			if got := hex.EncodeToString(sum[:]); f[7] != "" && got != f[7] {
				t.Errorf("%s for %s: got content with SHA-256 %s, want %s", f[0], r.name, got, f[7])
			} else if f[7] != "" {
				compared++
			}
			break
		}
		if !e.spent {
			t.Errorf("%s: got none of %d recipients whose key is there", f[0], len(e.Recipients))
		}
	}
	t.Logf("%d opened, %d of them compared", opened, compared)
	if opened < 20 {
		t.Errorf("got %d opened, want 20 or more", opened)
	}
}

// Messages for a password alone, and those of other kinds, have no recipient
// for us or are none.
func TestCorpusOthers(t *testing.T) {
	dir := filepath.Join(hsmtest.Corpora(t), "msgs")
	for name, want := range map[string]Cipher{"pwri-sample.cbc.p7m": AES256CBC, "pwri-sample.cbc-2.p7m": AES192CBC, "pwri-sample.gcm.p7m": AES256GCM} {
		e, err := ReadEnvelope(bytes.NewReader(bare(t, filepath.Join(dir, "gnupg-tests/cms", name))))
		if err != nil || len(e.Recipients) != 0 || e.Cipher != want {
			t.Errorf("%s: got %+v, %v, want no recipient and %s", name, e, err, want)
		}
	}
	for _, pattern := range []string{"rfc4134/*.bin", "openssl-cms/*"} {
		files, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: got %d files, %v", pattern, len(files), err)
		}
		for _, file := range files {
			if _, err := ReadEnvelope(bytes.NewReader(bare(t, file))); !errors.Is(err, ErrForm) && !errors.Is(err, ErrAlgorithm) {
				t.Errorf("%s: got %v, want %v or %v", file, err, ErrForm, ErrAlgorithm)
			}
		}
	}
}
