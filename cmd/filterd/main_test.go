package main

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"postern/appliance/config"
	"postern/filter"
	"postern/filter/accounts"
)

// Every socket that was handed over under one name is served: a second address
// must not be one where clients wait for ever.
func TestOpenTakesAllThatIsHandedOver(t *testing.T) {
	var handed []net.Listener
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		handed = append(handed, l)
	}
	c := &config.Filterd{Domains: map[string]config.Domain{"company1.example": {}}}
	l := config.Listener{Name: "outside", Address: "127.0.0.1:0", Direction: "inbound", TLS: config.ListenerTLS{Mode: "off"}}
	log := slog.New(slog.DiscardHandler)
	_, got, err := open(filter.New(filter.Config{Log: log}), c, l, nil, nil, handed, log)
	if err != nil || len(got) != len(handed) {
		t.Errorf("handed over: got %d listeners, %v, want %d", len(got), err, len(handed))
	}
	_, got, err = open(filter.New(filter.Config{Log: log}), c, l, nil, nil, nil, log)
	if err != nil || len(got) != 1 {
		t.Fatalf("by address: got %d listeners, %v, want 1", len(got), err)
	}
	got[0].Close()
}

// --check looks at the files that filterd would meet as mails come, and at no
// more: it makes none.
func TestCheckLooksAtFiles(t *testing.T) {
	dir := t.TempDir()
	path, book, rec := filepath.Join(dir, "filterd.toml"), filepath.Join(dir, "accounts"), filepath.Join(dir, "record", "record.db")
	text := `authserv-id = "gw.company1.example"
state = "` + dir + `"
[domain."company1.example"]
[[listener]]
name = "outside"
address = ":25"
direction = "inbound"
[next-hop.inbound]
address = "mail.company1.example:25"
[accounts]
source = "file"
file = "` + book + `"
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	checks := func(want int, words ...string) {
		t.Helper()
		var out, complaint bytes.Buffer
		if got := run([]string{"--config", path, "--check"}, &out, &complaint); got != want {
			t.Errorf("got %d, want %d: %s", got, want, &complaint)
		}
		for _, w := range words {
			if !strings.Contains(complaint.String(), w) {
				t.Errorf("got %q, want %q in it", &complaint, w)
			}
		}
	}
	checks(1, book, "\nhint: `postern account add`")
	if err := accounts.Add(book, "alice", "a good password", nil, false); err != nil {
		t.Fatal(err)
	}
	checks(0)
	if _, err := os.Stat(filepath.Dir(rec)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v: the record was made", err)
	}
	if err := os.Chmod(book, 0o644); err != nil {
		t.Fatal(err)
	}
	checks(1, book, "\nhint: chmod o-r")
	if err := errors.Join(os.WriteFile(book, []byte("alice {SSHA}c2VjcmV0 - -\n"), 0o600), os.Chmod(book, 0o600)); err != nil {
		t.Fatal(err)
	}
	checks(1, "line 1", "password", "\nhint: ")
	if err := errors.Join(os.WriteFile(book, nil, 0o600), os.Mkdir(filepath.Dir(rec), 0o700), os.WriteFile(rec, []byte("no database"), 0o640)); err != nil {
		t.Fatal(err)
	}
	checks(1, rec, "\nhint: move it")
	if err := errors.Join(os.WriteFile(rec+"-wal", nil, 0o640), os.WriteFile(rec+"-shm", make([]byte, 32<<10), 0o640)); err != nil {
		t.Fatal(err)
	}
	checks(1, rec, "\nhint: move it")
}
