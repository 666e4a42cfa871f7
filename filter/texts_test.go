package filter

import (
	"strings"
	"testing"

	"postern/filter/policy"
)

func TestTexts(t *testing.T) {
	const alice, x = "alice@company1.example", "x@strict.example"
	german := "nicht gesendet: diese Mail muss verschluesselt werden"
	for _, c := range []struct {
		texts      Texts
		want, none string
	}{
		{Texts{}, "not sent: this mail must be encrypted", "nicht"},
		{Texts{Language: "en"}, "not sent: this mail must be encrypted", "nicht"},
		{Texts{Language: "de"}, german, "not sent"},
		{Texts{Language: "both"}, german, "?"},
		{Texts{Language: "both"}, " / not sent: this mail must be encrypted", "?"},
		{Texts{Language: "de", Own: map[string]string{"no-cert": "Größe zählt nicht:\r\n rufen Sie „1234“ an, ça va"}}, `550 5.7.3 Groesse zaehlt nicht: rufen Sie "1234" an, ca va ` + traceID, "verschl"},
		{Texts{Own: map[string]string{"policy": "no"}}, "not sent: this mail must be encrypted", "nicht"},
	} {
		w := newWorld(t)
		w.gate.Texts = c.texts
		got := w.send(policy.Outbound, out, alice, x).String()
		if !strings.Contains(got, c.want) || strings.Contains(got, c.none) || !strings.HasPrefix(got, "550 5.7.3 ") || !strings.HasSuffix(got, " "+traceID) {
			t.Errorf("%+v: got %q, want %q", c.texts, got, c.want)
		}
	}
	for _, c := range []struct {
		own map[string]string
		ok  bool
	}{
		{nil, true}, {map[string]string{"no-cert": "x", "answer": strings.Repeat("x", 300)}, true},
		{map[string]string{"nocert": "x"}, false}, {map[string]string{"no-cert": ""}, false}, {map[string]string{"no-cert": " \r\n"}, false},
		{map[string]string{"no-cert": strings.Repeat("ä", 151)}, false},
	} {
		if err := (Texts{Own: c.own}).Check(); (err == nil) != c.ok {
			t.Errorf("%.60v: got %v, want ok %v", c.own, err, c.ok)
		}
	}
}
