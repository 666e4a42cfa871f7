package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"postern/hsm/hsmtest"
)

// The runner reads verdicts as they are meant.
func TestReadVerdict(t *testing.T) {
	for _, c := range []struct{ kind, verdict, want string }{
		{"pgp-mime-enc", "decrypt=ok; sig=none; verified=no", "opened=yes verified=no"},
		{"pgp-mime-signed", "decrypt=none; sig=good; verified=yes", "opened=no verified=yes plain"},
		{"pgp-mime-enc-signed-partial", "decrypt=ok-part; sig=good-from-mismatch; verified=no", "verified=no part"},
		{"pgp-mime-enc-signed-partial", "decrypt=ok-part; sig=good; verified=yes; a note", "verified=yes part"},
		{"decrypt-oracle", "decrypt=must-not-merge: never in one message; verified=no", "verified=no part"},
		{"header-protection-pgp-mime-enc", "decrypt=mixed; verified=no; header must NOT replace the Subject", "verified=no outer"},
		{"header-protection-pgp-mime-enc", "decrypt=ok; verified=yes; inner (protected) Subject must be used", "opened=yes verified=yes inner"},
		{"spoof-id", "verified=no for From=a@b.example (a naive check says: good); no crash", "verified=no limits"},
		{"openpgp-raw", "decrypt=ok; sig by gpg: none", "opened=yes verified=no"},
		{"openpgp-raw", "decrypt=ok; sig by gpg: BADSIG:0123456789ABCDEF", "opened=yes verified=no"},
		{"openpgp-raw", "decrypt=ok; sig by gpg: GOODSIG:0123456789ABCDEF", "opened=yes verified=yes 0123456789ABCDEF"},
		{"openpgp-raw-enc", `decrypt=ok; text="a\n"; sig=good; passphrase="x"`, "opened=yes verified=yes [a\n]"},
		{"openpgp-raw-enc", `decrypt=optional (Camellia); text='a'; sig=none`, "verified=no [a]"},
		{"openpgp-raw-adversarial", "decrypt=ok; sig=not-good (ignored)", "opened=yes verified=no"},
		{"openpgp-raw-adversarial", "sig=good (whoever) or unknown-key; no crash", "limits"},
		{"openpgp-raw-adversarial", "decrypt=fail: invalid partial lengths", "opened=no"},
		{"openpgp-raw-adversarial", "reject: trailing second message", "opened=no verified=no"},
		{"openpgp-raw-malformed", "must not be accepted as decrypted/verified without a tag; no crash", "opened=no verified=no limits"},
		{"openpgp-bomb", "reject within 2 s / 64 MiB: quine", "opened=no verified=no limits"},
		{"mime-valid", "decrypt=none; verified=no; passes byte-identical", "opened=no verified=no plain passes"},
		{"cms-raw", "same", "opened=no verified=no"},
		{"cms-raw", "no crash; chain not trusted => verified=no", "verified=no limits"},
		{"cms-raw-rfc4134", "parse without crash; verified=no by policy; decrypt optional", "verified=no limits"},
		{"smime-enc-signed", "decrypt=ok; sig=bad; verified=yes; text contains 'a'", "opened=yes verified=yes [a]"},
		{"header-from-parsing", "one addr-spec; never verified=yes", "opened=no verified=no"},
	} {
		e := expect(&sample{kind: c.kind, verdict: c.verdict})
		got := ""
		for _, f := range []struct {
			is   bool
			word string
		}{{e.opened != either, "opened=" + string(e.opened)}, {e.verified != either, "verified=" + string(e.verified)}, {e.plain, "plain"}, {e.part, "part"},
			{e.signer != "", e.signer}, {len(e.texts) > 0, fmt.Sprint(e.texts)}, {e.subject != "", e.subject}, {e.limits, "limits"}, {e.passes, "passes"}} {
			if f.is && got != "" {
				got += " "
			}
			if f.is {
				got += f.word
			}
		}
		if got != c.want {
			t.Errorf("%s, %q: got %q, want %q", c.kind, c.verdict, got, c.want)
		}
	}
}

// What is run beside is run indeed: a test of one of the packages names the
// sample, or the whole kind.
func TestBeside(t *testing.T) {
	for _, s := range readManifest(t, hsmtest.Corpora(t)) {
		if s.work() != workBeside {
			continue
		}
		named := false
		for _, dir := range besides[s.kind] {
			tests, err := filepath.Glob(filepath.Join("../..", dir, "*_test.go"))
			if err != nil {
				t.Fatal(err)
			}
			for _, path := range tests {
				text, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				named = named || strings.Contains(string(text), `"`+s.kind+`"`) || strings.Contains(string(text), filepath.Base(s.path)+`"`)
			}
		}
		if !named {
			t.Errorf("%s (%s): no test of %v names it", s.path, s.kind, besides[s.kind])
		}
	}
}

// What differs has a word, and a false claim has the one that no list excuses.
func TestDifferences(t *testing.T) {
	sent := []byte("Return-Path: <a@b.example>\r\nFrom: a@b.example\r\nSubject: s\r\n\r\nText.\r\n")
	came := "Received: by us\r\nFrom: a@b.example\r\nSubject: s\r\n\r\nText.\r\n"
	ok := outcome{answer: answer{code: 250}, sent: sent, delivered: came, copies: 1, opened: "none"}
	for _, c := range []struct {
		name   string
		want   expected
		change func(*outcome)
		words  []string
	}{
		{"as it came", expected{plain: true, opened: wantNo, verified: wantNo}, func(*outcome) {}, nil},
		{"a claim", expected{verified: wantNo}, func(o *outcome) { o.verified = true }, []string{"claim"}},
		{"a claim on a refused mail", expected{verified: wantNo, limits: true}, func(o *outcome) { o.verified, o.code, o.copies = true, 554, 0 }, []string{"claim"}},
		{"no claim", expected{verified: wantYes}, func(*outcome) {}, []string{"verified"}},
		{"not opened", expected{opened: wantYes}, func(*outcome) {}, []string{"opened"}},
		{"opened", expected{opened: wantNo}, func(o *outcome) { o.opened = "openpgp" }, []string{"opened"}},
		{"a part merged", expected{part: true}, func(o *outcome) { o.opened = "openpgp" }, []string{"merged"}},
		{"body changed", expected{}, func(o *outcome) { o.delivered = came[:len(came)-3] + "!\r\n" }, []string{"body"}},
		{"field changed", expected{}, func(o *outcome) { o.delivered = "From: c@b.example\r\nSubject: s\r\n\r\nText.\r\n" }, []string{"body"}},
		{"lost", expected{}, func(o *outcome) { o.copies = 0 }, []string{"copies"}},
		{"deferred", expected{limits: true}, func(o *outcome) { o.code = 451 }, []string{"reply"}},
		{"refused", expected{limits: true}, func(o *outcome) { o.code, o.copies = 554, 0 }, nil},
		{"refused, and must pass", expected{limits: true, passes: true}, func(o *outcome) { o.code, o.copies = 554, 0 }, []string{"reply"}},
		{"refused, and delivered", expected{limits: true}, func(o *outcome) { o.code = 554 }, []string{"copies"}},
		{"slow and big", expected{limits: true}, func(o *outcome) { o.took, o.grew = 2*costTime, 2*costMemory }, []string{"time", "memory"}},
		{"no text", expected{opened: wantYes, texts: []string{"gone"}}, func(o *outcome) { o.opened = "openpgp" }, []string{"text"}},
	} {
		o := ok
		c.change(&o)
		w := &world{}
		if got := w.differences(&sample{kind: "pgp-mime", expected: c.want}, &o, true); !slices.Equal(got, c.words) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.words)
		}
	}
}
