package filter

import (
	"bytes"
	"crypto/tls"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"postern/filter/policy"
	"postern/filter/record"
	"postern/filter/transport"
)

// One row for each mail: who, when, how it was carried on both hops, by which
// rule, and what became of each recipient. Nothing that the mail says (R44).
func TestRecordOfMails(t *testing.T) {
	w := newWorld(t)
	path := w.record(record.Options{Now: w.config.Now, Keep: time.Hour})
	met := transport.Carriage{TLS: "TLSv1.3:TLS_AES_128_GCM_SHA256", Peer: "name:mail.partner.example", Level: "verify", Result: transport.LevelMet}
	w.hop.answers = []func(*transport.Envelope) transport.Result{
		func(e *transport.Envelope) transport.Result { r := taken(e); r.Carriage = met; return r },
		answer(550),
	}
	secret := strings.Replace(out, "Subject: out", "Subject: Marker-Text-7f3a", 1)
	w.want("in part", w.send(policy.Outbound, secret, "alice@company1.example", "bob@partner.example", "carol@other.example"), "451 4.5.0")
	e := w.envelope("bob@partner.example", "alice@company1.example")
	e.Trace, e.TLS = "TRACETRACETRACE2", &tls.ConnectionState{Version: tls.VersionTLS12, CipherSuite: tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}
	if r := w.deliver(policy.Inbound, e, strings.NewReader(w.sealed(in, "bob@partner.example", "alice@company1.example"))); r.Code != 250 {
		t.Errorf("in: got %v, want 250", r)
	}
	if err := w.config.Record.Close(); err != nil {
		t.Fatal(err)
	}

	r, err := record.OpenForeign(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, err := r.Find(t.Context(), "<1@company1.example>")
	want := []record.Mail{{
		Trace: traceID, At: noon, Direction: "outbound", Listener: "test", From: "alice@company1.example", MessageID: "1@company1.example", Size: int64(len(secret)),
		Action: "defer", Reply: got[0].Reply, Rule: "default", Reason: "parted", Opened: []string{}, Carried: transport.Carriage{TLS: "clear"},
		Recipients: []record.Recipient{
			{To: "bob@partner.example", Reply: "250 2.0.0 taken", Onward: met, Format: "openpgp", Sealed: true, Signed: true},
			{To: "carol@other.example", Reply: "550 5.1.1 said the next hop", Onward: transport.Carriage{TLS: "clear"}, Format: "openpgp", Signed: true},
		},
	}}
	if err != nil || !reflect.DeepEqual(got, want) || !strings.HasPrefix(got[0].Reply, "451 4.5.0 ") {
		t.Errorf("by Message-ID: got %+v, %v, want %+v", got, err, want)
	}
	got, err = r.Find(t.Context(), "TRACETRACETRACE2")
	if err != nil || len(got) != 1 || got[0].Action != "relay" || !got[0].Verified || !reflect.DeepEqual(got[0].Opened, []string{"openpgp"}) ||
		got[0].Carried.TLS != "TLSv1.2:TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256" || got[0].Recipients[0].Reply != "250 2.0.0 taken" {
		t.Errorf("by trace: got %+v, %v", got, err)
	}
	files, err := filepath.Glob(path + "*")
	if err != nil || len(files) == 0 {
		t.Fatalf("got %v, %v", files, err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(text, []byte("Marker-Text-7f3a")) || strings.HasSuffix(f, ".db") && bytes.Contains(text, []byte("Subject")) {
			t.Errorf("%s holds what a mail says", filepath.Base(f))
		}
	}
	if !strings.Contains(w.log.String(), `onward="[TLSv1.3:TLS_AES_128_GCM_SHA256 peer=name:mail.partner.example level=verify result=met clear]"`) {
		t.Errorf("log has not how it was carried:\n%s", w.log)
	}
}
