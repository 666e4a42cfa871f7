package e2e

import (
	"context"
	"net"
	"os"
	"strings"
	"testing"

	"postern/appliance/trial"
)

// R38: two gateways that are each other's next hop. A mail goes round until it
// has come too often; then its sender hears so, and nobody keeps it.
func TestTwoGatewaysThatFaceEachOther(t *testing.T) {
	var at []string
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		at = append(at, l.Addr().String())
		l.Close()
	}
	a := open(t, trial.Config{Domain: "company1.example", Inside: at[0], NextHop: at[1]})
	b := open(t, trial.Config{Domain: "company2.example", Inside: at[1], NextHop: at[0]})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	mail := []byte("From: alice@company1.example\r\nTo: bob@elsewhere.example\r\nSubject: round\r\n\r\nround and round\r\n")
	dialogue, err := trial.Submit(ctx, at[0], "alice@company1.example", []string{"bob@elsewhere.example"}, mail)
	if err == nil || !strings.Contains(dialogue, "554 5.4.6 ") {
		t.Errorf("got %v\n%s\nwant 554 5.4.6", err, dialogue)
	}
	passed := 0
	for _, box := range []*trial.Box{a, b} {
		log, err := os.ReadFile(box.Path("filterd.log"))
		if err != nil {
			t.Fatal(err)
		}
		passed += strings.Count(string(log), `"msg":"mail"`)
	}
	if passed < 50 || passed > 52 {
		t.Errorf("got %d passages, want 51", passed)
	}
}
