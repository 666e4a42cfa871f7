package units

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"postern/appliance/trial"
)

// bars are the highest exposure levels allowed, of 10.
var bars = map[string]float64{"postern-health.service": 5.0, "postern-confirm.service": 2.0, "postern-update.service": 5.0, "postern-filterd.service": 1.5, "postern-keyd.service": 2.0, "postern-postfix.service": 3.0, "postern-unbound.service": 2.0, "postern-box.service": 5.3,
	"postern-clock.service": 1.5, "postern-access.service": 2.0, "postern-firewall.service": 2.0, "postern-pdf@.service": 1.0, "postern-enrol.service": 2.5}

// daemons are the units of our own programs.
var daemons = []string{"postern-filterd.service", "postern-keyd.service"}

// tree is a file system with our units, the system's own beside them, and
// files in place of the programs.
func tree(t *testing.T) (root string) {
	t.Helper()
	root = t.TempDir()
	units := filepath.Join(root, "usr/lib/systemd/system")
	if err := os.MkdirAll(units, 0o755); err != nil {
		t.Fatal(err)
	}
	system := "/usr/lib/systemd/system"
	entries, err := os.ReadDir(system)
	if err != nil {
		t.Fatalf("systemd is missing (make deps installs it): %v", err)
	}
	for _, e := range entries {
		if e.Type().IsRegular() {
			copyFile(t, filepath.Join(system, e.Name()), filepath.Join(units, e.Name()))
		}
	}
	for _, name := range ours(t) {
		copyFile(t, name, filepath.Join(units, name))
	}
	for _, program := range programs(t) {
		path := filepath.Join(root, program)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

func ours(t *testing.T) []string {
	t.Helper()
	names, err := fs.Glob(os.DirFS("."), "postern-*")
	if err != nil || len(names) != 21 {
		t.Fatalf("got units %v, %v, want 21", names, err)
	}
	return names
}

// values are the values of a directive in a unit, in order.
func values(t *testing.T, unit, directive string) (all []string) {
	t.Helper()
	b, err := os.ReadFile(unit)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), directive+"="); ok {
			all = append(all, v)
		}
	}
	return all
}

func programs(t *testing.T) (all []string) {
	t.Helper()
	for _, unit := range ours(t) {
		for _, directive := range []string{"ExecStart", "ExecStartPost"} {
			for _, v := range values(t, unit, directive) {
				all = append(all, strings.Fields(v)[0])
			}
		}
	}
	return all
}

func analyze(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command("systemd-analyze", append([]string{"--no-pager"}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
	return string(out)
}

// verify is what systemd minds about our units under root.
func verify(t *testing.T, root string) string {
	t.Helper()
	args := []string{"verify", "--man=no", "--root=" + root}
	for _, name := range ours(t) {
		args = append(args, filepath.Join(root, "usr/lib/systemd/system", name))
	}
	return analyze(t, args...)
}

// exposures are the levels that systemd gives the daemons under root.
func exposures(t *testing.T, root string) map[string]float64 {
	t.Helper()
	level := regexp.MustCompile(`Overall exposure level for (\S+): ([0-9.]+)`)
	got := map[string]float64{}
	for unit := range bars {
		out := analyze(t, "security", "--offline=true", "--root="+root, filepath.Join(root, "usr/lib/systemd/system", unit))
		m := level.FindStringSubmatch(out)
		if m == nil || strings.Replace(m[1], "@i.", "@.", 1) != unit {
			t.Fatalf("no exposure level for %s in\n%s", unit, out)
		}
		v, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			t.Fatal(err)
		}
		got[unit] = v
	}
	return got
}

func TestSystemdUnderstandsEveryLine(t *testing.T) {
	root := tree(t)
	if out := verify(t, root); out != "" {
		t.Errorf("got %s, want nothing", out)
	}
	// It does look: a misspelt line is found.
	unit := filepath.Join(root, "usr/lib/systemd/system/postern-keyd.service")
	b, err := os.ReadFile(unit)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(unit, []byte(strings.Replace(string(b), "LimitCORE=", "LimitCores=", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	if out := verify(t, root); !strings.Contains(out, "LimitCores") {
		t.Errorf("misspelt directive: got %q, want it named", out)
	}
}

func TestExposure(t *testing.T) {
	for unit, got := range exposures(t, tree(t)) {
		t.Logf("%s: %.1f", unit, got)
		if got > bars[unit] {
			t.Errorf("%s: got exposure %.1f, want %.1f or less", unit, got, bars[unit])
		}
	}
}

// A drop-in opens what its token needs, and leaves the rest.
func TestDropIns(t *testing.T) {
	confs, err := filepath.Glob("drop-in/*.conf")
	if err != nil || len(confs) < 3 {
		t.Fatalf("got %v, %v, want 3 or more", confs, err)
	}
	for _, conf := range confs {
		root := tree(t)
		before := exposures(t, root)["postern-keyd.service"]
		dir := filepath.Join(root, "etc/systemd/system/postern-keyd.service.d")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		copyFile(t, conf, filepath.Join(dir, filepath.Base(conf)))
		if out := verify(t, root); out != "" {
			t.Errorf("%s: got %s, want nothing", conf, out)
		}
		after := exposures(t, root)["postern-keyd.service"]
		t.Logf("%s: %.1f, without it %.1f", conf, after, before)
		if after > bars["postern-keyd.service"] {
			t.Errorf("%s: got exposure %.1f, want %.1f or less", conf, after, bars["postern-keyd.service"])
		}
		if b, err := os.ReadFile(conf); err != nil || !strings.HasPrefix(string(b), "# /etc/systemd/system/postern-keyd.service.d/"+filepath.Base(conf)+"\n") {
			t.Errorf("%s: %v, want its place in the first line", conf, err)
		}
	}
}

// What no exposure level counts, and the daemons rely on.
func TestDaemonsAre(t *testing.T) {
	for _, unit := range daemons {
		for directive, want := range map[string]string{
			"Type": "notify", "Restart": "on-failure", "RestartPreventExitStatus": "78", "LimitCORE": "0",
			"MemorySwapMax": "0", "MemoryDenyWriteExecute": "yes", "ProtectProc": "invisible", "NoExecPaths": "/",
			"TimerSlackNSec": fmt.Sprintf("%dus", trial.TimerSlack.Microseconds()), // what is measured is what runs
		} {
			if got := values(t, unit, directive); !slices.Equal(got, []string{want}) {
				t.Errorf("%s: got %s=%v, want %s", unit, directive, got, want)
			}
		}
		if got := values(t, unit, "WatchdogSec"); len(got) != 1 {
			t.Errorf("%s: got WatchdogSec=%v, want one", unit, got)
		}
	}
	for directive, want := range map[string]string{
		"PrivateNetwork": "yes", "IPAddressDeny": "any", "RestrictAddressFamilies": "AF_UNIX",
		"LoadCredentialEncrypted": "pin", "PrivateUsers": "no",
	} {
		if got := values(t, "postern-keyd.service", directive); !slices.Equal(got, []string{want}) {
			t.Errorf("keyd: got %s=%v, want %s", directive, got, want)
		}
	}
}

// Sockets carry the names that the daemons look for, and open to one group each.
func TestSockets(t *testing.T) {
	for unit, want := range map[string]struct{ name, listen, group, service string }{
		"postern-keyd-use.socket":        {"use", "/run/postern/use.sock", "postern-filter", "postern-keyd.service"},
		"postern-keyd-keep.socket":       {"keep", "/run/postern/keep.sock", "postern", "postern-keyd.service"},
		"postern-filterd-outside.socket": {"outside", "25", "", "postern-filterd.service"},
		"postern-filterd-inside.socket":  {"inside", "127.0.0.1:10025", "", "postern-filterd.service"},
		"postern-filterd-policy.socket":  {"tls-policy", "/run/postern/tls-policy.sock", "postfix", "postern-filterd.service"},
	} {
		for directive, want := range map[string]string{"FileDescriptorName": want.name, "ListenStream": want.listen, "SocketGroup": want.group, "Service": want.service} {
			if got := strings.Join(values(t, unit, directive), " "); got != want {
				t.Errorf("%s: got %s=%s, want %s", unit, directive, got, want)
			}
		}
		if got := values(t, want.service, "Sockets"); len(got) != 1 || !slices.Contains(strings.Fields(got[0]), unit) {
			t.Errorf("%s: got Sockets=%v, want %s among them", want.service, got, unit)
		}
		if want.group != "" {
			if got := values(t, unit, "SocketMode"); !slices.Equal(got, []string{"0660"}) {
				t.Errorf("%s: got SocketMode=%v, want 0660", unit, got)
			}
		}
	}
}

// What makes documents is one process for each mail, which has nothing but its
// connection.
func TestDocumentsAreMadeAlone(t *testing.T) {
	for unit, all := range map[string]map[string]string{
		"postern-pdf.socket": {"Accept": "yes", "ListenStream": "/run/postern/pdf.sock", "SocketUser": "root", "SocketGroup": "postern-filter", "SocketMode": "0660"},
		"postern-pdf@.service": {"StandardInput": "socket", "StandardOutput": "socket", "StandardError": "journal", "DynamicUser": "yes", "PrivateNetwork": "yes", "RestrictAddressFamilies": "none",
			"TemporaryFileSystem": "/var /etc /run /opt /srv /mnt /media /home /root", "LimitCORE": "0", "MemorySwapMax": "0", "ProtectProc": "invisible", "NoExecPaths": "/", "ExecPaths": "/usr/bin/postern"},
	} {
		for directive, want := range all {
			if got := values(t, unit, directive); !slices.Equal(got, []string{want}) {
				t.Errorf("%s: got %s=%v, want %s", unit, directive, got, want)
			}
		}
	}
}

// Every user and group that a unit or a folder names is made, in a tree where
// nobody is yet.
func TestUsersAreMade(t *testing.T) {
	root := t.TempDir()
	conf, err := filepath.Abs("sysusers.conf")
	if err != nil {
		t.Fatal(err)
	}
	made, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("systemd-sysusers", "--dry-run", "--root="+root, conf).CombinedOutput(); err != nil {
		t.Errorf("systemd-sysusers: %v\n%s", err, out)
	}
	makes := func(name string) bool {
		return name == "root" || regexp.MustCompile(`(?m)^[ug] `+regexp.QuoteMeta(name)+`\s`).Match(made)
	}
	for _, unit := range ours(t) {
		for _, directive := range []string{"User", "Group", "SocketUser", "SocketGroup"} {
			for _, name := range values(t, unit, directive) {
				if !makes(name) {
					t.Errorf("%s: %s=%s is made nowhere", unit, directive, name)
				}
			}
		}
	}
	folders, err := os.ReadFile("tmpfiles.conf")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(folders)) {
		f := strings.Fields(line)
		if len(f) == 0 || strings.HasPrefix(line, "#") || f[0] == "L" {
			continue
		}
		if len(f) != 6 || !makes(f[3]) || !makes(f[4]) {
			t.Errorf("folder %q: want type, path, mode, and an owner and a group that are made", line)
		}
	}
}
