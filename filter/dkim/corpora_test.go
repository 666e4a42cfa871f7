package dkim

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"postern/hsm/hsmtest"
)

// The mails of chasquid's own tests, as the manifest of the corpora lists them, get the verdict
// of their publisher. Two differ on purpose.
func TestCorpus(t *testing.T) {
	const kind = "dkim"
	dir := hsmtest.Corpora(t)
	manifest, err := os.ReadFile(filepath.Join(dir, "manifest.tsv"))
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, line := range strings.Split(string(manifest), "\n") {
		if cells := strings.Split(line, "\t"); len(cells) > 4 && cells[1] == kind {
			files = append(files, filepath.Join(dir, cells[0]))
		}
	}
	if len(files) != 11 {
		t.Fatalf("got %d mails of kind %s, want 11", len(files), kind)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".msg")
		t.Run(name, func(t *testing.T) {
			read := func(ext string) string {
				b, err := os.ReadFile(strings.TrimSuffix(file, ".msg") + ext)
				if err != nil && !errors.Is(err, os.ErrNotExist) {
					t.Fatal(err)
				}
				return string(b)
			}
			m := strings.ReplaceAll(strings.ReplaceAll(read(".msg"), "\r\n", "\n"), "\n", "\r\n")
			var want struct {
				Found, Valid int
				Results      []struct{ Domain, Selector, State string }
			}
			if text := read(".result"); text != "" {
				if err := json.Unmarshal([]byte(text), &want); err != nil {
					t.Fatal(err)
				}
			}
			got, err := Verify(t.Context(), text(m), zoneOf(read(".dns")).look, now)
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != want.Found {
				t.Fatalf("got %d signatures %+v, want %d", len(got), got, want.Found)
			}
			for i, w := range want.Results {
				value := map[string]Value{"SUCCESS": Pass, "TEMPFAIL": TempError, "PERMFAIL": PermError}[w.State]
				if name == "09-limited_body" && i == 0 {
					value = Policy // l= leaves out text that follows: not what we call signed
				}
				if name == "06-dns_perm_error" && i == 0 {
					value = TempError // what the resolver does not answer may be answered later
				}
				if got[i].Value != value || w.Domain != "" && got[i].Domain != w.Domain || w.Selector != "" && got[i].Selector != w.Selector {
					t.Errorf("signature %d: got %+v, want %s of %s (%s)", i, got[i], value, w.Domain, w.Selector)
				}
			}
		})
	}
}

// zoneOf reads chasquid's own form of records: name, colon, text, and a
// backslash where it goes on.
func zoneOf(s string) zone {
	z := zone{}
	for _, line := range strings.Split(strings.ReplaceAll(s, "\\\n", ""), "\n") {
		name, value, ok := strings.Cut(line, ":")
		if value = strings.TrimSpace(value); !ok {
			continue
		}
		if value == "TEMPERROR" || value == "PERMERROR" {
			value = "away"
		}
		z[name] = append(z[name], value)
	}
	return z
}

var _ Lookup = zone(nil).look
