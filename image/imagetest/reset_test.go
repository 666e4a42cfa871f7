package imagetest_test

import (
	"regexp"
	"strings"
	"testing"

	"postern/appliance/box"
	"postern/image/imagetest"
)

// known is what the operator's machine knows of the box.
func (o *operator) known(t *testing.T) box.Known {
	t.Helper()
	k, err := box.ReadKnown(o.dir)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// keys are those in the token that are for mail, by label and id.
func (o *operator) keys(t *testing.T) string {
	t.Helper()
	return strings.Join(regexp.MustCompile(`(?m)^.*openpgp/company1\.example.*$`).FindAllString(o.do(t, "", "key", "list"), -1), "\n")
}

// resetAndRestore makes the box one that belongs to nobody, and a new one of it.
// The machine stays on; its restart is its own.
func (o *operator) resetAndRestore(t *testing.T, m *imagetest.Machine) {
	t.Helper()
	before, old := o.known(t), o.Recipient
	if o.keys(t) == "" {
		t.Error("the token has no keys before the reset")
	}
	o.typed(t, "postern box reset", nil, func(shown string) string {
		if strings.Contains(shown, "gw.company1.example") {
			return "gw.company1.example"
		}
		return ""
	})
	// Nobody claims the one that goes.
	if m.Either(`This box was wiped`, `This box belongs to nobody yet`) != 0 {
		t.Error("the box that was wiped can be claimed before it begins anew")
	}
	m.Wait(`BdsDxe: starting`)
	m.Wait(`This box belongs to nobody yet`)
	// The one that was known answers no more.
	if out, err := ask("", o.bin+"/postern", "box", "meet", o.address(), "--dir", o.dir, "--fingerprint", before.Fingerprint); err == nil {
		t.Errorf("the box that was reset: got %q, want it unknown", out)
	}
	first := o.Recovery
	o.claim(t, m, "tpm")
	if now := o.known(t); now.Fingerprint == before.Fingerprint {
		t.Errorf("got fingerprint %s as before the reset, want another one", now.Fingerprint)
	}
	if o.Recovery == first {
		t.Error("the data partition has its recovery key of before the reset")
	}
	if left := o.keys(t); left != "" {
		t.Errorf("got keys %s after the reset, want none", left)
	}
	if out, err := ask("", o.bin+"/postern", "box", "do", "--dir", o.dir, "--", "identity", "export", "company1.example"); err == nil {
		t.Errorf("got identity %.300s after the reset, want none", out)
	}
	o.must(t, "postern box restore box.age --identity reader.txt --from ", "", map[string]string{"FINGERPRINT": before.Fingerprint})
	if got := o.box(t, "", "config", "--dir", o.dir); !strings.Contains(got, `[partner."other.example"]`) {
		t.Errorf("got box.toml %q, want the one of the backup", got)
	}
	if out := o.do(t, "", "identity", "list"); !strings.Contains(out, strings.ToLower(old)) && !strings.Contains(out, old) {
		t.Errorf("got identities %s, want the certificate %s back", out, old)
	}
	o.restored(t, old)
}

// restored makes new keys for the domain whose certificate is back, and lets
// mail pass: those of before are gone for good. The partner is known.
func (o *operator) restored(t *testing.T, old string) {
	t.Helper()
	o.identity(t, "postern box do -- identity create --domain company1.example --successor")
	if o.Recipient == old {
		t.Errorf("got certificate %s, whose keys are gone", old)
	}
	o.sealedIn(t, "marker-restored-sealed")
	o.plainOut(t, "marker-restored-plain")
}
