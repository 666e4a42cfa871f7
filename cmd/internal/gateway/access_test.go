package gateway

import (
	"log/slog"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"postern/appliance/access"
	"postern/filter/autoconfig"
)

const accessLines = `[accounts]
source = "file"
[[listener]]
name = "submission"
address = ":587"
direction = "outbound"
tls = { mode = "force", identity = "mx.company1.example" }
auth = "required"
[next-hop.outbound]
address = "127.0.0.1:10026"
[[access]]
name = "imap"
address = ":143"
protocol = "imap"
tls = { identity = "mail.company1.example" }
server = "10.0.0.5:143"
server-tls = "starttls"
server-name = "mbox.company1.example"
proxy = "v2"
[[access]]
name = "pop3s"
address = ":995"
protocol = "pop3"
tls = { mode = "implicit", identity = "mail.company1.example", min = "1.3" }
server = "127.0.0.1:1110"
allow = ["10.0.0.0/8"]
max-connections = 7
per-client = 3
idle = "1h"
[[web]]
name = "web"
address = ":443"
identities = ["autoconfig.company1.example"]
[autoconfig]
user = "local"
`

// What mail programs are told is what the file has, with the names in the
// certificates; a listener where nobody logs in is for none of them.
func TestSettings(t *testing.T) {
	got := Settings(load(t, domain+accessLines), "company1.example")
	want := autoconfig.Site{Domain: "company1.example", Name: "company1.example", Local: true, Servers: []autoconfig.Server{
		{Protocol: "imap", Host: "mail.company1.example", Port: 143}, {Protocol: "pop3", Host: "mail.company1.example", Port: 995, Implicit: true},
		{Protocol: "smtp", Host: "mx.company1.example", Port: 587}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// The words of a door arrive where they count; no door opens without a
// certificate.
func TestAccess(t *testing.T) {
	c := load(t, domain+accessLines)
	u, p, err := Upstream(c.Access[0])
	if err != nil || p != access.IMAP || u.Address != "10.0.0.5:143" || u.TLS == nil || u.TLS.ServerName != "mbox.company1.example" || u.TLS.InsecureSkipVerify || u.Implicit || !u.Proxy {
		t.Errorf("imap: got %+v, %v, %v", u, p, err)
	}
	if u, p, err = Upstream(c.Access[1]); err != nil || p != access.POP3 || u.TLS != nil || u.Proxy {
		t.Errorf("pop3s: got %+v, %v, %v", u, p, err)
	}
	log := slog.New(slog.DiscardHandler)
	for _, a := range c.Access {
		if s, err := Access(c, a, nil, log); err == nil || !strings.Contains(err.Error(), "identity create --use tls --domain mail.company1.example") {
			t.Errorf("%s without a certificate: got %+v, %v", a.Name, s, err)
		}
	}
	if _, err := WebTLS(c, c.Web[0], nil, log); err == nil || !strings.Contains(err.Error(), "autoconfig.company1.example") {
		t.Errorf("web without a certificate: got %v", err)
	}
	a := c.Access[1]
	if got := Prefixes(a.Allow); len(got) != 1 || got[0] != netip.MustParsePrefix("10.0.0.0/8") || a.MaxConnections != 7 || a.PerClient != 3 || time.Duration(a.Idle) != time.Hour {
		t.Errorf("got %+v", a)
	}
	a.ServerTLS, a.ServerCAFile = "implicit", t.TempDir()+"/none.pem"
	if _, _, err := Upstream(a); err == nil || !strings.Contains(err.Error(), "server-ca-file") {
		t.Errorf("an authority that is not there: got %v", err)
	}
}
