package config

import (
	"bytes"
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write what is said of each bad file")

// load reads a file as the daemon would, and names it by its last element.
func load(daemon, name string, data []byte) (any, error) {
	switch daemon {
	case "filterd":
		return parseFilterd(name, data)
	case "box":
		return ParseBox(name, data)
	case "plan":
		return parsePlan(name, data)
	}
	return parseKeyd(name, data, "")
}

// Every folder of testdata is one thing that can be wrong, and what is said of it.
func TestBadFilesAreRefused(t *testing.T) {
	cases, err := filepath.Glob("testdata/*/*")
	if err != nil {
		t.Fatal(err)
	}
	if len(cases) < 60 {
		t.Fatalf("got %d cases, want 60 or more", len(cases))
	}
	for _, dir := range cases {
		t.Run(strings.TrimPrefix(dir, "testdata/"), func(t *testing.T) {
			data, err := os.ReadFile(filepath.Join(dir, "config.toml"))
			if err != nil {
				t.Fatal(err)
			}
			_, err = load(filepath.Base(filepath.Dir(dir)), "config.toml", data)
			e, ok := errors.AsType[*Error](err)
			if !ok {
				t.Fatalf("got %v (%T), want an *Error", err, err)
			}
			got := e.Error() + "\n"
			if e.Hint() != "" {
				got += "hint: " + e.Hint() + "\n"
			}
			if *update {
				if err := os.WriteFile(filepath.Join(dir, "want"), []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(filepath.Join(dir, "want"))
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got  %swant %s", got, want)
			}
		})
	}
}

func TestMissingFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.toml")
	for _, f := range []func(string) error{
		func(p string) error { _, err := LoadFilterd(p); return err },
		func(p string) error { _, err := LoadKeyd(p); return err },
		func(p string) error { _, err := LoadBox(p); return err },
		func(p string) error { _, err := LoadPlan(p); return err },
	} {
		err := f(path)
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("got %v, want fs.ErrNotExist", err)
		}
		if got, want := err.Error(), path+": no such file or directory"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestFileTooLarge(t *testing.T) {
	path := filepath.Join(t.TempDir(), "large.toml")
	if err := os.WriteFile(path, bytes.Repeat([]byte("#\n"), maxFile), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := LoadKeyd(path)
	if got, want := err.Error(), path+":1: more than 1048576 bytes"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

const small = `
authserv-id = "gw.company1.example"
listener = [{ name = "outside", address = ":25", direction = "inbound" }, { name = "inside", address = "127.0.0.1:587", direction = "outbound" }]
[next-hop]
inbound.address = "mail.company1.example:25"
outbound.address = "localhost:10026"
[domain."Company1.Example"]
[partner."*.Partner.Example"]
[recipient."Some.One@Freemail.Example"]
protect = "none"
`

func TestDefaults(t *testing.T) {
	c, err := parseFilterd("small.toml", []byte(small))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []struct {
		name      string
		got, want any
	}{
		{"keyring", c.Keyring, "/var/lib/postern/keyring.db"},
		{"spool-dir", c.SpoolDir, "/var/lib/postern/spool"},
		{"message-size", c.Limits.MessageSize, Size(50 << 20)},
		{"max-connections", c.Listeners[0].MaxConnections, 1000},
		{"inbound allow", len(c.Listeners[0].Allow), 0},
		{"outbound allow", c.Listeners[1].Allow, loopback},
		{"inbound tls", c.NextHop.Inbound.TLS, "verify"},
		{"inbound name", c.NextHop.Inbound.Name, "mail.company1.example"},
		{"outbound tls", c.NextHop.Outbound.TLS, "off"},
		{"sign", c.Domains["company1.example"].Sign, "always"},
		{"partner protect", c.Partners["*.partner.example"].Protect, "optional"},
		{"partner transport", c.Partners["*.partner.example"].Transport, "next-hop"},
		{"recipient", c.Recipients["Some.One@freemail.example"].Protect, "none"},
	} {
		if !reflect.DeepEqual(f.got, f.want) {
			t.Errorf("%s: got %v, want %v", f.name, f.got, f.want)
		}
	}
}

func TestPINFileFromCredentials(t *testing.T) {
	for _, c := range []struct{ file, credentials, want string }{
		{"", "", ""},
		{"", "/run/credentials/postern-keyd.service", "/run/credentials/postern-keyd.service/pin"},
		{"/etc/pin", "/run/credentials/postern-keyd.service", "/etc/pin"},
	} {
		text := "module = \"/m.so\"\n"
		if c.file != "" {
			text += "pin-file = " + quote(c.file) + "\n"
		}
		k, err := parseKeyd("keyd.toml", []byte(text), c.credentials)
		if err != nil {
			t.Fatal(err)
		}
		if k.PINFile != c.want {
			t.Errorf("file %q, credentials %q: got %q, want %q", c.file, c.credentials, k.PINFile, c.want)
		}
	}
}

// The example loads as it stands, and again with every default as a line; it
// means the same both times.
func TestExampleLoads(t *testing.T) {
	for _, daemon := range []string{"filterd", "keyd", "box", "plan"} {
		var plain, all bytes.Buffer
		if err := Example(&plain, daemon); err != nil {
			t.Fatal(err)
		}
		if err := example(&all, daemon, true); err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(plain.Bytes(), all.Bytes()) {
			t.Errorf("%s: no default is a comment", daemon)
		}
		a, err := load(daemon, "example", plain.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		b, err := load(daemon, "all", all.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if printed(t, a) != printed(t, b) {
			t.Errorf("%s: got %s, want %s", daemon, printed(t, b), printed(t, a))
		}
	}
	if err := Example(new(bytes.Buffer), "filtered"); err == nil {
		t.Error("an example for no daemon: got none, want an error")
	}
}

func printed(t *testing.T, c any) string {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, c); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// What is printed loads as what it was printed from.
func TestPrintRoundTrips(t *testing.T) {
	f, k := sampleFilterd(), sampleKeyd()
	f.State = "/tmp/box"
	f.Listeners = []Listener{{Name: "outside", Address: "127.0.0.1:2525", Direction: "inbound"}}
	f.NextHop.Inbound = &Hop{Address: "127.0.0.1:2526"}
	k.Environment = map[string]string{"SOFTHSM2_CONF": `/tmp/"box\`}
	k.Rules = []Rule{{Label: "dkim/*", UIDs: []uint32{1, 2}}}
	k.Budget.Window, k.Socket.Use.Mode = Duration(90*time.Minute), 0o600
	for daemon, c := range map[string]any{"filterd": f, "keyd": k} {
		once, err := load(daemon, "once", []byte(printed(t, c)))
		if err != nil {
			t.Fatal(err)
		}
		again, err := load(daemon, "again", []byte(printed(t, once)))
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(once, again) {
			t.Errorf("%s: got %+v, want %+v", daemon, again, once)
		}
	}
}

// Every field explains itself, obeys tags that this package knows, and stands
// in the example or the reference.
func TestEveryFieldIsDocumented(t *testing.T) {
	known := []string{"toml", "doc", "default", "need", "enum", "later", "form", "min", "max"}
	for daemon, c := range map[string]any{"filterd": Filterd{}, "keyd": Keyd{}, "box": Box{}, "plan": Plan{}} {
		var ref bytes.Buffer
		if err := Reference(&ref, daemon); err != nil {
			t.Fatal(err)
		}
		var visit func(tp reflect.Type)
		visit = func(tp reflect.Type) {
			for _, f := range fields(tp) {
				where := tp.Name() + "." + f.StructField.Name
				doc := f.Tag.Get("doc")
				if f.name == "" || doc == "" || !strings.HasSuffix(doc, ".") {
					t.Errorf("%s: got name %q and doc %q, want both, and a sentence", where, f.name, doc)
				}
				if !strings.Contains(ref.String(), cell(doc)) {
					t.Errorf("%s is not in the reference", where)
				}
				for part := range strings.SplitSeq(string(f.Tag), `" `) {
					if key, _, _ := strings.Cut(part, ":"); !slices.Contains(known, key) {
						t.Errorf("%s: tag %q is none of %v", where, key, known)
					}
				}
				if d, ok := f.Tag.Lookup("default"); ok {
					v := reflect.New(f.Type).Elem()
					if err := set(v, d); err != nil {
						t.Errorf("%s: default: %v", where, err)
					} else if problem, _ := f.judge(v); problem != "" {
						t.Errorf("%s: default %q: %s", where, d, problem)
					}
				}
				inner := f.Type
				for inner.Kind() == reflect.Pointer || inner.Kind() == reflect.Slice || inner.Kind() == reflect.Map {
					inner = inner.Elem()
				}
				if isTable(inner) {
					visit(inner)
				}
			}
		}
		visit(reflect.TypeOf(c))
	}
	f, _ := reflect.TypeFor[Keyd]().FieldByName("Environment")
	for _, v := range variables {
		if !strings.Contains(f.Tag.Get("doc"), v) {
			t.Errorf("environment: %s is not documented", v)
		}
	}
}

func TestValuesPrintAsTheyRead(t *testing.T) {
	for _, text := range []string{"256KiB", "50MiB", "1GiB", "1000", "1025"} {
		var s Size
		if err := s.UnmarshalText([]byte(text)); err != nil || s.String() != text && text != "1000" {
			t.Errorf("size %s: got %s, %v", text, s, err)
		}
	}
	for _, text := range []string{"1h", "1h30m", "10m", "1s", "250ms", "1m30s", "1h0m5s", "24h", "2d", "30d", "49h"} {
		var d Duration
		if err := d.UnmarshalText([]byte(text)); err != nil || d.String() != text {
			t.Errorf("duration %s: got %s, %v", text, d, err)
		}
	}
	for _, text := range []string{"9223372036854775807KiB", "-1", "1.5MiB", "MiB", "", "50MB"} {
		if err := new(Size).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("size %q: got no error, want one", text)
		}
	}
}

// Whatever a file says, reading it ends, with one line that has its place.
func FuzzLoad(f *testing.F) {
	cases, err := filepath.Glob("testdata/*/*/config.toml")
	if err != nil {
		f.Fatal(err)
	}
	for _, c := range cases {
		data, err := os.ReadFile(c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(small))
	for _, daemon := range []string{"filterd", "keyd", "box", "plan"} {
		var b bytes.Buffer
		if err := Example(&b, daemon); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, daemon := range []string{"filterd", "keyd", "box", "plan"} {
			c, err := load(daemon, "file", data)
			if err == nil {
				if _, err := load(daemon, "again", []byte(printed(t, c))); err != nil {
					t.Errorf("printed file: %v\n%s", err, printed(t, c))
				}
				continue
			}
			e, ok := errors.AsType[*Error](err)
			if !ok || e.Line < 1 || e.Line > 1+bytes.Count(data, []byte("\n")) {
				t.Errorf("got %v (%T), want an *Error with a line of the file", err, err)
			}
			if strings.ContainsAny(err.Error()+e.Hint(), "\r\n\x00") {
				t.Errorf("got %q, want one line", err)
			}
		}
	})
}

// An archive is found in any spelling of its domain, has its defaults, and is
// written as it was read.
func TestArchives(t *testing.T) {
	digits := strings.Repeat("0a", 32)
	c, err := parseFilterd("archive.toml", []byte(small+`
[domain."company2.example"]
archive = "Keep@Vault.example"
[archive."Keep@VAULT.example"]
certs = ["`+digits+`", "AB CD `+strings.Repeat("ab", 18)+`"]
next-hop = { address = "mail.vault.example:25", protocol = "lmtp" }
`))
	if err != nil {
		t.Fatal(err)
	}
	got, want := c.Archives["Keep@vault.example"], Archive{Certs: []string{digits, "AB CD " + strings.Repeat("ab", 18)}, When: []string{"inbound"}, OnFailure: "defer",
		NextHop: &Hop{Route: "relay", Address: "mail.vault.example:25", Port: 25, Protocol: "lmtp", TLS: "verify", Name: "mail.vault.example"}}
	if !reflect.DeepEqual(got, want) || c.Domains["company2.example"].Archive != "Keep@vault.example" || c.Domains["company1.example"].Archive != "" {
		t.Errorf("got %+v, next hop %+v, of %+v, want %+v", got, got.NextHop, c.Domains, want)
	}
	var b bytes.Buffer
	if err := Write(&b, c); err != nil {
		t.Fatal(err)
	}
	again, err := parseFilterd("written.toml", b.Bytes())
	if err != nil || !reflect.DeepEqual(again.Archives, c.Archives) || !reflect.DeepEqual(again.Domains, c.Domains) {
		t.Errorf("written and read again: %v\n%s", err, &b)
	}
}
