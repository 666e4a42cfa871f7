package record

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"reflect"
	"sync"
	"testing"
	"time"

	"postern/appliance/clock/clocktest"
	"postern/filter/message"
	"postern/filter/transport"
)

var gone = transport.Reply{Code: 550, Enhanced: [3]int{5, 1, 1}, Text: "no \"such\" user"}

// state is what a record says of the copies of Alice, Bob and Carol.
func standing(t *testing.T, r *Record, n Name) (words []string) {
	t.Helper()
	p, err := r.Parts(t.Context(), n)
	must(t, err)
	for _, a := range []message.Address{alice, bob, carol} {
		switch refused, known := p.Find(a); {
		case !known:
			words = append(words, "open")
		case refused == nil:
			words = append(words, "delivered")
		default:
			words = append(words, refused.String())
		}
	}
	return words
}

func TestParts(t *testing.T) {
	ctx, path, c := t.Context(), filepath.Join(t.TempDir(), "record.db"), clocktest.At(time.Unix(1_700_000_000, 0))
	r := open(t, path, Options{Now: c.Now})
	one, two := Name{1}, Name{2}
	if r.Parted() {
		t.Error("a new record says that a mail is remembered")
	}
	must(t, r.Ready(ctx))
	must(t, r.Part(ctx, one, []Share{{To: alice}, {To: bob, Refused: &gone}}))
	must(t, r.Refuse(ctx, two, gone))
	must(t, r.Close())

	r = open(t, path, Options{Now: c.Now})
	if got, want := standing(t, r, one), []string{"delivered", gone.String(), "open"}; !r.Parted() || !reflect.DeepEqual(got, want) {
		t.Errorf("after a restart: got %q, want %q", got, want)
	}
	if got, want := standing(t, r, two), []string{"open", "open", "open"}; !reflect.DeepEqual(got, want) {
		t.Errorf("another mail: got %q, want %q", got, want)
	}
	if p, err := r.Parts(ctx, one); err != nil {
		t.Error(err)
	} else if _, known := p.Find(message.Address{Local: "Alice", Domain: alice.Domain}); known {
		t.Error("another spelling of an address: got known")
	}
	must(t, r.Part(ctx, one, []Share{{To: bob}, {To: carol}}))
	must(t, r.Whole(ctx, one, []message.Address{alice, bob}))
	if got, want := standing(t, r, one), []string{"open", "open", "delivered"}; !reflect.DeepEqual(got, want) {
		t.Errorf("after two are through: got %q, want %q", got, want)
	}

	if reply, ok, err := r.Refusal(ctx, two); !ok || err != nil || reply != gone {
		t.Errorf("refusal: got %v, %v, %v, want %v", reply, ok, err, gone)
	}
	if _, ok, err := r.Refusal(ctx, two); ok || err != nil {
		t.Errorf("refusal, again: got %v, %v, want none", ok, err)
	}
	must(t, r.Refuse(ctx, two, gone))
	c.Pass(partFor)
	if _, ok, err := r.Refusal(ctx, two); ok || err != nil {
		t.Errorf("refusal, after its time: got %v, %v, want none", ok, err)
	}
	if got, want := standing(t, r, one), []string{"open", "open", "open"}; !reflect.DeepEqual(got, want) {
		t.Errorf("after its time: got %q, want %q", got, want)
	}
	must(t, r.Close())
	r = open(t, path, Options{Now: c.Now}) // it cleans up when it starts
	eventually(t, "what is too old is still in the file", func() bool { return !r.Parted() })
}

// Senders choose how many mails part: the oldest go, and the latest never.
func TestPartsAreBounded(t *testing.T) {
	ctx, c := t.Context(), clocktest.At(time.Unix(1_700_000_000, 0))
	r := open(t, filepath.Join(t.TempDir(), "record.db"), Options{Now: c.Now})
	must(t, r.Ready(ctx)) // the writer runs
	r.part.most, r.refusal.most, r.opened.most, r.protected.most = 2500, 1500, 1500, 2
	name := func(i int) Name { return Name{byte(i), byte(i >> 8), 1} }
	var shares []Share
	for i := range 10 {
		shares = append(shares, Share{To: message.Address{Local: fmt.Sprint(i), Domain: "other.example"}})
	}
	for i := range 400 {
		c.Pass(time.Second)
		must(t, r.Part(ctx, name(i), append(shares, Share{To: alice})))
		for range 5 {
			must(t, r.Refuse(ctx, Name{byte(i), byte(i >> 8), 2}, gone))
		}
	}
	if got := r.part.rows.Load(); got > 2500+11 {
		t.Errorf("got %d shares, want 2500 at most", got)
	}
	if got := standing(t, r, name(0))[0]; got != "open" {
		t.Errorf("the oldest mail: got %s, want it forgotten", got)
	}
	if got := standing(t, r, name(399))[0]; got != "delivered" {
		t.Errorf("the latest mail: got %s, want it remembered", got)
	}
	var rows int64
	must(t, r.read.QueryRow("SELECT count(*) FROM refusal").Scan(&rows))
	if rows != 400 { // written five times each: no more than they are
		t.Errorf("got %d refusals, want 400", rows)
	}
	must(t, r.Protect(ctx, alice, c.Now()))
	must(t, r.Protect(ctx, bob, c.Now()))
	if err := r.Protect(ctx, carol, c.Now()); !errors.Is(err, ErrFull) || !errors.Is(err, ErrAway) {
		t.Errorf("one address too many: got %v, want ErrFull", err)
	}
	if _, ok, err := r.Protected(ctx, alice); !ok || err != nil {
		t.Errorf("the first address: got %v, %v, want it remembered for good", ok, err)
	}
}

// Many at once share the writes, and each is answered.
func TestChangesTogether(t *testing.T) {
	ctx, path := t.Context(), filepath.Join(t.TempDir(), "record.db")
	r := open(t, path, Options{})
	var group sync.WaitGroup
	for i := range 200 {
		group.Go(func() {
			if err := r.Part(ctx, Name{byte(i)}, []Share{{To: alice}}); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	must(t, r.Close())
	if err := r.Part(ctx, Name{}, []Share{{To: alice}}); !errors.Is(err, ErrClosed) {
		t.Errorf("closed: got %v, want ErrClosed", err)
	}
	again := open(t, path, Options{})
	for i := range 200 {
		if got := standing(t, again, Name{byte(i)})[0]; got != "delivered" {
			t.Errorf("mail %d: got %s, want delivered", i, got)
		}
	}
}

// A full disk fails what decides, loses what tells with a line in the log, and
// is over when there is room.
func TestFullDisk(t *testing.T) {
	ctx := t.Context()
	var log bytes.Buffer
	r := open(t, filepath.Join(t.TempDir(), "record.db"), Options{Keep: time.Hour, Log: slog.New(slog.NewTextHandler(&log, nil))})
	must(t, r.Ready(ctx))
	limit := func(pages int) {
		var now int
		must(t, r.write.QueryRow(fmt.Sprintf("PRAGMA max_page_count = %d", pages)).Scan(&now))
	}
	limit(1) // no fewer than there are
	var shares []Share
	for i := range 2000 {
		shares = append(shares, Share{To: message.Address{Local: fmt.Sprint(i), Domain: "other.example"}, Refused: &gone})
	}
	if err := r.Part(ctx, Name{1}, shares); !errors.Is(err, ErrAway) || !r.Broken() {
		t.Errorf("copies: got %v, broken %v, want ErrAway", err, r.Broken())
	}
	if got := standing(t, r, Name{1})[0]; got != "open" {
		t.Errorf("after it: got %s, want nothing of it", got)
	}
	for i := range maxBatch { // a whole batch, which is written at once
		r.Tell(Mail{Trace: fmt.Sprint(i), At: r.Now(), Reply: "250 2.0.0 taken", Rule: "default"})
	}
	must(t, r.Close())
	if !bytes.Contains(log.Bytes(), []byte(fmt.Sprintf("lost=%d", maxBatch))) {
		t.Errorf("log: got %s, want the number of traces that are lost", &log)
	}
}
