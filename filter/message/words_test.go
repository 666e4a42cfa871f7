package message

import (
	"bytes"
	"mime"
	"strings"
	"testing"
)

func TestDecodeWords(t *testing.T) {
	for _, test := range []struct{ in, want string }{
		{"", ""}, {"plain", "plain"}, {"a =? b ?= c", "a =? b ?= c"},
		{"=?utf-8?q?J=C3=B6rg?=", "Jörg"}, {"=?UTF-8?B?SsO2cmc=?= x", "Jörg x"}, {"=?us-ascii?q?a_b?=", "a b"},
		{"=?iso-8859-1?q?J=F6rg?=", "Jörg"}, {"=?iso-8859-15?q?=A4?=", "€"}, {"=?windows-1252?q?=80?=", "€"}, {"=?koi8-r?b?8NLJ18XU?=", "Привет"}, {"=?iso-2022-jp?b?GyRCRnwbKEI=?=", "日"},
		{"=?utf-8?q?a?= =?utf-8?q?b?=", "ab"}, {"=?utf-8?q?a?=\r\n\t=?utf-8?q?b?=", "ab"}, {"=?utf-8?q?a?= b =?utf-8?q?c?=", "a b c"},
		{"x =?utf-8?q?a?= y", "x a y"}, {"(=?utf-8?q?a?=)", "(a)"},
		{"=?x-none?q?a?= =?utf-8?q?b?=", "=?x-none?q?a?= b"}, {"=?utf-8?q?a?= =?x-none?q?b?= =?utf-8?q?c?=", "a =?x-none?q?b?= c"},
		{"=?utf-8?x?a?=", "=?utf-8?x?a?="}, {"=?utf-8?b?!!?=", ""}, {"=?utf-8?b?SsO2c mc?=", "Jörg"}, {"=?utf-8?b?SsO2cmc=QQ==?=", "JörgA"}, {"=?utf-8?q?=zz=4?=", "=zz=4"}, {"=?utf-8?q?a b?=", "a b"}, {"=?utf-8?q?a", "=?utf-8?q?a"}, {"=??q?a?=", "=??q?a?="},
		{"=?utf-8?q?=FF?=", "\uFFFD"}, {"=?utf-8*de?q?a?=", "a"},
		{"=?=?utf-8?q?a?=", "=?a"},
	} {
		if got := DecodeWords(test.in); got != test.want {
			t.Errorf("DecodeWords(%q): got %q, want %q", test.in, got, test.want)
		}
	}
	if got := DecodeWords(strings.Repeat("=?utf-8?q?a?= ", 5000)); got != strings.Repeat("a", 5000)+" " {
		t.Errorf("many words: got %d bytes", len(got))
	}
	if got := DecodeWords("=?utf-8?q?" + strings.Repeat("a", maxWord) + "?="); !strings.HasPrefix(got, "=?") {
		t.Errorf("a word that is too long: got %.20q, want it as it was", got)
	}
}

func TestASCIIField(t *testing.T) {
	for _, in := range []string{
		"Subject: plain\r\n", "Subject: Grüße\r\n", "Subject: ваше письмо пришло\r\n", "Subject: a é b  è\tc\r\n", "Subject: é\r\n è\r\n",
		"Subject: " + strings.Repeat("ваше письмо ", 60) + "\r\n", "X: \"Jörg Ä\" <a@b.example>\r\n", "Subject: \u00e9 \r\n",
	} {
		got := asciiField([]byte(in))
		if bytes.IndexFunc(got, func(r rune) bool { return r >= 0x80 }) >= 0 {
			t.Errorf("%q: got %q, want ASCII", in, got)
		}
		for line := range bytes.Lines(got) {
			if len(line) > 200 {
				t.Errorf("%.30q: got a line of %d bytes", in, len(line))
			}
		}
		unfold := func(s string) string { return strings.Join(strings.Fields(s), " ") }
		shown, err := new(mime.WordDecoder).DecodeHeader(strings.ReplaceAll(string(got), "\r\n", ""))
		if err != nil || unfold(shown) != unfold(in) {
			t.Errorf("%q: shown %q, %v", in, shown, err)
		}
	}
	if got := string(asciiField([]byte("X: a\xe9b\r\n"))); got != "X: =?unknown-8bit?q?=61=E9=62?=\r\n" {
		t.Errorf("no UTF-8: got %q", got)
	}
}
