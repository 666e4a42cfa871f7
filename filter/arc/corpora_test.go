package arc

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"postern/filter/dkim"
	"postern/filter/message/messagetest"
	"postern/hsm/hsmtest"
)

// The signing tests of the ARC suite, kind `arc-yaml` of the corpora. The sets
// that its publishers made hold for us with their keys; those that we make over
// the same mails have the same body hash, number and verdict, and hold.
func TestCorpus(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(hsmtest.Corpora(t), "msgs/arc-suite", "arc-draft-sign-tests.yml"))
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, scenario := range strings.Split(string(raw), "\ndescription:") {
		key, records := keysOf(t, scenario)
		names := func(_ context.Context, name string) ([]string, error) { return records[name], nil }
		k := dkim.Key{Domain: "example.org", Selector: "dummy", Signer: key}
		for name, c := range tests(scenario) {
			ran++
			t.Run(name, func(t *testing.T) {
				m := messagetest.CRLF(c["message"])
				came, err := Verify(t.Context(), text(m), names, now)
				if err != nil {
					t.Fatal(err)
				}
				top, err := Seal(text(m), came, k, "lists.example.org; arc="+string(came.Value), now)
				if strings.TrimSpace(c["AS"]) == "" {
					if !errors.Is(err, ErrEnded) {
						t.Errorf("got %q, %v, want no set", top, err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				theirs := messagetest.CRLF("ARC-Seal: "+fold(c["AS"])+"ARC-Message-Signature: "+fold(c["AMS"])+"ARC-Authentication-Results: "+fold(c["AAR"])) + m
				want, reason := dkim.Pass, dkim.ReasonGood
				if strings.Contains(c["AS"], "cv=fail") {
					want, reason = dkim.Fail, ReasonSaid
				}
				for who, m := range map[string]string{"theirs": theirs, "ours": string(top) + m} {
					got, err := Verify(t.Context(), text(m), names, now)
					if err != nil || got.Value != want || got.Reason != reason || got.Sets != came.Sets+1 {
						t.Errorf("%s: got %+v, %v, want %s (%s) of %d", who, got, err, want, reason, came.Sets+1)
					}
				}
				ours, expected := tagsOf(t, string(top), "arc-message-signature"), tagsOf(t, theirs, "arc-message-signature")
				for _, tag := range []string{"bh", "i", "d", "s", "a"} {
					if ours[tag] != expected[tag] {
						t.Errorf("%s: got %q, want %q", tag, ours[tag], expected[tag])
					}
				}
				if got, want := tagsOf(t, string(top), "arc-seal")["cv"], tagsOf(t, theirs, "arc-seal")["cv"]; got != want {
					t.Errorf("cv: got %q, want %q", got, want)
				}
			})
		}
	}
	if ran != 17 {
		t.Errorf("got %d tests, want 17", ran)
	}
}

// fold indents all lines but the first, and puts base64 on one line, where it
// stood when it was sealed.
func fold(s string) string {
	parts := strings.Split(strings.TrimRight(s, "\n"), ";")
	for i, p := range parts {
		if name, _, _ := strings.Cut(strings.TrimSpace(p), "="); name == "b" {
			parts[i] = "\n" + strings.Join(strings.Fields(p), "")
		}
	}
	return strings.ReplaceAll(strings.Join(parts, ";"), "\n", "\n  ") + "\n"
}

func tagsOf(t *testing.T, m, name string) dkim.Tags {
	t.Helper()
	h, _, err := dkim.Scan(text(m), func(dkim.Header) []dkim.Form { return nil })
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range h {
		if f.Name == name {
			tags, err := dkim.ParseTags(f.Value())
			if err != nil {
				t.Fatal(err)
			}
			return tags
		}
	}
	t.Fatalf("no %s in %q", name, m)
	return nil
}

// block is the text that is indented below a key.
func block(lines []string, indent int) (text string) {
	for _, l := range lines {
		if strings.TrimSpace(l) != "" && len(l)-len(strings.TrimLeft(l, " ")) < indent {
			break
		}
		text += l[min(indent, len(l)):] + "\n"
	}
	return strings.TrimRight(text, "\n") + "\n"
}

// tests reads as much of YAML as the suite has.
func tests(scenario string) map[string]map[string]string {
	all := map[string]map[string]string{}
	_, scenario, _ = strings.Cut(scenario, "\ntests:\n")
	lines := strings.Split(scenario, "\n")
	var c map[string]string
	for i, l := range lines {
		key, value, ok := strings.Cut(l, ":")
		switch indent := len(l) - len(strings.TrimLeft(l, " ")); {
		case l != "" && indent == 0:
			return all
		case !ok || value != "" && indent == 2:
		case indent == 2:
			c = map[string]string{}
			all[strings.TrimSpace(key)] = c
		case indent == 4:
			value = strings.TrimSpace(value)
			if value == "|" {
				value = block(lines[i+1:], 6)
			}
			c[strings.TrimSpace(key)] = strings.Trim(value, `"'`)
		}
	}
	return all
}

func keysOf(t *testing.T, scenario string) (*rsa.PrivateKey, map[string][]string) {
	t.Helper()
	begin := strings.Index(scenario, "-----BEGIN RSA")
	if begin < 0 {
		t.Fatal("no key in the scenario")
	}
	var text strings.Builder
	for _, l := range strings.Split(scenario[begin:], "\n") {
		fmt.Fprintln(&text, strings.TrimSpace(l))
	}
	p, _ := pem.Decode([]byte(text.String()))
	key, err := x509.ParsePKCS1PrivateKey(p.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	record, err := dkim.Record(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return key, map[string][]string{"dummy._domainkey.example.org": {record}}
}
