package keyring

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"postern/filter/message"
	"postern/hsm"
)

// TestOrders: what is written down comes back as it was, to whoever reads the
// file, and goes when it is dropped.
func TestOrders(t *testing.T) {
	s, path := open(t)
	ctx, at := t.Context(), time.Unix(1_700_000_000, 0).UTC()
	alice := message.Address{Local: "alice", Domain: "company1.example"}
	first := Order{URL: "https://ca.example/order/1", Authority: "ca", Address: alice, Key: hsm.KeyID{1}, Made: at}
	second := Order{URL: "https://ca.example/order/2", Authority: "ca", Address: alice, Key: hsm.KeyID{2}, Challenge: "https://ca.example/challenge/2", Token: "t", Sender: "acme@ca.example",
		Made: at.Add(time.Second), Expires: at.Add(time.Hour), Answered: at.Add(time.Minute)}
	must(t, s.PutOrder(ctx, first))
	must(t, s.PutOrder(ctx, second))
	r, err := OpenReadOnly(path)
	must(t, err)
	defer r.Close()
	got, err := Join(r, nil).OrdersOf(ctx, message.Address{Local: "Alice", Domain: "company1.example"})
	if want := []Order{first, second}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
	first.Sender = "acme@ca.example"
	must(t, s.PutOrder(ctx, first))
	if got, ok, err := r.OrderOf(ctx, "ca", hsm.KeyID{1}); err != nil || !ok || !reflect.DeepEqual(got, first) {
		t.Errorf("got %+v, %v, %v, want %+v", got, ok, err, first)
	}
	for _, none := range []struct {
		authority string
		key       hsm.KeyID
	}{{"other", hsm.KeyID{1}}, {"ca", hsm.KeyID{3}}} {
		if _, ok, err := r.OrderOf(ctx, none.authority, none.key); ok || err != nil {
			t.Errorf("%+v: got %v, %v, want none", none, ok, err)
		}
	}
	must(t, s.DropOrder(ctx, first.URL))
	must(t, s.DropOrder(ctx, first.URL))
	if got, err := r.OrdersOf(ctx, alice); err != nil || len(got) != 1 {
		t.Errorf("after one is dropped: got %+v, %v, want one", got, err)
	}
	must(t, s.PutOrder(ctx, first))
	for _, x := range []struct {
		authority   string
		ended, made time.Duration
		left        int
	}{{"other", 2 * time.Hour, 2 * time.Hour, 2}, {"ca", time.Hour, 0, 2}, {"ca", time.Hour, time.Second, 1}, {"ca", 2 * time.Hour, time.Second, 0}} {
		must(t, s.DropOrdersBefore(ctx, x.authority, at.Add(x.ended), at.Add(x.made)))
		if got, err := r.OrdersOf(ctx, alice); err != nil || len(got) != x.left {
			t.Errorf("%+v: got %d orders, %v", x, len(got), err)
		}
	}
	for name, bad := range map[string]func(*Order){
		"no URL": func(o *Order) { o.URL = "" }, "a long URL": func(o *Order) { o.URL = strings.Repeat("x", maxOrderURL+1) }, "no address": func(o *Order) { o.Address = message.Address{} },
		"a long token": func(o *Order) { o.Token = strings.Repeat("x", maxToken+1) }, "no authority": func(o *Order) { o.Authority = "" },
	} {
		o := second
		bad(&o)
		if err := s.PutOrder(ctx, o); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: got %v, want %v", name, err, ErrInvalid)
		}
	}
	if err := r.PutOrder(ctx, second); err == nil {
		t.Error("a reader has written")
	}
}
