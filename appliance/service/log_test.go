package service

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"testing"

	"github.com/coreos/go-systemd/v22/journal"
)

func TestLogger(t *testing.T) {
	t.Setenv("JOURNAL_STREAM", "1:1") // of another file than standard error
	for _, c := range []struct{ level, format, want string }{
		{"info", "text", `level=INFO msg=hello n=1`},
		{"info", "json", `"level":"INFO","msg":"hello","n":1}`},
		{"info", "auto", `level=INFO msg=hello n=1`},
		{"debug", "text", `level=INFO msg=hello n=1`},
		{"nonsense", "text", `level=INFO msg=hello n=1`},
		{"warn", "text", ``},
	} {
		var b bytes.Buffer
		l := Logger(&b, c.level, c.format)
		l.Info("hello", "n", 1)
		if got := strings.TrimSpace(b.String()); !strings.HasSuffix(got, c.want) || c.want == "" && got != "" {
			t.Errorf("%s %s: got %q want %q at its end", c.level, c.format, got, c.want)
		}
		if got, want := l.Enabled(t.Context(), slog.LevelDebug), c.level == "debug"; got != want {
			t.Errorf("%s %s: debug: got %t want %t", c.level, c.format, got, want)
		}
	}
}

type entry struct {
	message  string
	priority journal.Priority
	fields   map[string]string
}

func TestJournal(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(*slog.Logger)
		want entry
	}{
		{"plain", func(l *slog.Logger) { l.Info("hello") }, entry{"hello", journal.PriInfo, map[string]string{}}},
		{"fields", func(l *slog.Logger) { l.Warn("m", "trace", "a b", "key-id", 7) },
			entry{`m trace="a b" key-id=7`, journal.PriWarning, map[string]string{"POSTERN_TRACE": "a b", "POSTERN_KEY_ID": "7"}}},
		{"with", func(l *slog.Logger) { l.With("a", 1).WithGroup("g").With("b", 2).Error("m", "c", 3) },
			entry{`m a=1 g.b=2 g.c=3`, journal.PriErr, map[string]string{"POSTERN_A": "1", "POSTERN_G_B": "2", "POSTERN_G_C": "3"}}},
		{"group", func(l *slog.Logger) { l.Info("m", slog.Group("peer", "uid", 0), slog.Group("", "x", 1)) },
			entry{`m peer.uid=0 x=1`, journal.PriInfo, map[string]string{"POSTERN_PEER_UID": "0", "POSTERN_X": "1"}}},
		{"look-alikes", func(l *slog.Logger) {
			l.Info("a\nb", "message", "x\nPRIORITY=0", "level", "y", "msg", "z", "_pid", 1, "é", 2)
		},
			entry{"a b message=\"x\\nPRIORITY=0\" level=y msg=z _pid=1 é=2", journal.PriInfo, map[string]string{
				"POSTERN_MESSAGE": "x\nPRIORITY=0", "POSTERN_LEVEL": "y", "POSTERN_MSG": "z", "POSTERN__PID": "1", "POSTERN__": "2"}}},
		{"long", func(l *slog.Logger) {
			l.Info(strings.Repeat("m", 20000), strings.Repeat("n", 100), strings.Repeat("v", 5000))
		},
			entry{strings.Repeat("m", 16<<10), journal.PriInfo, map[string]string{"POSTERN_" + strings.Repeat("N", 56): strings.Repeat("v", 4096)}}},
		{"debug", func(l *slog.Logger) { l.Debug("m") }, entry{}},
	} {
		var got entry
		h := &journalHandler{level: slog.LevelInfo, fallback: slog.DiscardHandler, send: func(m string, p journal.Priority, f map[string]string) error {
			got = entry{m, p, maps.Clone(f)}
			return nil
		}}
		c.do(slog.New(h))
		if got.message != c.want.message || got.priority != c.want.priority || !maps.Equal(got.fields, c.want.fields) {
			t.Errorf("%s: got %.300s want %.300s", c.name, fmt.Sprint(got), fmt.Sprint(c.want))
		}
	}
}

// What the journal does not take goes to standard error.
func TestJournalAway(t *testing.T) {
	var b bytes.Buffer
	h := &journalHandler{fallback: slog.NewTextHandler(&b, nil), send: func(string, journal.Priority, map[string]string) error { return errors.New("away") }}
	slog.New(h).With("a", 1).WithGroup("g").Info("m", "b", 2)
	if got, want := strings.TrimSpace(b.String()), "level=INFO msg=m a=1 g.b=2"; !strings.HasSuffix(got, want) {
		t.Errorf("got %q want %q at its end", got, want)
	}
}
