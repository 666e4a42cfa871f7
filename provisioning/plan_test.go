package provisioning

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestReadUsers: a line is an address and perhaps a name; anything else is told
// with its line.
func TestReadUsers(t *testing.T) {
	got, err := readUsers("staff", []byte("# staff\r\n\r\nalice@company1.example\tAlice  Example \nbob@company1.example\n"))
	if err != nil || len(got) != 2 || got[0].name != "Alice  Example" || got[0].address.Key() != "alice@company1.example" || got[1].name != "" {
		t.Errorf("got %v, %v, want Alice with her name, and Bob", got, err)
	}
	for _, c := range []struct{ text, want string }{
		{"alice", "staff:1: address"},
		{"a@company1.example\nb@@company1.example Bob", "staff:2: address"},
		{"a@company1.example A <b>", "staff:1: name"},
		{"a@company1.example \x1b[2J", "staff:1: name"},
		{"a@company1.example \xff", "not UTF-8"},
	} {
		if _, err := readUsers("staff", []byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) || judge(err).hint == "" {
			t.Errorf("%q: got %v, want %q and a hint", c.text, err, c.want)
		}
	}
}

// FuzzReadUsers: whoever is read has an address, and a name that can stand in a certificate.
func FuzzReadUsers(f *testing.F) {
	f.Add([]byte("alice@company1.example\tAlice\n# x\n\nbob@company1.example"))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := readUsers("staff", data)
		if err != nil {
			return
		}
		for _, p := range list {
			if p.address.IsZero() || !isName(p.name) {
				t.Errorf("got %v, %q", p.address, p.name)
			}
		}
	})
}

// TestPace: questions are as far apart as the plan says, however long each takes.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, began := pace{every: time.Second}, time.Now()
		for range 5 {
			if err := p.wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if got := time.Since(began); got != 4*time.Second {
			t.Errorf("five questions took %v, want 4s", got)
		}
		time.Sleep(time.Minute) // a slow answer earns no burst
		began = time.Now()
		for range 2 {
			if err := p.wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if got := time.Since(began); got != time.Second {
			t.Errorf("two questions after a pause took %v, want 1s", got)
		}
	})
}

// TestSucceeds tells labels of successors from those of others.
func TestSucceeds(t *testing.T) {
	for label, want := range map[string]bool{"tls/mx/sign": true, "tls/mx/sign-2": true, "tls/mx/sign-17": true, "tls/mx/sign-rsa": false, "tls/mx/sign-1": false, "tls/mx/sign--2": false, "tls/mx/sign2": false, "tls/mx": false} {
		if got := succeeds(label, "tls/mx/sign"); got != want {
			t.Errorf("%s: got %v, want %v", label, got, want)
		}
	}
}
