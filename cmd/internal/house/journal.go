package house

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"postern/provisioning"
)

// operations are the arguments by which journalctl gives the key daemon's
// record. The unit is a field that journald itself writes: no other program's
// lines can pass for these (systemd.journal-fields(7)).
func operations(more ...string) []string {
	return append([]string{"--output=json", "--quiet", "--no-pager", "_SYSTEMD_UNIT=postern-keyd.service", "POSTERN_RECORD=audit"}, more...)
}

// Operations are the key operations for the mail with a trace, or the last ones
// of all, oldest first.
func Operations(ctx context.Context, do func(ctx context.Context, stdin []byte, name string, args ...string) ([]byte, error), trace string, last int) ([]provisioning.Operation, error) {
	args := operations("--lines=" + strconv.Itoa(last))
	if trace != "" {
		args = append(args, "POSTERN_TRACE="+trace)
	}
	out, err := do(ctx, nil, "journalctl", args...)
	if err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	var list []provisioning.Operation
	for line := range bytes.Lines(out) {
		var e struct {
			At      string `json:"__REALTIME_TIMESTAMP"` // microseconds
			Op      string `json:"POSTERN_OP"`
			Key     string `json:"POSTERN_KEY"`
			Label   string `json:"POSTERN_LABEL"`
			UID     string `json:"POSTERN_UID"`
			Verdict string `json:"POSTERN_VERDICT"`
			Trace   string `json:"POSTERN_TRACE"`
			Took    string `json:"POSTERN_TOOK"`
		}
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("read journal: %w", err)
		}
		us, err := strconv.ParseInt(e.At, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("read journal: %w", err)
		}
		list = append(list, provisioning.Operation{At: time.UnixMicro(us).UTC(), Op: e.Op, Key: e.Key, Label: e.Label, UID: e.UID, Verdict: e.Verdict, Trace: e.Trace, Took: e.Took})
	}
	return list, nil
}
