package pdf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"unicode/utf16"

	"golang.org/x/image/font"
	"golang.org/x/image/font/gofont/gobold"
	"golang.org/x/image/font/gofont/goregular"
	"golang.org/x/image/font/sfnt"
	"golang.org/x/image/math/fixed"
)

// Font is one of the fonts of a document: those of the Go project, which have
// Latin, Greek and Cyrillic letters, and may be embedded (BSD).
type Font int

const (
	Text Font = iota
	Bold
)

// Missing stands in place of what a font lacks.
const Missing = '□'

// face is a font, and what a document uses of it.
type face struct {
	name   string
	data   []byte
	font   *sfnt.Font
	buffer sfnt.Buffer
	known  map[rune]glyph
	used   map[sfnt.GlyphIndex]rune
}

// glyph is a letter as the font has it.
type glyph struct {
	index sfnt.GlyphIndex // 0: none
	width int             // thousandths of the size
}

func load(f Font) (*face, error) {
	face := &face{name: "Go-Regular", data: goregular.TTF, known: map[rune]glyph{}, used: map[sfnt.GlyphIndex]rune{}}
	if f == Bold {
		face.name, face.data = "Go-Bold", gobold.TTF
	}
	var err error
	face.font, err = sfnt.Parse(face.data)
	return face, err
}

// glyph finds a letter. One that the font lacks, or has no measure of, is none.
func (f *face) glyph(r rune) glyph {
	g, ok := f.known[r]
	if ok {
		return g
	}
	em := fixed.I(int(f.font.UnitsPerEm()))
	if index, err := f.font.GlyphIndex(&f.buffer, r); err == nil && index != 0 {
		if width, err := f.font.GlyphAdvance(&f.buffer, index, em, font.HintingNone); err == nil {
			g = glyph{index, int(width) * 1000 / int(em)}
		}
	}
	f.known[r] = g
	return g
}

// use gives the number of a letter in the font, and notes that it is used.
func (f *face) use(r rune) sfnt.GlyphIndex {
	g := f.glyph(r)
	if g.index == 0 {
		r = Missing
		g = f.glyph(r)
	}
	f.used[g.index] = r
	return g.index
}

// Has tells whether the font has a letter.
func (w *Writer) Has(f Font, r rune) bool { return w.faces[f].glyph(r).index != 0 }

// Measure is how long a text is in a size.
func (w *Writer) Measure(f Font, size float64, text string) float64 {
	n := 0
	for _, r := range text {
		g := w.faces[f].glyph(r)
		if g.index == 0 {
			g = w.faces[f].glyph(Missing)
		}
		n += g.width
	}
	return float64(n) * size / 1000
}

// font writes a font as a document needs it: the letters that it uses, how wide
// they are, and which they are, so that text can be searched and copied (ISO
// 32000-2 §9.7).
func (w *Writer) font(n int, f *face) error {
	thin, err := f.thin()
	if err != nil {
		return err
	}
	program, err := w.stream(0, fmt.Sprintf("/Length1 %d ", len(thin)), func(z io.Writer) error {
		_, err := z.Write(thin)
		return err
	})
	if err != nil {
		return err
	}
	letters := slices.Sorted(maps.Keys(f.used))
	unicode, err := w.stream(0, "", func(z io.Writer) error { return f.unicode(z, letters) })
	if err != nil {
		return err
	}
	em := fixed.I(1000)
	box, err := f.font.Bounds(&f.buffer, em, font.HintingNone)
	if err != nil {
		return err
	}
	m, err := f.font.Metrics(&f.buffer, em, font.HintingNone)
	if err != nil {
		return err
	}
	descriptor := w.object(0)
	w.print("<< /Type /FontDescriptor /FontName /%s /Flags 4 /ItalicAngle 0 /StemV 80 /FontBBox [%d %d %d %d] /Ascent %d /Descent %d /CapHeight %d /FontFile2 %d 0 R >>\nendobj\n",
		f.name, box.Min.X.Floor(), -box.Max.Y.Ceil(), box.Max.X.Ceil(), -box.Min.Y.Floor(), m.Ascent.Ceil(), -m.Descent.Ceil(), m.CapHeight.Ceil(), program)
	descendant := w.object(0)
	w.print("<< /Type /Font /Subtype /CIDFontType2 /BaseFont /%s /CIDSystemInfo << /Registry %s /Ordering %s /Supplement 0 >> /FontDescriptor %d 0 R /CIDToGIDMap /Identity /DW 600 /W [",
		f.name, w.ascii("Adobe"), w.ascii("Identity"), descriptor)
	for _, g := range letters {
		w.print(" %d [%d]", g, f.glyph(f.used[g]).width)
	}
	w.print(" ] >>\nendobj\n")
	w.object(n)
	w.print("<< /Type /Font /Subtype /Type0 /BaseFont /%s /Encoding /Identity-H /DescendantFonts [%d 0 R] /ToUnicode %d 0 R >>\nendobj\n", f.name, descendant, unicode)
	return w.err
}

// ascii is a string object in the encoding of the format itself, sealed.
func (w *Writer) ascii(s string) string { return fmt.Sprintf("<%x>", w.lock.text([]byte(s))) }

// perBlock is how many letters one block of a map may have.
const perBlock = 100

// unicode is the map from letters of the font to those of Unicode.
func (f *face) unicode(z io.Writer, letters []sfnt.GlyphIndex) error {
	var b bytes.Buffer
	b.WriteString("/CIDInit /ProcSet findresource begin\n12 dict begin\nbegincmap\n/CIDSystemInfo << /Registry (Adobe) /Ordering (UCS) /Supplement 0 >> def\n/CMapName /Adobe-Identity-UCS def\n/CMapType 2 def\n1 begincodespacerange\n<0000> <ffff>\nendcodespacerange\n")
	for block := range slices.Chunk(letters, perBlock) {
		fmt.Fprintf(&b, "%d beginbfchar\n", len(block))
		for _, g := range block {
			fmt.Fprintf(&b, "<%04x> <", g)
			for _, u := range utf16.Encode([]rune{f.used[g]}) {
				fmt.Fprintf(&b, "%04x", u)
			}
			b.WriteString(">\n")
		}
		b.WriteString("endbfchar\n")
	}
	b.WriteString("endcmap\nCMapName currentdict /CMap defineresource pop\nend\nend\n")
	_, err := z.Write(b.Bytes())
	return err
}

// errFont is a font that is not built as ours are.
var errFont = errors.New("font is not built as it should be")

// thin is the font with the outlines of letters that are not used overwritten
// with nothing, which takes no room once it is compressed.
func (f *face) thin() ([]byte, error) {
	data := bytes.Clone(f.data)
	tables := map[string][]byte{}
	var sums map[string][]byte = map[string][]byte{}
	count := int(binary.BigEndian.Uint16(data[4:]))
	for i := range count {
		entry := data[12+16*i:][:16]
		from, size := int(binary.BigEndian.Uint32(entry[8:])), int(binary.BigEndian.Uint32(entry[12:]))
		if from+size > len(data) {
			return nil, errFont
		}
		tables[string(entry[:4])], sums[string(entry[:4])] = data[from:from+size], entry[4:8]
	}
	head, loca, glyf := tables["head"], tables["loca"], tables["glyf"]
	if len(head) < 54 || len(loca) == 0 || len(glyf) == 0 {
		return nil, errFont
	}
	long := binary.BigEndian.Uint16(head[50:]) != 0
	outline := func(g int) ([]byte, error) {
		var from, to int
		switch {
		case long && 4*g+8 <= len(loca):
			from, to = int(binary.BigEndian.Uint32(loca[4*g:])), int(binary.BigEndian.Uint32(loca[4*g+4:]))
		case !long && 2*g+4 <= len(loca):
			from, to = 2*int(binary.BigEndian.Uint16(loca[2*g:])), 2*int(binary.BigEndian.Uint16(loca[2*g+2:]))
		default:
			return nil, errFont
		}
		if from > to || to > len(glyf) {
			return nil, errFont
		}
		return glyf[from:to], nil
	}
	keep := map[int]bool{0: true}
	todo := []int{0}
	for g := range f.used {
		keep[int(g)] = true
		todo = append(todo, int(g))
	}
	for len(todo) > 0 {
		o, err := outline(todo[0])
		if err != nil {
			return nil, err
		}
		todo = todo[1:]
		for _, part := range parts(o) {
			if !keep[part] {
				keep[part] = true
				todo = append(todo, part)
			}
		}
	}
	for g := range f.font.NumGlyphs() {
		if o, err := outline(g); err != nil {
			return nil, err
		} else if !keep[g] {
			clear(o)
		}
	}
	var sum uint32
	for i := 0; i < len(glyf); i += 4 {
		var word [4]byte
		copy(word[:], glyf[i:])
		sum += binary.BigEndian.Uint32(word[:])
	}
	binary.BigEndian.PutUint32(sums["glyf"], sum)
	return data, nil
}

// parts are the letters that an outline is put together from.
func parts(outline []byte) (list []int) {
	if len(outline) < 10 || int16(binary.BigEndian.Uint16(outline)) >= 0 {
		return nil
	}
	const (
		words     = 1 << 0
		scale     = 1 << 3
		more      = 1 << 5
		twoScales = 1 << 6
		matrix    = 1 << 7
	)
	for rest := outline[10:]; len(rest) >= 4; {
		flags := binary.BigEndian.Uint16(rest)
		list = append(list, int(binary.BigEndian.Uint16(rest[2:])))
		size := 6
		if flags&words != 0 {
			size = 8
		}
		switch {
		case flags&scale != 0:
			size += 2
		case flags&twoScales != 0:
			size += 4
		case flags&matrix != 0:
			size += 8
		}
		if flags&more == 0 || len(rest) < size {
			break
		}
		rest = rest[size:]
	}
	return list
}
