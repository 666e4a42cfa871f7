package authres

import (
	"strings"
	"testing"

	"postern/filter/message"
)

// Whatever a field is called and says, case and blanks around it change
// nothing, ours is always foreign to a mail that comes, and what we print of
// any address is two fields that we ourselves would remove.
func FuzzForeign(f *testing.F) {
	f.Add("Postern-Status", "v=1", "bob")
	f.Add("Authentication-Results", "(a (b\\)) ) \"gw.example\"; none", "a\"b c")
	f.Add("=?utf-8?q?Postern-Status?=", "=?utf-8?q?gw.example?=; none", "a;b\r\n")
	f.Fuzz(func(t *testing.T, name, value, local string) {
		const id = "gw.example"
		got := Foreign(name, value, id)
		if again := Foreign(" "+strings.ToUpper(name)+"\t", " "+value, strings.ToUpper(id)); got && isASCII(name) && !strings.Contains(name, "=?") && !again {
			t.Errorf("Foreign(%q, %q): got %v, and %v in capitals", name, value, got, again)
		}
		if strings.HasPrefix(strings.ToLower(strings.TrimSpace(name)), namespace) && !got && !strings.Contains(name, "=?") {
			t.Errorf("Foreign(%q, %q): got false", name, value)
		}
		s := Status{Opened: "none", Verified: true, Signer: message.Address{Local: local, Domain: "partner.example"}, Reason: "good", Carried: "clear", Trace: "T"}
		text := string(s.Fields(id, Method{"x-openpgp", "pass", "good", []Property{{"header.from", Word(s.Signer)}, {"header.b", local}}}))
		text = strings.ReplaceAll(strings.ReplaceAll(text, "\r\n ", " "), "\r\n\t", " ")
		lines := strings.Split(strings.TrimSuffix(text, "\r\n"), "\r\n")
		if len(lines) != 2 {
			t.Fatalf("%q: got %d fields in %q", local, len(lines), text)
		}
		for _, line := range lines {
			n, v, ok := strings.Cut(line, ":")
			if !ok || !Foreign(n, v, id) || strings.ContainsAny(line, "\r\n\x00") {
				t.Errorf("%q: got %q", local, line)
			}
		}
		if strings.Count(lines[1], ";") != 6 {
			t.Errorf("%q: got another word in %q", local, lines[1])
		}
	})
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r > 127 })
}
