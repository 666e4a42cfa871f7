package transport

import (
	"bufio"
	"errors"
	"strings"
)

// What a next hop may say at once.
const (
	maxReplyLine  = 2048 // more than RFC 5321 §4.5.3.1.5 allows, as many do
	maxReplyLines = 128
)

// errReply is an answer that is no SMTP.
var errReply = errors.New("reply not understood")

// readReply reads one reply. lines are what stands behind the code of each of
// its lines; Text of the reply is all of them as one. An enhanced code counts
// only where it agrees with the reply's own class (RFC 2034 §4).
func readReply(r *bufio.Reader) (reply Reply, lines []string, err error) {
	for {
		line, err := readReplyLine(r)
		if err != nil {
			return Reply{}, nil, err
		}
		code, text, more, ok := splitReply(line)
		if !ok || len(lines) == maxReplyLines || len(lines) > 0 && code != reply.Code {
			return Reply{}, nil, errReply
		}
		reply.Code = code
		lines = append(lines, text)
		if !more {
			break
		}
	}
	words := make([]string, len(lines))
	for i, line := range lines {
		enhanced, text := splitEnhanced(line, reply.Code/100)
		if enhanced != [3]int{} {
			reply.Enhanced = enhanced
		}
		words[i] = text
	}
	reply.Text = printable(strings.Join(words, " "), maxWords)
	return reply, lines, nil
}

func readReplyLine(r *bufio.Reader) (string, error) {
	var line []byte
	for len(line) < maxReplyLine {
		c, err := r.ReadByte()
		if err != nil {
			return "", err
		}
		if c == '\n' {
			if len(line) == 0 || line[len(line)-1] != '\r' {
				return "", errReply
			}
			return string(line[:len(line)-1]), nil
		}
		line = append(line, c)
	}
	return "", errReply
}

func splitReply(line string) (code int, text string, more, ok bool) {
	if len(line) < 3 || line[0] < '2' || line[0] > '5' {
		return 0, "", false, false
	}
	for _, c := range []byte(line[:3]) {
		if c < '0' || c > '9' {
			return 0, "", false, false
		}
		code = code*10 + int(c-'0')
	}
	if len(line) == 3 {
		return code, "", false, true
	}
	return code, line[4:], line[3] == '-', line[3] == '-' || line[3] == ' '
}

// splitEnhanced takes a code of the class off the front of text (RFC 3463 §2).
func splitEnhanced(text string, class int) (code [3]int, rest string) {
	word, rest, _ := strings.Cut(text, " ")
	parts := strings.Split(word, ".")
	if len(parts) != 3 {
		return code, text
	}
	for i, p := range parts {
		if p == "" || len(p) > 3 {
			return [3]int{}, text
		}
		for _, c := range []byte(p) {
			if c < '0' || c > '9' {
				return [3]int{}, text
			}
			code[i] = code[i]*10 + int(c-'0')
		}
	}
	if code[0] != class {
		return [3]int{}, text
	}
	return code, rest
}
