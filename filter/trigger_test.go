package filter

import (
	"strings"
	"testing"

	"postern/filter/message"
	"postern/filter/policy"
	"postern/filter/protect"
)

var triggers = []Trigger{
	{Tag: "[encrypt]", Asks: policy.Asks{Encrypt: true}},
	{Field: "X-Postern-Encrypt", Value: "yes", Asks: policy.Asks{Encrypt: true}},
	{Field: "Sensitivity", Value: "Company-Confidential", Asks: policy.Asks{Encrypt: true}},
	{Tag: "[sign]", Asks: policy.Asks{Sign: true}},
	{Field: "X-Sign", Asks: policy.Asks{Sign: true}},
	{Tag: "[plain]", Asks: policy.Asks{Plain: true}},
}

// A tag counts whole and by itself, and goes; every other byte of the header
// stays, and the body.
func TestTriggersInHeaders(t *testing.T) {
	encrypt, sign, plain := policy.Asks{Encrypt: true}, policy.Asks{Sign: true}, policy.Asks{Plain: true}
	for _, c := range []struct {
		head, want string // "": as it was
		asks       policy.Asks
	}{
		{"Subject: [encrypt] offer\r\n", "Subject: offer\r\n", encrypt},
		{"Subject: offer [encrypt]\r\n", "Subject: offer\r\n", encrypt},
		{"Subject: Re: [ENCRYPT] offer\r\n", "Subject: Re: offer\r\n", encrypt},
		{"Subject: [encrypt]\r\n", "Subject:\r\n", encrypt},
		{"Subject:[encrypt] offer\r\n", "Subject:offer\r\n", encrypt},
		{"Subject: [encrypt] [encrypt] [sign] offer\r\n", "Subject: offer\r\n", policy.Asks{Encrypt: true, Sign: true}},
		{"Subject: long\r\n offer\r\n [encrypt]\r\n", "Subject: long\r\n offer\r\n", encrypt},
		{"Subject: long\r\n [encrypt] offer\r\n", "Subject: long\r\n offer\r\n", encrypt},
		{"Subject: long [encrypt]\r\n offer\r\n", "Subject: long\r\n offer\r\n", encrypt},
		{"Subject: [encrypt]\r\n offer\r\n", "Subject: offer\r\n", encrypt},
		{"Subject: caf\xe9 [encrypt] offer\r\n", "Subject: caf\xe9 offer\r\n", encrypt},
		{"Subject: Grüße [plain]\r\n", "Subject: Grüße\r\n", plain},
		{"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?= [sign]\r\n", "Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n", sign},
		{"Subject: =?utf-8?q?=5Bencrypt=5D_Gr=C3=BC=C3=9Fe?=\r\n", "Subject: =?utf-8?b?R3LDvMOfZQ==?=\r\n", encrypt},
		{"Subject: =?utf-8?b?W2VuY3J5cHRd?= offer\r\n", "Subject: offer\r\n", encrypt},
		{"Subject: =?utf-8?q?[encrypt]=C2=A0offer?=\r\n", "Subject: offer\r\n", encrypt},
		{"Subject: =?iso-8859-1?q?[enc?= =?iso-8859-1?q?rypt]_=E4?=\r\n", "Subject: =?utf-8?b?w6Q=?=\r\n", encrypt},
		{"Subject: =?utf-8?q?[encrypt]_=3D=3Futf-8=3Fq=3Fx=3F=3D?=\r\n", "Subject: =?utf-8?b?PT91dGYtOD9xP3g/PQ==?=\r\n", encrypt},
		{"Subject: =?utf-8?q?[encrypt]_a=0D=0AX-Evil:_1?=\r\n", "Subject: a X-Evil: 1\r\n", encrypt},
		{"Subject: offer\r\nX-Postern-Encrypt: YES\r\nTo: a@b.example\r\n", "Subject: offer\r\nTo: a@b.example\r\n", encrypt},
		{"sensitivity:\r\n company-confidential\r\n", " ", encrypt},
		{"X-Sign: whatever\r\n", " ", sign},
		{"Subject: [encrypt] a\r\nThread-Topic: [encrypt] a\r\n", "Subject: a\r\nThread-Topic: a\r\n", encrypt},
		{"Thread-Topic: [sign] a\r\n", "Thread-Topic: a\r\n", policy.Asks{}},
		// Nothing of this counts.
		{"Subject: [encrypt]offer\r\n", "", policy.Asks{}},
		{"Subject: \"[encrypt]\" and [encrypted]\r\n", "", policy.Asks{}},
		{"Subject: pre[encrypt] [encrypt]: [en crypt]\r\n", "", policy.Asks{}},
		{"X-Postern-Encrypt: no\r\nSensitivity: Private\r\n", "", policy.Asks{}},
		{"Comments: [encrypt] X-Sign: yes\r\n", "", policy.Asks{}},
		{"Subject: =?utf-8?q?a=5Bencrypt=5D?=\r\n", "", policy.Asks{}},
		{" Subject: [encrypt]\r\n", "", policy.Asks{}},
		{"Subject : offer\r\nno field at all\r\n", "", policy.Asks{}},
	} {
		head := "From: alice@company1.example\r\n" + c.head + "Content-Type: multipart/mixed; boundary=b\r\n"
		body := "\r\n--b\r\n\r\n[encrypt]\r\n--b--\r\n"
		m := parsed(t, []byte(head+body))
		p := &passage{msg: m}
		g := New(Config{Triggers: triggers, Policy: &policy.Policy{}})
		if err := g.triggered(p); err != nil {
			t.Errorf("%q: %v", c.head, err)
			continue
		}
		want := strings.TrimPrefix(c.want, " ")
		if c.want == "" {
			if want = c.head; p.msg != m {
				t.Errorf("%q: is another mail", c.head)
			}
		}
		want = "From: alice@company1.example\r\n" + want + "Content-Type: multipart/mixed; boundary=b\r\n" + body
		if got := string(bytesOf(t, p.msg)); got != want || p.asks != c.asks {
			t.Errorf("%q: got %q, asks %+v, want %q, %+v", c.head, got, p.asks, want, c.asks)
		}
		again := parsed(t, bytesOf(t, p.msg))
		if p.msg.Root.Body != again.Root.Body || len(p.msg.Root.Parts) != 1 || p.msg.Root.Parts[0].Body != again.Root.Parts[0].Body {
			t.Errorf("%q: spans %+v, want %+v", c.head, p.msg.Root, again.Root)
		}
	}
}

// FuzzUntagged: taking a tag out leaves one field, without the tag, and the
// other words of its subject.
func FuzzUntagged(f *testing.F) {
	for _, s := range []string{" [x] a\r\n", " a\r\n [x]\r\n", " =?utf-8?q?=5Bx=5D?= =?utf-8?b?W3hd?=\r\n", "[x]\r\n\t[x]\r\n", " \xff[x] =?x?q?[x]?=\r\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		m, err := message.Parse(strings.NewReader("Subject:"+value+"\r\n\r\n"), message.Limits{})
		if err != nil || len(m.Root.Header) != 1 || m.Root.Header[0].Name != "Subject" {
			return
		}
		h := m.Root.Header[0]
		field := ("Subject:" + value + "\r\n\r\n")[h.Whole.Start:h.Whole.End]
		got, found := untagged([]byte(field), "[x]")
		if !found {
			if string(got) != field {
				t.Fatalf("%q: nothing was found, and got %q", field, got)
			}
			return
		}
		again, err := message.Parse(strings.NewReader(string(got)+"\r\n"), message.Limits{})
		if err != nil || len(again.Root.Header) != 1 || !strings.HasPrefix(string(got), "Subject:") || !strings.HasSuffix(string(got), "\r\n") {
			t.Fatalf("%q: got %q, %v: no single field", field, got, err)
		}
		if twice, found := untagged(got, "[x]"); found {
			t.Fatalf("%q: got %q, then %q: the tag was still there", field, got, twice)
		}
	})
}

// What counted is nowhere in what leaves: not outside, and not in the header
// that is protected inside. Inbound nothing counts, and nothing goes.
func TestTriggeredMail(t *testing.T) {
	const alice, bob, carol = "alice@company1.example", "bob@partner.example", "carol@other.example"
	tagged := strings.Replace(out, "Subject: out", "Subject: [encrypt] out\r\nX-Postern-Encrypt: yes", 1)
	w := newWorld(t)
	w.gate.Triggers = triggers
	w.want("nobody has a certificate", w.send(policy.Outbound, tagged, alice, carol), "550 5.7.3")
	w.want("one has", w.send(policy.Outbound, tagged, alice, bob), "250 2.0.0")
	sealed := string(w.hop.got[0].mail)
	inside, _, err := w.opened(w.hop.got[0].mail, bob, alice)
	if err != nil || w.layer(w.hop.got[0].mail) != protect.Sealed {
		t.Fatalf("got %v, layer %v", err, w.layer(w.hop.got[0].mail))
	}
	for what, text := range map[string]string{"outside": sealed, "inside": inside} {
		if strings.Contains(text, "[encrypt]") || strings.Contains(text, "X-Postern-Encrypt") {
			t.Errorf("%s: got\n%s", what, text)
		}
	}
	if got := parsed(t, []byte(inside)).Get("Subject"); got != "out" {
		t.Errorf("got subject %q, want %q", got, "out")
	}
	w.hop.got = nil
	w.want("inbound", w.send(policy.Inbound, strings.Replace(in, "Subject: in", "Subject: [encrypt] in\r\nSensitivity: Company-Confidential", 1), bob, alice), "250 2.0.0")
	if got := string(w.hop.got[0].mail); !strings.Contains(got, "Subject: [encrypt] in\r\nSensitivity: Company-Confidential\r\n") {
		t.Errorf("inbound: got\n%s", got)
	}

	// Who has signed his mail himself has the same signature afterwards.
	w.hop.got = nil
	mine := w.sealed(out, alice)
	w.want("signed by the client", w.send(policy.Outbound, strings.Replace(mine, "Subject: out", "Subject: [sign] out", 1), alice, carol), "250 2.0.0")
	if _, finding, err := w.opened(w.hop.got[0].mail, alice, alice); err != nil || !finding.Good || strings.Contains(string(w.hop.got[0].mail), "[sign]") {
		t.Errorf("signed by the client: got %+v, %v\n%s", finding, err, w.hop.got[0].mail)
	}
	if _, body, _ := strings.Cut(mine, "\r\n\r\n"); !strings.HasSuffix(string(w.hop.got[0].mail), body) {
		t.Error("the signed body is another")
	}
}

// Plain is asked for in vain where the site does not have it.
func TestPlainOnlyWhereAllowed(t *testing.T) {
	const alice, bob = "alice@company1.example", "bob@partner.example"
	for _, allowed := range []bool{false, true} {
		for _, level := range []policy.Protect{policy.Optional, policy.Require} {
			w := newWorld(t)
			w.gate.Triggers, w.gate.Policy.Lowering = triggers, allowed
			w.gate.Policy.Recipients[bob] = level
			w.want("plain", w.send(policy.Outbound, strings.Replace(out, "Subject: out", "Subject: [plain] out", 1), alice, bob), "250 2.0.0")
			got := w.layer(w.hop.got[0].mail)
			want := protect.Sealed
			if allowed && level == policy.Optional {
				want = protect.Signed
			}
			if got != want {
				t.Errorf("allowed %v, %s: got layer %v, want %v", allowed, level, got, want)
			}
		}
	}
}
