package keyring

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// x509 makes a certificate of S/MIME with the name that its bytes give it.
func x509(t testing.TB, raw string, addresses ...string) Cert {
	t.Helper()
	c := cert(t, "AA", addresses...)
	sum := sha256.Sum256([]byte(raw))
	c.Format, c.Raw, c.Fingerprint = SMIME, []byte(raw), strings.ToUpper(hex.EncodeToString(sum[:]))
	c.Trust, c.Source = Seen, "mail"
	return c
}

// joined are both stores, with writers for each, and what mail asks.
func joined(t testing.TB) (operators, seen *Store, j *Joined) {
	t.Helper()
	operators, first := readers(t)
	seen, second := readers(t)
	return operators, seen, Join(first, second)
}

func fingerprints(list []Cert) string {
	var all []string
	for _, c := range list {
		all = append(all, string(c.Trust)+" "+c.Fingerprint[:6])
	}
	return strings.Join(all, ", ")
}

// TestNothingSeenIsTrusted (R16): whatever the file of what was seen says, and
// whoever wrote it, its certificates are Seen, serve no domain, are no anchors,
// and replace none of the operators'.
func TestNothingSeenIsTrusted(t *testing.T) {
	operators, seen, j := joined(t)
	ctx := t.Context()
	a := address(t, "a@p.example")
	good := x509(t, "good", "a@p.example")
	good.Trust, good.Source = Trusted, "import"
	bad := x509(t, "bad", "a@p.example")
	bad.Trust = Distrusted
	must(t, operators.Import(ctx, good))
	must(t, operators.Import(ctx, bad))

	for _, planted := range []Cert{ // as a parser that was taken over would write
		{Fingerprint: good.Fingerprint, Raw: good.Raw, Capabilities: []byte("reads")},
		{Fingerprint: bad.Fingerprint, Raw: bad.Raw},
		{Fingerprint: x509(t, "new").Fingerprint, Raw: []byte("new")},
		{Fingerprint: x509(t, "other").Fingerprint, Raw: []byte("evil")}, // another's name
		{Fingerprint: x509(t, "root").Fingerprint, Raw: []byte("root"), Role: Anchor},
	} {
		planted.Format, planted.Trust, planted.Addresses, planted.Domains = SMIME, Trusted, good.Addresses, []string{"p.example"}
		must(t, seen.Import(ctx, planted))
	}
	list, err := j.Certs(ctx, a)
	must(t, err)
	want := []string{"distrusted " + bad.Fingerprint[:6], "trusted " + good.Fingerprint[:6]}
	slices.SortFunc(want, func(a, b string) int { return strings.Compare(a[len(a)-6:], b[len(b)-6:]) })
	want = append(want, "seen "+x509(t, "new").Fingerprint[:6])
	if got := fingerprints(list); got != strings.Join(want, ", ") {
		t.Errorf("got %s, want %s", got, strings.Join(want, ", "))
	}
	for _, c := range list {
		if c.Trust == Seen && len(c.Domains) > 0 {
			t.Errorf("got domains %v of a certificate that was seen", c.Domains)
		}
		if c.Fingerprint == good.Fingerprint && (string(c.Capabilities) != "reads" || c.Source != "import") {
			t.Errorf("got %+v, want the operators' certificate with what its owner reads", c)
		}
	}
	if list, err := j.Certs(ctx, address(t, "b@p.example")); err != nil || len(list) != 0 {
		t.Errorf("another address of the domain: got %s, %v, want none", fingerprints(list), err)
	}
	roots, err := j.Authorities(ctx)
	must(t, err)
	if len(roots) != 1 || roots[0].Role != Intermediate || roots[0].Trust != Seen {
		t.Errorf("got authorities %+v, want one intermediate that was seen", roots)
	}
	if ids, err := j.Identities(ctx, a); err != nil || len(ids) != 0 {
		t.Errorf("got %d identities, %v, want none", len(ids), err)
	}
}

// TestAuthorities: what operators distrust comes back by no mail.
func TestAuthorities(t *testing.T) {
	operators, seen, j := joined(t)
	ctx := t.Context()
	anchor, way := x509(t, "anchor", "root@ca.example"), x509(t, "way")
	anchor.Role, anchor.Trust = Anchor, Trusted
	way.Role = Intermediate
	must(t, operators.Import(ctx, anchor))
	distrusted := way
	distrusted.Trust = Distrusted
	must(t, operators.Import(ctx, distrusted))
	must(t, seen.Learn(ctx, way))
	list, err := j.Authorities(ctx)
	must(t, err)
	if len(list) != 2 || slices.ContainsFunc(list, func(c Cert) bool { return (c.Trust == Trusted) != (c.Role == Anchor) || c.Trust == Seen }) {
		t.Errorf("got %s, want a trusted anchor and a distrusted intermediate", fingerprints(list))
	}
	if list, err := j.Certs(ctx, anchor.Addresses[0]); err != nil || len(list) != 0 {
		t.Errorf("got %s, %v, want none: nobody is sealed to by an authority's certificate", fingerprints(list), err)
	}
	if list, err := operators.List(ctx, Filter{}); err != nil || len(list) != 0 {
		t.Errorf("list: got %d, %v, want none", len(list), err)
	}
	if list, err := operators.List(ctx, Filter{Authorities: true, Trust: Trusted}); err != nil || len(list) != 1 {
		t.Errorf("list authorities: got %d, %v, want 1", len(list), err)
	}
}

func TestLearn(t *testing.T) {
	s, _ := open(t)
	ctx := t.Context()
	c := x509(t, "one", "a@p.example")
	c.Trust, c.Domains, c.Capabilities = Trusted, []string{"p.example"}, []byte("old")
	must(t, s.Learn(ctx, c))
	again := c
	again.Addresses, again.Capabilities, again.LastSeen = x509(t, "", "b@p.example").Addresses, []byte("new"), day0.Add(time.Hour)
	must(t, s.Learn(ctx, again))
	got, err := s.Get(ctx, c.Fingerprint)
	must(t, err)
	if got.Trust != Seen || got.Domains != nil || fmt.Sprint(got.Addresses) != "[a@p.example b@p.example]" || string(got.Capabilities) != "new" ||
		!got.FirstSeen.Equal(day0) || !got.LastSeen.Equal(day0.Add(time.Hour)) {
		t.Errorf("got %+v, want it seen twice, for both addresses", got)
	}
	again.LastSeen = day0.Add(2 * time.Hour)
	must(t, s.Learn(ctx, again))
	if got, err := s.Get(ctx, c.Fingerprint); err != nil || !got.LastSeen.Equal(day0.Add(time.Hour)) {
		t.Errorf("the same a little later: got last seen %v, %v, want no write", got.LastSeen, err)
	}
	again.LastSeen = day0.Add(24 * time.Hour)
	must(t, s.Learn(ctx, again))
	if got, err := s.Get(ctx, c.Fingerprint); err != nil || !got.LastSeen.Equal(again.LastSeen) {
		t.Errorf("the same a day later: got last seen %v, %v, want %v", got.LastSeen, err, again.LastSeen)
	}
	for name, spoil := range map[string]func(*Cert){
		"an anchor": func(c *Cert) { c.Role = Anchor },
		"huge":      func(c *Cert) { c.Raw = make([]byte, maxLearned+1) },
		"addresses": func(c *Cert) { c.Addresses = slices.Repeat(c.Addresses, maxNamed+1) },
	} {
		c := x509(t, "bad", "a@p.example")
		spoil(&c)
		if err := s.Learn(ctx, c); !errors.Is(err, ErrInvalid) {
			t.Errorf("learn %s: got %v, want ErrInvalid", name, err)
		}
	}
}

// TestLearnIsBounded (R16): senders choose what comes.
func TestLearnIsBounded(t *testing.T) {
	s, _ := open(t)
	s.most = 3 * maxOfAddress
	ctx := t.Context()
	at := day0
	learn := func(name, address string, role Role) {
		t.Helper()
		c := x509(t, name, address)
		if c.Role = role; role != Holder {
			c.Addresses = nil
		}
		at = at.Add(time.Minute)
		c.FirstSeen, c.LastSeen = at, at
		must(t, s.Learn(ctx, c))
	}
	learn("victim", "victim@p.example", Holder)
	for i := range 2 * maxOfAddress {
		learn(fmt.Sprint("flood ", i), "flood@p.example", Holder)
	}
	list, err := s.Certs(ctx, address(t, "flood@p.example"))
	must(t, err)
	if len(list) != maxOfAddress || !slices.ContainsFunc(list, func(c Cert) bool { return string(c.Raw) == fmt.Sprint("flood ", 2*maxOfAddress-1) }) {
		t.Errorf("got %d of one address, want the newest %d", len(list), maxOfAddress)
	}
	if list, err := s.Certs(ctx, address(t, "victim@p.example")); err != nil || len(list) != 1 {
		t.Errorf("got %d of another address, %v, want 1", len(list), err)
	}
	for i := range 4 * maxOfAddress {
		learn(fmt.Sprint("many ", i), fmt.Sprintf("u%d@p.example", i), []Role{Holder, Intermediate}[i%2])
	}
	var n int
	must(t, s.db.QueryRow("SELECT count(*) FROM cert").Scan(&n))
	if n != s.most {
		t.Errorf("got %d in all, want %d", n, s.most)
	}
	if list, err := s.Certs(ctx, address(t, "flood@p.example")); err != nil || len(list) != 0 {
		t.Errorf("got %d that were not seen for the longest time, %v, want none", len(list), err)
	}
}

// TestHeadersDriveNothingOut (R16): whoever writes mail can fill the place of
// headers, and no other.
func TestHeadersDriveNothingOut(t *testing.T) {
	s, _ := open(t)
	ctx := t.Context()
	at := day0
	learn := func(name, who, source string) {
		t.Helper()
		c := x509(t, name, who)
		at = at.Add(time.Minute)
		c.Source, c.FirstSeen, c.LastSeen = source, at, at
		must(t, s.Learn(ctx, c))
	}
	has := func(who string) (list []string) {
		t.Helper()
		certs, err := s.Certs(ctx, address(t, who))
		must(t, err)
		for _, c := range certs {
			list = append(list, string(c.Raw))
		}
		return list
	}
	learn("signed", "bob@p.example", "mail")
	for i := range 2 * maxOfAddress {
		learn(fmt.Sprint("header ", i), "bob@p.example", ByAutocrypt)
	}
	if list := has("bob@p.example"); len(list) != maxOfAddress || !slices.Contains(list, "signed") {
		t.Errorf("got %q, want %d, and what was signed among them", list, maxOfAddress)
	}
	// One that a directory shows, too, is no header's any more.
	learn("header 3", "bob@p.example", "wkd")
	learn("both", "carol@p.example", "wkd")
	learn("both", "carol@p.example", ByAutocrypt)
	c, err := s.Get(ctx, x509(t, "both").Fingerprint)
	must(t, err)
	if len(c.Sources) != 2 {
		t.Errorf("got sources %v, want both, however soon the second came", c.Sources)
	}
	s.most = 3
	for i := range 10 {
		learn(fmt.Sprint("flood ", i), fmt.Sprintf("u%d@p.example", i), ByAutocrypt)
	}
	if a, b := has("bob@p.example"), has("carol@p.example"); !slices.Contains(a, "signed") || !slices.Contains(b, "both") {
		t.Errorf("got %q and %q after a flood of headers, want what others have shown", a, b)
	}
}

// TestSeenAway: a store that cannot be asked is not an empty one.
func TestSeenAway(t *testing.T) {
	operators, _ := open(t)
	away, err := OpenReadOnly(filepath.Join(t.TempDir(), "none.db"))
	must(t, err)
	if _, err := Join(operators, away).Certs(t.Context(), address(t, "a@p.example")); !errors.Is(err, ErrNoStore) {
		t.Errorf("got %v, want ErrNoStore", err)
	}
	if list, err := Join(operators, nil).Certs(t.Context(), address(t, "a@p.example")); err != nil || len(list) != 0 {
		t.Errorf("without one: got %d, %v, want none", len(list), err)
	}
}

func TestOurs(t *testing.T) {
	w, r := readers(t)
	ctx := t.Context()
	c := cert(t, "AB", "u@ours.example")
	must(t, w.Bind(ctx, Identity{Cert: c, Address: c.Addresses[0]}))
	must(t, w.Bind(ctx, Identity{Cert: c, Domain: "ours.example"}))
	must(t, w.Import(ctx, cert(t, "AC", "u@ours.example")))
	for fingerprint, want := range map[string]int{c.Fingerprint: 2, cert(t, "AC").Fingerprint: 0, "AB": 0} {
		if list, err := r.Ours(ctx, fingerprint); err != nil || len(list) != want {
			t.Errorf("ours %s: got %d, %v, want %d", fingerprint, len(list), err, want)
		}
	}
}

// TestForeign: an operator's look at what filterd saw writes nothing into
// filterd's folder. (While it is open in this process, its index is shared.)
func TestForeign(t *testing.T) {
	s, path := open(t)
	must(t, s.Learn(t.Context(), x509(t, "one", "a@p.example")))
	must(t, s.Close())
	index := func() string {
		t.Helper()
		var b strings.Builder
		for _, name := range []string{path, path + "-wal", path + "-shm"} {
			content, err := os.ReadFile(name)
			must(t, err)
			fmt.Fprintf(&b, "%s %x\n", name, sha256.Sum256(content))
		}
		return b.String()
	}
	before := index()
	r, err := OpenForeign(path)
	must(t, err)
	if list, err := r.List(t.Context(), Filter{}); err != nil || len(list) != 1 {
		t.Errorf("got %d, %v, want 1", len(list), err)
	}
	if err := r.Learn(t.Context(), x509(t, "two")); err == nil {
		t.Error("learn: got nil, want an error")
	}
	must(t, r.Close())
	if after := index(); after != before {
		t.Errorf("got files\n%swant\n%s", after, before)
	}
}

// TestForeignIsBounded: what filterd's file holds beyond what is learned is not
// brought into an operator's memory.
func TestForeignIsBounded(t *testing.T) {
	s, path := open(t)
	must(t, s.Learn(t.Context(), x509(t, "one", "a@p.example")))
	huge := x509(t, strings.Repeat("huge", maxLearned/4+1), "a@p.example")
	must(t, s.Import(t.Context(), huge))
	must(t, s.Close())
	r, err := OpenForeign(path)
	must(t, err)
	defer r.Close()
	if list, err := r.Certs(t.Context(), address(t, "a@p.example")); err != nil || len(list) != 1 || string(list[0].Raw) != "one" {
		t.Errorf("got %d, %v, want the one that could be learned", len(list), err)
	}
	if _, err := r.Get(t.Context(), huge.Fingerprint); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
}
