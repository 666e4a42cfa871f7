package socketmap

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
)

// netstring is text with its length before it and a comma behind it.
func netstring(text string) []byte {
	return append(strconv.AppendInt(nil, int64(len(text)), 10), ":"+text+","...)
}

// readNetstring reads one of at most limit bytes. The error is io.EOF only
// where nothing of it came.
func readNetstring(r *bufio.Reader, limit int) (string, error) {
	bad := func(what string) (string, error) { return "", fmt.Errorf("netstring: %s: %w", what, ErrProtocol) }
	n := 0
	for i := 0; ; i++ {
		c, err := r.ReadByte()
		switch {
		case err == io.EOF && i > 0:
			return "", io.ErrUnexpectedEOF
		case err != nil:
			return "", err
		}
		if c == ':' && i > 0 {
			break
		}
		switch {
		case c < '0' || c > '9':
			return bad("no length")
		case i == maxDigits:
			return bad("long length")
		case i == 1 && n == 0:
			return bad("length begins with 0")
		}
		n = n*10 + int(c-'0')
	}
	if n > limit {
		return bad("too long")
	}
	text := make([]byte, n+1)
	if _, err := io.ReadFull(r, text); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return "", err
	}
	if text[n] != ',' {
		return bad("no comma")
	}
	return string(text[:n]), nil
}
