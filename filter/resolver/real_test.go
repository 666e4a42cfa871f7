package resolver_test

import (
	"errors"
	"net/netip"
	"reflect"
	"testing"

	"postern/filter/resolver"
	"postern/filter/resolver/resolvertest"
)

// Against a real signed zone and a real validating resolver: what is secure,
// insecure, bogus, or not there.
func TestValidated(t *testing.T) {
	const digest = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	w := resolvertest.Start(t,
		resolvertest.Zone{Name: "signed.example", Records: []string{
			"@ MX 10 mx", "@ MX 20 Backup.Plain.Example.", "mx A 127.0.0.2", "mx AAAA ::2", "alias CNAME mx", "away CNAME mx.plain.example.",
			"_25._tcp.mx TLSA 3 1 1 " + digest, "_mta-sts TXT \"v=STSv1; \" \"id=1;\"",
		}},
		resolvertest.Zone{Name: "plain.example", Unsigned: true, Records: []string{"mx A 127.0.0.3", "_25._tcp.mx TLSA 3 1 1 " + digest}},
		resolvertest.Zone{Name: "broken.example", Broken: true, Records: []string{"@ MX 10 mx", "mx A 127.0.0.4"}},
		resolvertest.Zone{Name: "forged.example", Records: []string{"@ MX 10 mx", "mx A 127.0.0.5", "_25._tcp.mx TLSA 3 1 1 " + digest},
			Forged: []string{"_25._tcp.mx TLSA 3 1 1 bb" + digest[2:]}},
	)
	c, ctx := w.Client(), t.Context()
	if ok, err := c.Validates(ctx); !ok || err != nil {
		t.Errorf("validates: got %v, %v", ok, err)
	}
	mx, err := c.MX(ctx, "signed.example")
	want := []resolver.MX{{Host: "mx.signed.example", Preference: 10}, {Host: "backup.plain.example", Preference: 20}}
	if err != nil || !mx.Secure || !mx.Exists || len(mx.Found) != 2 || !reflect.DeepEqual(mx.Found, want) && !reflect.DeepEqual(mx.Found, []resolver.MX{want[1], want[0]}) {
		t.Errorf("MX: got %+v, %v", mx, err)
	}
	for _, q := range []struct {
		host, end string
		n         int
		secure    bool
	}{
		{"mx.signed.example", "mx.signed.example", 2, true},
		{"alias.signed.example", "mx.signed.example", 2, true},
		{"away.signed.example", "mx.plain.example", 1, false},
		{"mx.plain.example", "mx.plain.example", 1, false},
		{"none.signed.example", "none.signed.example", 0, true},
		{"signed.example", "signed.example", 0, true},
	} {
		a, err := c.Addresses(ctx, q.host)
		if err != nil || len(a.Found) != q.n || a.Secure != q.secure || a.Name != q.end {
			t.Errorf("addresses of %s: got %+v, %v, want %d at %s, secure %v", q.host, a, err, q.n, q.end, q.secure)
		}
	}
	if a, _ := c.Addresses(ctx, "mx.signed.example"); len(a.Found) != 2 || a.Found[1] != netip.MustParseAddr("127.0.0.2") {
		t.Errorf("addresses: got %v", a.Found)
	}
	if a, err := c.MX(ctx, "none.signed.example"); err != nil || a.Exists || !a.Secure {
		t.Errorf("no such name: got %+v, %v", a, err)
	}
	if a, err := c.Alias(ctx, "away.signed.example"); err != nil || !a.Secure || len(a.Found) != 1 || a.Found[0] != "mx.plain.example" {
		t.Errorf("alias: got %+v, %v", a, err)
	}
	if a, err := c.TXT(ctx, "_mta-sts.signed.example"); err != nil || len(a.Found) != 1 || a.Found[0] != "v=STSv1; id=1;" {
		t.Errorf("text: got %+v, %v", a, err)
	}
	if a, err := c.TLSA(ctx, "_25._tcp.mx.signed.example"); err != nil || !a.Secure || len(a.Found) != 1 || a.Found[0].Usage != 3 || len(a.Found[0].Data) != 32 {
		t.Errorf("TLSA: got %+v, %v", a, err)
	}
	if a, err := c.TLSA(ctx, "_25._tcp.mx.plain.example"); err != nil || a.Secure || len(a.Found) != 1 {
		t.Errorf("TLSA of an unsigned zone: got %+v, %v", a, err)
	}
	for _, name := range []string{"_25._tcp.mx.forged.example", "_25._tcp.mx.broken.example"} {
		if a, err := c.TLSA(ctx, name); !errors.Is(err, resolver.ErrAway) {
			t.Errorf("%s: got %+v, %v, want ErrAway", name, a, err)
		}
	}
	// A resolver whose word may be changed on the way validates nothing for us.
	doubted := w.Client()
	doubted.Trust = false
	if a, err := doubted.MX(ctx, "signed.example"); err != nil || a.Secure {
		t.Errorf("doubted: got %+v, %v, want it insecure", a, err)
	}
	w.Stop()
	c = w.Client()
	c.Timeout = 300_000_000
	if _, err := c.MX(ctx, "signed.example"); !errors.Is(err, resolver.ErrAway) {
		t.Errorf("away: got %v, want ErrAway", err)
	}
	w.Resume(t)
	if a, err := w.Client().MX(ctx, "signed.example"); err != nil || !a.Secure {
		t.Errorf("back: got %+v, %v", a, err)
	}
}
