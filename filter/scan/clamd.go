package scan

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"time"
)

// How clamd is spoken to (clamd(8)).
const (
	clamdChunk = 64 << 10 // bytes of one piece of a stream
	clamdReply = 1024     // bytes of an answer at most
)

// Clamd is the daemon of ClamAV. It keeps what it is given in a file of its
// TemporaryDirectory while it looks at it.
type Clamd struct {
	Address   string  // absolute path, or host:port
	Found     Verdict // of what it finds
	Encrypted Verdict // of an archive or a document with a password, where clamd is told to alert of these
}

// Name is the word for it in marks and logs.
func (c *Clamd) Name() string { return "clamd" }

// Scan hands m over by INSTREAM. An answer counts only after all of m was
// given, but for one that something was found.
func (c *Clamd) Scan(ctx context.Context, m Mail) (Answer, error) {
	conn, err := c.open(ctx)
	if err != nil {
		return Answer{}, err
	}
	defer conn.Close()
	w := bufio.NewWriterSize(chunks{conn}, clamdChunk)
	_, wrote := conn.Write([]byte("zINSTREAM\x00"))
	if wrote == nil {
		_, wrote = source{m.Body}.WriteTo(w)
	}
	if errors.Is(wrote, errSource) {
		return Answer{}, wrote
	}
	if wrote == nil {
		wrote = w.Flush()
	}
	if wrote == nil {
		_, wrote = conn.Write(make([]byte, 4))
	}
	line, err := hear(conn)
	if err != nil && wrote != nil {
		err = wrote
	}
	if err != nil {
		return Answer{}, away("%v", err)
	}
	name, found, err := readClamd(line)
	switch {
	case err != nil:
		return Answer{}, err
	case !found && wrote != nil:
		return Answer{}, away("answered before it had all: %v", wrote)
	case !found:
		return Answer{}, nil
	case strings.HasPrefix(name, "Heuristics.Encrypted."):
		return Answer{Verdict: c.Encrypted, Found: []string{word(name)}}, nil
	}
	return Answer{Verdict: c.Found, Found: []string{word(name)}}, nil
}

// Version is what clamd says of itself and of its signatures, as
// "ClamAV 1.4.3/27800/Tue Nov 24 09:26:02 2026".
func (c *Clamd) Version(ctx context.Context) (string, error) {
	return c.said(ctx, "zVERSION\x00")
}

// Alive sends PING. clamd answers that beside all that it scans.
func (c *Clamd) Alive(ctx context.Context) error {
	line, err := c.said(ctx, "zPING\x00")
	if err == nil && line != "PONG" {
		err = away("answer not understood: %.100q", line)
	}
	return err
}

// said is the answer to a command without a mail.
func (c *Clamd) said(ctx context.Context, command string) (string, error) {
	conn, err := c.open(ctx)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(command)); err != nil {
		return "", away("%v", err)
	}
	line, err := hear(conn)
	if err != nil {
		return "", away("%v", err)
	}
	return line, nil
}

// open connects for as long as ctx lasts.
func (c *Clamd) open(ctx context.Context) (net.Conn, error) {
	conn, err := dial(ctx, c.Address)
	if err != nil {
		return nil, away("%v", err)
	}
	context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	return conn, nil
}

// chunks gives each piece its length before it.
type chunks struct{ to io.Writer }

func (c chunks) Write(b []byte) (int, error) {
	if len(b) == 0 { // it would end the stream
		return 0, nil
	}
	if _, err := c.to.Write(binary.BigEndian.AppendUint32(nil, uint32(len(b)))); err != nil {
		return 0, err
	}
	return c.to.Write(b)
}

// hear reads one answer, without the NUL that ends it.
func hear(r io.Reader) (string, error) {
	line, err := bufio.NewReaderSize(r, clamdReply).ReadSlice(0)
	if err != nil {
		return "", err
	}
	return string(line[:len(line)-1]), nil
}

// readClamd reads the answer to INSTREAM.
func readClamd(line string) (name string, found bool, err error) {
	what, ok := strings.CutPrefix(line, "stream: ")
	switch name, found = strings.CutSuffix(what, " FOUND"); {
	case line == "INSTREAM size limit exceeded. ERROR":
		return "", false, ErrTooBig
	case ok && what == "OK":
		return "", false, nil
	case ok && found && name != "":
		return name, true, nil
	}
	return "", false, away("answer not understood: %.100q", line)
}
