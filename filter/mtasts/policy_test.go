package mtasts

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParsePolicy(t *testing.T) {
	const head = "version: STSv1\nmode: enforce\n"
	for _, c := range []struct {
		text string
		want *Policy
	}{
		{head + "mx: mx.a.example\nmax_age: 86400\n", &Policy{Mode: Enforce, MX: []string{"mx.a.example"}, MaxAge: 24 * time.Hour}},
		{"version: STSv1\r\nmode: testing\r\nmx: *.A.example.\r\nmx:mx.b.example \r\nmax_age: 1", &Policy{Mode: Testing, MX: []string{"*.a.example", "mx.b.example"}, MaxAge: time.Second}},
		{"version: STSv1\nmode: none\nmax_age: 99999999", &Policy{Mode: None, MaxAge: 31557600 * time.Second}},
		{head + "mode: none\nmx: a.example\nmax_age: 1\nmax_age: 2\nx-y_z.1: new\n\n", &Policy{Mode: Enforce, MX: []string{"a.example"}, MaxAge: time.Second}},
		{"", nil},
		{"mode: enforce\nversion: STSv1\nmx: a.example\nmax_age: 1\n", nil},
		{"version: STSv2\nmode: enforce\nmx: a.example\nmax_age: 1\n", nil},
		{"version: STSv1\nmode: Enforce\nmx: a.example\nmax_age: 1\n", nil},
		{head + "max_age: 1\n", nil},
		{head + "mx: a.example\n", nil},
		{head + "mx: a.example\nmax_age: -1\n", nil},
		{head + "mx: a.example\nmax_age: 99999999999\n", nil},
		{head + "mx: *.*.example\nmax_age: 1\n", nil},
		{head + "mx: a b\nmax_age: 1\n", nil},
		{head + "mx: bücher.example\nmax_age: 1\n", nil},
		{head + "<html>\nmax_age: 1\n", nil},
		{head + strings.Repeat("mx: a.example\n", maxMX+1) + "max_age: 1\n", nil},
		{head + "mx: a.example\nmax_age: 1\n" + strings.Repeat("\n", maxLines), nil},
		{head + "mx: a.example\nmax_age: 1\nx:" + strings.Repeat("y", maxPolicy), nil},
	} {
		got, err := ParsePolicy([]byte(c.text))
		if c.want == nil {
			if !errors.Is(err, ErrPolicy) {
				t.Errorf("%.80q: got %+v, %v, want ErrPolicy", c.text, got, err)
			}
		} else if err != nil || !reflect.DeepEqual(got, *c.want) {
			t.Errorf("%.80q: got %+v, %v, want %+v", c.text, got, err, *c.want)
		}
	}
}

func TestMatches(t *testing.T) {
	p := Policy{MX: []string{"mx.a.example", "*.b.example"}}
	for host, want := range map[string]bool{
		"mx.a.example": true, "MX.A.Example.": true, "x.mx.a.example": false, "a.example": false,
		"x.b.example": true, "b.example": false, "y.x.b.example": false, ".b.example": false, "": false, "xb.example": false,
	} {
		if got := p.Matches(host); got != want {
			t.Errorf("%q: got %v, want %v", host, got, want)
		}
	}
}

func TestParseRecord(t *testing.T) {
	for _, c := range []struct {
		texts []string
		want  string
	}{
		{[]string{"v=STSv1; id=20160831085700Z;"}, "20160831085700Z"},
		{[]string{"v=spf1 -all", "v=STSv1;id=a"}, "a"},
		{[]string{"v=STSv1 ; x=1; id = b ;"}, "b"},
		{[]string{"v=STSv1; id=1;", "v=STSv1; id=2;"}, ""},
		{[]string{"v=STSv1"}, ""},
		{[]string{"v=STSv12; id=1"}, ""},
		{[]string{"v=STSv1; id=" + strings.Repeat("a", 33)}, ""},
		{[]string{"v=STSv1; id=a-b"}, ""},
		{[]string{"v=STSv1; id="}, ""},
		{[]string{" v=STSv1; id=1"}, ""},
		{nil, ""},
	} {
		if got, err := parseRecord(c.texts); got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%q: got %q, %v, want %q", c.texts, got, err, c.want)
		}
	}
}

// What is read is within bounds, and reads the same when it is printed again.
func FuzzPolicy(f *testing.F) {
	f.Add([]byte("version: STSv1\nmode: enforce\nmx: *.a.example\nmax_age: 86400\n"))
	f.Add([]byte("version: STSv1\r\nmode: none\r\nmax_age: 0\r\nx: y"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := ParsePolicy(text)
		if err != nil {
			if !errors.Is(err, ErrPolicy) {
				t.Errorf("got %v", err)
			}
			return
		}
		if len(p.MX) > maxMX || p.MaxAge < 0 || p.MaxAge > maxAge*time.Second || p.Mode != None && len(p.MX) == 0 {
			t.Errorf("got %+v", p)
		}
		if slices.ContainsFunc(p.MX, func(m string) bool { return strings.ContainsAny(m, " \t\r\n") || m == "" }) {
			t.Errorf("got %q", p.MX) // it is kept with spaces between them
		}
		again := fmt.Sprintf("version: STSv1\nmode: %s\nmax_age: %d\n", p.Mode, p.MaxAge/time.Second)
		for _, m := range p.MX {
			again += "mx: " + m + "\n"
		}
		if q, err := ParsePolicy([]byte(again)); err != nil || !reflect.DeepEqual(p, q) {
			t.Errorf("got %+v, %v, want %+v", q, err, p)
		}
	})
}
