package provisioning

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"postern/filter/record"
)

// traced is what the record tells of the mails of one name.
type traced struct {
	Mails []record.Mail `json:"mails"`
}

// traceMail answers from the record that filterd writes, while it runs. Nothing
// is written, and the mails themselves are nowhere.
func traceMail(ctx context.Context, c *call) (any, error) {
	site, err := c.site()
	if err != nil {
		return nil, err
	}
	r, err := record.OpenForeign(site.Record)
	if err != nil {
		return nil, err
	}
	found, err := r.Find(ctx, c.args[0])
	if err = errors.Join(err, r.Close()); err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, no("traces are written within a second or two, and kept as long as record-keep says; the name is the id at the end of a reply, or the Message-ID", "trace %.80q: no mail has that name", c.args[0])
	}
	return traced{found}, nil
}

func (t traced) text(w io.Writer) {
	for i, m := range t.Mails {
		if i > 0 {
			fmt.Fprintln(w)
		}
		from := m.From
		if from == "" {
			from = "the null sender"
		}
		rows := [][]string{
			{"trace", m.Trace}, {"time", m.At.UTC().Format(time.RFC3339)}, {"direction", m.Direction + ", by listener " + m.Listener}, {"from", from},
			{"message-id", m.MessageID}, {"size", fmt.Sprintf("%d bytes", m.Size)}, {"action", m.Action}, {"reply", m.Reply},
			{"rule", m.Rule}, {"reason", m.Reason}, {"opened", strings.Join(m.Opened, ", ")}, {"verified", map[bool]string{true: "yes", false: "no"}[m.Verified]}, {"scanners", m.Scan},
			{"carried to us", m.Carried.String()},
		}
		for _, to := range m.Recipients {
			name := "to"
			if to.Archive {
				name = "archive"
			}
			rows = append(rows, []string{name, to.To}, []string{"  copy", copyOf(to)}, []string{"  answer", to.Reply}, []string{"  carried on", to.Onward.String()})
		}
		if m.More > 0 {
			rows = append(rows, []string{"to", fmt.Sprintf("%d more", m.More)})
		}
		for j := range rows {
			if rows[j][1] == "" {
				rows[j][1] = "-"
			}
		}
		table(w, nil, rows)
	}
}

// copyOf says in words what one recipient's copy was like.
func copyOf(to record.Recipient) string {
	words := "as it is"
	switch {
	case to.Sealed && to.Signed:
		words = "signed and encrypted, " + to.Format
	case to.Sealed:
		words = "encrypted, " + to.Format
	case to.Signed:
		words = "signed, " + to.Format
	}
	if to.PDF {
		words = "as a PDF with a password, " + words
	}
	if to.Earlier {
		words = "settled in an earlier try"
	}
	return words
}
