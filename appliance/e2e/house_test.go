package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"postern/appliance/e2e/housetest"
	"postern/appliance/trial"
)

const patience = housetest.Patience

var (
	programs   = housetest.Programs
	folder     = housetest.Folder
	open       = housetest.Open
	tail       = housetest.Tail
	field      = housetest.Field
	parameter  = housetest.Parameter
	contents   = housetest.Contents
	eventually = housetest.Eventually
)

func TestMain(m *testing.M) { housetest.Main(m) }

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
