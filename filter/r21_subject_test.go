package filter

import (
	"slices"
	"strings"
	"testing"

	"postern/filter/message"
	"postern/filter/policy"
)

// The gateway says nothing in a subject: what is verified and what is not has
// the subject that its sender wrote, so that no tag in one is ever a word of
// ours (R21). What it has to say stands in its own fields only.
func TestNoTagsInSubjects(t *testing.T) {
	const bob, alice = "bob@partner.example", "alice@company1.example"
	var subjects []string
	for _, tag := range []string{"[verified]", "[signed by bob@partner.example]", "[secure]", "=?utf-8?q?=5Bverified=5D?=", "=?utf-8?b?W3NlY3VyZV0=?=", "(opened=openpgp; verified=yes)", "\u2713"} {
		subjects = append(subjects, tag+" offer", "Re: "+tag+"\r\n offer", tag)
	}
	for _, subject := range append(subjects, "offer", "") {
		w := newWorld(t)
		mail := "From: Bob <bob@partner.example>\r\nTo: alice@company1.example\r\nSubject: " + subject + "\r\nMessage-ID: <2@partner.example>\r\n\r\nMarker-Text-7f3a\r\n"
		var got []string
		for _, m := range []string{mail, w.sealed(mail, bob), w.sealed(mail, bob, alice), w.sealed(mail, "", alice), w.sealed(mail, "mallory@evil.example", alice)} {
			w.hop.got = nil
			w.want(subject, w.send(policy.Inbound, m, bob, alice), "250 2.0.0")
			d := parsed(t, w.hop.got[0].mail)
			if n := d.Count("Subject"); n != 1 {
				t.Errorf("%q: got %d subjects, want 1", subject, n)
			}
			got = append(got, strings.TrimSpace(d.Get("Subject")))
		}
		want := strings.TrimSpace(strings.ReplaceAll(subject, "\r\n ", " "))
		if slices.ContainsFunc(got, func(s string) bool { return message.DecodeWords(s) != message.DecodeWords(want) }) {
			t.Errorf("got subjects %q, want %q in all", got, want)
		}
		// What does not open keeps the subject that stood outside.
		w.hop.got = nil
		shut := strings.Replace(w.sealed(mail, bob, "mallory@evil.example"), "Subject: [...]", "Subject: "+subject, 1)
		w.want(subject, w.send(policy.Inbound, shut, bob, alice), "250 2.0.0")
		if got := strings.TrimSpace(parsed(t, w.hop.got[0].mail).Get("Subject")); got != want {
			t.Errorf("not opened: got %q, want %q", got, want)
		}
	}
}
