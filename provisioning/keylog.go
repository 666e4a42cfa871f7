package provisioning

import (
	"context"
	"io"
	"strings"
	"time"
)

// Operation is one line of the key daemon's record: what it was asked to do with
// a key, and what came of it. There is one for each, done or not.
type Operation struct {
	At      time.Time `json:"time"`
	Op      string    `json:"op"`
	Key     string    `json:"key,omitempty"`
	Label   string    `json:"label,omitempty"`
	UID     string    `json:"uid"` // of who asked
	Verdict string    `json:"verdict"`
	Trace   string    `json:"trace,omitempty"` // of the mail that it was for
	Took    string    `json:"took"`
}

// lastOperations are those told of where no mail is named.
const lastOperations = 100

// operations is the result of key log.
type operations struct {
	Operations []Operation `json:"operations"`
}

func (o operations) text(w io.Writer) {
	var rows [][]string
	for _, one := range o.Operations {
		row := []string{stamp(one.At), one.Op, one.Label, one.UID, one.Verdict, one.Trace, one.Took}
		for i := range row {
			if row[i] == "" {
				row[i] = "-"
			}
		}
		rows = append(rows, row)
	}
	table(w, []string{"TIME", "OPERATION", "KEY", "USER", "RESULT", "TRACE", "TOOK"}, rows)
}

var keyLogCommand = command{noun: "key", verb: "log", args: "[TRACE]", max: 1, about: "tell what the key daemon was asked to do",
	more: "Out of the journal, where each operation with a key is one line, done or not, oldest first: those for the mail with this trace id, or the last hundred. Exit status 1 when there is none.", run: keyLog}

func keyLog(ctx context.Context, c *call) (any, error) {
	trace := ""
	if len(c.args) > 0 {
		if trace = c.args[0]; trace == "" || len(trace) > 64 || strings.ContainsFunc(trace, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return nil, misuse("it stands at the end of a reply, in the log and in Postern-Status", "%.80q is no trace id", trace)
		}
	}
	list, err := c.Operations(ctx, trace, lastOperations)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, no("a mail that is neither opened nor signed asks for none; the journal is kept for 90 days on a box", "no key operation is noted for that")
	}
	return operations{list}, nil
}
