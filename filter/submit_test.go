package filter

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"postern/filter/policy"
	"postern/filter/protect"
)

// TestSubmission (RFC 6409 §8): Date and Message-ID are added where an account
// sends without them, below the signature, and nothing else; and only there.
func TestSubmission(t *testing.T) {
	const alice = "alice@company1.example"
	const head = "From: alice@company1.example\r\nTo: carol@other.example\r\nSubject: s\r\n"
	const date, id = "Date: Tue, 24 Nov 2026 11:00:00 +0000\r\n", "message-id: <1@pc.example>\r\n"
	for _, c := range []struct {
		name, mail string
		direction  policy.Direction
		user       string
		want       []string // fields more than there were
	}{
		{"neither", head + "\r\nhello\r\n", policy.Outbound, "alice", []string{"Date", "Message-ID"}},
		{"a date", date + head + "\r\nhello\r\n", policy.Outbound, "alice", []string{"Message-ID"}},
		{"an id", id + head + "\r\nhello\r\n", policy.Outbound, "alice", []string{"Date"}},
		{"both", id + date + head + "\r\nhello\r\n", policy.Outbound, "alice", nil},
		{"header only", head, policy.Outbound, "alice", []string{"Date", "Message-ID"}},
		{"a server", head + "\r\nhello\r\n", policy.Outbound, "", nil},
		{"from outside", head + "\r\nhello\r\n", policy.Inbound, "", nil},
		{"white space in front", " x\r\n" + head + "\r\nhello\r\n", policy.Outbound, "alice", nil},
	} {
		w := newWorld(t)
		w.gate.Policy.Domains = map[string]policy.Sign{"company1.example": policy.SignNever}
		to := "carol@other.example"
		if c.direction == policy.Inbound {
			to = alice
		}
		e := w.envelope(alice, to)
		e.User, e.Senders = c.user, []string{alice}
		w.want(c.name, w.deliver(c.direction, e, strings.NewReader(c.mail)), "250 2.0.0")
		got := w.hop.got[0].mail
		m := parsed(t, got)
		var added []string
		for _, f := range m.Root.Header {
			if !slices.Contains([]string{"Received", "Postern-Status", "Authentication-Results"}, f.Name) && !strings.Contains(strings.ToLower(c.mail), strings.ToLower(f.Name)+":") {
				added = append(added, f.Name)
			}
		}
		if !slices.Equal(added, c.want) || !bytes.HasSuffix(got, []byte(strings.TrimPrefix(c.mail, " x\r\n"))) {
			t.Errorf("%s: added %q, want %q, to\n%s", c.name, added, c.want, got)
		}
		if slices.Contains(c.want, "Date") && m.Get("Date") != "Tue, 24 Nov 2026 12:00:00 +0000" {
			t.Errorf("%s: got Date %q", c.name, m.Get("Date"))
		}
		if id := m.Get("Message-ID"); slices.Contains(c.want, "Message-ID") && (!strings.HasSuffix(id, "@"+gatewayName+">") || len(id) < 30) {
			t.Errorf("%s: got Message-ID %q", c.name, id)
		}
	}
	// What is added is signed like the rest.
	w := newWorld(t)
	e := w.envelope(alice, "carol@other.example")
	e.User, e.Senders = "alice", []string{alice}
	w.want("signed", w.deliver(policy.Outbound, e, strings.NewReader(head+"\r\nhello\r\n")), "250 2.0.0")
	m := parsed(t, w.hop.got[0].mail)
	if w.layer(w.hop.got[0].mail) != protect.Signed || m.Count("Date") != 1 || m.Count("Message-ID") != 1 {
		t.Errorf("got\n%s", w.hop.got[0].mail)
	}
	inner := m.Root.Parts[0]
	var names []string
	for _, f := range inner.Header {
		names = append(names, f.Name)
	}
	if !slices.Contains(names, "Date") || !slices.Contains(names, "Message-ID") {
		t.Errorf("the signature covers %q, without what was added", names)
	}
}

// A mail with fields before its own reads like one piece.
func TestTopped(t *testing.T) {
	for _, top := range []string{"", "a", "Date: x\r\n"} {
		for _, rest := range []string{"", "b", "From: y\r\n\r\nbody\r\n"} {
			src := &topped{[]byte(top), strings.NewReader(rest)}
			if err := iotest.TestReader(io.NewSectionReader(src, 0, src.Size()), []byte(top+rest)); err != nil {
				t.Errorf("%q and %q: %v", top, rest, err)
			}
			b := make([]byte, len(top+rest)+1)
			if n, err := src.ReadAt(b, 0); n != len(top+rest) || err != io.EOF {
				t.Errorf("%q and %q beyond the end: got %d, %v", top, rest, n, err)
			}
		}
	}
	if _, err := (&topped{nil, strings.NewReader("x")}).ReadAt(make([]byte, 1), -1); err == nil {
		t.Error("before the beginning: got no error")
	}
}
