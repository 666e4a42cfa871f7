package record

import (
	"bytes"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postern/appliance/clock/clocktest"
)

func TestTraces(t *testing.T) {
	ctx, path, c := t.Context(), filepath.Join(t.TempDir(), "record.db"), clocktest.At(time.Unix(1_700_000_000, 0))
	r := open(t, path, Options{Keep: time.Hour, Now: c.Now})
	var many []Recipient
	for i := range maxNamed + 5 {
		many = append(many, Recipient{To: fmt.Sprint(i) + "@other.example"})
	}
	r.Tell(Mail{Trace: "ONE", At: c.Now(), MessageID: " <same@id.example>", Recipients: many, Reply: "250 \x1b[2Jok\r\n250 smuggled \u202e" + strings.Repeat("x", 1000)})
	c.Pass(time.Minute)
	r.Tell(Mail{Trace: "TWO", At: c.Now(), MessageID: "<same@id.example>"})
	r.Tell(Mail{Trace: "THREE", At: c.Now()})
	must(t, r.Close())

	f, err := OpenForeign(path)
	must(t, err)
	got, err := f.Find(ctx, "same@id.example")
	if err != nil || len(got) != 2 || got[0].Trace != "TWO" || got[1].Trace != "ONE" {
		t.Fatalf("by Message-ID: got %+v, %v, want the two, the latest first", got, err)
	}
	if one := got[1]; len(one.Recipients) != maxNamed || one.More != 5 || len(one.Reply) > maxText || strings.ContainsAny(one.Reply, "\x1b\r\n\u202e") {
		t.Errorf("got %d recipients, %d more, reply %q", len(one.Recipients), one.More, one.Reply)
	}
	for name, want := range map[string]int{"THREE": 1, "<TWO>": 0, "": 0, "<>": 0, "%": 0, "' OR 1=1 --": 0} {
		if got, err := f.Find(ctx, name); err != nil || len(got) != want {
			t.Errorf("%q: got %d mails, %v, want %d", name, len(got), err, want)
		}
	}
	must(t, f.Close())

	c.Pass(time.Hour - 30*time.Second)
	r = open(t, path, Options{Keep: time.Hour, Now: c.Now}) // it cleans up when it starts
	eventually(t, "an hour after the first: not the second alone", func() bool {
		got, err := r.Find(ctx, "same@id.example")
		must(t, err)
		return len(got) == 1 && got[0].Trace == "TWO"
	})
	must(t, r.Close())
	r = open(t, path, Options{Now: c.Now}) // nothing is kept from now on
	r.Tell(Mail{Trace: "FOUR", At: c.Now()})
	eventually(t, "where nothing is kept: there are traces", func() bool { return r.mail.rows.Load() == 0 })
	must(t, r.Close())
	f, err = OpenForeign(path)
	must(t, err)
	defer f.Close()
	for _, name := range []string{"TWO", "FOUR"} {
		if got, err := f.Find(ctx, name); err != nil || len(got) != 0 {
			t.Errorf("%s, where nothing is kept: got %+v, %v", name, got, err)
		}
	}
}

// Where more mails come than can be written none of them waits: traces are lost,
// counted, and told of in the log.
func TestTracesNeverWait(t *testing.T) {
	var log bytes.Buffer
	r := open(t, filepath.Join(t.TempDir(), "record.db"), Options{Keep: time.Hour, Log: slog.New(slog.NewTextHandler(&log, nil))})
	must(t, r.Ready(t.Context()))
	tx, err := r.write.Begin() // the one connection is taken: nothing is written
	must(t, err)
	const mails = 3 * maxQueued
	for i := range mails {
		r.Tell(Mail{Trace: fmt.Sprint(i), At: time.Now()})
	}
	lost := r.lost.Load()
	if lost < mails-maxQueued-2*maxBatch {
		t.Errorf("got %d traces lost, want those that have no room", lost)
	}
	must(t, tx.Rollback())
	must(t, r.Close())
	var total int64
	for _, line := range strings.Split(log.String(), "\n") {
		if _, n, ok := strings.Cut(line, "lost="); ok {
			var one int64
			fmt.Sscan(n, &one)
			total += one
		}
	}
	if total != lost {
		t.Errorf("log tells of %d, want %d:\n%s", total, lost, &log)
	}
}

func BenchmarkTell(b *testing.B) {
	r, err := Open(filepath.Join(b.TempDir(), "record.db"), Options{Keep: time.Hour})
	if err != nil {
		b.Fatal(err)
	}
	m := Mail{Trace: "TRACETRACETRACE1", At: time.Now(), MessageID: "<1@company1.example>", From: "alice@company1.example", Reply: "250 2.0.0 taken",
		Recipients: []Recipient{{To: "bob@partner.example", Reply: "250 2.0.0 taken"}}}
	for b.Loop() {
		for r.queued.Load() > maxQueued/2 { // as fast as it is written, and none is lost
			<-time.After(time.Millisecond)
		}
		r.Tell(m)
	}
	if err := r.Close(); err != nil {
		b.Fatal(err)
	}
}
