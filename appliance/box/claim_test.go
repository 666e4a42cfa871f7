package box

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"postern/appliance/box/share"
	"postern/hsm"
)

func TestClaim(t *testing.T) {
	dir := t.TempDir()
	h := &house{token: token{state: hsm.Unprovisioned}}
	r := start(t, dir, h)
	c, _ := r.operator("owner")
	if st, err := c.Status(t.Context()); err != nil || st.Claimed || st.Version != "" {
		t.Errorf("before: got %+v, %v, want unclaimed and no more", st, err)
	}
	code, _, _ := r.code.show()
	got, err := c.Claim(t.Context(), strings.ToLower(strings.ReplaceAll(code, "-", " ")), Claim{Config: "name=gw\ntpm", PIN: PIN{PIN: []byte(secretPIN)}})
	if err != nil {
		t.Fatal(err)
	}
	if h.applied != 0 || h.state != hsm.Unprovisioned {
		t.Error("something was done before the recovery key was typed back")
	}
	if again, _, _ := r.code.show(); again == code {
		t.Error("the code serves twice")
	}
	other, _ := r.operator("other")
	if _, err := other.Confirm(t.Context(), got.Recovery); says(err) != 409 {
		t.Errorf("confirmed by another key: got %v, want 409", err)
	}
	if _, err := c.Confirm(t.Context(), "cccc-dddd-eeee-0009"); says(err) != 403 {
		t.Errorf("another recovery key: got %v, want 403", err)
	}
	st, err := c.Confirm(t.Context(), " CCCC DDDD eeee0001\n")
	if err != nil || !st.Claimed || st.Name != "gw" || st.Token != "ready" {
		t.Fatalf("got %+v, %v, want a claimed box with its token", st, err)
	}
	if h.pin != secretPIN || string(h.sealed) != secretPIN {
		t.Errorf("got PIN %q, sealed %q, want the one of the claim", h.pin, h.sealed)
	}
	if _, err := other.Claim(t.Context(), code, Claim{Config: "name=gw", PIN: PIN{PIN: []byte("1234")}}); says(err) != 409 {
		t.Errorf("claimed again: got %v, want 409", err)
	}
	if strings.Contains(r.log.String(), secretPIN) || strings.Contains(r.log.String(), plain(code)) || strings.Contains(r.log.String(), code) || strings.Contains(r.log.String(), got.Recovery) {
		t.Error("the log holds a secret")
	}
	// It survives a restart, with the same key.
	again := start(t, dir, h)
	if again.Pin() != r.Pin() {
		t.Errorf("after a restart: got %s, want %s", again.Pin(), r.Pin())
	}
	if st := again.status(t.Context()); !st.Claimed || st.Name != "gw" {
		t.Errorf("after a restart: got %+v, want claimed", st)
	}
}

// Whoever does not see the screen claims nothing; after a few tries, and after
// an hour, there is another code.
func TestCodes(t *testing.T) {
	r := start(t, t.TempDir(), &house{token: token{state: hsm.Unprovisioned}})
	c, _ := r.operator("owner")
	claim := Claim{Config: "name=gw", PIN: PIN{PIN: []byte(secretPIN)}}
	first, _, _ := r.code.show()
	for i := range tries {
		if now, _, left := r.code.show(); now != first || left != tries-i {
			t.Fatalf("try %d: got code %s, %d left, want %s", i, now, left, first)
		}
		if _, err := c.Claim(t.Context(), "AAAA-BBBB-CCCC-DDDD", claim); says(err) != 403 {
			t.Fatalf("try %d: got %v, want 403", i, err)
		}
	}
	if _, err := c.Claim(t.Context(), first, claim); says(err) != 403 {
		t.Errorf("the first code after %d wrong ones: got %v, want 403", tries, err)
	}
	second, _, _ := r.code.show()
	r.at.Pass(codeLife)
	if _, err := c.Claim(t.Context(), second, claim); says(err) != 403 {
		t.Errorf("a code after its hour: got %v, want 403", err)
	}
	third, _, _ := r.code.show()
	if first == second || second == third {
		t.Errorf("got codes %s, %s, %s, want three", first, second, third)
	}
	got, err := c.Claim(t.Context(), third, claim)
	if err != nil {
		t.Fatal(err)
	}
	for range tries {
		if _, err := c.Confirm(t.Context(), "wrong"); says(err) != 403 {
			t.Errorf("a wrong recovery key: got %v, want 403", err)
		}
	}
	if _, err := c.Confirm(t.Context(), got.Recovery); says(err) != 409 {
		t.Errorf("the right one after %d wrong ones: got %v, want 409", tries, err)
	}
	code, _, _ := r.code.show()
	if got, err = c.Claim(t.Context(), code, claim); err != nil {
		t.Fatal(err)
	}
	r.at.Pass(pendingLife)
	if _, err := c.Confirm(t.Context(), got.Recovery); says(err) != 409 {
		t.Errorf("after half an hour: got %v, want 409", err)
	}
	if r.applied != 0 {
		t.Error("something was done for a claim that was not confirmed")
	}
}

// Nothing is said to a box with another key, and a box that does not know the
// code is found out.
func TestAnotherBox(t *testing.T) {
	r := start(t, t.TempDir(), &house{})
	own, err := Operator(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c, err := Dial(r.listen.Addr().String(), strings.Repeat("ab", 32), own)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Claim(t.Context(), "AAAA-BBBB-CCCC-DDDD", Claim{PIN: PIN{PIN: []byte(secretPIN)}}); !errors.Is(err, ErrPeer) {
		t.Errorf("got %v, want %v", err, ErrPeer)
	}
	if strings.Contains(r.log.String(), "claim") {
		t.Errorf("the box heard of a claim: %s", r.log)
	}
	for _, bad := range []string{"", "abcd", r.Pin()[:38], r.Pin() + "00", strings.Repeat("zz", 32)} {
		if _, err := Dial("127.0.0.1:1", bad, own); err == nil {
			t.Errorf("fingerprint %q: got no error, want one", bad)
		}
	}
	if _, err := Dial("127.0.0.1:1", " "+strings.ToUpper(Fingerprint(r.Pin())), own); err != nil {
		t.Errorf("a fingerprint as the screen shows it: got %v", err)
	}
	// The proof of one connection is none on another, nor for another request.
	one, two := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	base := prove("AAAA", "claim", one, []byte("body"))
	for name, other := range map[string][]byte{
		"connection": prove("AAAA", "claim", two, []byte("body")), "request": prove("AAAA", "claim", one, []byte("b0dy")),
		"side": prove("AAAA", "box", one, []byte("body")), "code": prove("AAAB", "claim", one, []byte("body")),
	} {
		if bytes.Equal(base, other) {
			t.Errorf("another %s gives the same proof", name)
		}
	}
}

// A claim that cannot be carried out leaves a box that belongs to nobody.
func TestClaimFails(t *testing.T) {
	h := &house{token: token{state: hsm.Unprovisioned}, fail: errors.New("no network device fits")}
	dir := t.TempDir()
	r := start(t, dir, h)
	c, _ := r.operator("owner")
	code, _, _ := r.code.show()
	if _, err := c.Claim(t.Context(), code, Claim{Config: "no", PIN: PIN{PIN: []byte(secretPIN)}}); err == nil || !strings.Contains(err.Error(), "box.name is missing") {
		t.Errorf("a bad box.toml: got %v, want its line", err)
	}
	code, _, _ = r.code.show()
	got, err := c.Claim(t.Context(), code, Claim{Config: "name=gw", PIN: PIN{PIN: []byte(secretPIN)}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Confirm(t.Context(), got.Recovery); err == nil || !strings.Contains(err.Error(), "no network device fits") {
		t.Errorf("got %v, want the cause", err)
	}
	if again := start(t, dir, h); again.status(t.Context()).Claimed {
		t.Error("the box belongs to somebody")
	}
	h.fail = nil
	if st, err := c.Confirm(t.Context(), got.Recovery); err != nil || !st.Claimed {
		t.Errorf("once the cause is away: got %+v, %v, want claimed", st, err)
	}
}

// A claim that is confirmed at the last moment is carried out with its PIN,
// however often the screen is drawn meanwhile.
func TestConfirmedAtTheLastMoment(t *testing.T) {
	h := &house{token: token{state: hsm.Unprovisioned}}
	r := start(t, t.TempDir(), h)
	h.during = func() {
		r.at.Pass(settleLife)
		r.asks()
	}
	c, _ := r.operator("owner")
	code, _, _ := r.code.show()
	got, err := c.Claim(t.Context(), code, Claim{Config: "name=gw", PIN: PIN{PIN: []byte(secretPIN)}})
	if err != nil {
		t.Fatal(err)
	}
	r.at.Pass(pendingLife - time.Second)
	if st, err := c.Confirm(t.Context(), got.Recovery); err != nil || !st.Claimed || h.pin != secretPIN {
		t.Errorf("got %+v, %v, PIN %q, want claimed with %q", st, err, h.pin, secretPIN)
	}
}

// A file that its owner signed claims a box while that belongs to nobody; the
// PIN comes from the owner himself.
func TestClaimByFile(t *testing.T) {
	own, err := Operator(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	pin, err := PinOf(own)
	if err != nil {
		t.Fatal(err)
	}
	file, err := Offer(own, []byte("name=gw\ntpm"))
	if err != nil {
		t.Fatal(err)
	}
	r := start(t, t.TempDir(), &house{token: token{state: hsm.Unprovisioned}})
	for name, c := range map[string]struct {
		file  []byte
		owner string
	}{
		"nothing": {nil, ""}, "no JSON": {[]byte("name=gw"), ""}, "another name": {bytes.Replace(file, []byte("name=gw"), []byte("name=wg"), 1), ""},
		"another version": {bytes.Replace(file, []byte(`"version": 1`), []byte(`"version": 2`), 1), ""},
		"another owner":   {file, "sha256:" + strings.Repeat("ab", 32)}, "too big": {append(bytes.Clone(file), bytes.Repeat([]byte{' '}, maxBody)...), pin},
	} {
		if err := r.Take(t.Context(), c.file, c.owner); !errors.Is(err, ErrOffer) {
			t.Errorf("%s: got %v, want %v", name, err, ErrOffer)
		}
	}
	if r.applied != 0 {
		t.Fatal("something was done for a file that claims nothing")
	}
	code, _, _ := r.code.show()
	if err := r.Take(t.Context(), file, pin); err != nil {
		t.Fatal(err)
	}
	c, _ := r.with(own)
	st, err := c.Status(t.Context())
	if err != nil || !st.Claimed || st.Role != "admin" || st.Token != "unprovisioned" {
		t.Fatalf("got %+v, %v, want a box of its owner without a PIN", st, err)
	}
	other, _ := r.operator("other")
	if _, err := other.Claim(t.Context(), code, Claim{Config: "name=gw", PIN: PIN{PIN: []byte(secretPIN)}}); says(err) != 409 {
		t.Errorf("claimed with the code afterwards: got %v, want 409", err)
	}
	if err := r.Take(t.Context(), file, ""); !errors.Is(err, ErrClaimed) {
		t.Errorf("the same file again: got %v, want %v", err, ErrClaimed)
	}
	set, texts, err := share.Split([]byte(secretPIN), 2, 2)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.GivePIN(t.Context(), PIN{PIN: []byte("other-pin")}); says(err) != 403 {
		t.Errorf("a PIN from a stranger: got %v, want 403", err)
	}
	if st, err := c.GivePIN(t.Context(), PIN{[]byte(secretPIN), &SharedPIN{*set}}); err != nil || st.Token != "ready" || st.Need != 2 || string(r.sealed) != secretPIN {
		t.Errorf("got %+v, %v, want it ready, and the PIN sealed", st, err)
	}
	if _, err := c.GivePIN(t.Context(), PIN{PIN: []byte("other-pin")}); says(err) != 409 {
		t.Errorf("another PIN: got %v, want 409", err)
	}
	r.token.lock()
	for _, text := range texts {
		st, err = c.Unlock(t.Context(), Unlock{Share: text})
	}
	if err != nil || st.Token != "ready" {
		t.Errorf("unlocked by shares: got %+v, %v", st, err)
	}
}

// Whatever stands in a file, only what somebody signed is taken from it.
func FuzzOffer(f *testing.F) {
	own, err := Operator(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	file, err := Offer(own, []byte("name=gw"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(file)
	f.Add([]byte(`{"version":1,"key":"AA==","signature":"AA=="}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		config, pin, err := readOffer(b)
		if err == nil && (string(config) != "name=gw" || !strings.HasPrefix(pin, "sha256:")) {
			t.Errorf("got %q of %s, which nobody signed", config, pin)
		}
	})
}
