package box

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postern/appliance/box/share"
	"postern/hsm"
)

// What each key may do, request by request.
func TestRoles(t *testing.T) {
	keys := map[string]tls.Certificate{}
	config := "name=gw\nto=age1x\n"
	for _, name := range []string{"admin", "backup", "stranger"} {
		key, err := Operator(filepath.Join(t.TempDir(), name))
		if err != nil {
			t.Fatal(err)
		}
		pin, err := PinOf(key)
		if err != nil {
			t.Fatal(err)
		}
		keys[name] = key
		config += name + "=" + strings.ToUpper(pin[:7]) + pin[7:] + "\n"
	}
	config = strings.ReplaceAll(config, "SHA256:", "sha256:")
	r, owner := claimed(t, config, nil)
	clients := map[string]*Client{"owner": owner}
	for name, key := range keys {
		clients[name], _ = r.with(key)
	}
	for _, c := range []struct {
		what string
		do   func(c *Client) error
		may  string
	}{
		{"status", func(c *Client) error { _, err := c.Status(t.Context()); return err }, "owner admin backup stranger"},
		{"backup", func(c *Client) error { return c.Backup(t.Context(), io.Discard) }, "owner admin backup"},
		{"config", func(c *Client) error { _, err := c.Config(t.Context()); return err }, "owner admin"},
		{"configure", func(c *Client) error { _, err := c.Configure(t.Context(), []byte(config)); return err }, "owner admin"},
		{"unlock", func(c *Client) error { _, err := c.Unlock(t.Context(), Unlock{PIN: []byte(secretPIN)}); return err }, "owner admin"},
		{"call", func(c *Client) error { _, err := c.Call(t.Context(), Call{Args: []string{"status"}}); return err }, "owner admin"},
		{"restore", func(c *Client) error { _, err := c.Restore(t.Context(), strings.NewReader("x"), "y"); return err }, "owner admin"},
		{"recovery", func(c *Client) error { _, err := c.Recovery(t.Context()); return err }, "owner admin"},
	} {
		for name, client := range clients {
			err := c.do(client)
			if may := strings.Contains(c.may, name); may && err != nil || !may && says(err) != 403 {
				t.Errorf("%s by %s: got %v, want it allowed: %v", c.what, name, err, may)
			}
		}
	}
	for name, want := range map[string]string{"owner": "admin", "admin": "admin", "backup": "backup", "stranger": "none"} {
		st, err := clients[name].Status(t.Context())
		if err != nil || st.Role != want || (st.Name != "") != (want != "none") {
			t.Errorf("%s: got %+v, %v, want role %s", name, st, err, want)
		}
	}
	if err := clients["stranger"].Reset(t.Context(), "gw"); says(err) != 403 || r.house.wiped {
		t.Errorf("reset by a stranger: got %v, want 403", err)
	}
	var out bytes.Buffer
	if err := clients["backup"].Backup(t.Context(), &out); err != nil || out.String() != "sealed for [age1x]" {
		t.Errorf("got %q, %v, want the backup", out.String(), err)
	}
	if got, err := owner.Call(t.Context(), Call{Args: []string{"cert", "import", "-"}, Stdin: []byte("cert")}); err != nil || got.Status != 75 || string(got.Stdout) != `["cert" "import" "-"] "cert"` || string(got.Stderr) != "hint: none\n" || string(got.Files["a.csr"]) != "request" {
		t.Errorf("got %+v, %v, want what the command said", got, err)
	}
	if r.restored != "y x" {
		t.Errorf("restored %q, want %q", r.restored, "y x")
	}
	if text, err := owner.Config(t.Context()); err != nil || string(text) != config {
		t.Errorf("got %q, %v, want box.toml", text, err)
	}
	if _, err := owner.Configure(t.Context(), []byte("name=gw\ntpm")); err == nil || !strings.Contains(err.Error(), "unlock cannot be changed") {
		t.Errorf("another unlock: got %v, want a refusal", err)
	}
	if _, err := owner.Configure(t.Context(), []byte("name=gw\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := clients["admin"].Config(t.Context()); says(err) != 403 {
		t.Errorf("an admin that box.toml names no more: got %v, want 403", err)
	}
}

// R31. Locked: people come one after the other with their shares. A wrong share,
// one of another set, or too few cost the token no try.
func TestUnlockByShares(t *testing.T) {
	set, texts, err := share.Split([]byte(secretPIN), 2, 3)
	if err != nil {
		t.Fatal(err)
	}
	_, foreign, err := share.Split([]byte("another pin"), 2, 3)
	if err != nil {
		t.Fatal(err)
	}
	r, c := claimed(t, "name=gw", &SharedPIN{*set})
	dir := r.cfg.Dir
	r.token.lock()
	give := func(text string) (Status, error) { return c.Unlock(t.Context(), Unlock{Share: text}) }
	mistyped := []byte(texts[0])
	mistyped[0] ^= 1
	for name, text := range map[string]string{"mistyped": string(mistyped), "of another set": foreign[0], "nothing": "-"} {
		if _, err := give(text); says(err) != 422 {
			t.Errorf("%s: got %v, want 422", name, err)
		}
	}
	for range 3 { // one share three times is one
		st, err := give(texts[0])
		if err != nil || st.Token != "locked" || len(st.Have) != 1 || st.Need != 2 {
			t.Fatalf("one share: got %+v, %v, want it locked and one of two", st, err)
		}
	}
	r.at.Pass(shareLife + time.Second)
	if st, err := give(texts[1]); err != nil || st.Token != "locked" || len(st.Have) != 1 || st.Have[0] != 2 {
		t.Errorf("the second much later: got %+v, %v, want it alone", st, err)
	}
	if st, err := give(texts[2]); err != nil || st.Token != "ready" || len(st.Have) != 0 {
		t.Errorf("two shares: got %+v, %v, want it ready", st, err)
	}
	if r.wrong != 0 {
		t.Errorf("the token counted %d wrong PINs, want none", r.wrong)
	}
	// The PIN itself is tried as it is typed, once.
	r.token.lock()
	if _, err := c.Unlock(t.Context(), Unlock{PIN: []byte("nonsense")}); says(err) != 403 || r.wrong != 1 {
		t.Errorf("a wrong PIN: got %v and %d tries, want 403 and 1", err, r.wrong)
	}
	if st, err := c.Unlock(t.Context(), Unlock{PIN: []byte(secretPIN)}); err != nil || st.Token != "ready" {
		t.Errorf("the PIN: got %+v, %v, want it ready", st, err)
	}
	// The set survives a restart, and the folder holds no PIN.
	r.token.lock()
	again := start(t, dir, r.house)
	for _, text := range texts[:2] {
		if _, err := again.shares.add(text); err != nil {
			t.Error(err)
		}
	}
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if bytes.Contains(b, []byte(secretPIN)) {
			t.Errorf("%s holds the PIN", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	for _, text := range append(texts, secretPIN) {
		if strings.Contains(r.log.String(), text) {
			t.Errorf("the log holds a share or the PIN")
		}
	}
}

// A TPM that does not open the PIN any more, as after a change of firmware: people
// unlock the box, and it finds the PIN by itself from then on.
func TestUnsealed(t *testing.T) {
	r, c := claimed(t, "name=gw\ntpm", nil)
	r.token.lock()
	r.away, r.sealed = true, nil
	if st, err := c.Status(t.Context()); err != nil || st.Token != "away" {
		t.Errorf("got %+v, %v, want it away", st, err)
	}
	if _, err := c.Unlock(t.Context(), Unlock{PIN: []byte("nonsense")}); says(err) != 403 || r.sealed != nil {
		t.Errorf("a wrong PIN: got %v, sealed %q, want 403 and nothing sealed", err, r.sealed)
	}
	if st, err := c.Unlock(t.Context(), Unlock{PIN: []byte(secretPIN)}); err != nil || st.Token != "ready" || string(r.sealed) != secretPIN {
		t.Errorf("got %+v, %v, sealed %q, want it ready and sealed again", st, err, r.sealed)
	}
}

func TestReset(t *testing.T) {
	r, c := claimed(t, "name=gw", nil)
	if err := c.Reset(t.Context(), "wg"); says(err) != 403 || r.house.wiped {
		t.Errorf("another name: got %v, want 403", err)
	}
	if err := c.Reset(t.Context(), "gw"); err != nil || !r.house.wiped {
		t.Fatalf("got %v, want it wiped", err)
	}
	select {
	case err := <-r.done:
		if !errors.Is(err, ErrReset) {
			t.Errorf("got %v, want %v", err, ErrReset)
		}
		r.done <- nil
	case <-time.After(time.Minute):
		t.Error("the box goes on after a reset")
	}
	// Until the machine starts anew nobody is invited to claim what goes.
	if s := r.screen(t.Context()); !strings.Contains(s, "was wiped") || strings.Contains(s, "code") || strings.Contains(s, "claim") {
		t.Errorf("got screen %q, want no code on it", s)
	}
	own, err := Operator(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	file, err := Offer(own, []byte("name=gw"))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Take(t.Context(), file, ""); !errors.Is(err, ErrReset) || r.Claimed() {
		t.Errorf("a claim by a file: got %v, want %v", err, ErrReset)
	}
}

// The screen tells what to type, and says nothing secret once that is done.
func TestScreen(t *testing.T) {
	r := start(t, t.TempDir(), &house{token: token{state: hsm.Unprovisioned}})
	read, write := io.Pipe()
	ctx, stop := context.WithCancel(t.Context())
	drawn := make(chan error, 1)
	go func() {
		err := r.Screen(ctx, write)
		write.Close()
		drawn <- err
	}()
	next := func() string {
		b := make([]byte, 8192)
		n, err := read.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	code, _, _ := r.code.show()
	for _, want := range []string{"belongs to nobody", code, Fingerprint(r.Pin()), "192.0.2.25", "postern box claim 192.0.2.25:" + r.port()} {
		if got := r.screen(ctx); !strings.Contains(got, want) {
			t.Errorf("got %q, want %q in it", got, want)
		}
	}
	first := next()
	c, _ := r.operator("owner")
	got, err := c.Claim(t.Context(), code, Claim{Config: "name=gw", PIN: PIN{PIN: []byte(secretPIN)}})
	if err != nil {
		t.Fatal(err)
	}
	second := next()
	if first == second || strings.Contains(second, code) || !strings.Contains(second, "typed back") {
		t.Errorf("got %q after the claim", second)
	}
	if _, err := c.Confirm(t.Context(), got.Recovery); err != nil {
		t.Fatal(err)
	}
	third := next()
	if !strings.Contains(third, "gw") || strings.Contains(third, got.Recovery) || strings.Contains(third, "code") {
		t.Errorf("got %q once it is claimed", third)
	}
	stop()
	read.Close()
	<-drawn
}
