package filter

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"

	"postern/filter/policy"
	"postern/filter/transport"
)

// strange are mails as the world sends them, none protected in a format of ours.
func strange() map[string]string {
	head := "Received: from a by b; Tue, 24 Nov 2026 11:00:00 +0000\nFrom: Bob <bob@partner.example>\nTo: alice@company1.example\nDate: Tue, 24 Nov 2026 11:00:00 +0000\nSubject: s\nMessage-ID: <2@partner.example>\n"
	parts := func(n int) string {
		return head + "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=x\n\n" + strings.Repeat("--x\nContent-Type: text/plain\n\na \n", n) + "--x--\n"
	}
	mails := map[string]string{
		"text":                     head + "\nhello\n",
		"no body":                  head,
		"empty body":               head + "\n",
		"blanks at the end":        head + "\nhello  \t \n\n\n\n",
		"dots":                     head + "\n.\n..\n.hello\n",
		"From in a body":           head + "\nFrom here on\n>From there\n",
		"8-bit, undeclared":        head + "\nGr\xfc\xdfe, Grüße\n",
		"8-bit in a header":        strings.Replace(head, "Subject: s", "Subject: Grüße \xff", 1) + "\nhello\n",
		"odd folding":              head + "X-A:\n \n\tb \n  c\nx-b  : d\nX-C:e\n\nhello\n",
		"case and order":           "rECEIVED: by x; Tue, 24 Nov 2026 11:00:00 +0000\nsUbJeCt: S\nTO: ALICE@COMPANY1.EXAMPLE\nfrom: bob@partner.example\nTo: again@company1.example\n\nhello\n",
		"lines that are no fields": head + "no field\n: no name\n\nhello\n",
		"huge header":              head + "X-Long: " + strings.Repeat("word ", 150) + "\n" + strings.Repeat("X-Many: v\n", 700) + "\nhello\n",
		"long line":                head + "\n" + strings.Repeat("x", 990) + "\n" + strings.Repeat("y", 2000) + "\n",
		"1,500 parts":              parts(1500),
		"cut multipart":            head + "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=x\n\n--x\nContent-Type: text/plain\n\na\n",
		"invitation":               head + "MIME-Version: 1.0\nContent-Type: text/calendar; method=REQUEST; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\nBEGIN:VCALENDAR\nMETHOD:REQUEST\nBEGIN:VEVENT\nSUMMARY:Grüße\nEND:VEVENT\nEND:VCALENDAR\n",
		"winmail.dat":              head + "MIME-Version: 1.0\nContent-Type: application/ms-tnef; name=\"winmail.dat\"\nContent-Transfer-Encoding: base64\n\neJ8+IgEAAAA=\n",
		"a mail in a mail":         head + "MIME-Version: 1.0\nContent-Type: message/rfc822\n\n" + head + "Postern-Status: v=1; verified=yes\n\nhello\n",
		"a list's footer":          parts(2) + "_____\nlist@example.org\n",
		"a part signed":            head + "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=y\n\n--y\nContent-Type: multipart/signed; protocol=\"application/pgp-signature\"; boundary=x\n\n--x\n\nhello \n--x\nContent-Type: application/pgp-signature\n\nx\n--x--\n--y--\n",
		"S/MIME of others":         head + "MIME-Version: 1.0\nContent-Type: multipart/signed; protocol=\"application/x-other\"; boundary=x\n\n--x\nContent-Type: text/plain\n\nhello \n--x\nContent-Type: application/x-other\n\nx\n--x--\n",
	}
	for name, m := range mails {
		mails[name] = crlf(m)
	}
	mails["no newline at the end"] = strings.TrimSuffix(mails["text"], "\r\n")
	return mails
}

// A mail without protection leaves as it came, body and fields byte for byte
// below ours, both ways; and a DKIM signature over it (RFC 6376, with every
// field, Received too, and the body as they stand) says what it said before (R39).
func TestFaithfulPassage(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	w.config.Policy.Domains["company1.example"] = policy.SignNever
	for name, mail := range strange() {
		mail = dkimSignature(mail, private) + mail
		if !dkimHolds(t, []byte(mail), public) || dkimHolds(t, []byte(strings.Replace(mail, "bob@", "rob@", 1)), public) {
			t.Fatalf("%s: the signature of the test does not hold, or always does", name)
		}
		for _, d := range []policy.Direction{policy.Inbound, policy.Outbound} {
			m, from, to := mail, "bob@partner.example", "alice@company1.example"
			if d == policy.Outbound {
				from, to = "alice@company1.example", "carol@other.example"
			}
			w.hop.got = nil
			if got := w.send(d, m, from, to); got.Code != 250 || len(w.hop.got) != 1 {
				t.Errorf("%s, %s: got %v", name, d, got)
				continue
			}
			got := w.hop.got[0].mail
			if !bytes.HasSuffix(got, []byte(m)) {
				t.Errorf("%s, %s: got\n%.600q\nwant it to end in\n%.600q", name, d, got, m)
			}
			top := string(got[:len(got)-len(m)])
			for field := range strings.SplitSeq(strings.ReplaceAll(strings.ReplaceAll(top, "\r\n ", " "), "\r\n\t", " "), "\r\n") {
				if n, _, _ := strings.Cut(field, ":"); field != "" && n != "Received" && (d == policy.Outbound || n != "Authentication-Results" && n != "Postern-Status") {
					t.Errorf("%s, %s: got %q on top", name, d, field)
				}
			}
			if !dkimHolds(t, got, public) {
				t.Errorf("%s, %s: the DKIM signature holds no more", name, d)
			}
		}
	}
}

// The same holds for what is signed, and for what does not open: R39 with the
// layers that stay on.
func TestSignedPassage(t *testing.T) {
	w := newWorld(t)
	for name, mail := range map[string]string{"signed": w.sealed(in, "bob@partner.example"), "not opened": w.sealed(in, "bob@partner.example", "mallory@evil.example")} {
		w.hop.got, w.hop.answers = nil, []func(*transport.Envelope) transport.Result{taken}
		w.want(name, w.send(policy.Inbound, mail, "bob@partner.example", "alice@company1.example"), "250 2.0.0")
		if got := w.hop.got[0].mail; !bytes.HasSuffix(got, []byte(mail)) {
			t.Errorf("%s: got\n%s\nwant it to end in\n%s", name, got, mail)
		}
	}
}

// signedFields are those that the test's DKIM signature covers.
var signedFields = []string{"from", "to", "subject", "date", "message-id", "received", "content-type", "mime-version"}

// dkimSignature is a DKIM-Signature over a mail, simple/simple (RFC 6376 §3.4.1, §3.4.3)
// but for its own field, whose canonical form here is without the signature.
func dkimSignature(mail string, key ed25519.PrivateKey) string {
	sum := sha256.Sum256(dkimText([]byte(mail)))
	return "DKIM-Signature: v=1; a=ed25519-sha256; c=simple/simple; d=partner.example; s=x; h=" + strings.Join(signedFields, ":") + ";\r\n b=" + base64.StdEncoding.EncodeToString(ed25519.Sign(key, sum[:])) + "\r\n"
}

func dkimHolds(t *testing.T, mail []byte, key ed25519.PublicKey) bool {
	t.Helper()
	_, rest, ok := bytes.Cut(mail, []byte("DKIM-Signature: "))
	_, rest, ok2 := bytes.Cut(rest, []byte("b="))
	value, _, _ := bytes.Cut(rest, []byte("\r\n"))
	sig, err := base64.StdEncoding.DecodeString(string(value))
	if !ok || !ok2 || err != nil {
		t.Fatalf("no signature: %v", err)
	}
	sum := sha256.Sum256(dkimText(mail))
	return ed25519.Verify(key, sum[:], sig)
}

// dkimText is what the signature covers: of each name the field that stands
// last, as a verifier takes it (RFC 6376 §5.4.2), and the body with one CRLF at its end.
func dkimText(mail []byte) []byte {
	header, body, _ := strings.Cut(string(mail), "\r\n\r\n")
	var fields []string
	for line := range strings.SplitSeq(header, "\r\n") {
		if n := len(fields); n > 0 && line != "" && (line[0] == ' ' || line[0] == '\t') {
			fields[n-1] += "\r\n" + line
		} else {
			fields = append(fields, line)
		}
	}
	slices.Reverse(fields)
	var text strings.Builder
	for _, name := range signedFields {
		i := slices.IndexFunc(fields, func(f string) bool {
			n, _, ok := strings.Cut(f, ":")
			return ok && strings.EqualFold(strings.TrimSpace(n), name)
		})
		if i >= 0 {
			fmt.Fprintf(&text, "%s\r\n", fields[i])
		}
	}
	return []byte(text.String() + strings.TrimRight(body, "\r\n") + "\r\n")
}
