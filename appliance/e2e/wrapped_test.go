package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"postern/appliance/trial"
)

// Two users whose keys are kept outside a token that has room for one of them at
// a time: mail that Sequoia sealed to either is opened, what they write is signed by
// their own keys and sealed, and nothing of that is seen in the mail. A file that
// is lost is told, and put back it serves again.
func TestWrappedUsers(t *testing.T) {
	const bob, carol = "bob@partner.example", "carol@company1.example"
	b := open(t, trial.Config{KeydFields: "allow-wrapped = true\nwrapped-open = 1\nworkers = 1\n"})
	p := sq("rsa3k")(t, bob)
	trust(t, b, p.cert())
	certs := map[string][]byte{}
	for user, algorithm := range map[string]string{alice: "rsa-3072", carol: "p-256"} {
		if _, err := b.Postern(t.Context(), nil, "identity", "create", "--address", user, "--wrapped", "--algorithm", algorithm); err != nil {
			t.Fatal(err)
		}
		certs[user] = ours(t, b, user)
	}
	list, err := b.Postern(t.Context(), nil, "key", "list")
	if err != nil || strings.Count(string(list), " wrapped ") != 4 {
		t.Fatalf("got %s, %v want four wrapped keys", list, err)
	}
	for range 2 {
		for user, cert := range certs {
			header := "From: Bob <" + bob + ">\nTo: " + user + "\nSubject: offer\n"
			got := one(t, b, b.Outside, bob, user, trial.Encrypted(header, p.seal(cert, []byte(entity))))
			if status := field(got, "Postern-Status"); parameter(status, "opened") != "openpgp" || parameter(status, "verified") != "yes" || !strings.Contains(got, secret) {
				t.Errorf("%s: got %s\nwant the opened mail", user, got)
			}
			got = one(t, b, b.Inside, user, bob, []byte("From: <"+user+">\r\nTo: "+bob+"\r\nSubject: answer\r\n\r\n"+secret+"\r\n"))
			if strings.Contains(got, secret) {
				t.Fatalf("%s: got %s\nwant a sealed mail", user, got)
			}
			if text := p.open(cert, []byte(got)); !strings.Contains(text, secret) {
				t.Errorf("%s: got %q want what was sent", user, text)
			}
		}
	}

	files, err := filepath.Glob(b.Path("keyd", "wrapped", "*.wrapped"))
	if err != nil || len(files) != 4 {
		t.Fatalf("got %v, %v want four files", files, err)
	}
	if out, err := b.Postern(t.Context(), nil, "key", "audit"); err != nil {
		t.Errorf("audit: %v\n%s", err, out)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files[0], data[:len(data)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := b.Postern(t.Context(), nil, "key", "audit"); err == nil || !strings.Contains(string(out), "its file is no key") {
		t.Errorf("audit of a damaged file: got %s, %v", out, err)
	}
	if err := os.WriteFile(files[0], data, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := b.Postern(t.Context(), nil, "key", "audit"); err != nil {
		t.Errorf("audit of a file that was put back: %v\n%s", err, out)
	}
}
