package filter

import (
	"bytes"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"postern/filter/policy"
	"postern/filter/transport"
	"postern/hsm"
	"postern/hsm/client"
	"postern/hsm/hsmtest"
	"postern/hsm/keyd"
)

// TestManipulatedCopies (R3): copies with a broken session key, from one
// network, reach the token as often as may fail; each is delivered as it came,
// with the reply of a good one, and so is a good one from there; mail of others
// is opened all the while.
func TestManipulatedCopies(t *testing.T) {
	const limit, copies = 5, 60
	var asked atomic.Int64
	soft := hsmtest.NewSoft()
	soft.Fault = func(method string) error {
		if method == "ECDH" {
			asked.Add(1)
		}
		return nil
	}
	d := hsmtest.NewDaemon(t, soft, hsmtest.SoftPIN)
	d.Config.Budget = keyd.Budget{OriginFailures: limit}
	d.Start()
	d.Reach(hsm.Ready)
	c := client.Dial(d.Keep)
	t.Cleanup(func() { c.Close() })
	w := newWorldOn(t, c)
	const to = "alice@company1.example"
	good := w.sealed(in, "bob@partner.example", to)
	from := func(client, mail string, open bool) {
		t.Helper()
		w.hop.got = nil
		e := w.envelope("bob@partner.example", to)
		e.Client = netip.MustParseAddrPort(client)
		got := w.deliver(policy.Inbound, e, strings.NewReader(mail))
		if want := "250 2.0.0 taken " + traceID; got.String() != want || len(w.hop.got) != 1 {
			t.Fatalf("from %s: got %q and %d mails, want %q and one\n%s", client, got, len(w.hop.got), want, w.log)
		}
		opened := bytes.Contains(w.hop.got[0].mail, []byte("opened=openpgp"))
		if opened != open || !open && !bytes.HasSuffix(w.hop.got[0].mail, []byte(mail)) {
			t.Errorf("from %s: opened: got %v, want %v, else as it came", client, opened, open)
		}
	}
	goods := 0
	for n := range copies {
		from("[2001:db8:1:2::"+string("123456789abcdef"[n%15])+"]:25", altered(good, 134+n%30), false)
		if n%10 == 9 {
			from("[2001:db8:1:3::1]:25", good, true)
			goods++
		}
	}
	from("[2001:db8:1:2:ffff::]:25", good, false)
	from("[::1]:25", good, true)
	if got := int(asked.Load()) - goods - 1; got != limit {
		t.Errorf("the token saw %d copies, want %d", got, limit)
	}
	if got := strings.Count(d.Log(), "failures of a sender are used up"); got != 1 || !strings.Contains(d.Log(), `"2001:db8:1:2::/64"`) {
		t.Errorf("got %d alarms, want 1 with the network", got)
	}
}

// TestOriginOfMail (R3): the client's network, and none where a server of ours
// brings the mail of everybody.
func TestOriginOfMail(t *testing.T) {
	relays := Listener{Allow: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}
	for _, x := range []struct {
		listener           Listener
		client, told, want string
	}{
		{Listener{}, "192.0.2.7", "", "192.0.2.7"},
		{Listener{}, "::ffff:192.0.2.7", "", "192.0.2.7"},
		{Listener{}, "2001:db8:1:2:3:4:5:6", "", "2001:db8:1:2::/64"},
		{Listener{}, "fe80::1%eth0", "", "fe80::/64"},
		{Listener{}, "2001:4860:4860:ffff:ffff:ffff:ffff:ffff", "", "2001:4860:4860:ffff::/64"},
		{Listener{}, "127.0.0.1", "", ""},
		{Listener{}, "::1", "", ""},
		{Listener{}, "::ffff:127.0.0.1", "", ""},
		{relays, "192.0.2.7", "", ""},
		{relays, "192.0.2.7", "198.51.100.4", "198.51.100.4"}, // XFORWARD says whose it is
		{Listener{}, "127.0.0.1", "198.51.100.4", "198.51.100.4"},
		{Listener{}, "127.0.0.1", "127.0.0.1", ""},
	} {
		e := &transport.Envelope{Client: netip.AddrPortFrom(netip.MustParseAddr(x.client), 25)}
		if x.told != "" {
			e.Origin = netip.AddrPortFrom(netip.MustParseAddr(x.told), 25)
		}
		got := origin(x.listener, e)
		if got != x.want || hsm.Origin(hsm.WithOrigin(t.Context(), got)) != got {
			t.Errorf("client %s, %d networks: got %q, want %q", x.client, len(x.listener.Allow), got, x.want)
		}
	}
	if got := origin(Listener{}, &transport.Envelope{}); got != "" {
		t.Errorf("no client: got %q, want none", got)
	}
}
