package press

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestWords(t *testing.T) {
	for _, c := range []struct{ name, html, want string }{
		{"nothing", "", ""},
		{"paragraphs", "<p>One\n two</p><p>Three</p>", "One two\n\nThree\n"},
		{"lines", "a<br>b<br/><br>c", "a\nb\n\nc"},
		{"blanks between elements", "<b>a</b> <i>b</i><u>c</u>\n<span>d</span>", "a bc d"},
		{"what nobody reads", "<head><title>t</title><style>x{}</style></head><body><script>alert(1)</script>seen<noscript>n</noscript></body>", "seen"},
		{"a head that is not closed is no reason", "<html><head></head><body>seen", "seen"},
		{"nested in what nobody reads", "<svg><svg></svg>x</svg>seen", "seen"},
		{"entities", "&Uuml;ber &lt;b&gt; &#8364;&nbsp;5", "Über <b> € 5"},
		{"list", "<ul><li>one<li>two</ul>end", "• one\n• two\n\nend"},
		{"table", "<table><tr><td>a<td>b</tr><tr><td>c</table>", "a b\nc\n"},
		{"link", `<a href="https://x.example/y?a=1&amp;b=2">here</a>.`, "here <https://x.example/y?a=1&b=2>."},
		{"link that shows itself", `<a href="https://x.example/">https://x.example/</a>`, "https://x.example/"},
		{"link that is none", `<a href="javascript:alert(1)">here</a>`, "here"},
		{"image", `<img src="https://x.example/pixel.gif"><img alt="Logo" src=cid:1>`, "[Logo]"},
		{"preformatted", "<pre>a  b\n\n c</pre>d", "a  b\n\n c\nd"},
		{"heading", "<h1>T</h1>text", "T\n\ntext"},
		{"quotation", "a<blockquote>b</blockquote>c", "a\n\nb\n\nc"},
		{"broken", "<p <b>x</", "x</"},
	} {
		if got := strings.TrimLeft(words(c.html), "\n"); strings.TrimRight(got, "\n") != strings.TrimRight(c.want, "\n") {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
	if got := words("<b>" + strings.Repeat("é", maxHTML)); !utf8.ValidString(got) || len(got) > maxHTML {
		t.Errorf("long text: got %d bytes, want at most %d, of UTF-8", len(got), maxHTML)
	}
}

// Whatever is read as HTML, no more words come out than went in, and none of a
// script.
func FuzzWords(f *testing.F) {
	f.Add("<p>One <a href=https://x.example>two</a><table><tr><td>x</table><pre>\n\n</pre>")
	f.Add("<script><!--<script></script>--></script><li><li><hr><br><br>")
	f.Fuzz(func(t *testing.T, text string) {
		got := words(text)
		if !utf8.ValidString(got) && utf8.ValidString(text) {
			t.Errorf("got %q of %q, want UTF-8", got, text)
		}
		if len(got) > 16*len(text)+16 {
			t.Errorf("got %d bytes of %d", len(got), len(text))
		}
		if strings.Contains(words("<script>"+strings.ReplaceAll(text, "<", "")+"inside"), "inside") {
			t.Errorf("a script is shown")
		}
	})
}
