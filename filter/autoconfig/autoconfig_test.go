package autoconfig

import (
	"encoding/xml"
	"errors"
	"strings"
	"testing"

	"postern/filter/message"
)

var site = Site{Domain: "company1.example", Name: "Company & <One>", Servers: []Server{
	{"smtp", "mx.company1.example", 587, false}, {"pop3", "mx.company1.example", 995, true},
	{"imap", "mx.company1.example", 143, false}, {"imap", "mx.company1.example", 993, true},
}}

// The file for Thunderbird has the servers in the order of preference, and
// nothing of a name that is no text.
func TestThunderbird(t *testing.T) {
	text, err := site.Thunderbird()
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Provider struct {
			Name     string `xml:"displayName"`
			Incoming []struct {
				Type string `xml:"type,attr"`
				Port int    `xml:"port"`
				Kind string `xml:"socketType"`
				User string `xml:"username"`
			} `xml:"incomingServer"`
			Outgoing []struct {
				Port int `xml:"port"`
			} `xml:"outgoingServer"`
		} `xml:"emailProvider"`
	}
	if err := xml.Unmarshal(text, &got); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	p := got.Provider
	if p.Name != site.Name || len(p.Incoming) != 3 || len(p.Outgoing) != 1 || p.Outgoing[0].Port != 587 {
		t.Errorf("got %+v", p)
	}
	for i, want := range []struct {
		kind string
		port int
		tls  string
	}{{"imap", 993, "SSL"}, {"imap", 143, "STARTTLS"}, {"pop3", 995, "SSL"}} {
		if v := p.Incoming[i]; v.Type != want.kind || v.Port != want.port || v.Kind != want.tls || v.User != "%EMAILADDRESS%" {
			t.Errorf("%d: got %+v, want %+v", i, v, want)
		}
	}
	local := site
	local.Local = true
	if text, err = local.Thunderbird(); err != nil || !strings.Contains(string(text), "%EMAILLOCALPART%") {
		t.Errorf("got %v\n%s", err, text)
	}
}

// Outlook asks for one address, and hears of all servers.
func TestAutodiscover(t *testing.T) {
	const request = `<?xml version="1.0" encoding="utf-8"?>
<Autodiscover xmlns="http://schemas.microsoft.com/exchange/autodiscover/outlook/requestschema/2006">
  <Request><EMailAddress>alice@company1.example</EMailAddress>
  <AcceptableResponseSchema>` + discoverMail + `</AcceptableResponseSchema></Request></Autodiscover>`
	a, err := ReadAutodiscover(strings.NewReader(request))
	if err != nil || a.Key() != "alice@company1.example" {
		t.Fatalf("got %v, %v", a, err)
	}
	text, err := site.Autodiscover(a)
	if err != nil || !strings.Contains(string(text), `<Autodiscover xmlns="`+discoverAnswer+`">`) || !strings.Contains(string(text), `<Response xmlns="`+discoverMail+`">`) ||
		strings.Count(string(text), "<LoginName>alice@company1.example</LoginName>") != 4 || strings.Index(string(text), "<Port>993</Port>") > strings.Index(string(text), "<Port>143</Port>") {
		t.Errorf("got %v\n%s", err, text)
	}
	for name, bad := range map[string]string{
		"nothing":         "",
		"no XML":          "alice@company1.example",
		"no address":      `<Autodiscover><Request></Request></Autodiscover>`,
		"a bad address":   `<EMailAddress>alice</EMailAddress>`,
		"an entity":       `<!DOCTYPE a [<!ENTITY x "alice@company1.example">]><EMailAddress>&x;</EMailAddress>`,
		"not at its end":  `<EMailAddress>alice@company1.example`,
		"too long":        `<EMailAddress>alice@company1.example</EMailAddress>` + strings.Repeat(" ", maxRequest),
		"behind too much": strings.Repeat("<a>", maxTokens) + `<EMailAddress>alice@company1.example</EMailAddress>`,
	} {
		r := strings.NewReader(bad)
		if name == "too long" {
			r = strings.NewReader(strings.Repeat(" ", maxRequest) + bad)
		}
		if a, err := ReadAutodiscover(r); !errors.Is(err, ErrRequest) {
			t.Errorf("%s: got %v, %v, want %v", name, a, err, ErrRequest)
		}
	}
}

// The records say what is there, and what is not (RFC 6186 §3.4).
func TestRecords(t *testing.T) {
	want := []string{
		"_imaps._tcp.company1.example. IN SRV 0 1 993 mx.company1.example.",
		"_imap._tcp.company1.example. IN SRV 0 1 143 mx.company1.example.",
		"_pop3s._tcp.company1.example. IN SRV 0 1 995 mx.company1.example.",
		"_pop3._tcp.company1.example. IN SRV 0 0 0 .",
		"_submissions._tcp.company1.example. IN SRV 0 0 0 .",
		"_submission._tcp.company1.example. IN SRV 0 1 587 mx.company1.example.",
		"_autodiscover._tcp.company1.example. IN SRV 0 1 443 autodiscover.company1.example.",
	}
	if got := strings.Join(site.Records(), "\n"); got != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
}

// Whatever is asked (R30): an address that can be written, or no question.
func FuzzAutodiscover(f *testing.F) {
	for _, s := range []string{`<EMailAddress>a@b.example</EMailAddress>`, `<x:EMailAddress xmlns:x="y">a@b.example</x:EMailAddress>`, `<!DOCTYPE x>`, `<EMailAddress><![CDATA[a@b.example]]></EMailAddress>`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ReadAutodiscover(strings.NewReader(s))
		if err != nil {
			return
		}
		if again, err := message.ParseAddress(a.String()); err != nil || again != a {
			t.Errorf("%q: got %v, %v", s, a, err)
		}
		text, err := site.Autodiscover(a)
		if err == nil {
			err = xml.Unmarshal(text, new(struct{}))
		}
		if err != nil {
			t.Errorf("%q: %v\n%s", s, err, text)
		}
	})
}
