package record

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"postern/appliance/clock/clocktest"
	"postern/filter/message"
)

var (
	alice = message.Address{Local: "alice", Domain: "company1.example"}
	bob   = message.Address{Local: "bob", Domain: "partner.example"}
	carol = message.Address{Local: "carol", Domain: "other.example"}
)

func open(t *testing.T, path string, o Options) *Record {
	t.Helper()
	r, err := Open(path, o)
	must(t, err)
	t.Cleanup(func() { must(t, r.Close()) })
	return r
}

// eventually waits for what the writer does by itself.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); {
		if time.Now().After(end) {
			t.Fatal(what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestProtected(t *testing.T) {
	ctx, path := t.Context(), filepath.Join(t.TempDir(), "record.db")
	r := open(t, path, Options{})
	at := time.Unix(1_700_000_000, 0).UTC()
	if _, ok, err := r.Protected(ctx, bob); ok || err != nil {
		t.Errorf("before: got %v, %v", ok, err)
	}
	must(t, r.Protect(ctx, bob, at))
	must(t, r.Protect(ctx, message.Address{Local: "Bob", Domain: "PARTNER.example"}, at.Add(time.Hour)))
	must(t, r.Close())
	again := open(t, path, Options{})
	if since, ok, err := again.Protected(ctx, bob); !ok || err != nil || !since.Equal(at) {
		t.Errorf("after a restart: got %v, %v, %v, want the first time", since, ok, err)
	}
	foreign, err := OpenForeign(path)
	must(t, err)
	defer foreign.Close()
	if _, ok, err := foreign.Protected(ctx, bob); !ok || err != nil {
		t.Errorf("operator: got %v, %v", ok, err)
	}
	if err := foreign.Protect(ctx, carol, at); !errors.Is(err, ErrReadOnly) {
		t.Errorf("operator writes: got %v, want ErrReadOnly", err)
	}
	if _, err := foreign.Forget(ctx, bob); !errors.Is(err, ErrReadOnly) {
		t.Errorf("operator forgets: got %v, want ErrReadOnly", err)
	}
	for _, want := range []bool{true, false} {
		if known, err := again.Forget(ctx, bob); known != want || err != nil {
			t.Errorf("forget: got %v, %v, want %v", known, err, want)
		}
		if _, ok, err := again.Protected(ctx, bob); ok || err != nil {
			t.Errorf("after that: got %v, %v", ok, err)
		}
	}
	must(t, again.Protect(ctx, bob, at.Add(time.Hour)))
	if since, ok, err := again.Protected(ctx, bob); !ok || err != nil || !since.Equal(at.Add(time.Hour)) {
		t.Errorf("again: got %v, %v, %v", since, ok, err)
	}
}

func TestOpened(t *testing.T) {
	ctx, c := t.Context(), clocktest.At(time.Unix(1_700_000_000, 0))
	r := open(t, filepath.Join(t.TempDir(), "record.db"), Options{Now: c.Now})
	must(t, r.RememberOpened(ctx, "<a@b.example>", "a@b.example", "<c@b.example>"))
	must(t, r.RememberOpened(ctx, " "))
	for _, e := range []struct {
		id   string
		want bool
	}{{"a@b.example", true}, {" <a@b.example>\r\n", true}, {"<A@b.example>", false}, {"", false}, {"<>", false}} {
		if got, err := r.Opened(ctx, e.id); got != e.want || err != nil {
			t.Errorf("%q: got %v, %v, want %v", e.id, got, err, e.want)
		}
	}
	c.Pass(openedFor)
	if got, err := r.Opened(ctx, "a@b.example"); got || err != nil {
		t.Errorf("a year later: got %v, %v", got, err)
	}
}

// A nil Record is one that remembers nothing.
func TestNil(t *testing.T) {
	var r *Record
	ctx := context.Background()
	must(t, r.Protect(ctx, bob, time.Now()))
	must(t, r.RememberOpened(ctx, "<a@b>"))
	must(t, r.Part(ctx, Name{}, []Share{{To: bob}}))
	r.Tell(Mail{})
	_, ok, err := r.Protected(ctx, bob)
	opened, err2 := r.Opened(ctx, "<a@b>")
	_, refused, err3 := r.Refusal(ctx, Name{})
	if ok || opened || refused || r.Parted() || errors.Join(err, err2, err3, r.Close()) != nil {
		t.Errorf("got %v, %v, %v, %v", ok, opened, refused, errors.Join(err, err2, err3))
	}
}

// A record that can't be opened is an error, and there is no other one.
func TestOpenFails(t *testing.T) {
	dir := t.TempDir()
	if _, err := OpenForeign(filepath.Join(dir, "none.db")); !errors.Is(err, ErrNoRecord) {
		t.Errorf("missing: got %v, want ErrNoRecord", err)
	}
	junk := filepath.Join(dir, "junk.db")
	must(t, os.WriteFile(junk, []byte("this is no database, and long enough to be read as one would be"), 0o600))
	if _, err := Open(junk, Options{}); err == nil {
		t.Error("junk: got no error")
	}
}
