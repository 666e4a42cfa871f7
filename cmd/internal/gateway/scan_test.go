package gateway

import (
	"log/slog"
	"reflect"
	"testing"
	"time"

	"postern/filter/scan"
)

// What the file says of scanners arrives where it counts; no table, no scanner.
func TestScan(t *testing.T) {
	if d := Scan(load(t, domain), slog.New(slog.DiscardHandler)); d != nil {
		t.Errorf("without [scan]: got %+v, want none", d)
	}
	d := Scan(load(t, domain+`[scan]
budget = "90s"
[scan.clamd]
address = "/run/clamav/clamd.ctl"
found = "mark"
encrypted = "pass"
when = ["inbound"]
max-size = "1MiB"
[scan.rspamd]
address = "127.0.0.1:11333"
on-failure = "pass"
headers = ["X-Spam-Level"]
`), nil)
	want := &scan.Desk{Budget: 90 * time.Second, Fields: []string{"X-Spam-Level"}, Posts: []scan.Post{
		{Scanner: &scan.Clamd{Address: "/run/clamav/clamd.ctl", Found: scan.Mark, Encrypted: scan.Clean}, Inbound: true, Timeout: time.Minute, MaxSize: 1 << 20},
		{Scanner: &scan.Rspamd{Address: "127.0.0.1:11333", Reject: scan.Reject, Soft: scan.Defer, Fields: []string{"X-Spam-Level"}}, Inbound: true, Outbound: true,
			Timeout: 30 * time.Second, MaxSize: 25 << 20, PassBig: true, PassAway: true},
	}}
	if !reflect.DeepEqual(d, want) {
		t.Errorf("got  %+v\nwant %+v", d, want)
	}
}
