package scan

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// What is taken of rspamd's answer.
const (
	rspamdReply   = 1 << 20 // bytes
	rspamdTo      = 100     // recipients that it is told of
	rspamdSymbols = 5       // that marks and logs name, those with the highest score
	maxFields     = 20      // of a header
	maxValue      = 900     // bytes of one
)

// Rspamd is its normal worker. The rules of the site stand there; what it
// answers of subjects to rewrite, or of words to refuse with, is not followed.
type Rspamd struct {
	Address string   // absolute path, or host:port
	Reject  Verdict  // of its action reject
	Soft    Verdict  // of its actions soft reject and greylist
	Fields  []string // that it may put on a mail
}

// Name is the word for it in marks and logs.
func (r *Rspamd) Name() string { return "rspamd" }

// Scan asks /checkv2. An answer counts only after all of m was given.
func (r *Rspamd) Scan(ctx context.Context, m Mail) (Answer, error) {
	body, into := io.Pipe()
	given := make(chan error, 1)
	go func() {
		_, err := source{m.Body}.WriteTo(into)
		into.CloseWithError(err)
		given <- err
	}()
	text, err := r.post(ctx, m, body)
	body.CloseWithError(io.ErrClosedPipe)
	wrote := <-given
	switch {
	case errors.Is(wrote, errSource):
		return Answer{}, wrote
	case err != nil:
		return Answer{}, away("%v", err)
	case wrote != nil:
		return Answer{}, away("answered before it had all: %v", wrote)
	}
	return r.read(text)
}

func (r *Rspamd) post(ctx context.Context, m Mail, body io.Reader) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://rspamd/checkv2", body)
	if err != nil {
		return nil, err
	}
	req.ContentLength = m.Size
	req.Header = told(m)
	return r.do(req, rspamdReply)
}

// Alive asks /ping, which a worker answers between two pieces of work.
func (r *Rspamd) Alive(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://rspamd/ping", nil)
	if err != nil {
		return err
	}
	text, err := r.do(req, 100)
	switch {
	case err != nil:
		return away("%v", err)
	case strings.TrimSpace(string(text)) != "pong":
		return away("answer not understood: %.100q", text)
	}
	return nil
}

// do asks, for an answer of so many bytes at most.
func (r *Rspamd) do(req *http.Request, most int64) ([]byte, error) {
	transport := &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, r.Address) },
		DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: 64 << 10,
	}
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, errors.New("status " + strconv.Itoa(res.StatusCode))
	}
	text, err := io.ReadAll(io.LimitReader(res.Body, most+1))
	if err == nil && int64(len(text)) > most {
		err = errors.New("answer of more than " + strconv.FormatInt(most, 10) + " bytes")
	}
	return text, err
}

// told is what rspamd hears of a mail beside its bytes.
func told(m Mail) http.Header {
	h := http.Header{"Queue-Id": {m.Trace}, "From": {"<" + headerText(m.From) + ">"}, "User-Agent": {"postern"}}
	for _, f := range []struct{ name, value string }{{"Helo", m.Hello}, {"User", m.User}} {
		if v := headerText(f.value); v != "" {
			h.Set(f.name, v)
		}
	}
	if m.Client.IsValid() {
		h["IP"] = []string{m.Client.Unmap().WithZone("").String()}
	}
	for _, to := range m.To[:min(len(m.To), rspamdTo)] {
		h.Add("Rcpt", headerText(to))
	}
	return h
}

// headerText is s without what has no place in a header of HTTP.
func headerText(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '_'
		}
		return r
	}, s)
}

// symbol is one thing that rspamd found.
type symbol struct {
	name  string
	score float64
}

// read reads the answer.
func (r *Rspamd) read(text []byte) (Answer, error) {
	var said struct {
		Skipped  bool                               `json:"is_skipped"`
		Score    float64                            `json:"score"`
		Required float64                            `json:"required_score"`
		Action   string                             `json:"action"`
		Symbols  map[string]struct{ Score float64 } `json:"symbols"`
		Milter   struct {
			Add map[string]json.RawMessage `json:"add_headers"`
		} `json:"milter"`
	}
	if err := json.Unmarshal(text, &said); err != nil {
		return Answer{}, away("answer not understood: %v", err)
	}
	a := Answer{Skipped: said.Skipped && said.Action == "no action", Score: number(said.Score) + "/" + number(said.Required)}
	switch said.Action {
	case "no action":
	case "add header", "rewrite subject":
		a.Verdict = Mark
	case "greylist", "soft reject":
		a.Verdict = r.Soft
	case "reject":
		a.Verdict = r.Reject
	default:
		return Answer{}, away("action not known: %.40q", said.Action)
	}
	var bad []symbol
	for name, s := range said.Symbols {
		if s.Score > 0 {
			bad = append(bad, symbol{name, s.Score})
		}
	}
	slices.SortFunc(bad, func(a, b symbol) int { return cmp.Or(cmp.Compare(b.score, a.score), cmp.Compare(a.name, b.name)) })
	for _, s := range bad[:min(len(bad), rspamdSymbols)] {
		a.Found = append(a.Found, word(s.name))
	}
	for _, name := range r.Fields {
		for given, raw := range said.Milter.Add {
			if !strings.EqualFold(given, name) {
				continue
			}
			for _, v := range values(raw) {
				if len(a.Fields) < maxFields {
					a.Fields = append(a.Fields, Field{name, fieldText(v)})
				}
			}
		}
	}
	return a, nil
}

// values are those of one field: a text, an object with one, or a list of these.
func values(raw json.RawMessage) (all []string) {
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) != nil {
		list = []json.RawMessage{raw}
	}
	for _, e := range list[:min(len(list), maxFields)] {
		var text string
		var object struct{ Value *string }
		switch {
		case json.Unmarshal(e, &text) == nil:
			all = append(all, text)
		case json.Unmarshal(e, &object) == nil && object.Value != nil:
			all = append(all, *object.Value)
		}
	}
	return all
}

// fieldText is a value on one line of printable ASCII.
func fieldText(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > maxValue {
		s = s[:maxValue]
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}

// number prints a score.
func number(f float64) string {
	if f > 1e6 || f < -1e6 {
		return "out-of-range"
	}
	return strconv.FormatFloat(f, 'f', 1, 64)
}
