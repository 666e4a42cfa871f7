package message

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestParseFrom(t *testing.T) {
	for _, test := range []struct{ in, want string }{
		{"a@b.example", "a@b.example"},
		{"<a@b.example>", "a@b.example"},
		{" \r\n\ta@b.example ", "a@b.example"},
		{"Alice <a@b.example>", "a@b.example"},
		{"Alice B. Carroll <A@B.example>", "A@b.example"},
		{`"Carroll, Alice" <a@b.example>`, "a@b.example"},
		{`"a@c.example" <a@b.example>`, "a@b.example"},
		{`"\"x\" <y@z.example>" <a@b.example>`, "a@b.example"},
		{"=?utf-8?q?J=C3=B6rg?= <a@b.example>", "a@b.example"},
		{"=?utf-8?q?a=40b?= <a@b.example>", "!"},
		{"=?x-none?q?a?= =?utf-8?b?ZXZpbEB4Lm9yZw==?= <a@b.example>", "!"},
		{`"=?utf-8?q?a=40b?=" <a@b.example>`, "!"},
		{"Jörg <a@b.example>", "a@b.example"},
		{"a@b.example (Alice (of \\) B))", "a@b.example"},
		{"(x) a@b.example (y), (z) c@d.example", "a@b.example c@d.example"},
		{"a@b.example, \"c d\"@e.example,F <f@g.example>", `a@b.example "c d"@e.example f@g.example`},
		{"friends: a@b.example, C <c@d.example>; , e@f.example", "a@b.example c@d.example e@f.example"},
		{`"my friends": a@b.example;`, "a@b.example"},
		{"empty:; , a@b.example", "a@b.example"},
		{"jörg@bücher.example", "jörg@bücher.example"},

		{"", "!"}, {" ", "!"}, {"undisclosed-recipients:;", "!"}, {"(only)", "!"}, {"<>", "!"}, {"Alice", "!"}, {"Alice <>", "!"},
		{"a@b.example c@d.example", "!"}, {"a@b.example;c@d.example", "!"}, {"a@b.example,", "!"}, {",a@b.example", "!"}, {"a@b.example,,c@d.example", "!"},
		{"a@b.example <c@d.example>", "!"}, {"x a@b.example <c@d.example>", "!"}, {"<a@b.example> <c@d.example>", "!"}, {"A <a@b.example> x", "!"}, {"A <a@b.example> <c@d.example>", "!"},
		{"A <a@b.example", "!"}, {"A a@b.example>", "!"}, {"A <<a@b.example>>", "!"}, {"A <a@b.example, c@d.example>", "!"},
		{"A, B <a@b.example>", "!"}, {"A [x] <a@b.example>", "!"}, {`A\B <a@b.example>`, "!"}, {`"A <a@b.example>`, "!"}, {"(A a@b.example", "!"}, {"A) <a@b.example>", "!"},
		{"g: h: a@b.example;;", "!"}, {"g: a@b.example", "!"}, {"g: a@b.example;;", "!"}, {"a@b.example;", "!"}, {": a@b.example;", "!"}, {"g: a@b.example; x", "!"},
		{"<@r.example:a@b.example>", "!"}, {"< a@b.example>", "!"}, {"<a@b.example >", "!"}, {"<a(x)@b.example>", "!"}, {"a (x)@b.example", "!"}, {"a@ b.example", "!"}, {"a @b.example", "!"},
		{"A\x00 <a@b.example>", "!"}, {"A <a@b.example\x00>", "!"}, {"A <a@b.example\r\n>", "!"}, {strings.Repeat("(", 17) + strings.Repeat(")", 17) + "a@b.example", "!"},
	} {
		list, err := ParseFrom(test.in)
		got := make([]string, len(list))
		for i, a := range list {
			got[i] = a.String()
		}
		printed := strings.Join(got, " ")
		if err != nil {
			printed = "!"
			if !errors.Is(err, ErrAddress) {
				t.Errorf("ParseFrom(%q): got %v, want ErrAddress", test.in, err)
			}
		}
		if printed != test.want {
			t.Errorf("ParseFrom(%q): got %s (%v), want %s", test.in, printed, err, test.want)
		}
	}
}

func TestParseFromLimits(t *testing.T) {
	many := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, ",a%d@b.example", i)
		}
		return b.String()[1:]
	}
	if list, err := ParseFrom(many(1000)); err != nil || len(list) != 1000 {
		t.Errorf("1000 addresses: got %d, %v, want all", len(list), err)
	}
	if _, err := ParseFrom(many(1001)); !errors.Is(err, ErrAddress) {
		t.Errorf("1001 addresses: got %v, want ErrAddress", err)
	}
	if _, err := ParseFrom("a@b.example" + strings.Repeat(" ", 64<<10)); !errors.Is(err, ErrAddress) {
		t.Errorf("more than 64 KiB: got %v, want ErrAddress", err)
	}
}
