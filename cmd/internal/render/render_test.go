package render

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"

	"postern/appliance/config"
)

// example is the box.toml of the manual, with some lines in the place of others.
func example(t *testing.T, lines ...string) *config.Box {
	t.Helper()
	var b bytes.Buffer
	if err := config.Example(&b, "box"); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	for i := 0; i < len(lines); i += 2 {
		if !strings.Contains(text, lines[i]) {
			t.Fatalf("the example has no %q", lines[i])
		}
		text = strings.ReplaceAll(text, lines[i], lines[i+1])
	}
	c, err := config.ParseBox("box.toml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func files(t *testing.T, c *config.Box) map[string]string {
	t.Helper()
	list, err := Files(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, f := range list {
		all[f.Path] = f.Text
	}
	return all
}

// One file gives the same bytes again, and both daemons read theirs as what
// box.toml says.
func TestFilesAreDeterministic(t *testing.T) {
	c := example(t)
	first, err := Files(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		again, err := Files(t.Context(), example(t))
		if err != nil || !reflect.DeepEqual(first, again) {
			t.Fatalf("got other files for the same box.toml (%v)", err)
		}
	}
	dir := t.TempDir()
	if _, err := Write(dir, first, false); err != nil {
		t.Fatal(err)
	}
	f, err := config.LoadFilterd(filepath.Join(dir, "etc/postern/filterd.toml"))
	if err != nil || !reflect.DeepEqual(*f, c.Filterd) {
		t.Errorf("filterd.toml: got %+v, %v, want what box.toml says", f, err)
	}
	k, err := config.LoadKeyd(filepath.Join(dir, "etc/postern/keyd.toml"))
	if err != nil || k.Token != c.Token.Label || k.Socket.Use.Group != "postern-filter" || k.Socket.Keep.Group != "postern" || k.PINFile != "" {
		t.Errorf("keyd.toml: got %+v, %v", k, err)
	}
	for _, f := range first {
		if first := strings.SplitN(f.Text, "\n", 2)[0]; f.Path != "/etc/hostname" && !strings.HasPrefix(first, "#") {
			t.Errorf("%s begins with %q, want where it comes from", f.Path, first)
		}
	}
}

// What a field of box.toml changes, file by file.
func TestFilesFollow(t *testing.T) {
	pin, unit := "/etc/systemd/system/postern-keyd.service.d/50-pin.conf", "/etc/systemd/system/postern-filterd"
	for _, c := range []struct {
		name  string
		lines []string
		path  string
		want  string // "" where there is no such file
	}{
		{"operators unlock", nil, pin, "\n[Service]\nLoadCredentialEncrypted=\n"},
		{"the TPM unlocks", []string{`unlock = "operator"`, `unlock = "tpm"`}, pin, "\nLoadCredentialEncrypted=\nLoadCredentialEncrypted=pin\n"},
		{"SoftHSM", nil, config.SoftHSMConfig, "directories.tokendir = /var/lib/postern-keyd/token\n"},
		{"a card", []string{`# kind = "softhsm"`, `kind = "card"`}, config.SoftHSMConfig, ""},
		{"a card's reader", []string{`# kind = "softhsm"`, `kind = "card"`}, "/etc/systemd/system/postern-keyd.service.d/smartcard.conf", "Wants=pcscd.socket"},
		{"a card's rights", []string{`# kind = "softhsm"`, `kind = "card"`}, "/etc/polkit-1/rules.d/50-postern.rules", `subject.user === "postern-keyd"`},
		{"a TPM", []string{`# kind = "softhsm"`, `kind = "tpm"`}, "/etc/systemd/system/postern-keyd.service.d/tpm.conf", "DeviceAllow=/dev/tpmrm0 rw"},
		{"every address", nil, unit + "-outside.socket.d/50-box.conf", "[Socket]\nListenStream=\nListenStream=25\nBindIPv6Only=both\n"},
		{"one address", nil, unit + "-inside.socket.d/50-box.conf", "[Socket]\nListenStream=\nListenStream=10.0.0.2:10025\nFreeBind=yes\n"},
		{"another listener", []string{`name = "inside"` + "\naddress", `name = "third"` + "\naddress"}, unit + "-third.socket", "[Socket]\nListenStream=10.0.0.2:10025\nFreeBind=yes\nFileDescriptorName=third\n"},
		{"no such listener", []string{`name = "inside"` + "\naddress", `name = "third"` + "\naddress"}, unit + "-inside.socket.d/50-box.conf", "ConditionPathExists=/nonexistent"},
		{"the sockets of filterd", nil, unit + ".service.d/50-box.conf", "Sockets=postern-filterd-outside.socket postern-filterd-inside.socket postern-filterd-policy.socket\n"},
		{"who asks the resolver", nil, "/etc/resolv.conf", "nameserver 127.0.0.1\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, there := files(t, example(t, c.lines...))[c.path]
			if there != (c.want != "") || !strings.Contains(got, c.want) {
				t.Errorf("%s: got %q, want %q in it", c.path, got, c.want)
			}
		})
	}
}

// What is so already is left alone, what is not is replaced whole, and a link
// leads nowhere outside.
func TestWrite(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077)) // as of the unit that renders
	dir := t.TempDir()
	list := []File{{"/etc/one", "1\n"}, {"/etc/two", "2\n"}}
	for _, step := range []struct {
		name string
		dry  bool
		do   func() error
		want []string
	}{
		{"dry", true, nil, []string{"etc/one", "etc/two"}},
		{"first", false, nil, []string{"etc/one", "etc/two"}},
		{"again", false, nil, nil},
		{"one changed", false, func() error { return os.WriteFile(filepath.Join(dir, "etc/two"), []byte("3\n"), 0o644) }, []string{"etc/two"}},
		{"one for nobody to read", false, func() error { return os.Chmod(filepath.Join(dir, "etc/one"), 0o600) }, []string{"etc/one"}},
	} {
		if step.do != nil {
			if err := step.do(); err != nil {
				t.Fatal(err)
			}
		}
		got, err := Write(dir, list, step.dry)
		for i := range got {
			got[i], _ = filepath.Rel(dir, got[i])
		}
		if err != nil || !slices.Equal(got, step.want) {
			t.Errorf("%s: got %v, %v, want %v", step.name, got, err, step.want)
		}
	}
	for name, want := range map[string]os.FileMode{"etc": 0o755 | os.ModeDir, "etc/one": 0o644, "etc/two": 0o644} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode() != want {
			t.Errorf("%s: got %v, %v, want %v", name, info.Mode(), err, want)
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, "etc/two")); err != nil || string(b) != "2\n" {
		t.Errorf("got %q, %v, want what was written", b, err)
	}
	away := t.TempDir()
	if err := os.Symlink(away, filepath.Join(dir, "var")); err != nil {
		t.Fatal(err)
	}
	if _, err := Write(dir, []File{{"/var/three", "3\n"}}, false); err == nil {
		t.Error("a link out of the folder: got no error, want one")
	}
}
