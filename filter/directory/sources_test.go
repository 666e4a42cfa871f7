package directory

import (
	"context"
	"crypto/sha256"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/resolver"
	"postern/filter/web"
)

// The example of the draft.
func TestHashLocal(t *testing.T) {
	for _, local := range []string{"Joe.Doe", "joe.doe"} {
		if got, want := HashLocal(local), "iy9q119eutrkn8s1mk4r39qejnbu3n5q"; got != want {
			t.Errorf("%s: got %s, want %s", local, got, want)
		}
	}
}

// The example of RFC 7929 §3, with its hash.
func TestDANEName(t *testing.T) {
	got, ok := DANEName(message.Address{Local: "hugh", Domain: "example.com"}, "_openpgpkey")
	if want := "c93f1e400f26708f98cb19d936620da35eec8f72e57f9eec01c1afd6._openpgpkey.example.com"; !ok || got != want {
		t.Errorf("got %s, %t, want %s", got, ok, want)
	}
	if name, ok := DANEName(message.Address{Local: "hugh", Domain: "[192.0.2.1]"}, "_smimecert"); ok {
		t.Errorf("an address literal: got %s, want none", name)
	}
}

// hosts are names that all are one server.
type hosts struct {
	names []string
	err   error
}

func (h hosts) Addresses(_ context.Context, host string) (a resolver.Answer[netip.Addr], err error) {
	if slices.Contains(h.names, host) {
		a.Found = []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	}
	return a, h.err
}

// place serves one answer at one URL, and nothing elsewhere.
func place(t *testing.T, url string, status int, body string) (func(names web.Names) *http.Client, *[]string) {
	t.Helper()
	var asked []string
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got := "https://" + r.Host + r.URL.RequestURI()
		asked = append(asked, got)
		if got != url {
			http.NotFound(w, r)
			return
		}
		w.WriteHeader(status)
		w.Write([]byte(body))
	}))
	t.Cleanup(s.Close)
	return func(names web.Names) *http.Client {
		c := web.Client(names, nil, true, func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, s.Listener.Addr().String())
		})
		c.Transport.(*http.Transport).TLSClientConfig.InsecureSkipVerify = true // the certificate of the place is the client's matter: web
		return c
	}, &asked
}

var errBad = errors.New("not a certificate")

// read makes a certificate of every word.
func read(data []byte) (list []keyring.Cert, err error) {
	if string(data) == "bad" {
		return nil, errBad
	}
	for word := range strings.FieldsSeq(string(data)) {
		list = append(list, cert(word, keyring.OpenPGP))
	}
	return list, nil
}

func TestWebSources(t *testing.T) {
	const advanced = "https://openpgpkey.partner.example/.well-known/openpgpkey/partner.example/hu/jycbiujnsxs47xrkethgtj69xuunurok?l=Bob"
	const direct = "https://partner.example/.well-known/openpgpkey/hu/jycbiujnsxs47xrkethgtj69xuunurok?l=Bob"
	who := message.Address{Local: "Bob", Domain: "partner.example"}
	both, plain := hosts{names: []string{"openpgpkey.partner.example", "partner.example"}}, hosts{names: []string{"partner.example"}}
	for _, c := range []struct {
		name   string
		kind   string
		names  hosts
		url    string
		status int
		body   string
		want   []string
		asked  int
		err    error
	}{
		{"wkd, advanced", "wkd", both, advanced, 200, "A", []string{"A"}, 1, nil},
		{"wkd, direct", "wkd", plain, direct, 200, "A B", []string{"A", "B"}, 1, nil},
		{"wkd, the direct place is not asked where there is the advanced one", "wkd", both, direct, 200, "A", nil, 1, nil},
		{"wkd, no host", "wkd", hosts{}, direct, 200, "A", nil, 0, nil},
		{"wkd, resolver away", "wkd", hosts{err: resolver.ErrAway}, direct, 200, "A", nil, 0, resolver.ErrAway},
		{"wkd, server in trouble", "wkd", plain, direct, 500, "A", nil, 1, web.ErrStatus},
		{"wkd, redirected", "wkd", plain, direct, 302, "A", nil, 1, web.ErrStatus},
		{"wkd, too long", "wkd", plain, direct, 200, strings.Repeat("A", maxAnswer+1), nil, 1, web.ErrSize},
		{"wkd, no certificate", "wkd", plain, direct, 200, "bad", nil, 1, errBad},
		{"vks", "vks", hosts{names: []string{"keys.example"}}, "https://keys.example/vks/v1/by-email/Bob@partner.example", 200, "A", []string{"A"}, 1, nil},
		{"vks, none", "vks", hosts{names: []string{"keys.example"}}, "", 200, "A", nil, 1, nil},
		{"hkps", "hkps", hosts{names: []string{"keys.example"}}, "https://keys.example/pks/lookup?op=get&options=mr&exact=on&search=Bob%40partner.example", 200, "A", []string{"A"}, 1, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			client, asked := place(t, c.url, c.status, c.body)
			var d Directory = &WKD{Names: c.names, HTTP: client(c.names), Read: read}
			switch c.kind {
			case "vks":
				d = &VKS{URL: "https://keys.example/", HTTP: client(c.names), Read: read}
			case "hkps":
				d = &HKPS{URL: "https://keys.example", HTTP: client(c.names), Read: read}
			}
			a, err := d.Lookup(t.Context(), who)
			var got []string
			for _, one := range a.Certs {
				got = append(got, one.Fingerprint)
			}
			if !slices.Equal(got, c.want) || !errors.Is(err, c.err) || (err == nil) != (c.err == nil) || len(*asked) != c.asked {
				t.Errorf("got %q, %v, asked %q, want %q, %v, asked %d times", got, err, *asked, c.want, c.err, c.asked)
			}
			if len(a.Certs) > 0 && a.Home != (c.kind == "wkd") {
				t.Errorf("got home %t", a.Home)
			}
		})
	}
}

// records are what one name has.
type records struct {
	name string
	keys [][]byte
	smi  []resolver.TLSA
	err  error
}

func (r records) OpenPGPKey(_ context.Context, name string) (a resolver.Answer[[]byte], err error) {
	if a.Secure = true; name == r.name {
		a.Found = r.keys
	}
	return a, r.err
}

func (r records) SMIMEA(_ context.Context, name string) (a resolver.Answer[resolver.TLSA], err error) {
	if a.Secure = true; name == r.name {
		a.Found = r.smi
	}
	return a, r.err
}

func TestDNSSources(t *testing.T) {
	at := func(label string) string {
		name, _ := DANEName(bob, label)
		return name
	}
	sum := sha256.Sum256([]byte("H"))
	for _, c := range []struct {
		name string
		d    Directory
		want []string
		err  error
	}{
		{"keys", &OpenPGPKey{records{name: at("_openpgpkey"), keys: [][]byte{[]byte("A"), []byte("A B")}}, read}, []string{"A", "B"}, nil},
		{"one key that is none", &OpenPGPKey{records{name: at("_openpgpkey"), keys: [][]byte{[]byte("bad"), []byte("B")}}, read}, []string{"B"}, nil},
		{"nothing but such", &OpenPGPKey{records{name: at("_openpgpkey"), keys: [][]byte{[]byte("bad")}}, read}, nil, errBad},
		{"none", &OpenPGPKey{records{}, read}, nil, nil},
		{"away", &OpenPGPKey{records{err: resolver.ErrAway}, read}, nil, resolver.ErrAway},
		{"certificates of the one himself, as they are", &SMIMEA{records{name: at("_smimecert"), smi: []resolver.TLSA{
			{Usage: 3, Data: []byte("A")}, {Usage: 1, Data: []byte("B")},
			{Usage: 2, Data: []byte("C")}, {Usage: 0, Data: []byte("D")}, // of authorities
			{Usage: 3, Selector: 1, Data: []byte("E")}, {Usage: 3, Matching: 1, Data: sum[:]}, // a key, a hash
		}}, read}, []string{"A", "B"}, nil},
		{"away", &SMIMEA{records{err: resolver.ErrAway}, read}, nil, resolver.ErrAway},
	} {
		t.Run(c.d.Name()+", "+c.name, func(t *testing.T) {
			a, err := c.d.Lookup(t.Context(), bob)
			var got []string
			for _, one := range a.Certs {
				got = append(got, one.Fingerprint)
			}
			if !slices.Equal(got, c.want) || !errors.Is(err, c.err) || (err == nil) != (c.err == nil) || err == nil && !a.Secure {
				t.Errorf("got %q, secure %t, %v, want %q, %v", got, a.Secure, err, c.want, c.err)
			}
		})
	}
}
