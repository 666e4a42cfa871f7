package autocrypt

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	key := base64.StdEncoding.EncodeToString([]byte("key"))
	for _, c := range []struct {
		value  string
		addr   string
		mutual bool
	}{
		{"addr=bob@partner.example; keydata=" + key, "bob@partner.example", false},
		{"addr=bob@partner.example; prefer-encrypt=mutual; keydata=" + key + ";", "bob@partner.example", true},
		{"keydata=\r\n " + key[:2] + "\r\n\t" + key[2:] + "; ADDR= bob@partner.example ", "bob@partner.example", false},
		{"addr=bob@partner.example; _new=1; keydata=" + key, "bob@partner.example", false},
		{"addr=bob@partner.example; prefer-encrypt=nopreference; keydata=" + key, "bob@partner.example", false},
		{"addr=bob@partner.example; new=1; keydata=" + key, "", false},
		{"addr=bob@partner.example; addr=bob@partner.example; keydata=" + key, "", false},
		{"addr=bob@partner.example; keydata=" + key + "; keydata=" + key, "", false},
		{"addr=bob; keydata=" + key, "", false},
		{"keydata=" + key, "", false},
		{"addr=bob@partner.example", "", false},
		{"addr=bob@partner.example; keydata=", "", false},
		{"addr=bob@partner.example; keydata=?", "", false},
		{"addr=bob@partner.example; keydata; x", "", false},
		{"addr=bob@partner.example; keydata=" + base64.StdEncoding.EncodeToString(make([]byte, maxKey+1)), "", false},
		{"addr=bob@partner.example; keydata=" + key + strings.Repeat(" ", maxField), "", false},
		{"addr=bob@partner.example; keydata=" + key + strings.Repeat(";", maxAttrs), "", false},
		{"", "", false},
	} {
		h, err := Parse(c.value)
		if c.addr == "" {
			if !errors.Is(err, ErrHeader) {
				t.Errorf("%.80q: got %+v, %v, want ErrHeader", c.value, h, err)
			}
			continue
		}
		if err != nil || h.Addr.String() != c.addr || h.Mutual != c.mutual || string(h.Keydata) != "key" {
			t.Errorf("%.80q: got %+v, %v, want %s, %t", c.value, h, err, c.addr, c.mutual)
		}
	}
}

// FuzzParse: what is read is bounded, and what is printed of it reads the same.
func FuzzParse(f *testing.F) {
	f.Add("addr=bob@partner.example; prefer-encrypt=mutual; keydata=a2V5")
	f.Add("addr=\"b;=\"@partner.example; _x=; keydata=\r\n a2\r\n V5;")
	f.Fuzz(func(t *testing.T, value string) {
		h, err := Parse(value)
		if err != nil {
			if !errors.Is(err, ErrHeader) {
				t.Fatalf("got %v, want ErrHeader", err)
			}
			return
		}
		if len(h.Keydata) > maxKey {
			t.Fatalf("got %d bytes", len(h.Keydata))
		}
		printed := Print(h.Addr.String(), h.Keydata)
		for line := range bytes.Lines(printed) {
			if len(line) > 998+2 {
				t.Fatalf("got a line of %d bytes", len(line))
			}
		}
		again, err := Parse(strings.TrimPrefix(string(printed), Field+":"))
		if err != nil || again.Addr.Key() != h.Addr.Key() || !bytes.Equal(again.Keydata, h.Keydata) {
			t.Fatalf("%q: got %+v, %v, want %+v", printed, again, err, h)
		}
	})
}

func TestPrint(t *testing.T) {
	got := string(Print("alice@company1.example", bytes.Repeat([]byte{1}, 100)))
	if !strings.HasPrefix(got, "Autocrypt: addr=alice@company1.example; keydata=\r\n AQ") || !strings.HasSuffix(got, "\r\n") || strings.Count(got, "\r\n ") != 2 {
		t.Errorf("got %q", got)
	}
}
