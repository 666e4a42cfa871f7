package lab

import (
	"io"
	"strings"
	"testing"

	"postern/appliance/e2e/placetest"
)

// The ear of the lab hears: what is said in clear is found, else every
// "nothing in clear" of these tests would be worth nothing.
func TestWireHears(t *testing.T) {
	n := placetest.NewNetwork(t)
	heard := listen(t, n.Between)
	one, _ := n.Join(t, "one")
	two, at := n.Join(t, "two")
	l, err := two.Listen("tcp", at+":25")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	const secret = "Spoken in clear."
	said := strings.Repeat("filler\r\n", 20000) + secret
	got := make(chan string, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			got <- err.Error()
			return
		}
		defer c.Close()
		b, _ := io.ReadAll(c)
		got <- string(b)
	}()
	c, err := one.Dial("tcp", at+":25")
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(c, said)
	c.Close()
	if g := <-got; g != said {
		t.Fatalf("got %d octets, want %d", len(g), len(said))
	}
	clients, _ := heard.smtp(t)
	if len(clients) != 1 || clients[0] != said || !shows(clients, secret) {
		t.Errorf("got %d streams, want one with what was said", len(clients))
	}
	if clients, _ := heard.smtp(t); len(clients) != 0 {
		t.Errorf("got %d streams, want none since", len(clients))
	}
	for _, hidden := range []string{"U3Bva2VuIGluIGNsZWFyLg", "eFNwb2tlbiBpbiBjbGVhci4", "eHhTcG9rZW4gaW4gY2xlYXIu"} {
		if !shows([]string{hidden[:10] + "\r\n" + hidden[10:]}, secret) {
			t.Errorf("%s: got nothing, want the secret in base64", hidden)
		}
	}
}
