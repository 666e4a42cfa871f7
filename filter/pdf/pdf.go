// Package pdf writes documents of text that only a password opens (ISO 32000-2):
// pages, with files embedded in them, all of it encrypted with AES-256 in
// revision 6 of the standard security handler. It writes and never reads: no PDF
// of anybody else is parsed here. A document goes out as it is made, and costs
// little more memory than its largest part.
//
// The encryption hides and does not protect from change: the format has nothing
// that would tell. Whoever sends a document signs the mail around it.
package pdf

import (
	"bytes"
	"compress/zlib"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
)

// The page is A4; lengths are points, 72 to the inch, from its lower left corner.
const (
	Width  = 595.0
	Height = 842.0
)

// The objects that others name before they are written.
const (
	catalog = 1 + iota
	pageTree
	security
	fonts // as many as there are of Font
)

// Writer is a document under way.
type Writer struct {
	to      io.Writer
	err     error   // the first one; nothing is written after it
	at      int64   // bytes written
	offsets []int64 // of the objects, by number; 0: not yet there
	lock    *locked
	faces   []*face
	pages   []int // objects
	files   []file
	used    map[string]bool // names of files, in lower case
}

// file is one that is embedded.
type file struct {
	name string
	spec int // object
}

// New begins a document that the password opens: 1 to 127 characters of printable
// ASCII, or ErrPassword.
func New(to io.Writer, password string) (*Writer, error) {
	l, err := lock(password)
	if err != nil {
		return nil, err
	}
	w := &Writer{to: to, lock: l, used: map[string]bool{}}
	for _, f := range []Font{Text, Bold} {
		face, err := load(f)
		if err != nil {
			return nil, fmt.Errorf("load font: %w", err)
		}
		w.faces = append(w.faces, face)
	}
	w.offsets = make([]int64, fonts+len(w.faces))
	w.print("%%PDF-2.0\n%%\xe2\xe3\xcf\xd3\n")
	return w, w.err
}

// print writes bytes of the document itself.
func (w *Writer) print(format string, args ...any) {
	if w.err == nil {
		var n int
		n, w.err = fmt.Fprintf(w.to, format, args...)
		w.at += int64(n)
	}
}

// Write is for what is inside of streams.
func (w *Writer) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	n, err := w.to.Write(p)
	w.at += int64(n)
	w.err = err
	return n, err
}

// object begins the object n; 0 takes the next number.
func (w *Writer) object(n int) int {
	if n == 0 {
		n = len(w.offsets)
		w.offsets = append(w.offsets, 0)
	}
	w.offsets[n] = w.at
	w.print("%d 0 obj\n", n)
	return n
}

// stream writes an object that is a compressed, sealed stream. entries are those
// of its dictionary, beside the filter and the length.
func (w *Writer) stream(n int, entries string, fill func(io.Writer) error) (int, error) {
	n = w.object(n)
	length := len(w.offsets) // only known behind it
	w.offsets = append(w.offsets, 0)
	w.print("<< %s/Filter /FlateDecode /Length %d 0 R >>\nstream\n", entries, length)
	from := w.at
	sealed := w.lock.stream(w)
	z := zlib.NewWriter(sealed)
	err := fill(z)
	if err == nil {
		err = z.Close()
	}
	if err == nil {
		err = sealed.Close()
	}
	if err != nil && w.err == nil {
		w.err = err
	}
	size := w.at - from
	w.print("\nendstream\nendobj\n")
	w.object(length)
	w.print("%d\nendobj\n", size)
	return n, w.err
}

// text is a string object, sealed.
func (w *Writer) text(s string) string {
	wide := []byte{0xfe, 0xff}
	for _, u := range utf16.Encode([]rune(s)) {
		wide = append(wide, byte(u>>8), byte(u))
	}
	return "<" + hex.EncodeToString(w.lock.text(wide)) + ">"
}

// Line is one line of a page. What its font lacks was to be replaced before.
type Line struct {
	X, Y float64 // where it begins, on the line that letters stand on
	Font Font
	Size float64
	Text string
}

// Page adds a page.
func (w *Writer) Page(lines []Line) error {
	var b bytes.Buffer
	for _, l := range lines {
		fmt.Fprintf(&b, "BT /F%d %s Tf %s %s Td <", l.Font, number(l.Size), number(l.X), number(l.Y))
		for _, r := range l.Text {
			fmt.Fprintf(&b, "%04x", w.faces[l.Font].use(r))
		}
		b.WriteString("> Tj ET\n")
	}
	content, err := w.stream(0, "", func(z io.Writer) error {
		_, err := z.Write(b.Bytes())
		return err
	})
	if err != nil {
		return fmt.Errorf("write page: %w", err)
	}
	page := w.object(0)
	w.print("<< /Type /Page /Parent %d 0 R /MediaBox [0 0 %s %s] /Contents %d 0 R /Resources << /Font <<", pageTree, number(Width), number(Height), content)
	for i := range w.faces {
		w.print(" /F%d %d 0 R", i, fonts+i)
	}
	w.print(" >> >> >>\nendobj\n")
	w.pages = append(w.pages, page)
	return w.err
}

// number is a length as the format writes it.
func number(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

// Embed adds a file of the type, as "text/plain"; one that another file has the
// name of gets a number before its ending. The name has to be one that does no
// harm where somebody saves it.
func (w *Writer) Embed(name, kind string, body []byte) error {
	name = w.free(name)
	data, err := w.stream(0, fmt.Sprintf("/Type /EmbeddedFile /Subtype /%s /Params << /Size %d >> ", escaped(kind), len(body)), func(z io.Writer) error {
		_, err := z.Write(body)
		return err
	})
	if err != nil {
		return fmt.Errorf("embed file: %w", err)
	}
	spec := w.object(0)
	w.print("<< /Type /Filespec /F %[1]s /UF %[1]s /EF << /F %[2]d 0 R /UF %[2]d 0 R >> /AFRelationship /Unspecified >>\nendobj\n", w.text(name), data)
	w.files = append(w.files, file{name, spec})
	return w.err
}

// free is a name that no other file has.
func (w *Writer) free(name string) string {
	stem, end := name, ""
	if i := strings.LastIndexByte(name, '.'); i > 0 {
		stem, end = name[:i], name[i:]
	}
	for i := 2; w.used[strings.ToLower(name)]; i++ {
		name = fmt.Sprintf("%s (%d)%s", stem, i, end)
	}
	w.used[strings.ToLower(name)] = true
	return name
}

// escaped is a name object (ISO 32000-2 §7.3.5).
func escaped(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if 'a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '+' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "#%02X", c)
		}
	}
	return b.String()
}

// Close writes what is known at the end only. A document that is not closed is
// none.
func (w *Writer) Close() error {
	for i, f := range w.faces {
		if err := w.font(fonts+i, f); err != nil {
			return fmt.Errorf("write font: %w", err)
		}
	}
	w.object(pageTree)
	w.print("<< /Type /Pages /Count %d /Kids [", len(w.pages))
	for _, p := range w.pages {
		w.print(" %d 0 R", p)
	}
	w.print(" ] >>\nendobj\n")
	slices.SortFunc(w.files, func(a, b file) int { return strings.Compare(string(utf16Key(a.name)), string(utf16Key(b.name))) })
	w.object(catalog)
	w.print("<< /Type /Catalog /Pages %d 0 R", pageTree)
	if len(w.files) > 0 {
		w.print(" /PageMode /UseAttachments /Names << /EmbeddedFiles << /Names [")
		for _, f := range w.files {
			w.print(" %s %d 0 R", w.text(f.name), f.spec)
		}
		w.print(" ] >> >>")
	}
	w.print(" >>\nendobj\n")
	w.object(security)
	w.print("<< /Filter /Standard /V 5 /R 6 /Length 256 /P %d /EncryptMetadata true /StmF /StdCF /StrF /StdCF", rights)
	w.print(" /CF << /StdCF << /CFM /AESV3 /AuthEvent /DocOpen /Length 32 >> >>")
	w.print(" /U <%x> /UE <%x> /O <%x> /OE <%x> /Perms <%x> >>\nendobj\n", w.lock.user, w.lock.userKey, w.lock.owner, w.lock.hostKey, w.lock.perms)
	table := w.at
	w.print("xref\n0 %d\n0000000000 65535 f \n", len(w.offsets))
	for _, at := range w.offsets[1:] {
		w.print("%010d 00000 n \n", at)
	}
	id := random(16)
	w.print("trailer\n<< /Size %d /Root %d 0 R /Encrypt %d 0 R /ID [<%x> <%x>] >>\nstartxref\n%d\n%%%%EOF\n", len(w.offsets), catalog, security, id, id, table)
	if w.err != nil {
		return fmt.Errorf("write document: %w", w.err)
	}
	return nil
}

// utf16Key is what names of files are sorted by: their bytes in the file.
func utf16Key(s string) (b []byte) {
	for _, u := range utf16.Encode([]rune(s)) {
		b = append(b, byte(u>>8), byte(u))
	}
	return b
}
