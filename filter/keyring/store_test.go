package keyring

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"postern/filter/message"
	"postern/hsm"
)

var day0 = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func address(t testing.TB, s string) message.Address {
	t.Helper()
	a, err := message.ParseAddress(s)
	if err != nil {
		t.Fatalf("address %q: %v", s, err)
	}
	return a
}

// cert makes a certificate whose fingerprint begins with the digits of name.
func cert(t testing.TB, name string, addresses ...string) Cert {
	t.Helper()
	c := Cert{Format: OpenPGP, Fingerprint: name + strings.Repeat("0", 40-len(name)), Raw: []byte("raw " + name),
		KeyIDs: []hsm.KeyID{{1, byte(len(name))}, {2}}, Created: day0, Trust: Trusted, Source: "import", FirstSeen: day0, LastSeen: day0}
	for _, s := range addresses {
		c.Addresses = append(c.Addresses, address(t, s))
	}
	return c
}

func open(t testing.TB) (*Store, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a %?b#", "keyring.db") // names that a URI must escape
	if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	s, err := Open(path)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { s.Close() })
	return s, path
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestRoundTrip(t *testing.T) {
	s, path := open(t)
	ctx := t.Context()
	want := cert(t, "AB12", "Alice@Partner.Example", "alice.b@partner.example")
	want.Expires = day0.AddDate(2, 0, 0)
	want.Domains = []string{"a.example", "b.example"}
	want.Capabilities = []byte{0x30, 0}
	must(t, s.Import(ctx, want))
	want.Sources = []Sighting{{"import", day0, day0}}
	got, err := s.Get(ctx, "0xab12 0000:0000")
	must(t, err)
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	info, err := os.Stat(path)
	must(t, err)
	if info.Mode().Perm() != 0o640 {
		t.Errorf("got mode %v, want 0640", info.Mode().Perm())
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); !slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() == "keyring.db" }) {
		t.Errorf("got %v, want keyring.db at the path that was asked for", entries)
	}
}

func TestCerts(t *testing.T) {
	s, _ := open(t)
	ctx := t.Context()
	old, young := cert(t, "A1", "x@p.example"), cert(t, "A2", "x@p.example")
	young.Created = day0.Add(time.Hour)
	gateway := cert(t, "A3")
	gateway.Domains = []string{"P.example"}
	gateway.Created = day0.Add(2 * time.Hour)
	both := cert(t, "A4", "y@p.example")
	both.Domains = []string{"p.example"}
	for _, c := range []Cert{old, young, gateway, both} {
		must(t, s.Import(ctx, c))
	}
	for _, test := range []struct{ address, want string }{
		{"x@p.example", "A2 A1 A3 A4"},
		{"x@P.EXAMPLE", "A2 A1 A3 A4"},
		{"y@p.example", "A4 A3"},
		{"z@p.example", "A3 A4"},
		{"x@sub.p.example", ""},
		{"x@example", ""},
		{"x%@p.example", "A3 A4"},
	} {
		list, err := s.Certs(ctx, address(t, test.address))
		must(t, err)
		var got []string
		for _, c := range list {
			got = append(got, c.Fingerprint[:2])
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("certs of %s: got %v, want %v", test.address, got, test.want)
		}
	}
}

func TestIdentities(t *testing.T) {
	s, _ := open(t)
	ctx := t.Context()
	domain, user, expired := cert(t, "B1"), cert(t, "B2", "u@ours.example"), cert(t, "B3", "u@ours.example")
	domain.Created = day0.Add(time.Hour)
	expired.Created, expired.Expires = day0.AddDate(-3, 0, 0), day0.AddDate(-1, 0, 0)
	must(t, s.Bind(ctx, Identity{Cert: domain, Domain: "Ours.example"}))
	must(t, s.Bind(ctx, Identity{Cert: expired, Address: address(t, "u@ours.example")}))
	must(t, s.Bind(ctx, Identity{Cert: user, Address: address(t, "u@ours.example")}))
	must(t, s.Bind(ctx, Identity{Cert: user, Address: address(t, "u@ours.example")}))
	for _, test := range []struct{ address, want string }{
		{"u@ours.example", "B2 B3 B1"},
		{"v@ours.example", "B1"},
		{"u@other.example", ""},
	} {
		list, err := s.Identities(ctx, address(t, test.address))
		must(t, err)
		var got []string
		for _, i := range list {
			got = append(got, i.Fingerprint[:2])
			if i.Domain == "" == i.Address.IsZero() {
				t.Errorf("identity %s: got address %v and domain %q", i.Fingerprint, i.Address, i.Domain)
			}
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("identities of %s: got %v, want %v", test.address, got, test.want)
		}
	}
	if list, err := s.Certs(ctx, address(t, "u@ours.example")); err != nil || len(list) != 0 {
		t.Errorf("got %d certificates, %v; want none: an identity is no partner", len(list), err)
	}
	if _, err := s.Get(ctx, user.Fingerprint); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound: an identity is no partner", err)
	}
	if err := s.Remove(ctx, user.Fingerprint); !errors.Is(err, ErrNotFound) {
		t.Errorf("remove identity as a partner: got %v, want ErrNotFound", err)
	}
	all, err := s.AllIdentities(ctx)
	must(t, err)
	if len(all) != 3 || all[0].Fingerprint[:2] != "B2" || all[2].Fingerprint[:2] != "B1" {
		t.Errorf("all identities: got %v", all)
	}
	must(t, s.Unbind(ctx, all[0]))
	if err := s.Unbind(ctx, all[0]); !errors.Is(err, ErrNotFound) {
		t.Errorf("unbind twice: got %v, want ErrNotFound", err)
	}
	if list, err := s.Identities(ctx, address(t, "u@ours.example")); err != nil || len(list) != 2 {
		t.Errorf("after unbind: got %d, %v, want 2", len(list), err)
	}
	for _, bad := range []Identity{{Cert: user}, {Cert: user, Domain: "d.example", Address: address(t, "u@ours.example")}} {
		if err := s.Bind(ctx, bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("bind %v: got %v, want ErrInvalid", bad, err)
		}
	}
}

// TestUse: what the key of an identity does stays, and binding it again says it anew.
func TestUse(t *testing.T) {
	s, _ := open(t)
	id := Identity{Cert: cert(t, "C1", "u@ours.example"), Domain: "ours.example"}
	for _, use := range []hsm.Usage{hsm.Unwrap, hsm.Sign, 0} {
		id.Use = use
		must(t, s.Bind(t.Context(), id))
		if list, err := s.AllIdentities(t.Context()); err != nil || len(list) != 1 || list[0].Use != use {
			t.Errorf("%s: got %v, %v", use, list, err)
		}
	}
}

// TestPartnerAndIdentity: one certificate in both roles; ending one leaves the other.
func TestPartnerAndIdentity(t *testing.T) {
	s, _ := open(t)
	ctx := t.Context()
	c := cert(t, "C1", "u@ours.example")
	id := Identity{Cert: c, Address: c.Addresses[0]}
	must(t, s.Bind(ctx, id))
	planted := c
	planted.Trust, planted.Source, planted.Raw = Seen, "mail", []byte("planted")
	must(t, s.Import(ctx, planted))
	got, err := s.Get(ctx, c.Fingerprint)
	must(t, err)
	if got.Trust != Seen || string(got.Raw) != "raw C1" {
		t.Errorf("identity that came by mail: got %s %q, want seen, and the bytes that were bound", got.Trust, got.Raw)
	}
	must(t, s.Remove(ctx, c.Fingerprint))
	if list, err := s.Identities(ctx, id.Address); err != nil || len(list) != 1 {
		t.Errorf("after remove: got %d identities, %v, want 1", len(list), err)
	}
	must(t, s.Import(ctx, c))
	must(t, s.Unbind(ctx, id))
	if got, err := s.Get(ctx, c.Fingerprint); err != nil || got.Trust != Trusted {
		t.Errorf("after unbind: got %v, %v, want the partner's certificate, trusted", got, err)
	}
}

// TestMerge (R16): what arrives by itself neither replaces a certificate that
// somebody vouched for nor changes what was said of it.
func TestMerge(t *testing.T) {
	later := day0.Add(24 * time.Hour)
	for _, test := range []struct {
		known, comes Trust
		trust        Trust
		raw          string
	}{
		{Seen, Seen, Seen, "new"},
		{Seen, Trusted, Seen, "new"},
		{Trusted, Seen, Trusted, "raw D1"},
		{Trusted, Trusted, Trusted, "new"},
		{Trusted, Distrusted, Trusted, "raw D1"},
		{Distrusted, Seen, Distrusted, "raw D1"},
		{Distrusted, Trusted, Distrusted, "new"},
	} {
		s, _ := open(t)
		ctx := t.Context()
		first := cert(t, "D1", "a@p.example")
		first.Trust, first.Domains, first.Capabilities = test.known, []string{"p.example"}, []byte("first")
		must(t, s.Import(ctx, first))
		second := cert(t, "D1", "b@p.example")
		second.Trust, second.Raw, second.Source, second.Domains = test.comes, []byte("new"), "mail", []string{"evil.example"}
		second.Capabilities, second.Role = []byte("new"), Anchor
		second.FirstSeen, second.LastSeen = later, later
		must(t, s.Import(ctx, second))
		got, err := s.Get(ctx, first.Fingerprint)
		must(t, err)
		if want := map[string]string{"new": "new", "raw D1": "first"}[test.raw]; string(got.Capabilities) != want {
			t.Errorf("%s over %s: got capabilities %q, want %q", test.comes, test.known, got.Capabilities, want)
		}
		if want := map[bool]Role{true: Anchor}[test.comes == Trusted || test.known == Seen]; got.Role != want {
			t.Errorf("%s over %s: got role %q, want %q", test.comes, test.known, got.Role, want)
		}
		if fmt.Sprint(got.Sources) != fmt.Sprint([]Sighting{{"import", day0, day0}, {"mail", later, later}}) {
			t.Errorf("%s over %s: got sources %v", test.comes, test.known, got.Sources)
		}
		if got.Trust != test.trust || string(got.Raw) != test.raw || !got.LastSeen.Equal(later) || !got.FirstSeen.Equal(day0) || got.Source != "import" || fmt.Sprint(got.Domains) != "[p.example]" {
			t.Errorf("%s over %s: got %+v, want trust %s, raw %q", test.comes, test.known, got, test.trust, test.raw)
		}
		if named := got.Addresses[0].Key(); named == "b@p.example" != (test.raw == "new") {
			t.Errorf("%s over %s: got address %s with raw %q", test.comes, test.known, named, got.Raw)
		}
	}
}

func TestSay(t *testing.T) {
	s, _ := open(t)
	ctx := t.Context()
	c := cert(t, "E1", "a@p.example")
	must(t, s.Import(ctx, c))
	must(t, s.SetTrust(ctx, c.Fingerprint, Distrusted))
	must(t, s.SetDomains(ctx, c.Fingerprint, []string{"q.example", "Q.example", "r.example"}))
	got, err := s.Get(ctx, "E1000000")
	must(t, err)
	if got.Trust != Distrusted || fmt.Sprint(got.Domains) != "[q.example r.example]" {
		t.Errorf("got %s %v, want distrusted [q.example r.example]", got.Trust, got.Domains)
	}
	if err := s.SetTrust(ctx, c.Fingerprint, "much"); err == nil {
		t.Error("set trust to nonsense: got nil, want an error")
	}
	for what, err := range map[string]error{
		"trust":   s.SetTrust(ctx, strings.Repeat("F", 40), Trusted),
		"domains": s.SetDomains(ctx, strings.Repeat("F", 40), nil),
		"remove":  s.Remove(ctx, strings.Repeat("F", 40)),
	} {
		if !errors.Is(err, ErrNotFound) {
			t.Errorf("%s of nothing: got %v, want ErrNotFound", what, err)
		}
	}
	must(t, s.Remove(ctx, c.Fingerprint))
	if list, err := s.Certs(ctx, address(t, "x@q.example")); err != nil || len(list) != 0 {
		t.Errorf("after remove: got %d, %v, want none", len(list), err)
	}
}

func TestGet(t *testing.T) {
	s, _ := open(t)
	ctx := t.Context()
	must(t, s.Import(ctx, cert(t, "AAAAAAAA11")))
	must(t, s.Import(ctx, cert(t, "AAAAAAAA22")))
	for _, test := range []struct {
		prefix string
		want   error
	}{
		{"AAAAAAAA", ErrAmbiguous}, {"aaaaaaaa1", nil}, {"AAAA AAAA 22", nil}, {"AAAAAAAB", ErrNotFound},
		{"AAAAAAA", ErrInvalid}, {"", ErrInvalid}, {"AAAAAAA%", ErrInvalid}, {strings.Repeat("A", 65), ErrNotFound},
	} {
		if _, err := s.Get(ctx, test.prefix); !errors.Is(err, test.want) {
			t.Errorf("get %q: got %v, want %v", test.prefix, err, test.want)
		}
	}
}

func TestList(t *testing.T) {
	s, _ := open(t)
	ctx := t.Context()
	a, b := cert(t, "A1", "a@p.example"), cert(t, "A2", "b@q.example")
	b.Trust, b.Domains = Seen, []string{"p.example"}
	must(t, s.Import(ctx, b))
	must(t, s.Import(ctx, a))
	for _, test := range []struct {
		f    Filter
		want int
	}{
		{Filter{}, 2}, {Filter{Trust: Seen}, 1}, {Filter{Domain: "P.example"}, 2}, {Filter{Domain: "q.example"}, 1},
		{Filter{Format: SMIME}, 0}, {Filter{Format: OpenPGP, Trust: Trusted, Domain: "p.example"}, 1},
	} {
		if list, err := s.List(ctx, test.f); err != nil || len(list) != test.want {
			t.Errorf("list %+v: got %d, %v, want %d", test.f, len(list), err, test.want)
		}
	}
}

func TestInvalid(t *testing.T) {
	s, _ := open(t)
	for name, spoil := range map[string]func(*Cert){
		"fingerprint": func(c *Cert) { c.Fingerprint = strings.ToLower(c.Fingerprint) },
		"length":      func(c *Cert) { c.Fingerprint = c.Fingerprint[:39] },
		"format":      func(c *Cert) { c.Format = "pem" },
		"trust":       func(c *Cert) { c.Trust = "" },
		"empty":       func(c *Cert) { c.Raw = nil },
		"huge":        func(c *Cert) { c.Raw = make([]byte, maxRaw+1) },
		"addresses":   func(c *Cert) { c.Addresses = make([]message.Address, maxAddresses+1) },
		"address":     func(c *Cert) { c.Addresses = make([]message.Address, 1) },
		"domains":     func(c *Cert) { c.Domains = make([]string, maxDomains+1) },
		"domain":      func(c *Cert) { c.Domains = []string{""} },
		"keys":        func(c *Cert) { c.KeyIDs = make([]hsm.KeyID, maxKeys+1) },
		"role":        func(c *Cert) { c.Role = "king" },
		"capable":     func(c *Cert) { c.Capabilities = make([]byte, maxCaps+1) },
	} {
		c := cert(t, "AB", "a@p.example")
		spoil(&c)
		if err := s.Import(t.Context(), c); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: got %v, want ErrInvalid", name, err)
		}
	}
	if list, err := s.List(t.Context(), Filter{}); err != nil || len(list) != 0 {
		t.Errorf("got %d certificates, %v, want none", len(list), err)
	}
}

// TestBeforeTheFirstImport: a reader may start before the file is there. It
// then says so at every look-up, never "no certificate".
func TestBeforeTheFirstImport(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyring.db")
	r, err := OpenReadOnly(path)
	must(t, err)
	defer r.Close()
	a := address(t, "a@p.example")
	if _, err := r.Certs(t.Context(), a); !errors.Is(err, ErrNoStore) {
		t.Errorf("got %v, want ErrNoStore", err)
	}
	must(t, os.WriteFile(path, nil, 0o640)) // made, not filled yet
	if _, err := r.Identities(t.Context(), a); !errors.Is(err, ErrNoStore) {
		t.Errorf("empty file: got %v, want ErrNoStore", err)
	}
	s, err := Open(path)
	must(t, err)
	must(t, s.Import(t.Context(), cert(t, "AB", "a@p.example")))
	if list, err := r.Certs(t.Context(), a); err != nil || len(list) != 1 {
		t.Errorf("got %d, %v, want 1", len(list), err)
	}
	must(t, s.Close())
	if list, err := r.Certs(t.Context(), a); err != nil || len(list) != 1 {
		t.Errorf("after the writer closed: got %d, %v, want 1", len(list), err)
	}
	if err := r.Import(t.Context(), cert(t, "AC")); err == nil {
		t.Error("import into a read-only keyring: got nil, want an error")
	}
}

func TestOtherVersion(t *testing.T) {
	s, path := open(t)
	if _, err := s.db.Exec("PRAGMA user_version = 99"); err != nil {
		t.Fatal(err)
	}
	must(t, s.Close())
	if _, err := Open(path); !errors.Is(err, ErrVersion) {
		t.Errorf("open: got %v, want ErrVersion", err)
	}
	if _, err := OpenReadOnly(path); !errors.Is(err, ErrVersion) {
		t.Errorf("open for reading: got %v, want ErrVersion", err)
	}
	garbage := filepath.Join(t.TempDir(), "garbage")
	must(t, os.WriteFile(garbage, []byte(strings.Repeat("garbage ", 1000)), 0o600))
	if _, err := Open(garbage); err == nil {
		t.Error("open garbage: got nil, want an error")
	}
	if _, err := OpenReadOnly(garbage); err == nil {
		t.Error("open garbage for reading: got nil, want an error")
	}
}

// TestTogether: several programs that write and read one new file.
func TestTogether(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyring.db")
	var group sync.WaitGroup
	for w := range 4 {
		group.Go(func() {
			s, err := Open(path)
			if err != nil {
				t.Errorf("open: %v", err)
				return
			}
			defer s.Close()
			for n := range 25 {
				if err := s.Import(context.Background(), cert(t, fmt.Sprintf("%02X%02X", w, n), "a@p.example")); err != nil {
					t.Errorf("import: %v", err)
				}
			}
		})
	}
	r, err := OpenReadOnly(path)
	if err != nil {
		t.Fatalf("open for reading: %v", err)
	}
	defer r.Close()
	a := address(t, "a@p.example")
	for range 3 {
		group.Go(func() {
			last := 0
			for range 200 {
				list, err := r.Certs(context.Background(), a)
				if errors.Is(err, ErrNoStore) {
					continue
				}
				if err != nil || len(list) < last {
					t.Errorf("got %d after %d, %v", len(list), last, err)
					return
				}
				last = len(list)
			}
		})
	}
	group.Wait()
	if list, err := r.Certs(t.Context(), a); err != nil || len(list) != 100 {
		t.Errorf("got %d, %v, want 100", len(list), err)
	}
}

// TestStrangeReader: the reader is another user, who may read the files and
// write neither them nor the folder, as filterd's user does.
func TestStrangeReader(t *testing.T) {
	if path := os.Getenv("KEYRING_READ"); path != "" {
		r, err := OpenReadOnly(path)
		must(t, err)
		defer r.Close()
		list, err := r.Certs(t.Context(), address(t, "a@p.example"))
		must(t, err)
		fmt.Printf("found %d as %d\n", len(list), os.Getuid())
		return
	}
	if os.Getuid() != 0 {
		t.Skip("needs root to become another user")
	}
	dir, err := os.MkdirTemp("/tmp", "keyring")
	must(t, err)
	defer os.RemoveAll(dir)
	must(t, os.Chmod(dir, 0o750))
	const reader = 65534
	must(t, os.Chown(dir, 0, reader))
	path := filepath.Join(dir, "keyring.db")
	s, err := Open(path)
	must(t, err)
	must(t, os.Chown(path, 0, reader))
	must(t, s.Close())
	s, err = Open(path) // the log takes owner and mode from the file
	must(t, err)
	must(t, s.Import(t.Context(), cert(t, "AB", "a@p.example")))
	program := filepath.Join(dir, "reader.test")
	b, err := os.ReadFile(os.Args[0])
	must(t, err)
	must(t, os.WriteFile(program, b, 0o755))
	read := func(when string, want int) {
		t.Helper()
		cmd := exec.Command(program, "-test.run=^TestStrangeReader$")
		cmd.Dir, cmd.Env = "/", []string{"KEYRING_READ=" + path, "TMPDIR=/tmp"}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: reader, Gid: reader}}
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), fmt.Sprintf("found %d as %d", want, reader)) {
			t.Errorf("%s: got %v, %s; want %d", when, err, out, want)
		}
	}
	read("while the writer is there", 1)
	must(t, s.Close())
	read("after the writer closed", 1)
	s, err = Open(path)
	must(t, err)
	must(t, s.Import(t.Context(), cert(t, "AC", "a@p.example")))
	must(t, s.Close())
	read("after another import", 2)
}

func BenchmarkCerts(b *testing.B) {
	s, path := open(b)
	for n := range 1000 {
		must(b, s.Import(b.Context(), cert(b, fmt.Sprintf("%04X", n), fmt.Sprintf("user%d@p.example", n))))
	}
	r, err := OpenReadOnly(path)
	must(b, err)
	defer r.Close()
	a := address(b, "user500@p.example")
	for b.Loop() {
		if list, err := r.Certs(b.Context(), a); err != nil || len(list) != 1 {
			b.Fatalf("got %d, %v", len(list), err)
		}
	}
}
