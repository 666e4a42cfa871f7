package e2e

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"postern/appliance/trial"
)

// The demonstration of the README is a test. It judges each mail itself, with
// GnuPG and openssl as the partners'; here is what a person has to see of it.
func TestDemo(t *testing.T) {
	var out bytes.Buffer
	if err := trial.Demo(t.Context(), trial.Config{Dir: folder(t), Bin: programs(t)}, &out); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	rest := out.String()
	for _, want := range []string{
		"-----BEGIN PGP MESSAGE-----", "opened=openpgp; verified=yes;", "The offer stands.", "multipart/encrypted", "Subject: answer\n", "Agreed.",
		"smime-type=enveloped-data", "opened=smime; verified=yes;", "The contract is signed.", "smime-type=enveloped-data", "Subject: thanks\n", "Received with thanks.",
		"550 5.7.3",
	} {
		_, after, found := strings.Cut(rest, want)
		if !found {
			t.Fatalf("got\n%s\nwant %q in it, in its place", &out, want)
		}
		rest = after
	}
}

// What make run prints works as it stands there, and once more on the same folder.
func TestRun(t *testing.T) {
	dir := folder(t)
	var ours []byte
	for range 2 {
		text, stop := running(t, dir)
		did := commands(text)
		if len(did) != 7 {
			t.Fatalf("got commands %q\nof %s", did, text)
		}
		for i, want := range []struct {
			prints  string
			arrives []string // in the mail that arrived last
			refuses bool
		}{
			{"250 2.0.0", []string{"opened=openpgp; verified=yes; signer=bob@partner.example", "The offer stands."}, false},
			{"250 2.0.0", []string{"multipart/encrypted", "Subject: [...]"}, false},
			{"250 2.0.0", []string{"opened=smime; verified=yes; signer=carol@partner.example", "The offer stands."}, false},
			{"Agreed.", []string{"smime-type=enveloped-data", "Subject: [...]"}, false},
			{`The rule that decided: recipient."vault@partner.example"`, []string{"Delivered-To: carol@partner.example"}, true},
			{"ok       identity company1.example", nil, false},
			{"Verify return code: 0 (ok)", nil, false},
		} {
			out, err := exec.CommandContext(t.Context(), "bash", "-o", "pipefail", "-c", did[i]).CombinedOutput()
			if (err != nil) != want.refuses || !strings.Contains(string(out), want.prints) {
				t.Errorf("%s\ngot %v, %s\nwant %q", did[i], err, out, want.prints)
			}
			got := last(t, filepath.Join(dir, "maildir", "new"))
			for _, w := range want.arrives {
				if !strings.Contains(strings.ReplaceAll(got, "\r\n ", " "), w) {
					t.Errorf("%s\ngot %s\nwant %q in it", did[i], got, w)
				}
			}
		}
		list := run(t, nil, filepath.Join(programs(t), "postern"), "identity", "list", "--config", filepath.Join(dir, "filterd.toml"))
		if ours != nil && !bytes.Equal(list, ours) {
			t.Errorf("got identities\n%swant those of before\n%s", list, ours)
		}
		ours = list
		stop()
	}
	for _, file := range keys(t, dir) {
		if file != "carol/key.pem" {
			t.Errorf("got a private key in %s, want only the partner's", file)
		}
	}
}

// running is what a trial printed when it was ready, and its end.
func running(t *testing.T, dir string) (text string, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := trial.Run(ctx, trial.Config{Dir: dir, Bin: programs(t)}, w)
		w.CloseWithError(err)
		ended <- err
	}()
	var said strings.Builder
	lines := bufio.NewScanner(r)
	for lines.Scan() && !strings.HasPrefix(lines.Text(), "Stop it") {
		said.WriteString(lines.Text() + "\n")
	}
	if err := lines.Err(); err != nil {
		t.Fatalf("run: %v\n%s", err, &said)
	}
	return said.String(), func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("got %v, want no error of a trial that was told to end", err)
		}
	}
}

// commands are the indented paragraphs behind the table of the listeners.
func commands(text string) (all []string) {
	for paragraph := range strings.SplitSeq(text, "\n\n") {
		if strings.HasPrefix(paragraph, "  ") {
			all = append(all, paragraph)
		}
	}
	return all
}

// last is the newest mail in a folder.
func last(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir) // sorted: the names begin with the time
	if err != nil || len(entries) == 0 {
		t.Fatalf("got %v, want a mail in %s", err, dir)
	}
	b, err := os.ReadFile(filepath.Join(dir, entries[len(entries)-1].Name()))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// keys are the files below a folder that hold a private key in PEM.
func keys(t *testing.T, dir string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if bytes.Contains(b, []byte("PRIVATE KEY-----")) {
			name, _ := filepath.Rel(dir, path)
			found = append(found, filepath.ToSlash(name))
		}
		return err
	})
	if err != nil || !slices.Contains(found, "carol/key.pem") {
		t.Fatalf("got %q, %v, want the partner's key among them", found, err)
	}
	return found
}
