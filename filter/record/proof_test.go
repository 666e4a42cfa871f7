package record

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"postern/appliance/clock/clocktest"
)

// TestProofs (R16): a mail is a proof once, the latest of the right sender counts, and
// nobody drives out what another sender wrote.
func TestProofs(t *testing.T) {
	ctx, path, c := t.Context(), filepath.Join(t.TempDir(), "record.db"), clocktest.At(time.Unix(1_700_000_000, 0))
	r := open(t, path, Options{Now: c.Now})
	const order, ca, eve = "https://ca.example/order/1", "acme@ca.example", "eve@evil.example"
	prove := func(order, sender, token, id string, want bool) {
		t.Helper()
		ok, err := r.Prove(ctx, order, Proof{Token: token, Sender: sender, ReplyTo: "r@ca.example", MessageID: id, At: c.Now().UTC()})
		if err != nil || ok != want {
			t.Errorf("prove %s by %s: got %v, %v, want %v", id, sender, ok, err, want)
		}
	}
	for i := range maxProofsEach + 2 {
		prove(order, eve, "evil", fmt.Sprintf("<%d@evil.example>", i), i < maxProofsEach)
	}
	prove(order, ca, "first", "<1@ca.example>", true)
	prove(order, ca, "again", "<1@ca.example>", false)
	prove("https://ca.example/order/2", ca, "elsewhere", "<1@ca.example>", false)
	c.Pass(time.Second)
	prove(order, ca, "second", "<2@ca.example>", true)
	must(t, r.Close())

	r = open(t, path, Options{Now: c.Now})
	foreign, err := OpenForeign(path) // as postern reads it
	must(t, err)
	p, ok, err := foreign.Proved(ctx, order, ca)
	if err != nil || !ok || p.Token != "second" || p.MessageID != "<2@ca.example>" || p.ReplyTo != "r@ca.example" || !p.At.Equal(c.Now()) {
		t.Errorf("got %+v, %v, %v, want the second one", p, ok, err)
	}
	if _, err := foreign.Prove(ctx, order, p); !errors.Is(err, ErrReadOnly) {
		t.Errorf("prove in another's file: got %v, want %v", err, ErrReadOnly)
	}
	must(t, foreign.Close())
	if _, ok, err := r.Proved(ctx, "https://ca.example/order/3", ca); ok || err != nil {
		t.Errorf("another order: got %v, %v, want none", ok, err)
	}
	for n := range maxProofsAll {
		if _, err := r.Prove(ctx, order, Proof{Sender: fmt.Sprint(n), MessageID: fmt.Sprintf("<all.%d@x.example>", n)}); err != nil {
			t.Fatal(err)
		}
	}
	prove(order, "one@more.example", "more", "<more@x.example>", false)
	c.Pass(proofFor)
	must(t, r.Close())
	r = open(t, path, Options{Now: c.Now})
	eventually(t, "what is too old is still in the file", func() bool { return r.proof.rows.Load() == 0 })
	var none *Record
	if ok, err := none.Prove(ctx, order, p); ok || err != nil {
		t.Errorf("without a record: got %v, %v", ok, err)
	}
}
