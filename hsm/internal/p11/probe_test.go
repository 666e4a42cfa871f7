package p11

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"postern/hsm"
	"postern/hsm/hsmtest"
)

// A probe tells of each algorithm that it works, or why it does not, and
// leaves nothing behind.
func TestProbe(t *testing.T) {
	for _, module := range modules {
		t.Run(module.name, func(t *testing.T) {
			tok := ready(t, module.fixture(t), importedToo)
			probes, err := tok.Probe()
			if err != nil {
				t.Fatal(err)
			}
			want := len(outsideTrials)
			for _, trial := range trials {
				want += max(1, len(trial.with))
			}
			if len(probes) != want {
				t.Errorf("got %d probes want %d", len(probes), want)
			}
			for _, p := range probes {
				if a, ok := strings.CutSuffix(p.Name, " wrapped"); ok {
					able := a == "RSA-3072" || a == "P-256"
					if p.OK != (able && module.class == hsm.Resident) || able && !p.OK && !strings.Contains(p.Reason, "it works, but") {
						t.Errorf("%s: got %t %q", p.Name, p.OK, p.Reason)
					}
					continue
				}
				mayLack := slices.ContainsFunc(tok.m.profile.mayLack, func(a hsm.Algorithm) bool {
					return strings.HasPrefix(strings.ToLower(p.Name), string(a)+" ")
				})
				if !p.OK && !mayLack || p.OK != (p.Reason == "") {
					t.Errorf("%s: got %t %q, want true unless a version may lack it (%t)", p.Name, p.OK, p.Reason, mayLack)
				}
			}
			if keys, findings, err := tok.Load(); err != nil || len(keys)+len(findings) != 0 {
				t.Errorf("after it: got %d keys, %d findings, %v want none", len(keys), len(findings), err)
			}
		})
	}
}

// One operation that fails spoils its own probe only; a token that goes away
// spoils all.
func TestProbeFaults(t *testing.T) {
	s := hsmtest.NewShim(t, hsmtest.SoftHSM(t))
	tok := ready(t, s.Fixture)
	s.Set("C_DeriveKey 0x70")
	probes, err := tok.Probe()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range probes {
		if want := !strings.Contains(p.Name, "ECDH") && p.Name != "X25519 wrapped" && p.Name != "Ed25519 wrapped"; p.OK != want {
			t.Errorf("without C_DeriveKey, %s: got %t %q want %t", p.Name, p.OK, p.Reason, want)
		}
	}
	s.Set("C_SignInit 0x32")
	if _, err := tok.Probe(); !errors.Is(err, hsm.ErrAway) {
		t.Errorf("pulled: got %v want %v", err, hsm.ErrAway)
	}
}
