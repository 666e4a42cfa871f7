package record

import (
	"context"
	"database/sql"
	"encoding/json"
	"strings"
	"time"

	"postern/filter/transport"
)

// How much the record takes of what is told of mails.
const (
	maxQueued   = 4096      // mails that wait to be written
	maxWaiting  = 100_000   // recipients of all of them
	maxBatch    = 512       // mails of one write
	maxNamed    = 1000      // recipients of one mail; of further ones the number is kept
	maxMails    = 5_000_000 // in the file; the oldest go
	maxText     = 500       // bytes of any text
	maxAnswered = 100       // mails that one question gives
)

// Mail is what is told of one mail. There is no field for what it says.
type Mail struct {
	Trace      string             `json:"trace"`
	At         time.Time          `json:"time"`
	Direction  string             `json:"direction"`
	Listener   string             `json:"listener"`
	From       string             `json:"from"` // envelope sender; "": the null sender
	Recipients []Recipient        `json:"recipients"`
	More       int                `json:"more_recipients,omitempty"` // that are not in the list
	MessageID  string             `json:"message_id"`
	Size       int64              `json:"size"`
	Action     string             `json:"action"`
	Reply      string             `json:"reply"` // the sender's; with LMTP the first one
	Rule       string             `json:"rule"`
	Reason     string             `json:"reason"`
	Opened     []string           `json:"opened"`
	Verified   bool               `json:"verified"`
	Scan       string             `json:"scan,omitempty"` // what scanners said; "": none sees the mail
	Carried    transport.Carriage `json:"carried"`        // to us
}

// Recipient is what became of one copy.
type Recipient struct {
	To      string             `json:"to"`
	Reply   string             `json:"reply"`  // of the next hop, or ours; "": it was not tried
	Onward  transport.Carriage `json:"onward"` // to the next hop
	Format  string             `json:"format"` // none, openpgp, smime: of the copy
	Sealed  bool               `json:"encrypted"`
	Signed  bool               `json:"signed"`
	PDF     bool               `json:"pdf,omitempty"`     // with a password
	Earlier bool               `json:"earlier"`           // had his copy before
	Archive bool               `json:"archive,omitempty"` // no recipient of the mail: an archive
}

// Tell queues what there is to tell of a mail. It never waits: where too much is
// queued, the trace is lost, and counted.
func (r *Record) Tell(m Mail) {
	if r == nil || r.write == nil || r.Keep <= 0 {
		return
	}
	m.shorten()
	weight := int64(len(m.Recipients))
	if r.queued.Load()+weight > maxWaiting {
		r.lost.Add(1)
		return
	}
	r.queued.Add(weight)
	select {
	case r.traces <- m:
	default:
		r.queued.Add(-weight)
		r.lost.Add(1)
	}
}

// shorten holds every text within its bound, and as one line of printable ASCII
// or letters: it comes from strangers.
func (m *Mail) shorten() {
	if n := len(m.Recipients); n > maxNamed {
		m.Recipients, m.More = m.Recipients[:maxNamed], n-maxNamed
	}
	for _, s := range []*string{&m.Trace, &m.Direction, &m.Listener, &m.From, &m.MessageID, &m.Action, &m.Reply, &m.Rule, &m.Reason, &m.Scan} {
		*s = plain(*s)
	}
	for i := range m.Recipients {
		m.Recipients[i].To, m.Recipients[i].Reply = plain(m.Recipients[i].To), plain(m.Recipients[i].Reply)
	}
	m.MessageID = bare(m.MessageID)
}

func plain(s string) string {
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "")
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' || r == '\ufeff' || r >= '\u200b' && r <= '\u200f' || r >= '\u202a' && r <= '\u202e' || r >= '\u2066' && r <= '\u2069' {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

// store writes a batch. What fails is lost: a mail never waits for it.
func (r *Record) store(batch []Mail) {
	if len(batch) > 0 {
		err := r.transact(func(tx *sql.Tx) error {
			if err := r.mail.makeRoom(tx, r.Now()); err != nil {
				return err
			}
			add, err := tx.Prepare("INSERT INTO mail (trace, at, message_id, facts) VALUES (?, ?, ?, ?)")
			if err != nil {
				return err
			}
			defer add.Close()
			for _, m := range batch {
				facts, err := json.Marshal(m)
				if err != nil {
					return err
				}
				if _, err := add.Exec(m.Trace, m.At.Unix(), m.MessageID, string(facts)); err != nil {
					return err
				}
			}
			r.mail.rows.Add(int64(len(batch)))
			return nil
		})
		for _, m := range batch {
			r.queued.Add(-int64(len(m.Recipients)))
		}
		if err != nil {
			r.lost.Add(int64(len(batch)))
			r.Log.Error("record", "error", away("write traces", err).Error())
		}
	}
	if lost := r.lost.Swap(0); lost > 0 {
		r.Log.Warn("record", "lost", lost, "error", "traces of mails are lost")
	}
}

// Find gives the mails with that trace id or Message-ID, the latest first, and
// at most 100. A Message-ID may stand in its angle brackets.
func (r *Record) Find(ctx context.Context, name string) ([]Mail, error) {
	rows, err := r.read.QueryContext(ctx, "SELECT facts FROM mail WHERE trace = ?1 OR message_id <> '' AND message_id = ?2 ORDER BY id DESC LIMIT ?3", strings.TrimSpace(name), plain(bare(name)), maxAnswered)
	if err != nil {
		return nil, away("look up trace", err)
	}
	defer rows.Close()
	var found []Mail
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, away("look up trace", err)
		}
		var m Mail
		if err := json.Unmarshal([]byte(text), &m); err != nil {
			return nil, away("read trace", err)
		}
		m.shorten() // the file is not ours
		found = append(found, m)
	}
	return found, rows.Err()
}
