// Package messagetest reads mails that a test wrote, and shows what became of
// them.
package messagetest

import (
	"bytes"
	"strings"
	"testing"

	"postern/filter/message"
)

// CRLF is text as mail.
func CRLF(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }

// Spools makes spools that go with the test: a MiB of each in memory, and 64 at
// the most.
func Spools(t testing.TB) func() *message.Spool {
	made := &message.Spools{Memory: 1 << 20, Max: 64 << 20, Dir: t.TempDir()}
	return func() *message.Spool {
		s := made.New()
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
}

// Read reads text as a mail that is kept in a spool.
func Read(spool func() *message.Spool, text string) (*message.Message, error) {
	s := spool()
	if _, err := s.Write([]byte(text)); err != nil {
		return nil, err
	}
	return message.Parse(s, message.Limits{})
}

// Parse reads text that is a mail.
func Parse(t testing.TB, text string) *message.Message {
	t.Helper()
	m, err := Read(Spools(t), text)
	if err != nil {
		t.Fatalf("parse: %v\n%.2000s", err, text)
	}
	return m
}

// Text is a message as it would be relayed.
func Text(t testing.TB, m *message.Message) string {
	t.Helper()
	var b bytes.Buffer
	if _, err := m.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}
