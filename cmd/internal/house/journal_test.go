package house

import (
	"slices"
	"strings"
	"testing"
	"time"

	"postern/provisioning"
)

// Key operations are read as journalctl prints them; of a line that is none,
// nothing is told.
func TestOperations(t *testing.T) {
	const line = `{"__REALTIME_TIMESTAMP":"1764079482000001","_SYSTEMD_UNIT":"postern-keyd.service","POSTERN_RECORD":"audit","POSTERN_OP":"unwrap","POSTERN_KEY":"0a","POSTERN_LABEL":"openpgp/company1.example/unwrap","POSTERN_UID":"998","POSTERN_VERDICT":"ok","POSTERN_TRACE":"T1","POSTERN_TOOK":"12ms","MESSAGE":"key operation"}` + "\n"
	want := provisioning.Operation{At: time.Unix(1764079482, 1000).UTC(), Op: "unwrap", Key: "0a", Label: "openpgp/company1.example/unwrap", UID: "998", Verdict: "ok", Trace: "T1", Took: "12ms"}
	r := &recorded{answers: map[string]string{"journalctl": line + line}}
	got, err := Operations(t.Context(), r.do, "T1", 100)
	if err != nil || !slices.Equal(got, []provisioning.Operation{want, want}) {
		t.Errorf("got %v, %v, want %v twice", got, err, want)
	}
	if ran := r.take(); len(ran) != 1 || !strings.Contains(ran[0], "_SYSTEMD_UNIT=postern-keyd.service POSTERN_RECORD=audit --lines=100 POSTERN_TRACE=T1") {
		t.Errorf("got %q, want one look at keyd's record for that trace", ran)
	}
	for _, bad := range []string{"no JSON\n", `{"POSTERN_OP":"unwrap"}` + "\n"} {
		r.answers["journalctl"] = bad
		if got, err := Operations(t.Context(), r.do, "", 100); err == nil {
			t.Errorf("%q: got %v, want an error", bad, got)
		}
	}
}

func TestMemory(t *testing.T) {
	used, all, err := memory(strings.NewReader("MemTotal:        1012224 kB\nMemFree:          512000 kB\nMemAvailable:     812224 kB\nHugePages_Total:       0\n"))
	if used != 195 || all != 988 || err != nil {
		t.Errorf("got %d of %d, %v, want 195 of 988 MiB", used, all, err)
	}
	for _, bad := range []string{"", "MemTotal: 5 kB\nMemAvailable: 6 kB\n"} {
		if used, all, err := memory(strings.NewReader(bad)); err == nil {
			t.Errorf("%q: got %d of %d, want an error", bad, used, all)
		}
	}
}
