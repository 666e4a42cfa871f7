package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/appliance/trial"
)

// patience is how long anything in these tests may take before it counts as
// stuck. Nothing waits that long when all is well.
const patience = 60 * time.Second

var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "postern-bin-*")
	if err != nil {
		return "", err
	}
	for _, p := range []struct{ cgo, name string }{{"1", "keyd"}, {"0", "filterd"}, {"0", "postern"}} {
		cmd := exec.Command("go", "build", "-o", filepath.Join(dir, p.name), "./cmd/"+p.name)
		cmd.Dir, cmd.Env = "../..", append(os.Environ(), "CGO_ENABLED="+p.cgo)
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		if err := cmd.Run(); err != nil {
			return dir, err
		}
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	status := m.Run()
	if dir, err := build(); err == nil {
		os.RemoveAll(dir)
	}
	os.Exit(status)
}

// programs is the folder of the three programs, built once.
func programs(t testing.TB) string {
	t.Helper()
	dir, err := build()
	if err != nil {
		t.Fatalf("build the programs: %v", err)
	}
	return dir
}

// folder is a temporary one with a path short enough for sockets.
func folder(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// open is a box of this test's own.
func open(t testing.TB, c trial.Config) *trial.Box {
	t.Helper()
	c.Bin = programs(t)
	if c.Dir == "" {
		c.Dir = folder(t)
	}
	b, err := trial.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("close box: %v", err)
		}
		if t.Failed() {
			for _, name := range []string{"keyd.log", "filterd.log"} {
				log, _ := os.ReadFile(b.Path(name))
				t.Logf("%s:\n%s", name, tail(log, 6000))
			}
		}
	})
	return b
}

func tail(b []byte, n int) []byte {
	if len(b) > n {
		return b[len(b)-n:]
	}
	return b
}

// one submits a mail and waits for it in the sink.
func one(t testing.TB, b *trial.Box, server, from, to string, mail []byte) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	seen, err := b.Kept.Seen()
	if err != nil {
		t.Fatal(err)
	}
	if dialogue, err := trial.Submit(ctx, server, from, []string{to}, mail); err != nil {
		t.Fatalf("submit: %v\n%s", err, dialogue)
	}
	paths, err := b.Kept.Await(ctx, seen, 1)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	return string(got)
}

// field is the unfolded value of the first header field with the name.
func field(mail, name string) string {
	head, _, _ := strings.Cut(mail, "\r\n\r\n")
	head = strings.NewReplacer("\r\n\t", " ", "\r\n ", " ").Replace(head)
	for line := range strings.SplitSeq(head, "\r\n") {
		if n, value, ok := strings.Cut(line, ":"); ok && strings.EqualFold(n, name) {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// parameter is one of the "name=value" of a Postern-Status.
func parameter(status, name string) string {
	for p := range strings.SplitSeq(status, ";") {
		if n, v, ok := strings.Cut(strings.TrimSpace(p), "="); ok && n == name {
			return v
		}
	}
	return ""
}

// operation is one line of keyd's audit record.
type operation struct {
	Op      string `json:"op"`
	Verdict string `json:"verdict"`
	Trace   string `json:"trace"`
	Label   string `json:"label"`
}

// operations are the records of keyd for one mail.
func operations(t testing.TB, b *trial.Box, trace string) (ops []operation) {
	t.Helper()
	f, err := os.Open(b.Path("keyd.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		var o operation
		if json.Unmarshal(s.Bytes(), &o) == nil && o.Op != "" && o.Trace == trace {
			ops = append(ops, o)
		}
	}
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	return ops
}

// import brings a partner's certificate in.
func trust(t testing.TB, b *trial.Box, cert []byte) {
	t.Helper()
	if _, err := b.Postern(t.Context(), strings.NewReader(string(cert)), "cert", "import", "-"); err != nil {
		t.Fatal(err)
	}
}

// ours is the gateway's certificate, armoured.
func ours(t testing.TB, b *trial.Box, owner string) []byte {
	t.Helper()
	out, err := b.Postern(t.Context(), nil, "identity", "export", owner)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
