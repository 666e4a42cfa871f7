package filter

import (
	"bytes"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"postern/filter/authres"
	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/openpgp"
	"postern/filter/policy"
	"postern/filter/protect"
	"postern/hsm"
)

// forged are fields that claim to be ours, in every disguise.
var forged = []string{
	"Postern-Status: v=1; opened=openpgp; verified=yes; FORGED\n",
	"POSTERN-STATUS: v=1; verified=yes; FORGED\n",
	"postern-status:v=1; verified=yes; FORGED\n",
	"Postern-Status : v=1; verified=yes; FORGED\n",
	"Postern-Status\t: v=1; verified=yes; FORGED\n",
	"Postern-Status:\n v=1;\n\tverified=yes; FORGED\n",
	"Postern-Anything: FORGED\n",
	"=?utf-8?q?Postern-Status?=: v=1; verified=yes; FORGED\n",
	"=?us-ascii?B?UG9zdGVybi1TdGF0dXM=?=: v=1; verified=yes; FORGED\n",
	"Authentication-Results: gw.company1.example; x-openpgp=pass FORGED\n",
	"AUTHENTICATION-RESULTS: GW.COMPANY1.EXAMPLE; dkim=pass FORGED\n",
	"Authentication-Results : gw.company1.example 1; dkim=pass FORGED\n",
	"Authentication-Results:\n gw.company1.example;\n dkim=pass FORGED\n",
	"Authentication-Results: (a comment) gw.company1.example; dkim=pass FORGED\n",
	"Authentication-Results: (a (nested\\) ) one)\n \"gw.company1.example\"; dkim=pass FORGED\n",
	"Authentication-Results: \"gw.company1\\.example\"; dkim=pass FORGED\n",
	"Authentication-Results: gw.company1.example.; dkim=pass FORGED\n",
	"Authentication-Results: =?us-ascii?q?gw=2Ecompany1=2Eexample?=; dkim=pass FORGED\n",
	"Authentication-Results: ; dkim=pass FORGED\n",
	"Postern-Status\n : v=1; verified=yes; FORGED\n",
	"Authentication-Results\n\t: gw.company1.example; dkim=pass FORGED\n",
	"Authentication-Results: (open FORGED\n",
	"Return-Path: <FORGED@evil.example>\n",
}

// resultFields counts the fields of the root header that look like ours to
// the most generous reader.
func resultFields(t *testing.T, mail []byte) (status, results int) {
	t.Helper()
	m := parsed(t, mail)
	for i, f := range m.Root.Header {
		value, err := m.Value(f)
		if err != nil {
			t.Fatal(err)
		}
		if !authres.Foreign(f.Name, value, gatewayName) {
			continue
		}
		if i > 2 { // Received, Authentication-Results, Postern-Status
			t.Errorf("%s is field %d, want ours on top", f.Name, i)
		}
		switch f.Name {
		case "Postern-Status":
			status++
		case "Authentication-Results":
			results++
		default:
			t.Errorf("got field %q", f.Name)
		}
	}
	return status, results
}

// Forged marks are removed, outside and inside what was opened, and ours
// stand on top exactly once (R20).
func TestForgedMarks(t *testing.T) {
	w := newWorld(t)
	body := "MIME-Version: 1.0\nContent-Type: text/plain\n\nMarker-Text-7f3a\n"
	head := "From: Bob <bob@partner.example>\nTo: alice@company1.example\nSubject: marks\n"
	for _, f := range append(slices.Clone(forged), strings.Join(forged, "")) {
		// The mail as a partner's program seals it, with fields put in by hand
		// outside, and an entity that brings the same fields inside.
		inside := w.rawSealed(head, f+"Content-Type: text/plain\n\nMarker-Text-7f3a\n", "alice@company1.example")
		for where, mail := range map[string]string{
			"plain, on top":     crlf(f + head + body),
			"plain, below":      crlf(head + f + body),
			"sealed, outside":   crlf(f) + w.sealed(crlf(head+body), "bob@partner.example", "alice@company1.example"),
			"sealed, inside":    inside,
			"sealed, both":      crlf(f) + inside,
			"sealed, not ours":  crlf(f) + w.sealed(crlf(head+body), "bob@partner.example", "mallory@evil.example"),
			"signed, outside":   crlf(f) + w.sealed(crlf(head+body), "bob@partner.example"),
			"outbound, dropped": crlf(f + strings.NewReplacer("Bob <bob@partner.example>", "alice@company1.example").Replace(head) + body),
		} {
			w.hop.got = nil
			direction, to := policy.Inbound, "alice@company1.example"
			if strings.HasPrefix(where, "outbound") {
				direction, to = policy.Outbound, "x@other.example"
			}
			w.want(where, w.send(direction, mail, "bob@partner.example", to), "250 2.0.0")
			if len(w.hop.got) != 1 {
				t.Fatalf("%s: got %d mails, want 1", where, len(w.hop.got))
			}
			got := w.hop.got[0].mail
			status, results := resultFields(t, got)
			want := 1
			if direction == policy.Outbound {
				want = 0
			}
			if header, _, _ := bytes.Cut(got, []byte("\r\n\r\n")); status != want || results != want || bytes.Contains(header, []byte("FORGED")) {
				t.Errorf("%s, %q: got %d and %d result fields, want %d each and nothing forged:\n%s", where, f, status, results, want, header)
			}
		}
	}
}

// A header that begins with a fold does not continue our last field.
func TestHeaderThatBeginsWithAFold(t *testing.T) {
	w := newWorld(t)
	for _, fold := range []string{" ; verified=yes; FORGED\n", "\t; verified=yes\n FORGED\n", " \n ; FORGED\n", " Postern-Status: FORGED\n"} {
		for where, mail := range map[string]string{"plain": crlf(fold) + in, "sealed": crlf(fold) + w.sealed(in, "bob@partner.example", "alice@company1.example"), "not ours": crlf(fold) + w.sealed(in, "", "mallory@evil.example")} {
			w.hop.got = nil
			w.want(where, w.send(policy.Inbound, mail, "bob@partner.example", "alice@company1.example"), "250 2.0.0")
			got := w.hop.got[0].mail
			if status := parsed(t, got).Get("Postern-Status"); !strings.HasSuffix(status, "trace="+traceID) || bytes.Contains(got, []byte("FORGED")) {
				t.Errorf("%s %q: got %q in\n%s", where, fold, status, got)
			}
		}
	}
}

// What does not name us stays where it was: other gateways' results are
// evidence, and DKIM signatures cover bytes.
func TestMarksOfOthersStay(t *testing.T) {
	w := newWorld(t)
	kept := "Authentication-Results: mx.partner.example; dkim=pass\nARC-Authentication-Results: i=1; gw.company1.example; none\nX-Postern: hello\n"
	mail := crlf(kept) + in
	w.want("kept", w.send(policy.Inbound, mail, "bob@partner.example", "alice@company1.example"), "250 2.0.0")
	if got := w.hop.got[0].mail; !bytes.HasSuffix(got, []byte(mail)) {
		t.Errorf("got\n%s\nwant it to end in\n%s", got, mail)
	}
}

// rawSealed is a mail whose ciphertext holds exactly the entity: gpg is asked,
// which lets a test choose the bytes inside.
func (w *world) rawSealed(head, entity, to string) string {
	w.t.Helper()
	var armored bytes.Buffer
	if err := openpgp.Armor(&armored, w.people[to].Cert); err != nil {
		w.t.Fatal(err)
	}
	home := w.t.TempDir()
	gpg := func(in string, args ...string) string {
		cmd := exec.Command("gpg", append([]string{"--homedir", home, "--batch", "--quiet", "--no-autostart", "--faked-system-time", "20261124T120000!", "--trust-model", "always"}, args...)...)
		cmd.Stdin = strings.NewReader(in)
		var complaint bytes.Buffer
		cmd.Stderr = &complaint
		out, err := cmd.Output()
		if err != nil {
			w.t.Fatalf("gpg %s: %v (package gnupg, make deps): %s", args[0], err, &complaint)
		}
		return string(out)
	}
	gpg(armored.String(), "--import")
	ciphertext := gpg(crlf(entity), "--encrypt", "--armor", "--recipient", w.people[to].Fingerprint)
	return crlf(head + "MIME-Version: 1.0\nContent-Type: multipart/encrypted; protocol=\"application/pgp-encrypted\"; boundary=\"edge\"\n\n" +
		"--edge\nContent-Type: application/pgp-encrypted\n\nVersion: 1\n\n--edge\nContent-Type: application/octet-stream\n\n" + ciphertext + "\n--edge--\n")
}

// A second From from inside the ciphertext, or a signer who is somebody else,
// takes the claim away (R12).
func TestVerifiedIsForTheOneAuthor(t *testing.T) {
	w := newWorld(t)
	w.ring.partners = append(w.ring.partners, w.people["mallory@evil.example"].Cert) // known, and trusted
	status := func(mail string) string {
		t.Helper()
		w.hop.got = nil
		w.want("mail", w.send(policy.Inbound, mail, "bob@partner.example", "alice@company1.example"), "250 2.0.0")
		m := parsed(t, w.hop.got[0].mail)
		return m.Get("Postern-Status")
	}
	body := "To: alice@company1.example\nSubject: s\n\nText.\n"
	for _, c := range []struct {
		name, mail, signer string
		want               []string
	}{
		{"good", "From: Bob <bob@partner.example>\n" + body, "bob@partner.example", []string{"opened=openpgp", "verified=yes", "signer=bob@partner.example", "reason=good"}},
		{"signer is not From", "From: Bob <bob@partner.example>\n" + body, "mallory@evil.example", []string{"verified=no", "signer=none"}},
		{"two From fields", "From: bob@partner.example\nFrom: ceo@company1.example\n" + body, "bob@partner.example", []string{"verified=no", "signer=none"}},
		{"two addresses", "From: bob@partner.example, ceo@company1.example\n" + body, "bob@partner.example", []string{"verified=no", "signer=none"}},
		{"From a group", "From: g: bob@partner.example;\n" + body, "bob@partner.example", []string{"verified=no", "signer=none"}},
		{"name looks like an address", "From: \"ceo@company1.example\" <bob@partner.example>\n" + body, "bob@partner.example", []string{"verified=yes", "signer=bob@partner.example"}},
		{"unsigned", "From: bob@partner.example\n" + body, "", []string{"opened=openpgp", "verified=no", "signer=none", "reason=unsigned"}},
	} {
		got := status(w.sealed(crlf(c.mail), c.signer, "alice@company1.example"))
		for _, want := range c.want {
			if !strings.Contains(got, want) {
				t.Errorf("%s: got %q, want %s", c.name, got, want)
			}
		}
	}
	// The protector that lets a From out of the ciphertext is not believed.
	w.guard.open = func(r protect.OpenRequest) (*message.Message, protect.Finding, error) {
		s := r.NewSpool()
		fmt.Fprint(s, crlf("From: Bob <bob@partner.example>\nFrom: ceo@company1.example\nSubject: s\n\nText.\n"))
		m, err := message.Parse(s, message.Limits{})
		return m, protect.Finding{Format: keyring.OpenPGP, Opened: true, Signed: true, Good: true, Reason: protect.ReasonGood, Signers: []message.Address{address(t, "bob@partner.example")}}, err
	}
	got := status(w.sealed(crlf("From: bob@partner.example\n"+body), "bob@partner.example", "alice@company1.example"))
	if !strings.Contains(got, "verified=no") || !strings.Contains(got, protect.ReasonNotFrom) {
		t.Errorf("second From from inside: got %q, want verified=no", got)
	}
}

// An answer to a verified mail goes to the signer, or to whom he has signed for.
func TestVerifiedAnswersToTheSigner(t *testing.T) {
	const bank = "Reply-To: ceo@company1.example\n"
	body := "From: Bob <bob@partner.example>\nTo: alice@company1.example\nSubject: s\n"
	for _, c := range []struct {
		name, mail string
		opened     bool // as a protector's finding, else as we seal it
		sealed     []string
		added      string // on the way
		want       string
	}{
		{"nowhere else", body + "\nText.\n", true, nil, "", "yes"},
		{"the author in other letters", body + "Reply-To: Bob again <bob@PARTNER.example>\n\nText.\n", true, nil, "", "yes"},
		{"another", body + bank + "\nText.\n", true, nil, "", "no"},
		{"both", body + "Reply-To: bob@partner.example, ceo@company1.example\n\nText.\n", true, nil, "", "no"},
		{"nobody can tell", body + "Reply-To: bob@partner.example <ceo@company1.example>\n\nText.\n", true, nil, "", "no"},
		{"another by the draft, which does not say that all is there", body + bank + "Content-Type: text/plain; protected-headers=\"v1\"\n\nText.\n", true, nil, "", "no"},
		{"another, signed inside", body + bank + "Content-Type: text/plain; hp=\"cipher\"\n\nText.\n", true, nil, "", "yes"},
		{"sealed", body + bank + "\nText.\n", false, []string{"alice@company1.example"}, "", "yes"},
		{"sealed, and added", body + "\nText.\n", false, []string{"alice@company1.example"}, bank, "yes"},
		{"signed", body + bank + "\nText.\n", false, nil, "", "yes"},
		{"signed, and added", body + "\nText.\n", false, nil, bank, "no"},
		{"signed, added, and the mark forged", body + "\nText.\n", false, nil, bank + "Content-Type: multipart/mixed; hp=clear\n", "no"},
	} {
		w := newWorld(t)
		if c.opened {
			w.guard.open = func(r protect.OpenRequest) (*message.Message, protect.Finding, error) {
				s := r.NewSpool()
				fmt.Fprint(s, crlf(c.mail))
				m, err := message.Parse(s, message.Limits{})
				return m, protect.Finding{Format: keyring.OpenPGP, Opened: true, Signed: true, Good: true, Reason: protect.ReasonGood, Signers: []message.Address{address(t, "bob@partner.example")}}, err
			}
			c.sealed = []string{"alice@company1.example"}
		}
		w.want(c.name, w.send(policy.Inbound, crlf(c.added)+w.sealed(crlf(c.mail), "bob@partner.example", c.sealed...), "bob@partner.example", "alice@company1.example"), "250 2.0.0")
		m := parsed(t, w.hop.got[0].mail)
		if got := m.Get("Postern-Status"); !strings.Contains(got, "verified="+c.want) {
			t.Errorf("%s: got %q, want verified=%s", c.name, got, c.want)
		}
		if c.added != "" && c.want == "yes" && m.Count("Reply-To") > 0 {
			t.Errorf("%s: got the Reply-To that was added on the way", c.name)
		}
	}
}

// Only the keys of the recipient are tried (R9): whoever sends another's
// ciphertext to himself gets it back as it was, and no key is used.
func TestOnlyTheRecipientsKeys(t *testing.T) {
	w := newWorld(t)
	eve := w.person("eve@company1.example")
	w.ring.ours = append([]keyring.Identity{eve}, w.ring.ours[0]) // no domain's identity
	stolen := w.sealed(in, "bob@partner.example", "alice@company1.example")
	w.want("eve", w.send(policy.Inbound, stolen, "mallory@evil.example", "eve@company1.example"), "250 2.0.0")
	w.want("nobody", w.send(policy.Inbound, stolen, "mallory@evil.example", "nobody@company1.example"), "250 2.0.0")
	for i, d := range w.hop.got {
		if !bytes.HasSuffix(d.mail, []byte(stolen)) {
			t.Errorf("mail %d: got\n%s\nwant it as it came", i, d.mail)
		}
		if status := parsed(t, d.mail).Get("Postern-Status"); !strings.Contains(status, "opened=failed; verified=no; signer=none; reason=not-opened") {
			t.Errorf("mail %d: got %q", i, status)
		}
	}
	w.clear("stolen")
	for _, id := range w.token.used {
		if slices.Contains(w.people["alice@company1.example"].KeyIDs, id) {
			t.Error("alice's key was used for a mail to eve")
		}
	}
	// Both as recipients: each gets what is hers, for one token operation.
	w.hop.got, w.token.unwraps = nil, 0
	w.want("both", w.send(policy.Inbound, stolen, "bob@partner.example", "eve@company1.example", "alice@company1.example"), "250 2.0.0")
	for _, d := range w.hop.got {
		to, clear := d.env.Recipients[0].Address.Local, bytes.Contains(d.mail, []byte("Marker-Text-7f3a"))
		if len(d.env.Recipients) != 1 || clear != (to == "alice") {
			t.Errorf("%s: got clear text %v", to, clear)
		}
	}
	if len(w.hop.got) != 2 || w.token.unwraps > 1 {
		t.Errorf("got %d mails for %d token operations, want 2 and 1", len(w.hop.got), w.token.unwraps)
	}
}

// What does not open is delivered as it came with the next hop's own answer,
// or refused with one text, whatever the cause (R1).
func TestUndecryptable(t *testing.T) {
	w := newWorld(t)
	good := w.sealed(in, "bob@partner.example", "alice@company1.example")
	at := strings.LastIndex(good, "\r\n-----END PGP MESSAGE")
	if at < 0 {
		t.Fatalf("no armor in\n%s", good)
	}
	flip := func(at int) string {
		c := byte('A')
		if good[at] == c {
			c = 'B'
		}
		return good[:at] + string(c) + good[at+1:]
	}
	causes := map[string]string{
		"ciphertext changed":  flip(at - 100),
		"session key changed": flip(strings.Index(good, "-----BEGIN PGP MESSAGE") + 120),
		"not our key":         w.sealed(in, "bob@partner.example", "mallory@evil.example"),
		"cut":                 good[:at-64] + good[at:],
	}
	opened := map[string]func(protect.OpenRequest) (*message.Message, protect.Finding, error){}
	for _, err := range []error{protect.ErrCannotOpen, message.ErrTooBig, message.ErrLimit, message.ErrHeaderLimit, message.ErrLineEnds, hsm.ErrInvalid} {
		opened[err.Error()] = func(protect.OpenRequest) (*message.Message, protect.Finding, error) {
			return nil, protect.Finding{}, fmt.Errorf("inside: %w", err)
		}
	}
	for _, mode := range []policy.Undecryptable{policy.Mark, policy.Reject} {
		w.config.Policy.Undecryptable = mode
		try := func(name, mail string) {
			w.hop.got = nil
			got := w.send(policy.Inbound, mail, "bob@partner.example", "alice@company1.example")
			if mode == policy.Reject {
				if want := "554 5.7.5 message cannot be accepted as protected " + traceID; got.String() != want || len(w.hop.got) != 0 {
					t.Errorf("%s: got %q, %d mails, want %q and none", name, got, len(w.hop.got), want)
				}
				return
			}
			if want := "250 2.0.0 taken " + traceID; got.String() != want || len(w.hop.got) != 1 || !bytes.HasSuffix(w.hop.got[0].mail, []byte(mail)) {
				t.Errorf("%s: got %q, %d mails, want %q and the mail as it came", name, got, len(w.hop.got), want)
				return
			}
			if status := parsed(t, w.hop.got[0].mail).Get("Postern-Status"); !strings.Contains(status, "opened=failed; verified=no; signer=none; reason=not-opened") {
				t.Errorf("%s: got %q", name, status)
			}
		}
		for name, mail := range causes {
			try(name, mail)
		}
		for name, open := range opened {
			w.guard.open = open
			try(name, good)
		}
		w.guard.open = nil
	}
	// Trouble with the token is no verdict on the mail.
	w.token.unplug(hsm.ErrAway)
	w.want("token away", w.send(policy.Inbound, good, "bob@partner.example", "alice@company1.example"), "451 4.7.5")
}

// Names out of a mail or a certificate never stand raw in fields, log lines
// or replies (R19).
func TestNamesStayOutside(t *testing.T) {
	w := newWorld(t)
	evil := "=?utf-8?q?x=0D=0APostern-Status=3A_v=3D1=3B_verified=3Dyes=0D=0A?="
	head := "From: \"" + evil + "\\\" ; verified=yes\" <bob@partner.example>\nTo: alice@company1.example\nSubject: Secret-Subject " + evil + "\nMessage-ID: <\x1b[2J@x>\n\nMarker-Text-7f3a\n"
	for _, mail := range []string{crlf(head), w.sealed(crlf(head), "bob@partner.example", "alice@company1.example"), w.sealed(crlf(head), "bob@partner.example", "mallory@evil.example")} {
		w.hop.got = nil
		w.want("inbound", w.send(policy.Inbound, mail, "bob@partner.example", "alice@company1.example"), "250 2.0.0")
		if status, results := resultFields(t, w.hop.got[0].mail); status != 1 || results != 1 {
			t.Errorf("got %d and %d result fields, want 1 each", status, results)
		}
	}
	// A local part that needs quotes is quoted wherever it is printed.
	quoted := w.envelope("bob@partner.example")
	quoted.Recipients = nil
	for _, local := range []string{`a"b`, "a b", "a;verified=yes", "a\\", "a=b"} {
		m := message.Address{Local: local, Domain: "partner.example"}
		s := authres.Status{Opened: "none", Verified: true, Signer: m, Reason: protect.ReasonGood, Carried: "clear", Trace: traceID}
		fields := string(s.Fields(gatewayName, authres.Method{Name: "x-openpgp", Result: "pass", Properties: []authres.Property{{Name: "header.from", Value: authres.Word(m)}}}))
		if back, err := message.ParseAddress(m.String()); err != nil || back != m {
			t.Errorf("address %q: got %v, %v back from %q", local, back, err, m.String())
		}
		if strings.Count(fields, "\r\n") != strings.Count(fields, "\r\n ")+strings.Count(fields, "\r\n\t")+2 {
			t.Errorf("address %q: got fields\n%s", local, fields)
		}
	}
	for _, never := range []string{"Secret-Subject", "Marker-Text-7f3a", "\x1b", "verified=yes\r"} {
		if strings.Contains(w.log.String(), never) {
			t.Errorf("the log holds %q:\n%s", never, w.log)
		}
	}
}

// Hidden recipients get copies of their own, sealed to nobody else, and no
// copy names them (R42).
func TestHiddenRecipients(t *testing.T) {
	w := newWorld(t)
	mail := crlf("From: alice@company1.example\nTo: Bob <bob@partner.example>\nBcc: dave@freemail.example,\n carol@other.example\nResent-Bcc: dave@freemail.example\nSubject: bcc\n\nMarker-Text-7f3a\n")
	w.want("bcc", w.send(policy.Outbound, mail, "alice@company1.example", "bob@partner.example", "dave@freemail.example", "carol@other.example"), "250 2.0.0")
	if got, want := w.hop.recipients(), []string{"bob@partner.example", "dave@freemail.example", "carol@other.example"}; !slices.Equal(got, want) {
		t.Fatalf("got copies for %q, want %q", got, want)
	}
	for i, who := range []string{"bob@partner.example", "dave@freemail.example"} {
		d := w.hop.got[i]
		other := []string{"dave@freemail.example", "bob@partner.example"}[i]
		text, finding, err := w.opened(d.mail, who, "company1.example")
		if err != nil || !strings.Contains(text, "Marker-Text-7f3a") || !finding.Signed {
			t.Errorf("%s cannot read his copy: %v, %+v", who, err, finding)
		}
		if strings.Contains(text, "carol@") || strings.Contains(text, "dave@") || bytes.Contains(d.mail, []byte("dave@")) {
			t.Errorf("the copy for %s names a hidden recipient:\n%s", who, text)
		}
		if _, _, err := w.opened(d.mail, other, ""); err == nil {
			t.Errorf("%s can read the copy for %s", other, who)
		}
	}
	if bytes.Contains(bytes.ToLower(w.hop.got[2].mail), []byte("bcc:")) {
		t.Errorf("the plain copy names hidden recipients:\n%s", w.hop.got[2].mail)
	}
}

func TestReceived(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		direction policy.Direction
		user      string
		utf8      bool
		want      string
	}{
		{policy.Inbound, "", false, "from [192.0.2.7] by gw.company1.example with ESMTP id " + traceID + "; Tue, 24 Nov 2026 12:00:00 +0000"},
		{policy.Outbound, "alice", false, "by gw.company1.example with ESMTPA id " + traceID + "; Tue, 24 Nov 2026 12:00:00 +0000"},
		{policy.Outbound, "", true, "by gw.company1.example with UTF8SMTP id " + traceID + "; Tue, 24 Nov 2026 12:00:00 +0000"},
	} {
		w.hop.got = nil
		e := w.envelope("bob@partner.example", "alice@company1.example")
		e.User, e.Senders, e.UTF8 = c.user, []string{"*@partner.example"}, c.utf8
		w.want("mail", w.deliver(c.direction, e, strings.NewReader(in)), "250 2.0.0")
		if got := parsed(t, w.hop.got[0].mail).Get("Received"); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

// FuzzMarks: whatever header arrives, a reader who takes it in the most
// generous way (any case, blanks before the colon, lines that are no fields
// passed over) finds our fields once, on top.
func FuzzMarks(f *testing.F) {
	for _, s := range forged {
		f.Add(crlf(s))
		f.Add(crlf("not a field\n" + s))
		f.Add(crlf(" folded: before any\n" + s))
		f.Add(crlf(": no name\n" + s + "X:\n \n " + s))
	}
	w := newWorld(f)
	f.Fuzz(func(t *testing.T, header string) {
		w.t = t
		w.hop.got = nil
		w.log.Reset()
		if w.send(policy.Inbound, header+in, "bob@partner.example", "alice@company1.example").Code != 250 {
			return
		}
		head, _, _ := strings.Cut(string(w.hop.got[0].mail), "\r\n\r\n")
		var fields []string
		for _, line := range strings.Split(head, "\r\n") {
			if folded := strings.HasPrefix(line, " ") || strings.HasPrefix(line, "\t"); folded && len(fields) > 0 {
				fields[len(fields)-1] += line
				continue
			}
			fields = append(fields, line)
		}
		for i, field := range fields {
			name, value, ok := strings.Cut(field, ":")
			if !ok {
				continue
			}
			name = strings.ToLower(strings.Trim(name, " \t"))
			ours := strings.HasPrefix(name, "postern-") ||
				name == "authentication-results" && strings.HasPrefix(strings.ToLower(strings.TrimLeft(value, " \t")), gatewayName+";")
			if ours != (i == 1 || i == 2) {
				t.Errorf("field %d is %q: ours %v", i, field, ours)
			}
			if i == 2 && !strings.HasSuffix(field, "trace="+traceID) {
				t.Errorf("our field goes on: %q", field)
			}
		}
	})
}
