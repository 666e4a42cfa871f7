package house

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"postern/appliance/config"
)

// recorded is a machine that notes what it is asked to run.
type recorded struct {
	ran     []string
	answers map[string]string // by the beginning of a line
	fails   map[string]bool
}

func (r *recorded) do(_ context.Context, stdin []byte, name string, args ...string) ([]byte, error) {
	line := name + " " + strings.Join(args, " ")
	r.ran = append(r.ran, line)
	for begin, answer := range r.answers {
		if strings.HasPrefix(line, begin) {
			return []byte(answer), nil
		}
	}
	if r.fails[line] {
		return nil, fmt.Errorf("%s fails", line)
	}
	return nil, nil
}

func (r *recorded) take() []string {
	defer func() { r.ran = nil }()
	return r.ran
}

// example is the box.toml of the manual, with the state in dir.
func example(t *testing.T, dir string, lines ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := config.Example(&b, "box"); err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(b.String(), "/var/lib/postern", dir)
	text = strings.Replace(text, `# state = `, `state = `, 1)
	for i := 0; i < len(lines); i += 2 {
		if !strings.Contains(text, lines[i]) {
			t.Fatalf("the example has no %q", lines[i])
		}
		text = strings.ReplaceAll(text, lines[i], lines[i+1])
	}
	return []byte(text)
}

func machine(t *testing.T) (*House, *recorded, string) {
	t.Helper()
	dir := t.TempDir()
	state := filepath.Join(dir, "state")
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	r := &recorded{}
	return &House{Path: filepath.Join(state, "box.toml"), Root: filepath.Join(dir, "root"), Log: slog.New(slog.DiscardHandler), Do: r.do}, r, state
}

// What is started with a claim, and that afterwards only what reads a changed
// file is told: the key daemon, which people may have unlocked, above all.
func TestApply(t *testing.T) {
	h, r, state := machine(t)
	token := state + "-keyd/token"
	if err := os.MkdirAll(filepath.Join(token, "left-over"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := h.Apply(t.Context(), example(t, state), true); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(token); err != nil || len(left) > 0 {
		t.Errorf("got %v, %v, want the folder of the token, and nothing of a claim that was broken off", left, err)
	}
	first := strings.Join(r.take(), "\n")
	last := -1
	for _, want := range []string{"systemctl stop postern-keyd.service", "systemctl daemon-reload", "systemctl stop postern-filterd.service", "systemctl restart postern-firewall.service", "systemctl restart systemd-networkd.service",
		"systemctl start postern-keyd-keep.socket", "systemctl start postern-keyd.service", "systemctl --no-block start postern-filterd-outside.socket", "systemctl --no-block start postern-filterd.service", "systemctl --no-block start postern-postfix.service"} {
		at := strings.Index(first, want)
		if at < last {
			t.Errorf("first: got %q at %d, want it there and in its order in\n%s", want, at, first)
		}
		last = at
	}
	// A claim that failed on the way finds every file there, and starts it all.
	if err := h.Apply(t.Context(), example(t, state), true); err != nil {
		t.Fatal(err)
	}
	if again := strings.Join(r.take(), "\n"); again != first {
		t.Errorf("tried again: got\n%s\nwant\n%s", again, first)
	}
	if err := h.Apply(t.Context(), example(t, state), false); err != nil {
		t.Fatal(err)
	}
	if got := r.take(); len(got) > 0 {
		t.Errorf("the same again: got %q, want nothing", got)
	}
	for _, c := range []struct {
		name       string
		lines      []string
		want, dont string
	}{
		{"a rule of mail", []string{`protect = "require"`, `protect = "optional"`}, "systemctl --no-block restart postern-filterd.service", "keyd"},
		{"an address", []string{"10.0.0.2/24", "10.0.0.3/24"}, "systemctl restart systemd-networkd.service", "keyd"},
		{"the token's budget", []string{"# workers = 4", "workers = 5"}, "systemctl restart postern-keyd.service", "networkd"},
	} {
		if err := h.Apply(t.Context(), example(t, state, c.lines...), false); err != nil {
			t.Fatal(err)
		}
		got := strings.Join(r.take(), "\n")
		if !strings.Contains(got, c.want) || strings.Contains(got, c.dont) {
			t.Errorf("%s: got\n%s\nwant %s, and no word of %s", c.name, got, c.want, c.dont)
		}
		if err := h.Apply(t.Context(), example(t, state), false); err != nil {
			t.Fatal(err)
		}
		r.take()
	}
	// What does not load changes nothing.
	before, err := h.Config()
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Apply(t.Context(), []byte("nonsense"), false); err == nil {
		t.Error("nonsense: got no error")
	}
	if after, err := h.Config(); err != nil || !bytes.Equal(before, after) || len(r.take()) > 0 {
		t.Errorf("nonsense changed box.toml (%v)", err)
	}
}

// The data partition below the state folder, as findmnt and the kernel name it.
func TestDevice(t *testing.T) {
	for _, c := range []struct{ answer, want string }{
		{"tmpfs\n", ""}, {"overlay[/x]\n", ""}, {"\n", ""},
	} {
		h, r, _ := machine(t)
		r.answers = map[string]string{"findmnt": c.answer}
		if got, err := h.device(t.Context()); err != nil || got != c.want {
			t.Errorf("findmnt says %q: got %q, %v, want %q", c.answer, got, err, c.want)
		}
		if got, err := h.Recovery(t.Context()); err != nil || got != "" {
			t.Errorf("nothing is encrypted: got key %q, %v, want none", got, err)
		}
	}
}

// A recovery key opens the partition, as long as no other one was made; what
// opened it before goes on doing so. On a real LUKS2 volume, with systemd's own
// program.
func TestRecoveryKey(t *testing.T) {
	dir := t.TempDir()
	image, key := filepath.Join(dir, "image"), filepath.Join(dir, "key")
	if err := os.WriteFile(key, []byte("first"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 32<<20); err != nil {
		t.Fatal(err)
	}
	run := func(stdin, name string, args ...string) error {
		_, err := Command(t.Context(), []byte(stdin), name, args...)
		return err
	}
	if err := run("", "cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", image, key); err != nil {
		t.Fatalf("%v (make deps installs cryptsetup)", err)
	}
	opens := func(key string) bool {
		return run(key, "cryptsetup", "open", "--test-passphrase", "--key-file=-", image) == nil
	}
	h := &House{Do: Command}
	var made []string
	for range 2 {
		k, err := h.enrol(t.Context(), enrolArgs(image, "--unlock-key-file="+key))
		if err != nil {
			t.Fatal(err)
		}
		if !opens(k) {
			t.Errorf("the recovery key does not open")
		}
		made = append(made, k)
	}
	if opens(made[0]) || !opens("first") || opens(made[1][1:]) {
		t.Error("the first recovery key opens still, or the key before them does not")
	}
	if err := erase(image); err != nil {
		t.Fatal(err)
	}
	if opens(made[1]) || opens("first") || run("", "cryptsetup", "isLuks", image) == nil {
		t.Error("the volume opens after its keys were erased")
	}
	h.Do = func(context.Context, []byte, string, ...string) ([]byte, error) { return []byte("no key here\n"), nil }
	if k, err := h.enrol(t.Context(), nil); err == nil {
		t.Errorf("no key printed: got %q, want an error", k)
	}
}

// emulated is a TPM as systemd's programs name it.
func emulated(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tpm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	sock := filepath.Join(dir, "s")
	cmd := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+dir, "--server", "type=unixio,path="+sock, "--ctrl", "type=unixio,path="+sock+".ctrl", "--flags", "not-need-init,startup-clear")
	if err := cmd.Start(); err != nil {
		t.Fatalf("start swtpm (make deps installs it): %v", err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); <-tick.C {
		_, err1 := os.Stat(sock)
		_, err2 := os.Stat(sock + ".ctrl")
		if err1 == nil && err2 == nil {
			return "swtpm:path=" + sock
		}
	}
	t.Fatal("swtpm makes no socket")
	return ""
}

// A sealed PIN opens with its TPM alone, and stands nowhere in clear.
func TestSealedPIN(t *testing.T) {
	h, _, state := machine(t)
	ours, other := emulated(t), emulated(t)
	h.Do = func(ctx context.Context, stdin []byte, name string, args ...string) ([]byte, error) {
		return Command(ctx, stdin, name, append([]string{"--tpm2-device=" + ours}, args...)...)
	}
	const pin = "sealed-4711-pin"
	if err := h.Seal(t.Context(), []byte(pin)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(state, "box/pin.cred")
	b, err := os.ReadFile(path)
	if err != nil || bytes.Contains(b, []byte(pin)) {
		t.Errorf("the credential holds the PIN in clear (%v)", err)
	}
	got, err := Command(t.Context(), nil, "systemd-creds", "decrypt", "--tpm2-device="+ours, "--name=pin", path, "-")
	if err != nil || string(got) != pin {
		t.Errorf("got %q, %v, want the PIN", got, err)
	}
	if got, err := Command(t.Context(), nil, "systemd-creds", "decrypt", "--tpm2-device="+other, "--name=pin", path, "-"); err == nil {
		t.Errorf("another TPM: got %q, want an error", got)
	}
	if got, err := Command(t.Context(), nil, "systemd-creds", "decrypt", "--tpm2-device="+ours, "--name=other", path, "-"); err == nil {
		t.Errorf("another name: got %q, want an error", got)
	}
	for _, c := range []struct {
		policy bool
		want   string
	}{{false, "--with-key=tpm2"}, {true, "--with-key=tpm2-with-public-key"}} {
		if args := sealArgs(c.policy, path); !slices.Contains(args, c.want) {
			t.Errorf("policy %v: got %q, want %s", c.policy, args, c.want)
		}
	}
}

// Everything is gone after a wipe, whatever step of it fails.
func TestWipe(t *testing.T) {
	h, r, state := machine(t)
	if err := h.Apply(t.Context(), example(t, state, "# keep = \"/run/postern/", "keep = \""+state+"/"), false); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"keyring.db", "keyring.db-wal", "record/record.db", "tls/mx.pem", "box/owner", "box/pin.cred", "accounts"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(state, path)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(state, path), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(state+"-keyd/token/object", 0o700); err != nil {
		t.Fatal(err)
	}
	r.take()
	r.fails = map[string]bool{"systemctl --no-block reboot": true}
	if err := h.Wipe(t.Context()); err == nil || !strings.Contains(err.Error(), "start anew") {
		t.Errorf("got %v, want the step that failed", err)
	}
	if left, err := os.ReadDir(state); err != nil || len(left) > 0 {
		t.Errorf("got %v, %v, want nothing left", left, err)
	}
	if _, err := os.Stat(state + "-keyd/token"); err == nil {
		t.Error("the token is still there")
	}
	if got := r.take(); !slices.Contains(got, "systemctl --no-block reboot") {
		t.Errorf("got %q, want it to start anew", got)
	}
}
