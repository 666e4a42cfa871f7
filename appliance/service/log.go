package service

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
)

// Limits of a journal entry.
const (
	maxName    = 64       // of a field, bytes: systemd drops longer ones
	maxValue   = 4 << 10  // of a field, bytes; what is longer is cut
	maxMessage = 16 << 10 // bytes; what is longer is cut
)

// Logger writes to standard error w as text or json, or natively to the
// journal. "auto" is journal where systemd says that standard error is the
// journal, else text. level is debug, info, warn or error; anything else is
// info.
func Logger(w io.Writer, level, format string) *slog.Logger {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		l = slog.LevelInfo
	}
	options := &slog.HandlerOptions{Level: l}
	text := slog.NewTextHandler(w, options)
	if format == "auto" {
		if is, err := journal.StderrIsJournalStream(); err == nil && is && journal.Enabled() {
			format = "journal"
		}
	}
	switch format {
	case "json":
		return slog.New(slog.NewJSONHandler(w, options))
	case "journal":
		return slog.New(&journalHandler{level: l, send: journal.Send, fallback: text})
	}
	return slog.New(text)
}

// journalHandler makes one journal entry of each record: MESSAGE as people
// read it, with the attributes behind, and each attribute as a field besides.
// Fields are called POSTERN_ and the attribute's name in capitals: what an
// attribute says, some of it from mail, can then never pass for a field of
// systemd's own. An entry that the journal does not take goes to fallback.
type journalHandler struct {
	level    slog.Level
	send     func(message string, p journal.Priority, fields map[string]string) error
	fallback slog.Handler

	prefix string      // of groups that are open, "KEYS_"
	groups []string    // the same, as they were named
	fields []field     // of WithAttrs
	attrs  []slog.Attr // the same, in their groups, for MESSAGE
}

type field struct{ name, value string }

func (h *journalHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

func (h *journalHandler) Handle(ctx context.Context, r slog.Record) error {
	fields := map[string]string{}
	for _, f := range h.fields {
		fields[f.name] = f.value
	}
	var own []slog.Attr
	r.Attrs(func(a slog.Attr) bool {
		own = append(own, a)
		for _, f := range flatten(nil, h.prefix, a) {
			fields[f.name] = f.value
		}
		return true
	})
	message := line(r.Message) + words(append(slices.Clone(h.attrs), nest(h.groups, own)...))
	if len(message) > maxMessage {
		message = message[:maxMessage]
	}
	if err := h.send(message, priority(r.Level), fields); err != nil {
		return h.fallback.Handle(ctx, r)
	}
	return nil
}

func (h *journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	c.fallback = h.fallback.WithAttrs(attrs)
	c.fields, c.attrs = slices.Clone(h.fields), append(slices.Clone(h.attrs), nest(h.groups, attrs)...)
	for _, a := range attrs {
		c.fields = flatten(c.fields, h.prefix, a)
	}
	return &c
}

func (h *journalHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	c := *h
	c.fallback = h.fallback.WithGroup(name)
	c.prefix, c.groups = h.prefix+capitals(name)+"_", append(slices.Clone(h.groups), name)
	return &c
}

// priority is the syslog level (RFC 5424 §6.2.1) of a record.
func priority(l slog.Level) journal.Priority {
	switch {
	case l >= slog.LevelError:
		return journal.PriErr
	case l >= slog.LevelWarn:
		return journal.PriWarning
	case l >= slog.LevelInfo:
		return journal.PriInfo
	}
	return journal.PriDebug
}

// nest puts attributes into the groups that are open.
func nest(groups []string, attrs []slog.Attr) []slog.Attr {
	for _, g := range slices.Backward(groups) {
		if len(attrs) == 0 {
			return nil
		}
		attrs = []slog.Attr{{Key: g, Value: slog.GroupValue(attrs...)}}
	}
	return attrs
}

// words are attributes as the text form has them, with a space before.
func words(attrs []slog.Attr) string {
	if len(attrs) == 0 {
		return ""
	}
	var b bytes.Buffer
	h := slog.NewTextHandler(&b, &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		// The record's own level and message are none of the attributes.
		_, level := a.Value.Any().(slog.Level)
		if len(groups) == 0 && (a.Key == slog.LevelKey && level || a.Key == slog.MessageKey && a.Value.String() == "") {
			return slog.Attr{}
		}
		return a
	}})
	if err := h.WithAttrs(attrs).Handle(context.Background(), slog.NewRecord(time.Time{}, 0, "", 0)); err != nil {
		return ""
	}
	return " " + strings.TrimSuffix(b.String(), "\n")
}

// flatten appends the fields of one attribute.
func flatten(to []field, prefix string, a slog.Attr) []field {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			prefix += capitals(a.Key) + "_"
		}
		for _, b := range v.Group() {
			to = flatten(to, prefix, b)
		}
		return to
	}
	if a.Key == "" {
		return to
	}
	name, value := "POSTERN_"+prefix+capitals(a.Key), v.String()
	if len(value) > maxValue {
		value = value[:maxValue]
	}
	return append(to, field{name[:min(len(name), maxName)], value})
}

// capitals is s in the letters that a field may have.
func capitals(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, s)
}
