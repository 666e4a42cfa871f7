package provisioning

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"postern/filter/keyring"
)

// TestSeenIsNotForEverybody: who may read the keyring and not filterd's folder
// goes on working with the keyring, and is told where that is not enough.
func TestSeenIsNotForEverybody(t *testing.T) {
	const reader = 65534
	if dir := os.Getenv("SEEN_BY"); dir != "" {
		for _, args := range [][]string{{"cert", "find", "bob@partner.example"}, {"cert", "show", "723D059B"}, {"cert", "list", "--seen"}} {
			var out, complaint bytes.Buffer
			a := &App{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &complaint,
				Config: func(string) (Site, error) {
					return Site{Keyring: filepath.Join(dir, "keyring.db"), Seen: filepath.Join(dir, "seen", "seen.db")}, nil
				}}
			fmt.Printf("%d: %s: %d %s\n", os.Getuid(), strings.Join(args[:2], " "), a.Run(t.Context(), args), strings.ReplaceAll(complaint.String(), "\n", "; "))
		}
		return
	}
	if os.Getuid() != 0 {
		t.Skip("needs root to become another user")
	}
	data, err := os.ReadFile("testdata/bob.asc")
	if err != nil {
		t.Fatal(err)
	}
	certs, err := readCerts("bob.asc", data)
	if err != nil {
		t.Fatal(err)
	}
	bob := certs[0]
	bob.Trust, bob.Source = keyring.Trusted, "import"
	dir, err := os.MkdirTemp("/tmp", "seen")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "keyring.db")
	store, err := keyring.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(store.Import(t.Context(), bob), store.Close(), os.Mkdir(filepath.Join(dir, "seen"), 0o700),
		os.WriteFile(filepath.Join(dir, "program"), program, 0o755), os.Chmod(dir, 0o755))
	for _, name := range []string{path, path + "-wal", path + "-shm"} {
		err = errors.Join(err, os.Chmod(name, 0o644))
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(dir, "program"), "-test.run=^TestSeenIsNotForEverybody$")
	cmd.Dir, cmd.Env = "/", []string{"SEEN_BY=" + dir, "TMPDIR=/tmp"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: reader, Gid: reader}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{"65534: cert find: 0 \n", "65534: cert show: 0 \n", "65534: cert list: 1 postern: seen certificates: ", "hint: run it as root"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("got\n%s\nwant %q in it", out, want)
		}
	}
}
