package scan

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// asked is a clamd that says what it is, and knows what it knows.
func asked(t *testing.T, version string, knows string) *Clamd {
	return &Clamd{Found: Reject, Address: serve(t, func(c net.Conn) {
		first := make([]byte, 2)
		if _, err := io.ReadFull(c, first); err != nil {
			return
		}
		if string(first) == "zV" {
			io.WriteString(c, version+"\x00")
			return
		}
		m, err := stream(readTogether{strings.NewReader(string(first)), c})
		if err != nil {
			return
		}
		if knows != "" && strings.Contains(m, knows) {
			io.WriteString(c, "stream: Eicar-Signature FOUND\x00")
			return
		}
		io.WriteString(c, "stream: OK\x00")
	})}
}

// readTogether is a connection of which some was read already.
type readTogether struct {
	before io.Reader
	net.Conn
}

func (r readTogether) Read(b []byte) (int, error) {
	if n, err := r.before.Read(b); err == nil {
		return n, nil
	}
	return r.Conn.Read(b)
}

func TestProbe(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	const known = "EICAR-STANDARD"
	for _, c := range []struct {
		name, version, knows, detail, concern string
		err                                   error
	}{
		{"sound", "ClamAV 1.4.3/27800/Mon Nov 23 09:26:02 2026", known, "finds EICAR as Eicar-Signature", "", nil},
		{"signatures of the site", "ClamAV 1.4.3", known, "finds EICAR", "", nil},
		{"old", "ClamAV 1.4.3/27000/Sat Oct  3 09:26:02 2026", known, "finds EICAR", "signatures of 2026-10-03", nil},
		{"blind", "ClamAV 1.4.3", "", "", "", ErrBlind},
	} {
		h, err := asked(t, c.version, c.knows).Probe(t.Context(), now)
		if !strings.Contains(h.Detail, c.detail) || h.Concern != c.concern || !errors.Is(err, c.err) {
			t.Errorf("%s: got %+v, %v, want %q, %q, %v", c.name, h, err, c.detail, c.concern, c.err)
		}
	}
	for name, answer := range map[string]string{"": `{"action":"reject"}`, "does not refuse GTUBE": `{"action":"no action"}`} {
		r := rspamd(t, func(w http.ResponseWriter, r *http.Request) {
			if b, _ := io.ReadAll(r.Body); !strings.Contains(string(b), "GTUBE-STANDARD") {
				t.Errorf("got %q", b)
			}
			io.WriteString(w, answer)
		})
		if h, err := r.Probe(t.Context(), now); err != nil || !strings.HasPrefix(h.Concern, name) || (h.Concern == "") != (name == "") {
			t.Errorf("%s: got %+v, %v", answer, h, err)
		}
	}
	if _, err := (&Clamd{Address: t.TempDir() + "/none"}).Probe(t.Context(), now); !errors.Is(err, ErrAway) {
		t.Errorf("nobody: got %v, want %v", err, ErrAway)
	}
}
