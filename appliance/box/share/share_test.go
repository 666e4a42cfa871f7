package share

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

var pin = []byte("correct horse battery staple")

func split(t testing.TB, need, total int) (*Set, []string) {
	t.Helper()
	s, texts, err := Split(pin, need, total)
	if err != nil {
		t.Fatal(err)
	}
	return s, texts
}

func parse(t testing.TB, texts ...string) (all []Share) {
	t.Helper()
	for _, text := range texts {
		sh, err := Parse(text)
		if err != nil {
			t.Fatalf("parse %q: %v", text, err)
		}
		all = append(all, sh)
	}
	return all
}

// Every subset of a set of five opens if it has three or more, and not with less.
func TestSubsets(t *testing.T) {
	s, texts := split(t, 3, 5)
	all := parse(t, texts...)
	for mask := range 1 << 5 {
		var some []Share
		for i := range all {
			if mask&(1<<i) != 0 {
				some = append(some, all[i])
			}
		}
		got, err := s.Open(some)
		if len(some) >= 3 && (err != nil || !bytes.Equal(got, pin)) {
			t.Errorf("shares %05b: got %q, %v, want the secret", mask, got, err)
		}
		if len(some) < 3 && !errors.Is(err, ErrFew) {
			t.Errorf("shares %05b: got %q, %v, want %v", mask, got, err, ErrFew)
		}
	}
	if _, err := s.Open([]Share{all[0], all[0], all[0]}); !errors.Is(err, ErrFew) {
		t.Errorf("one share three times: got %v, want %v", err, ErrFew)
	}
}

// R31. What is wrong is known of each share alone, before any others are there.
func TestWrongShares(t *testing.T) {
	s, texts := split(t, 2, 3)
	_, others := split(t, 2, 3)
	good := parse(t, texts...)
	for name, c := range map[string]struct {
		sh   func() Share
		want error
	}{
		"its own":        {func() Share { return good[1] }, nil},
		"another set":    {func() Share { return parse(t, others[1])[0] }, ErrForeign},
		"another index":  {func() Share { sh := good[1]; sh.Index = 1; return sh }, ErrFalse},
		"index 0":        {func() Share { sh := good[1]; sh.Index = 0; return sh }, ErrFalse},
		"index 4":        {func() Share { sh := good[1]; sh.Index = 4; return sh }, ErrFalse},
		"another number": {func() Share { sh := good[1]; sh.Need = 3; return sh }, ErrFalse},
		"another value":  {func() Share { sh := good[1]; sh.value = good[0].value; return sh }, ErrFalse},
		"the other's value under this name": {func() Share {
			sh := parse(t, others[1])[0]
			sh.set = good[1].set
			return sh
		}, ErrFalse},
	} {
		if err := s.Check(c.sh()); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
		if _, err := s.Open([]Share{good[0], c.sh()}); c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("open with %s: got %v, want %v", name, err, c.want)
		}
	}
	s.Sealed[len(s.Sealed)-1] ^= 1
	if got, err := s.Open(good); !errors.Is(err, ErrSet) {
		t.Errorf("a changed seal: got %q, %v, want %v", got, err, ErrSet)
	}
}

// A share is read as people write it, and every mistyped letter is noticed.
func TestTyping(t *testing.T) {
	s, texts := split(t, 2, 2)
	text := texts[0]
	for _, typed := range []string{text, strings.ToLower(text), strings.ReplaceAll(text, "-", ""), strings.ReplaceAll(text, "-", " ") + "\r\n", strings.ReplaceAll(text, "O", "0"), strings.ReplaceAll(text, "I", "1"), strings.ReplaceAll(text, "B", "8")} {
		if sh, err := Parse(typed); err != nil || s.Check(sh) != nil {
			t.Errorf("%q: got %v, want the share", typed, err)
		}
	}
	for i := range text {
		b := []byte(text)
		if b[i] == '-' {
			continue
		}
		b[i] = map[bool]byte{true: 'B', false: 'A'}[b[i] == 'A']
		if sh, err := Parse(string(b)); err == nil {
			t.Errorf("letter %d mistyped: got share %d, want %v", i, sh.Index, ErrForm)
		}
	}
	for _, bad := range []string{"", "A", text + "A", text[:len(text)-1], strings.Repeat("A", 1000), "ä" + text} {
		if _, err := Parse(bad); !errors.Is(err, ErrForm) {
			t.Errorf("%.20q: got %v, want %v", bad, err, ErrForm)
		}
	}
}

// The box keeps a set as JSON; one that was changed opens nothing.
func TestKeptSet(t *testing.T) {
	s, texts := split(t, 2, 3)
	kept, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(kept, pin) {
		t.Error("the set holds the secret in clear")
	}
	var again Set
	if err := json.Unmarshal(kept, &again); err != nil {
		t.Fatal(err)
	}
	if got, err := again.Open(parse(t, texts[0], texts[2])); err != nil || !bytes.Equal(got, pin) || again.Name() != s.Name() {
		t.Errorf("got %q, %v, want the secret", got, err)
	}
	for name, change := range map[string]func(*Set){
		"none": func(s *Set) { *s = Set{} }, "less": func(s *Set) { s.Need = 1 }, "more": func(s *Set) { s.Total = 17 },
		"a point short": func(s *Set) { s.Commit = s.Commit[:1] }, "no point": func(s *Set) { s.Commit[0] = make([]byte, 33) }, "infinity": func(s *Set) { s.Commit[1] = []byte{0} },
	} {
		bad := Set{Need: s.Need, Total: s.Total, Commit: [][]byte{bytes.Clone(s.Commit[0]), bytes.Clone(s.Commit[1])}, Sealed: bytes.Clone(s.Sealed)}
		change(&bad)
		if got, err := bad.Open(parse(t, texts[0], texts[2])); err == nil {
			t.Errorf("%s: got %q, want an error", name, got)
		}
	}
}

func TestSplitBounds(t *testing.T) {
	for _, c := range []struct{ need, total, size int }{{1, 3, 8}, {0, 0, 8}, {3, 2, 8}, {2, 17, 8}, {2, 3, 0}, {2, 3, 256}, {-1, 3, 8}} {
		if _, _, err := Split(make([]byte, c.size), c.need, c.total); !errors.Is(err, ErrSet) {
			t.Errorf("%+v: got %v, want %v", c, err, ErrSet)
		}
	}
	for _, c := range []struct{ need, total int }{{2, 2}, {16, 16}, {2, 16}} {
		s, texts := split(t, c.need, c.total)
		if got, err := s.Open(parse(t, texts[c.total-c.need:]...)); err != nil || !bytes.Equal(got, pin) {
			t.Errorf("%+v: got %q, %v, want the secret", c, got, err)
		}
	}
}

// What parses prints as it parsed.
func FuzzParse(f *testing.F) {
	_, texts := split(f, 2, 3)
	for _, text := range texts {
		f.Add(text)
		f.Add(strings.ToLower(text))
	}
	f.Fuzz(func(t *testing.T, text string) {
		sh, err := Parse(text)
		if err != nil {
			return
		}
		printed, err := sh.text()
		if err != nil {
			t.Fatal(err)
		}
		if again, err := Parse(printed); err != nil || again.Index != sh.Index || again.Need != sh.Need || again.set != sh.set || !again.value.IsEqual(sh.value) {
			t.Errorf("got %+v, %v, want %+v", again, err, sh)
		}
	})
}
