package message

import (
	"fmt"
	"strings"
)

// Limits of an address list.
const (
	maxList     = 64 << 10 // bytes of the field's value
	maxListed   = 1000     // addresses
	maxComments = 16       // inside each other
)

// ParseFrom reads the value of a From, To or Cc field: mailboxes and groups
// (RFC 5322 §3.4), comments between them, display names as words. It is
// stricter than the standard where readers differ: no comment, white space or
// route inside an address, no obsolete empty entries, no at sign in a display
// name outside of quotes or as an encoded word, nothing behind the angle
// bracket but a comment.
// The error is ErrAddress; an empty list is one, too.
func ParseFrom(value string) ([]Address, error) {
	list, _, err := parseList(value)
	return list, err
}

// parseList also counts the groups.
func parseList(value string) (list []Address, groups int, err error) {
	p := lister{rest: value}
	if len(value) > maxList {
		return nil, 0, p.bad("longer than allowed")
	}
	if err := p.list(""); err != nil {
		return nil, 0, err
	}
	if len(p.found) == 0 {
		return nil, 0, p.bad("empty")
	}
	return p.found, p.groups, nil
}

// lister reads a list from the left.
type lister struct {
	rest   string
	found  []Address
	group  bool
	groups int
}

func (p *lister) bad(what string) error {
	return fmt.Errorf("address list: %s at %.40q: %w", what, p.rest, ErrAddress)
}

// list reads entries up to end, or to the end of the value.
func (p *lister) list(end string) error {
	for first := true; ; first = false {
		if err := p.blank(); err != nil {
			return err
		}
		if first && end != "" && strings.HasPrefix(p.rest, end) {
			return nil // an empty group
		}
		if err := p.entry(); err != nil {
			return err
		}
		if len(p.found) > maxListed {
			return p.bad("too many addresses")
		}
		switch {
		case p.rest == "" && end == "", end != "" && strings.HasPrefix(p.rest, end):
			return nil
		case !strings.HasPrefix(p.rest, ","):
			return p.bad("no comma")
		}
		p.rest = p.rest[1:]
	}
}

// blank skips white space and comments (RFC 5322 §3.2.2).
func (p *lister) blank() error {
	for {
		p.rest = strings.TrimLeft(p.rest, " \t\r\n")
		if !strings.HasPrefix(p.rest, "(") {
			return nil
		}
		depth, i := 0, 0
		for ; i < len(p.rest); i++ {
			switch p.rest[i] {
			case '\\':
				i++
			case '(':
				if depth++; depth > maxComments {
					return p.bad("comments inside each other")
				}
			case ')':
				depth--
			}
			if depth == 0 {
				break
			}
		}
		if depth != 0 || i >= len(p.rest) {
			return p.bad("comment without end")
		}
		p.rest = p.rest[i+1:]
	}
}

// entry reads one mailbox or group, and the blanks behind it.
func (p *lister) entry() error {
	start := p.rest
	words, spaced := 0, false
	for {
		switch c := next(p.rest); {
		case c == '<':
			if hides(start[:len(start)-len(p.rest)]) {
				return p.bad("an address in encoded words")
			}
			return p.angle()
		case c == ':' && words > 0 && !p.group:
			p.rest = p.rest[1:]
			p.group = true
			p.groups++
			err := p.list(";")
			p.group = false
			if err != nil {
				return err
			}
			p.rest = p.rest[1:]
			return p.blank()
		case c == '@' && words == 1 && !spaced:
			return p.bare(start)
		case c == '"':
			n := quotedLen(p.rest)
			if n == 0 {
				return p.bad("quotes without end")
			}
			p.rest = p.rest[n:]
		case isWordByte(c):
			n := 1
			for n < len(p.rest) && isWordByte(p.rest[n]) {
				n++
			}
			p.rest = p.rest[n:]
		default:
			return p.bad("no mailbox")
		}
		words++
		before := len(p.rest)
		if err := p.blank(); err != nil {
			return err
		}
		spaced = len(p.rest) != before
		if words > 1 || spaced {
			if next(p.rest) == '@' {
				return p.bad("at sign in a display name")
			}
		}
	}
}

// angle reads <addr-spec> and the blanks behind it.
func (p *lister) angle() error {
	inside := p.rest[1:]
	end := 0
	for end < len(inside) && inside[end] != '>' {
		if inside[end] == '"' {
			n := quotedLen(inside[end:])
			if n == 0 {
				return p.bad("quotes without end")
			}
			end += n
			continue
		}
		end++
	}
	if end == len(inside) {
		return p.bad("angle bracket without end")
	}
	return p.take(inside[:end], inside[end+1:])
}

// bare reads an addr-spec without angle brackets that begins at start.
func (p *lister) bare(start string) error {
	end := len(start) - len(p.rest)
	for end < len(start) && !strings.ContainsRune(" \t\r\n,;(", rune(start[end])) {
		end++
	}
	return p.take(start[:end], start[end:])
}

func (p *lister) take(spec, rest string) error {
	a, err := ParseAddress(spec)
	if err != nil {
		return err
	}
	p.found = append(p.found, a)
	p.rest = rest
	if err := p.blank(); err != nil {
		return err
	}
	if c := next(p.rest); c != 0 && c != ',' && !(c == ';' && p.group) {
		return p.bad("something behind the address")
	}
	return nil
}

// hides reports whether a display name has encoded words that are shown as an
// address. Many programs decode them in quotes, too.
func hides(name string) bool {
	shown := DecodeWords(name)
	return shown != name && strings.Count(shown, "@") > strings.Count(name, "@")
}

// next is the first byte of s, or 0.
func next(s string) byte {
	if s == "" {
		return 0
	}
	return s[0]
}

// quotedLen is the length of the quoted string that s begins with, or 0.
func quotedLen(s string) int {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		case '\r', '\n', 0:
			return 0
		}
	}
	return 0
}

// isWordByte reports whether c may stand in an atom of a display name. Full
// stops are everywhere in names ("John Q. Public"), bytes above 127 in any charset too.
func isWordByte(c byte) bool {
	return c > ' ' && c != 0x7f && !strings.ContainsRune(`"(),:;<>@[\]`, rune(c)) || c >= 0x80
}
