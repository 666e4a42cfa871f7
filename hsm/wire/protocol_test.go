package wire

import (
	"bytes"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"postern/hsm"
)

// table reads the rows of the markdown table under a heading of protocol.md.
func table(t *testing.T, page, heading string) [][]string {
	t.Helper()
	_, rest, ok := strings.Cut(page, "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("protocol.md: no heading %q", heading)
	}
	rest, _, _ = strings.Cut(rest, "\n## ")
	var rows [][]string
	for _, line := range strings.Split(rest, "\n") {
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|---") {
			continue
		}
		var row []string
		for _, cell := range strings.Split(strings.Trim(line, "|"), "|") {
			row = append(row, strings.TrimSpace(cell))
		}
		rows = append(rows, row)
	}
	if len(rows) < 2 {
		t.Fatalf("protocol.md: no table under %q", heading)
	}
	return rows[1:]
}

func number(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("protocol.md: got %q, want a number", s)
	}
	return n
}

func TestProtocolPage(t *testing.T) {
	b, err := os.ReadFile("protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(b)

	limits := map[string]int{
		"version": Version, "max-frame": MaxFrame, "max-trace": MaxTrace, "max-pin": MaxPIN, "max-spki": MaxSPKI,
		"max-ciphertext": MaxCiphertext, "max-ephemeral": MaxEphemeral, "max-oaep-label": MaxOAEPLabel, "max-ukm": MaxUKM, "max-short": MaxShort,
		"max-signature": MaxSignature, "max-secret": MaxSecret, "max-text": MaxText, "max-faults": MaxFaults, "max-parts": MaxParts,
		"max-message": hsm.MaxMessage, "max-info": hsm.MaxInfo, "max-label": hsm.MaxLabel, "max-origin": hsm.MaxOrigin,
	}
	seen := 0
	for _, row := range table(t, page, "Limits") {
		want, ok := limits[row[0]]
		if got := number(t, row[1]); !ok || got != want {
			t.Errorf("limit %s: page says %d, code %d (known: %v)", row[0], got, want, ok)
		}
		seen++
	}
	if seen != len(limits) {
		t.Errorf("limits: got %d on the page, want %d", seen, len(limits))
	}
	for _, m := range regexp.MustCompile("`(max-[a-z-]+|version)`").FindAllStringSubmatch(page, -1) {
		if _, ok := limits[m[1]]; !ok {
			t.Errorf("page speaks of limit %q, which does not exist", m[1])
		}
	}

	ops := table(t, page, "Operations")
	for _, row := range ops {
		op := Op(number(t, row[0]))
		if op.String() != row[1] || !op.Known() {
			t.Errorf("op %d: page says %q, code %q", op, row[1], op)
		}
		if got, want := op.Keep(), row[2] == "keep"; got != want {
			t.Errorf("op %s: keep only got %v, want %v", op, got, want)
		}
	}
	if len(ops) != len(opNames) {
		t.Errorf("operations: got %d on the page, want %d", len(ops), len(opNames))
	}

	testWrappedPage(t, table(t, page, "Wrapped"), limits)

	errs := table(t, page, "Errors")
	for _, row := range errs {
		n := number(t, row[0])
		if err := ErrorOf(byte(n)); err.Error() != row[1] {
			t.Errorf("error %d: page says %q, code %q", n, row[1], err)
		}
	}
	if got, want := len(errs), len(errorBytes)-1; got != want {
		t.Errorf("errors: got %d on the page, want %d", got, want)
	}

	names := table(t, page, "Hash functions")
	for _, row := range names {
		if got := hashes[number(t, row[0])].String(); got != row[1] {
			t.Errorf("hash %s: page says %q, code %q", row[0], row[1], got)
		}
	}
	if got, want := len(names), len(hashes)-1; got != want {
		t.Errorf("hashes: got %d on the page, want %d", got, want)
	}
}

// testWrappedPage takes a request apart by the page, with every field as long
// as the page allows and another byte in each.
func testWrappedPage(t *testing.T, rows [][]string, limits map[string]int) {
	t.Helper()
	full := func(n int, v byte) []byte { return bytes.Repeat([]byte{v}, n) }
	w := hsm.Wrapped{Scheme: 1, V6: true, Cipher: 3, KDFHash: 4, KDFCipher: 5, Size: 6, Hash: hashes[7], MGFHash: hashes[6],
		Ciphertext: full(MaxCiphertext, 9), Ephemeral: full(MaxEphemeral, 10), Fingerprint: full(MaxShort, 11), CurveOID: full(MaxShort, 12),
		Label: full(MaxOAEPLabel, 13), WrapAlgorithm: full(MaxShort, 14), UKM: full(MaxUKM, 16)}
	want := []byte{1, 1, 3, 4, 5, 6, 7, 6, 9, 10, 11, 12, 13, 14, 1, 16}
	b, err := Unwrap{Origin: strings.Repeat("o", hsm.MaxOrigin), Wrapped: w}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	r := reader{b: b}
	r.id()
	if got := r.short(hsm.MaxOrigin); !bytes.Equal(got, full(hsm.MaxOrigin, 'o')) {
		t.Errorf("origin behind the id: got %q", got)
	}
	for i, row := range rows {
		form, limit, _ := strings.Cut(row[1], ", ")
		n := limits[strings.Trim(limit, "`")]
		var got []byte
		switch form {
		case "1":
			got, n = []byte{r.u8()}, 1
		case "2":
			got, n = []byte{byte(r.u16())}, 1
		case "flag":
			got, n = []byte{0}, 1
			if r.flag() {
				got[0] = 1
			}
		case "short":
			got = r.short(n)
		case "long":
			got = r.long(n)
		default:
			t.Fatalf("field %s: the page says %q", row[0], row[1])
		}
		if i >= len(want) || !bytes.Equal(got, full(n, want[i])) {
			t.Errorf("field %s: the page leads to %x", row[0], got)
		}
	}
	if err := r.end("unwrap request by the page"); err != nil || len(rows) != len(want) {
		t.Errorf("%d fields on the page, want %d: %v", len(rows), len(want), err)
	}
}
