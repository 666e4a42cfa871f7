package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// imported is what a verdict asks of the import of a certificate.
type imported struct {
	fingerprint string
	uids        []string
	subkeys     int // that are not revoked
}

var importVerdict = regexp.MustCompile(`^import: fingerprint=([0-9a-f]+); uids=(\[.*\]); subkeys=([0-9]+)$`)

// wants reads such a verdict; nil where there is none.
func wants(t testing.TB, s *sample) *imported {
	t.Helper()
	m := importVerdict.FindStringSubmatch(s.verdict)
	if m == nil {
		return nil
	}
	i := &imported{fingerprint: strings.ToUpper(m[1])}
	if err := json.Unmarshal([]byte(m[2]), &i.uids); err != nil {
		t.Fatalf("%s: %v", s.path, err)
	}
	i.subkeys, _ = strconv.Atoi(m[3])
	return i
}

// judgeCert imports a certificate of the corpus for a domain, looks at what
// is kept, tries whether a mail to that domain leaves encrypted, and takes
// the certificate out again: forged ones have the fingerprints of sound ones.
func (w *world) judgeCert(t testing.TB, s *sample, file string) (words []string, what string) {
	t.Helper()
	const domain = "holder.example"
	var kept struct {
		Certs []struct{ Fingerprint string }
	}
	out, err := w.Postern(t.Context(), nil, "cert", "import", "--json", "--domain", domain, file)
	if err == nil {
		err = json.Unmarshal(out, &kept)
	}
	if err != nil { // said no
		if !strings.Contains(err.Error(), "exit status 1:") {
			return []string{"crash"}, err.Error()
		}
		what, _, _ = strings.Cut(err.Error(), "\n")
		if wants(t, s) != nil || strings.HasPrefix(s.verdict, "usable") {
			return []string{"import"}, what
		}
		return nil, what
	}
	encrypted := w.encrypts(t, "someone@"+domain)
	what = fmt.Sprintf("%d certificates, a mail encrypted: %v", len(kept.Certs), encrypted)
	if want := wants(t, s); want != nil {
		if len(kept.Certs) != 1 || kept.Certs[0].Fingerprint != want.fingerprint {
			words = append(words, "fingerprint")
		} else if uids, subkeys := w.described(t, want.fingerprint); !slices.Equal(uids, want.uids) || subkeys != want.subkeys {
			words, what = append(words, "content"), fmt.Sprintf("user ids %q, %d subkeys", uids, subkeys)
		}
	} else if encrypted != strings.HasPrefix(s.verdict, "usable") {
		words = append(words, "usable")
	}
	for _, c := range kept.Certs {
		if _, err := w.Postern(t.Context(), nil, "cert", "remove", c.Fingerprint); err != nil {
			t.Fatal(err)
		}
	}
	return words, what
}

// survives imports what a fuzzer found: the command says yes or no, at no
// greater cost than a mail.
func (w *world) survives(t testing.TB, file string) (words []string) {
	t.Helper()
	m := measured(t, filepath.Join(w.Bin, "postern"), "cert", "import", "-n", "--domain", "holder.example", file, "--config", w.Path("filterd.toml"))
	if m.Exit != 0 && m.Exit != 1 || bytes.Contains(m.Out, []byte("goroutine ")) {
		t.Logf("cert import %s: exit %d: %s", file, m.Exit, m.Out)
		return []string{"crash"}
	}
	if m.CPU > costTime || m.Peak > 2*costMemory { // a process of its own begins with some
		words = append(words, "cost")
	}
	return words
}

// encrypts tries whether a mail to the address would be sealed.
func (w *world) encrypts(t testing.TB, to string) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(w.Bin, "postern"), "process", "--json", "--direction", "outbound", "--from", alice, "--to", to, "--config", w.Path("filterd.toml"))
	var decision bytes.Buffer
	cmd.Stdin, cmd.Stderr = strings.NewReader("From: "+alice+"\r\nTo: "+to+"\r\nSubject: s\r\n\r\nText.\r\n"), &decision
	err := cmd.Run()
	var v struct {
		Action string
		Plans  []struct{ Encrypted bool }
	}
	if jerr := json.Unmarshal(decision.Bytes(), &v); jerr != nil || v.Action != "relay" || len(v.Plans) != 1 {
		t.Fatalf("postern process: %v: %s", err, &decision)
	}
	return v.Plans[0].Encrypted
}

// described are the user ids and the number of subkeys not revoked, as `cert
// show` has them for people.
func (w *world) described(t testing.TB, fingerprint string) (uids []string, subkeys int) {
	t.Helper()
	out, err := w.Postern(t.Context(), nil, "cert", "show", fingerprint)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		if uid, ok := strings.CutPrefix(line, "user id  "); ok {
			uids = append(uids, strings.TrimSpace(uid))
		}
		if strings.HasPrefix(line, "subkey ") && !strings.HasSuffix(line, ", revoked\n") {
			subkeys++
		}
	}
	return uids, subkeys
}
