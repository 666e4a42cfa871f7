package filter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/policy"
	"postern/filter/protect"
	"postern/hsm"
)

// requests notes what the protector is asked to seal.
func (w *world) requests() *[]protect.SealRequest {
	list := &[]protect.SealRequest{}
	w.guard.seal = func(r protect.SealRequest) (*message.Message, error) {
		*list = append(*list, r)
		return w.guard.Protector.Seal(w.t.Context(), r)
	}
	return list
}

func names(list []keyring.Cert, people map[string]keyring.Identity) string {
	var all []string
	for _, c := range list {
		for who, id := range people {
			if id.Fingerprint == c.Fingerprint {
				all = append(all, who)
			}
		}
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// TestWhoSigns: an identity signs if its protector says that it can: of some
// formats one certificate signs, and another is sealed to. The protector hears
// of both.
func TestWhoSigns(t *testing.T) {
	alice, domain := "alice@company1.example", "company1.example"
	for _, c := range []struct {
		name  string
		can   []string
		want  string
		reply string
	}{
		{"all can", []string{alice, domain}, alice, "250 2.0.0"},
		{"her own only seals", []string{domain}, domain, "250 2.0.0"},
		{"none can", nil, "", "451 4.3.5"},
	} {
		w := newWorld(t)
		list := w.requests()
		w.guard.signs = func(i keyring.Identity) error {
			if slices.Contains(c.can, names([]keyring.Cert{i.Cert}, w.people)) {
				return nil
			}
			return errors.New("it is sealed to")
		}
		w.want(c.name, w.send(policy.Outbound, out, alice, "bob@partner.example"), c.reply)
		if c.want == "" {
			if len(*list) > 0 {
				t.Errorf("%s: was sealed", c.name)
			}
			continue
		}
		r := (*list)[0]
		var own []keyring.Cert
		for _, i := range r.Own {
			own = append(own, i.Cert)
		}
		if got := names([]keyring.Cert{r.Signer.Cert}, w.people); got != c.want || names(own, w.people) != alice+" "+domain {
			t.Errorf("%s: got signer %s and own %s, want %s and both", c.name, got, names(own, w.people), c.want)
		}
	}
}

// TestOneCopyForEachClass: recipients of different classes share no message,
// and what a partner agreed on reaches the one who seals.
func TestOneCopyForEachClass(t *testing.T) {
	w := newWorld(t)
	list := w.requests()
	dave := w.people["dave@freemail.example"].Fingerprint
	w.guard.class = func(c keyring.Cert) string { return map[bool]string{true: "ec", false: "rsa"}[c.Fingerprint == dave] }
	style := protect.Style{Cipher: "aes-128-gcm", OAEP: true, PSS: true}
	w.gate.Policy.Forms = map[string]policy.Form{"partner.example": {Style: style}}
	to := []string{"bob@partner.example", "dave@freemail.example"}
	w.want("two classes", w.send(policy.Outbound, out, "alice@company1.example", to...), "250 2.0.0")
	if len(*list) != 2 {
		t.Fatalf("got %d copies, want 2", len(*list))
	}
	for _, r := range *list {
		if len(r.Recipients) != 1 || r.Style != (protect.Style{}) {
			t.Errorf("got %d recipients, style %+v, want one, and no style: it is S/MIME's", len(r.Recipients), r.Style)
		}
	}
}

// TestEscrow: who reads along stands in every sealed copy; a copy that he
// could not read defers the mail.
func TestEscrow(t *testing.T) {
	alice, bob, dave, archive := "alice@company1.example", "bob@partner.example", "dave@freemail.example", "archive@company1.example"
	for _, c := range []struct {
		name, entry string
		trouble     func(*world)
		reply       string
	}{
		{"by address", archive, nil, "250 2.0.0"},
		{"by fingerprint", "FPR", nil, "250 2.0.0"},
		{"unknown fingerprint", strings.Repeat("A", 40), nil, "451 4.3.5"},
		{"no such address", "archive", nil, "451 4.3.5"},
		{"of another class", archive, func(w *world) {
			w.guard.class = func(c keyring.Cert) string { return names([]keyring.Cert{c}, w.people) }
		}, "451 4.3.5"},
		{"whose key only signs", archive, func(w *world) {
			for i := range w.ring.ours {
				w.ring.ours[i].Use = hsm.Sign
			}
		}, "451 4.3.5"},
		{"keyring away", archive, func(w *world) { w.ring.err = errors.New("away") }, "451 4.3.0"},
	} {
		w := newWorld(t)
		w.people[archive] = w.person(archive)
		w.ring.ours = append([]keyring.Identity{w.people[archive]}, w.ring.ours...)
		entry := strings.Replace(c.entry, "FPR", strings.ToLower(w.people[archive].Fingerprint), 1)
		w.gate.Policy.Escrow = map[string]policy.Escrow{"company1.example": {entry}}
		list := w.requests()
		if c.trouble != nil {
			c.trouble(w)
		}
		// dave stands in no To or Cc
		w.want(c.name, w.send(policy.Outbound, out, alice, bob, dave), c.reply)
		if !strings.HasPrefix(c.reply, "250") {
			if len(w.hop.got) > 0 {
				t.Errorf("%s: was relayed", c.name)
			}
			continue
		}
		var got []string
		for _, r := range *list {
			got = append(got, names(r.Recipients, w.people))
		}
		if strings.Join(got, ", ") != archive+" "+bob+", "+archive+" "+dave {
			t.Errorf("%s: got copies for %q", c.name, got)
		}
		for _, d := range w.hop.got {
			if text, f, err := w.opened(d.mail, archive, alice); err != nil || !f.Good || !strings.Contains(text, "Marker-Text-7f3a") {
				t.Errorf("%s: the archive cannot read its copy: %v", c.name, err)
			}
		}
	}
}

// TestRevokedIsNotSealedTo: an operator's trust does not outlive what the
// authority says.
func TestRevokedIsNotSealedTo(t *testing.T) {
	for revoked, want := range map[bool]string{true: "550 5.7.3", false: "250 2.0.0"} {
		w := newWorld(t)
		w.gate.Revoked = func(_ context.Context, c keyring.Cert, at time.Time) bool {
			return revoked && c.Fingerprint == w.people["bob@partner.example"].Fingerprint && at.Equal(noon)
		}
		w.gate.Policy.Recipients["bob@partner.example"] = policy.Require
		w.want(fmt.Sprint("revoked ", revoked), w.send(policy.Outbound, out, "alice@company1.example", "bob@partner.example"), want)
	}
}

// TestResultOfSMIME: a signature in S/MIME is judged under the method that is
// registered for it.
func TestResultOfSMIME(t *testing.T) {
	bob := "bob@partner.example"
	for _, c := range []struct {
		finding protect.Finding
		want    string
	}{
		{protect.Finding{Signed: true, Good: true, Signers: []message.Address{address(t, bob)}, Reason: protect.ReasonGood}, `smime=pass reason="good" header.from=bob@partner.example`},
		{protect.Finding{Signed: true, Reason: protect.ReasonBad}, `smime=fail reason="bad-signature"`},
		{protect.Finding{Signed: true, Reason: protect.ReasonUnknownCert}, `smime=neutral reason="unknown-cert"`},
		{protect.Finding{Signed: true, Reason: protect.ReasonWeak}, `smime=policy reason="weak-algorithm"`},
		{protect.Finding{Opened: true, Reason: protect.ReasonUnauthenticated}, "none"},
	} {
		w := newWorld(t)
		w.guard.open = func(r protect.OpenRequest) (*message.Message, protect.Finding, error) {
			f := c.finding
			f.Format = keyring.SMIME
			return r.Message, f, nil
		}
		w.want(c.want, w.send(policy.Inbound, w.sealed(in, bob), bob, "alice@company1.example"), "250 2.0.0")
		if got := parsed(t, w.hop.got[0].mail).Get("Authentication-Results"); !strings.HasSuffix(strings.Join(strings.Fields(got), " "), gatewayName+"; "+c.want) {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}
