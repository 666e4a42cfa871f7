package provisioning

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"postern/filter/accounts"
	"postern/filter/record"
)

func TestDoctorLooksAtStores(t *testing.T) {
	dir := t.TempDir()
	book, rec := filepath.Join(dir, "accounts"), filepath.Join(dir, "record", "record.db")
	if err := os.Mkdir(filepath.Dir(rec), 0o700); err != nil {
		t.Fatal(err)
	}
	said := func() map[string]check {
		t.Helper()
		e := &examined{}
		(&call{App: &App{}}).examineStores(e, Site{Accounts: book, Record: rec})
		out := map[string]check{}
		for _, k := range e.Checks {
			if out[k.Name] = k; (k.Verdict == fine) != (k.Hint == "") {
				t.Errorf("got %+v: want a hint where it is not well", k)
			}
		}
		if len(out) != 2 {
			t.Fatalf("got %+v, want a check of each", e.Checks)
		}
		return out
	}
	write := func(text string, mode fs.FileMode) {
		t.Helper()
		if err := errors.Join(os.WriteFile(book, []byte(text), 0o600), os.Chmod(book, mode)); err != nil {
			t.Fatal(err)
		}
	}
	if got := said(); got["accounts"].Verdict != broken || got["record"].Verdict != fine || !strings.Contains(got["record"].Detail, "not made it yet") {
		t.Errorf("a new box: got %+v", got)
	}
	r, err := record.Open(rec, record.Options{})
	if err == nil {
		err = r.Close()
	}
	if err = errors.Join(err, accounts.Add(book, "alice", "a good password", nil, false)); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(book)
	if err != nil {
		t.Fatal(err)
	}
	if got := said(); got["accounts"].Verdict != fine || !strings.HasSuffix(got["accounts"].Detail, ": 1") || got["record"].Verdict != fine || !strings.Contains(got["record"].Detail, "MiB free") {
		t.Errorf("sound: got %+v", got)
	}
	for _, c := range []struct {
		text          string
		mode          fs.FileMode
		verdict, hint string
	}{
		{string(good), 0o644, broken, "chmod o-r"},
		{string(good), 0o666, broken, "chmod go-w"},
		{"alice $1$old$hash - -\n", 0o600, broken, "`postern account`"},
		{"# nobody\n", 0o600, concern, "`postern account add`"},
	} {
		write(c.text, c.mode)
		if got := said()["accounts"]; got.Verdict != c.verdict || !strings.Contains(got.Hint, c.hint) {
			t.Errorf("%q, mode %#o: got %+v, want %s and a hint with %q", c.text, c.mode, got, c.verdict, c.hint)
		}
	}
	if err := os.Chmod(rec, 0o400); err != nil {
		t.Fatal(err)
	}
	if got := said()["record"]; got.Verdict != broken || !strings.Contains(got.Hint, "chmod u+rw") {
		t.Errorf("record that is not to be written: got %+v", got)
	}
	if err := errors.Join(os.Chmod(rec, 0o640), os.Chown(rec+"-wal", 64321, -1)); err != nil {
		t.Fatal(err)
	}
	if got := said()["record"]; got.Verdict != broken || !strings.Contains(got.Hint, "chown --reference=") {
		t.Errorf("log of somebody else: got %+v", got)
	}
}
