package authres

import (
	"strings"
	"testing"
	"time"

	"postern/filter/message"
)

// What looks like ours is recognised in any disguise, and nothing else is (R20).
func TestForeign(t *testing.T) {
	const id = "gw.company1.example"
	for _, c := range []struct {
		name, value string
		want        bool
	}{
		{"Postern-Status", "v=1", true},
		{"POSTERN-status", "v=1", true},
		{"Postern-Anything", "", true},
		{"postern-status \t", "v=1", true},
		{"=?utf-8?q?Postern-Status?=", "v=1", true},
		{"Authentication-Results", " gw.company1.example; none", true},
		{"AUTHENTICATION-RESULTS", "GW.Company1.Example 1; dkim=pass", true},
		{"Authentication-Results", ` (c (nested\) )) "gw.company1.example"; none`, true},
		{"Authentication-Results", `"gw.company1\.example"; none`, true},
		{"Authentication-Results", "gw.company1.example.; none", true},
		{"Authentication-Results", "=?us-ascii?q?gw.company1.example?=; none", true},
		{"Authentication-Results", "(open", true},
		{"Authentication-Results", `"open`, true},
		{"Authentication-Results", "", true},
		{"Authentication-Results", "mx.other.example; dkim=pass", false},
		{"ARC-Authentication-Results", "i=1; gw.company1.example; none", false},
		{"Subject", "Postern-Status", false},
	} {
		if got := Foreign(c.name, c.value, id); got != c.want {
			t.Errorf("Foreign(%q, %q): got %v, want %v", c.name, c.value, got, c.want)
		}
	}
}

func TestFields(t *testing.T) {
	s := Status{Opened: "openpgp", Verified: true, Signer: message.Address{Local: "bob", Domain: "partner.example"}, Reason: "good", Carried: "clear", Trace: "t1"}
	got := strings.ReplaceAll(string(s.Fields("gw.example", Method{"x-openpgp", "pass", "good", []Property{{"header.from", "bob@partner.example"}}})), "\r\n\t", " ")
	got = strings.ReplaceAll(got, "\r\n ", " ")
	want := "Authentication-Results: gw.example; x-openpgp=pass reason=\"good\" header.from=bob@partner.example\r\n" +
		"Postern-Status: v=1; opened=openpgp; verified=yes; signer=bob@partner.example; reason=good; carried=clear; trace=t1\r\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := string((Status{Opened: "none"}).Fields("gw.example")); !strings.HasPrefix(got, "Authentication-Results: gw.example; none\r\n") {
		t.Errorf("nothing judged: got %q", got)
	}
}

// Whatever an address holds, it is one word of our field, without quotes (R19).
func TestSignerIsOneWord(t *testing.T) {
	for _, c := range []struct{ local, domain, want string }{
		{"bob", "partner.example", "bob@partner.example"},
		{"b.o+b=x", "partner.example", "b.o+b=x@partner.example"},
		{"a; verified=yes; signer=ceo@company1.example; x=", "evil.example", "a%3B%20verified=yes%3B%20signer=ceo%40company1.example%3B%20x=@evil.example"},
		{"a\"b\\\r\n", "evil.example", "a%22b%5C%0D%0A@evil.example"},
		{"a%3B", "evil.example", "a%253B@evil.example"},
		{"bob", "b\u00fccher.example", "bob@xn--bcher-kva.example"},
		{"b\u00fc", "partner.example", "b\u00fc@partner.example"},
		{"bob", "[192.0.2.1]", "bob@[192.0.2.1]"},
	} {
		if got := Word(message.Address{Local: c.local, Domain: c.domain}); got != c.want {
			t.Errorf("Word(%q, %q): got %q, want %q", c.local, c.domain, got, c.want)
		}
	}
}

// What stands on top of an archived mail cannot be written by it.
func TestArchiveFields(t *testing.T) {
	evil := message.Address{Local: "a; verified=yes\r\nX: y", Domain: "partner.example"}
	for _, c := range []struct {
		archive Archive
		want    string
	}{
		{Archive{Direction: "inbound", At: time.Date(2026, 11, 24, 13, 0, 0, 0, time.FixedZone("", 3600)), From: message.Address{Local: "bob", Domain: "partner.example"},
			To:     []message.Address{{Local: "alice", Domain: "company1.example"}, {Local: "eve", Domain: "münchen.example"}},
			Status: Status{Opened: "openpgp", Verified: true, Signer: message.Address{Local: "bob", Domain: "partner.example"}, Reason: "good", Trace: "T"}},
			"Postern-Archive: v=1; direction=inbound; time=2026-11-24T12:00:00Z; opened=openpgp; verified=yes; signer=bob@partner.example; reason=good; trace=T\n" +
				"Postern-Archive-From: bob@partner.example\nPostern-Archive-To: alice@company1.example, eve@xn--mnchen-3ya.example\n"},
		{Archive{Direction: "outbound", To: []message.Address{evil}, Status: Status{Opened: "none", Reason: "sealed", Trace: "T"}},
			"Postern-Archive: v=1; direction=outbound; time=0001-01-01T00:00:00Z; opened=none; verified=no; signer=none; reason=sealed; trace=T\n" +
				"Postern-Archive-From: none\nPostern-Archive-To: a%3B%20verified=yes%0D%0AX%3A%20y@partner.example\n"},
	} {
		got := strings.ReplaceAll(strings.ReplaceAll(string(c.archive.Fields()), "\r\n ", " "), "\r\n", "\n")
		if got != c.want {
			t.Errorf("got\n%s\nwant\n%s", got, c.want)
		}
	}
}
