// Package mkosi_test holds the profile of the image to what it promises, before
// anything is built: a build takes minutes, and a start of it more.
package mkosi_test

import (
	"bufio"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// settings are those of a file as mkosi and systemd read it: by section and
// name, each value a line of its own.
type settings map[string][]string

// read parses one; a line that is nothing is an error.
func read(t *testing.T, name string) settings {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s, section, key := settings{}, "", ""
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		trimmed := strings.TrimSpace(line)
		name, value, isSetting := strings.Cut(line, "=")
		switch {
		case trimmed == "" || strings.HasPrefix(trimmed, "#"):
		case strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]"):
			section, key = line[1:len(line)-1], ""
		case line != trimmed && key != "":
			s[key] = append(s[key], trimmed)
		case isSetting && section != "" && name == strings.TrimSpace(name):
			key = section + "." + name
			if value != "" {
				s[key] = append(s[key], value)
			} else if s[key] == nil {
				s[key] = []string{}
			}
		default:
			t.Errorf("%s:%d: got %q, want a section, a setting or more of one", name, n, line)
		}
	}
	return s
}

// one is a setting with a single value.
func (s settings) one(key string) string { return strings.Join(s[key], " ") }

func words(t *testing.T, name string) (list []string) {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if !strings.HasPrefix(line, "#") {
			list = append(list, strings.Fields(line)...)
		}
	}
	return list
}

// Every file that mkosi or systemd reads can be read.
func TestParseable(t *testing.T) {
	n := 0
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSymlink != 0 {
			if _, err := os.Stat(name); err != nil && !strings.Contains(name, ".wants/") {
				t.Errorf("%s leads nowhere", name)
			}
			return nil
		}
		switch path.Ext(name) {
		case ".conf":
			if strings.Contains(name, "tmpfiles.d") || name == "loader.conf" {
				return nil
			}
			fallthrough
		case ".service", ".mount", ".network":
			read(t, name)
			n++
		}
		return nil
	})
	if err != nil || n < 15 {
		t.Errorf("got %d files, %v, want 15 at least", n, err)
	}
}

// Nobody can log in to the release profile, neither at a screen nor over the
// network, and there is no shell for people.
func TestNoWayIn(t *testing.T) {
	all, release, debug := read(t, "mkosi.conf"), read(t, "mkosi.profiles/release.conf"), read(t, "mkosi.profiles/debug/mkosi.conf")
	gone := release["Content.RemoveFiles"]
	for _, file := range []string{
		"/usr/sbin/agetty", "/usr/bin/login", "/usr/bin/su", "/usr/sbin/sulogin", "/usr/bin/bash", "/usr/bin/perl",
		"/usr/lib/systemd/system/getty@.service", "/usr/lib/systemd/system/serial-getty@.service", "/usr/lib/systemd/system/console-getty.service",
		"/usr/lib/systemd/system/debug-shell.service", "/usr/lib/systemd/system/rescue.service",
		"/usr/lib/systemd/system-generators/systemd-getty-generator", "/usr/lib/systemd/system-generators/systemd-debug-generator",
		"/usr/lib/systemd/system-generators/systemd-ssh-generator", "/usr/bin/systemd-run", "/usr/bin/dpkg", "/usr/bin/apt-get",
	} {
		if !slices.ContainsFunc(gone, func(glob string) bool { ok, _ := path.Match(glob, file); return ok }) {
			t.Errorf("release keeps %s", file)
		}
	}
	for _, s := range []settings{all, release} {
		for _, p := range s["Content.Packages"] {
			if regexp.MustCompile(`ssh|telnet|getty|sudo|gdb|strace|tcpdump`).MatchString(p) {
				t.Errorf("release has package %s", p)
			}
		}
	}
	if got := all.one("Content.Autologin"); got != "no" {
		t.Errorf("got Autologin=%s, want no", got)
	}
	// What the debug profile has, so that this test knows what it looks for.
	if !slices.Contains(debug["Content.Packages"], "openssh-server") || debug.one("Content.Autologin") != "yes" {
		t.Error("the debug profile has no way in: this test looks at the wrong files")
	}
	for _, screen := range []string{"etc/issue", "etc/motd"} {
		if text, err := os.ReadFile("mkosi.profiles/debug/mkosi.extra/" + screen); err != nil || !strings.Contains(string(text), "DEBUG IMAGE") {
			t.Errorf("debug: %s does not say what it is: %v", screen, err)
		}
	}
}

// Only what is named runs.
func TestPreset(t *testing.T) {
	for _, name := range []string{"mkosi.extra", "mkosi.images/initrd/mkosi.extra"} {
		preset := words(t, name+"/usr/lib/systemd/system-preset/00-postern.preset")
		if len(preset) < 2 || preset[len(preset)-2] != "disable" || preset[len(preset)-1] != "*" {
			t.Errorf("%s: got preset %q, want everything else disabled at its end", name, preset)
		}
		for i, word := range preset {
			if word == "enable" && regexp.MustCompile(`getty|ssh|debug|rescue|emergency`).MatchString(preset[i+1]) {
				t.Errorf("%s: enables %s", name, preset[i+1])
			}
		}
	}
}

func TestCommandLine(t *testing.T) {
	got := words(t, "command-line")
	for _, want := range []string{
		"lockdown=confidentiality", "module.sig_enforce=1", "panic=10", "oops=panic", "ro",
		"systemd.verity_root_options=panic-on-corruption", "systemd.import_credentials=no", "systemd.gpt_auto=0",
		"console=tty0", "console=ttyS0,115200",
	} {
		if !slices.Contains(got, want) {
			t.Errorf("got %q, want %s in it", got, want)
		}
	}
	for _, word := range got {
		if regexp.MustCompile(`^(mitigations=off|init=|systemd\.debug|rd\.break|systemd\.unit|systemd\.wants|nokaslr)`).MatchString(word) {
			t.Errorf("the command line has %s", word)
		}
	}
}

// The programs of image and package know when they were built, since version
// control is kept out of them: no clock before that is believed.
func TestFloor(t *testing.T) {
	for _, name := range []string{"../build", "../../appliance/deb/build"} {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		set := regexp.MustCompile(`flags="[^"]*-X postern/appliance/service\.epoch=\$SOURCE_DATE_EPOCH`).FindAllString(string(data), -1)
		builds, with := strings.Count(string(data), "go build "), len(regexp.MustCompile(`go build .*\$flags`).FindAllString(string(data), -1))
		if len(set) != 1 || builds != 3 || with != builds {
			t.Errorf("%s: %d programs, %d with flags, %d flags with the time of the commit, want 3, 3 and 1", name, builds, with, len(set))
		}
	}
}

func TestBootLoader(t *testing.T) {
	got := words(t, "loader.conf")
	for name, want := range map[string]string{"editor": "no", "timeout": "0", "secure-boot-enroll": "if-safe"} {
		i := slices.Index(got, name)
		if i < 0 || got[i+1] != want {
			t.Errorf("%s: got %q, want %s", name, got, want)
		}
	}
}

// The root is what its hash says, and both slots of the box are of one size.
func TestLayout(t *testing.T) {
	root, verity := read(t, "mkosi.repart/20-root.conf"), read(t, "mkosi.repart/10-root-verity.conf")
	for key, want := range map[string]string{"Type": "root", "Format": "erofs", "Verity": "data", "VerityMatchKey": "root"} {
		if got := root.one("Partition." + key); got != want {
			t.Errorf("root: got %s=%s, want %s", key, got, want)
		}
	}
	for key, want := range map[string]string{"Type": "root-verity", "Verity": "hash", "VerityMatchKey": "root"} {
		if got := verity.one("Partition." + key); got != want {
			t.Errorf("root-verity: got %s=%s, want %s", key, got, want)
		}
	}
	const made = "mkosi.images/initrd/mkosi.extra/usr/lib/postern/"
	flashed, err := os.ReadFile("../disk")
	if err != nil {
		t.Fatal(err)
	}
	slot := 0
	for file, kind := range map[string]string{"40-root-verity-b.conf": "root-verity", "50-root-b.conf": "root"} {
		b := read(t, made+"partitions/"+file)
		// Slot A is not grown into the room of the others.
		a := read(t, made+"partitions/"+map[string]string{"root-verity": "20-root-verity-a.conf", "root": "30-root-a.conf"}[kind])
		for _, end := range []string{"Partition.SizeMinBytes", "Partition.SizeMaxBytes"} {
			if a.one(end) != b.one(end) {
				t.Errorf("%s: got %s=%s in slot A, %s in slot B", kind, end, a.one(end), b.one(end))
			}
		}
		size := b.one("Partition.SizeMinBytes")
		if b.one("Partition.Type") != kind || size != b.one("Partition.SizeMaxBytes") || b.one("Partition.Label") != "_empty" {
			t.Errorf("%s: got %v, want an empty %s of a fixed size", file, b, kind)
		}
		if n := strings.Count(string(flashed), "\t\tSizeMinBytes="+size+"\n"); n != 1 {
			t.Errorf("%s: %d parts of the flashed disk have %s, want the one of slot A", file, n, size)
		}
		m, err := strconv.Atoi(strings.TrimSuffix(size, "M"))
		if err != nil {
			t.Errorf("%s: got size %s, want M", file, size)
		}
		slot += m
	}
	if slot > 1024 {
		t.Errorf("a slot has %d MiB, want 1024 at most", slot)
	}
	for kind, key := range map[string]string{"tpm2": "tpm2", "open": "key-file"} {
		v := read(t, made+"partitions-"+kind+"/60-var.conf")
		if v.one("Partition.Encrypt") != key || v.one("Partition.Label") != "postern-var" || v.one("Partition.FactoryReset") != "yes" {
			t.Errorf("/var, %s: got %v, want it encrypted by %s, named postern-var, and emptied by a reset", kind, v, key)
		}
	}
	if table := words(t, "mkosi.images/initrd/mkosi.extra/etc/crypttab"); !slices.Contains(table, "/dev/postern/var") || !strings.Contains(strings.Join(table, " "), "tpm2-device=auto") {
		t.Errorf("got crypttab %q, want the partition that udev names, opened by the TPM", table)
	}
}

// Nothing ends in a shell that waits for somebody: not the initrd, not the root.
func TestEmergency(t *testing.T) {
	for _, name := range []string{"mkosi.extra", "mkosi.images/initrd/mkosi.extra"} {
		s := read(t, name+"/usr/lib/systemd/system/emergency.service")
		starts := s["Service.ExecStart"]
		if len(starts) == 0 || starts[len(starts)-1] != "/usr/bin/systemctl --force reboot" {
			t.Errorf("%s: got %q, want a reboot at the end", name, starts)
		}
		for _, line := range starts {
			if strings.Contains(line, "sh") && !strings.HasPrefix(line, "/usr/bin/echo") {
				t.Errorf("%s: emergency starts %q", name, line)
			}
		}
	}
	if s := read(t, "../../appliance/units/box/system.conf"); s.one("Manager.RuntimeWatchdogSec") == "" || s.one("Manager.CrashAction") != "reboot" {
		t.Errorf("got %v, want a watchdog, and a reboot after a crash", s)
	}
}

// One set of units: what the table of a box names exists, and goes below /usr.
func TestPlaces(t *testing.T) {
	const dir = "../../appliance/units/box"
	data, err := os.ReadFile(dir + "/README.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile("(?m)^\\| `([^`]*)` \\| `(/usr/[^`]*)` \\|$").FindAllStringSubmatch(string(data), -1)
	var named []string
	for _, r := range rows {
		if _, err := os.Stat(path.Join(dir, r[1])); err != nil {
			t.Errorf("%s is placed, and not there: %v", r[1], err)
		}
		if !strings.Contains(r[1], "/") { // elsewhere among the units
			named = append(named, r[1])
		}
	}
	slices.Sort(named)
	var have []string
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "README.md" {
			have = append(have, e.Name())
		}
	}
	if !slices.Equal(named, have) {
		t.Errorf("the table places %q, want %q", named, have)
	}
}

// No key is in the tree, and none in what is copied into the image.
func TestNoKeys(t *testing.T) {
	err := filepath.WalkDir("..", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.HasSuffix(name, "_test.go") {
			return err
		}
		data, err := os.ReadFile(name)
		if strings.Contains(string(data), "PRIVATE KEY-----") {
			t.Errorf("%s holds a private key", name)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
