package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"postern/appliance/e2e/placetest"
	"postern/appliance/trial"
	"postern/filter/resolver/resolvertest"
	"postern/filter/transport/hoptest"
	"postern/hsm/certtest"
)

// R25, R37 and R38 in the house: filterd without a relay, in a network of its
// own, brings mail to a partner's server on port 25 of another one, as a signed
// zone and a validating resolver have it. What is not as safe as it must be
// waits; without DNS all waits, and goes when DNS is back; what leads back to
// filterd's own machine is refused.
func TestDirect(t *testing.T) {
	wire := placetest.NewNetwork(t)
	here, us := wire.Join(t, "here")
	there, them := wire.Join(t, "there")
	shown := certtest.Own(t, certtest.Host("mx"), certtest.Key(t))
	l, err := there.Listen("tcp", them+":25")
	if err != nil {
		t.Fatal(err)
	}
	server := hoptest.Serve(t, l, hoptest.Habit{})

	zone := func(name, ip, digest string) resolvertest.Zone {
		return resolvertest.Zone{Name: name, Records: []string{"@ MX 10 mx", "mx A " + ip, "_25._tcp.mx TLSA 3 1 1 " + digest}}
	}
	digest := fmt.Sprintf("%x", sha256.Sum256(shown.Leaf.RawSubjectPublicKeyInfo))
	wrong := strings.Repeat("00", 32)
	forged := zone("forged.example", them, wrong)
	forged.Forged = []string{"_25._tcp.mx TLSA 3 1 1 " + digest}
	names := resolvertest.Config{
		Port:    53,
		Command: func(name string, args ...string) *exec.Cmd { return here.Command(context.Background(), name, args...) },
		Dial:    func(_ context.Context, network, address string) (net.Conn, error) { return here.Dial(network, address) },
	}.Start(t,
		zone("safe.example", them, digest), zone("wrong.example", them, wrong), forged, zone("self.example", us, digest))

	bin := folder(t)
	for _, name := range []string{"keyd", "filterd", "postern"} {
		script := fmt.Sprintf("#!/bin/sh\nexec nsenter --net=%s %s/%s \"$@\"\n", here.File("net"), programs(t), name)
		if err := os.WriteFile(filepath.Join(bin, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b, err := trial.Open(t.Context(), trial.Config{Dir: folder(t), Bin: bin, Outbound: `route = "direct"`, FilterdTables: "[default]\ntransport = \"dane-only\"\n[mta-sts]\nask = \"off\"\n"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b.Close()
		if t.Failed() {
			log, _ := os.ReadFile(b.Path("filterd.log"))
			t.Logf("filterd.log:\n%s", tail(log, 6000))
		}
	})
	send := func(domain string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		mail := []byte("From: alice@company1.example\r\nTo: bob@" + domain + "\r\nSubject: x\r\n\r\nbody\r\n")
		dialogue, _ := trial.Submit(ctx, b.Inside, "alice@company1.example", []string{"bob@" + domain}, mail)
		_, after, _ := strings.Cut(dialogue, "lines sent\n")
		return after
	}
	for _, c := range []struct {
		domain, reply string
		mails         int
	}{
		{"safe.example", "250 ", 1}, {"wrong.example", "451 4.4.1 ", 0}, {"forged.example", "451 4.4.3 ", 0}, {"self.example", "554 5.4.6 ", 0}, {"missing.example", "550 5.1.2 ", 0},
	} {
		server.Become(hoptest.Showing(shown))
		answer := send(c.domain)
		clear, safe, mails := server.Heard()
		if !strings.Contains(answer, c.reply) || mails != c.mails {
			t.Errorf("%s: got %d mails, %q, want %d, %q", c.domain, mails, answer, c.mails, c.reply)
		}
		if strings.Contains(clear, "MAIL") || (c.mails == 0) == strings.Contains(safe, "MAIL FROM") {
			t.Errorf("%s: heard in clear %q, in TLS %q", c.domain, clear, safe)
		}
	}
	out, err := b.Postern(t.Context(), nil, "route", "safe.example", "--json")
	var said struct {
		Secure  bool
		Servers []struct {
			TLS  string
			TLSA []string
		}
	}
	if err != nil || json.Unmarshal(out, &said) != nil || !said.Secure || len(said.Servers) != 1 || said.Servers[0].TLS != "dane" || said.Servers[0].TLSA[0] != "3 1 1 "+digest {
		t.Errorf("route: got %s, %v", out, err)
	}
	if out, _ := b.Postern(t.Context(), nil, "doctor"); !strings.Contains(string(out), "127.0.0.1:53 answers, and validates") {
		t.Errorf("doctor: got %s", out)
	}
	names.Stop()
	if answer := send("safe.example"); !strings.Contains(answer, "451 4.4.3 ") {
		t.Errorf("without DNS: got %q", answer)
	}
	names.Resume(t)
	if answer := send("safe.example"); !strings.Contains(answer, "250 ") {
		t.Errorf("with DNS again: got %q", answer)
	}
}
