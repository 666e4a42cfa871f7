package e2e

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp/packet"
	pgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"postern/appliance/trial"
	"postern/hsm"
	"postern/hsm/hsmtest"
)

// What stands in a mail is afterwards in no file of the house: not in spool,
// keyring or logs, and not in what an abort leaves. The spool file of a large
// mail that is under way does not show it either.
func TestMarkerOnDisk(t *testing.T) {
	b := open(t, trial.Config{FilterdFields: "spool-dir = \"" + folder(t) + "\"\n", FilterdTables: "[limits]\nspool-memory = \"64KiB\"\n"})
	c := correspond(t, b)
	const size = 2 << 20
	marker := rand.Text()
	small, large := "small "+marker, filler(marker, size)
	for id, m := range map[string]struct {
		server, from, to string
		mail             []byte
	}{
		"small.in":  {b.Outside, bob, alice, c.sealedMail("small.in", "Content-Type: text/plain\r\n\r\n"+small+"\r\n")},
		"large.in":  {b.Outside, bob, alice, c.sealedMail("large.in", "Content-Type: text/plain\r\n\r\n"+large+"\r\n")},
		"small.out": {b.Inside, alice, bob, plainMail("small.out", small)},
		"large.out": {b.Inside, alice, bob, plainMail("large.out", large)},
	} {
		if a := send(m.server, m.from, m.to, m.mail); a.code != 250 {
			t.Fatalf("%s: got %s, want 250", id, a)
		}
	}
	// Positive control: the search finds what was opened, where it belongs.
	for id, copies := range arrived(t, b) {
		for _, mail := range copies {
			if got, want := strings.Contains(mail, marker), strings.HasSuffix(id, ".in"); got != want {
				t.Errorf("%s: marker in the sink: got %v, want %v", id, got, want)
			}
		}
	}

	// A large mail that is not through yet stands in a file without a name.
	under, err := dial(b.Inside)
	if err != nil {
		t.Fatal(err)
	}
	defer under.Close()
	if _, err := begin(under, alice, bob, plainMail("cut.out", large)); err != nil {
		t.Fatal(err)
	}
	eventually(t, patience, func() (bool, string) {
		got := unlinked(t, b.Filterd.PID())
		for _, file := range got {
			if bytes.Contains(file, []byte(marker)) {
				t.Fatal("the spool file shows the mail")
			}
		}
		return slices.ContainsFunc(got, func(f []byte) bool { return len(f) >= size/2 }), fmt.Sprintf("%d open files without a name, none as large as the mail", len(got))
	})
	if left := named(t, b); len(left) > 0 {
		t.Errorf("got files %v in the spool folder, want none with a name", left)
	}

	for _, p := range []*trial.Process{b.Filterd, b.Keyd} {
		if err := syscall.Kill(p.PID(), syscall.SIGABRT); err != nil {
			t.Fatal(err)
		}
		<-p.Done()
	}
	files := 0
	for _, root := range []string{b.Dir, spoolOf(t, b), "."} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case path == b.Path("maildir"):
				return fs.SkipDir
			case !d.Type().IsRegular():
				return nil
			}
			files++
			data, err := os.ReadFile(path)
			if bytes.Contains(data, []byte(marker)) {
				t.Errorf("%s holds the marker", path)
			}
			if strings.HasPrefix(d.Name(), "core") {
				t.Errorf("%s looks like a core dump", path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if log := contents(t, b.Path("filterd.log")); !strings.Contains(log, "SIGABRT") || files < 5 {
		t.Errorf("the search looked at %d files and no trace of the abort", files)
	}
	// They were ended on purpose: Close must not mind how.
	b.Filterd, b.Keyd = nil, nil
}

// spoolOf is the spool folder in filterd's configuration.
func spoolOf(t *testing.T, b *trial.Box) string {
	t.Helper()
	_, after, _ := strings.Cut(contents(t, b.Path("filterd.toml")), "spool-dir = \"")
	dir, _, found := strings.Cut(after, "\"")
	if !found {
		t.Fatal("no spool-dir is configured")
	}
	return dir
}

// named are the files of the spool folder.
func named(t *testing.T, b *trial.Box) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(spoolOf(t, b))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// unlinked is what a process has in open files that have no name.
func unlinked(t *testing.T, pid int) (all [][]byte) {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		to, err := os.Readlink(path)
		if err != nil || !strings.HasSuffix(to, " (deleted)") {
			continue // closed meanwhile, or not meant
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, data)
	}
	return all
}

// No bytes of private keys are ever in filterd's memory; the same search finds
// what is public there, and finds the private key in a process that has it.
func TestMarkerInMemory(t *testing.T) {
	b := open(t, trial.Config{KeydFields: "allow-imported = true\n"})
	c := correspond(t, b)

	// Alice's own identity, whose private keys this test knows.
	e, err := pgp.NewEntity("Alice", "", alice, &packet.Config{Algorithm: packet.PubKeyAlgoRSA, RSABits: 3072})
	if err != nil {
		t.Fatal(err)
	}
	signing, ok := e.PrivateKey.PrivateKey.(*rsa.PrivateKey)
	opening, also := e.Subkeys[0].PrivateKey.PrivateKey.(*rsa.PrivateKey)
	if !ok || !also {
		t.Fatal("the identity has no RSA keys")
	}
	f := hsmtest.EmptySoftHSM(t) // for its module; the token is the box's
	f.Label, f.PIN = "postern", strings.TrimSpace(contents(t, b.Path("pin")))
	t.Setenv("SOFTHSM2_CONF", b.Path("softhsm2.conf"))
	f.Import("alice/sign", hsm.Sign, signing)
	f.Import("alice/unwrap", hsm.Unwrap, opening)
	b.Keyd.Kill()
	if err := b.StartKeyd(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Postern(t.Context(), bytes.NewReader(printed(t, e)), "identity", "add", "--address", alice, "--cert", "-"); err != nil {
		t.Fatal(err)
	}

	use := func(i int) {
		in := trial.Encrypted(inHeader(fmt.Sprintf("in.%d@memory.example", i)), c.seal(e, "Content-Type: text/plain\r\n\r\nhello\r\n"))
		if a := send(b.Outside, bob, alice, in); a.code != 250 {
			t.Fatalf("in: got %s, want 250", a)
		}
		if a := send(b.Inside, alice, bob, plainMail(fmt.Sprintf("out.%d@memory.example", i), "hello")); a.code != 250 {
			t.Fatalf("out: got %s, want 250", a)
		}
	}
	private, public := map[string]*big.Int{}, map[string]*big.Int{}
	for name, k := range map[string]*rsa.PrivateKey{"signing": signing, "opening": opening} {
		private[name+" d"], private[name+" p"], private[name+" q"] = k.D, k.Primes[0], k.Primes[1]
		private[name+" d mod p-1"], private[name+" d mod q-1"] = k.Precomputed.Dp, k.Precomputed.Dq
		public[name+" n"] = k.N
	}
	for i := range 10 {
		use(i)
		if found := search(t, b.Filterd.PID(), private); len(found) > 0 {
			t.Fatalf("filterd's memory holds %v", found)
		}
	}
	for id, copies := range arrived(t, b) { // the keys were the ones that were used
		if strings.HasPrefix(id, "in.") && parameter(field(copies[0], "Postern-Status"), "opened") != "openpgp" {
			t.Errorf("%s: got %q, want an opened mail", id, field(copies[0], "Postern-Status"))
		}
	}
	if found := search(t, b.Filterd.PID(), public); len(found) == 0 {
		t.Error("filterd's memory does not hold what is public: the search is blind")
	} else {
		t.Logf("filterd's memory holds %v", found)
	}
	t.Logf("keyd's memory holds %v", search(t, b.Keyd.PID(), private))
	if found, want := search(t, holder(t, private), private), len(private); len(found) != want {
		t.Errorf("got %v in a process that holds all private numbers, want %d of them", found, want)
	}
}

// holder is a process that has all numbers in its memory.
func holder(t *testing.T, numbers map[string]*big.Int) (pid int) {
	t.Helper()
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	var all []byte
	for _, n := range numbers {
		all = append(all, n.Bytes()...)
	}
	if _, err := in.Write(all); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len(all))); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}

// search names the numbers of which a process has a third in readable memory,
// with the most significant byte first, as standards write them, or last, as
// the limbs of big numbers lie.
func search(t *testing.T, pid int, numbers map[string]*big.Int) (found []string) {
	t.Helper()
	type needle struct {
		name  string
		bytes []byte
	}
	const length = 32
	var needles []needle
	for name, n := range numbers {
		forth := n.Bytes()
		back := slices.Clone(forth)
		slices.Reverse(back)
		for _, b := range [][]byte{forth, back} {
			for _, at := range []int{0, len(b)/2 - length/2, len(b) - length} {
				needles = append(needles, needle{name, b[at : at+length]})
			}
		}
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	read := 0
	for line := range strings.Lines(contents(t, fmt.Sprintf("/proc/%d/maps", pid))) {
		span, rest, _ := strings.Cut(line, " ")
		from, to, _ := strings.Cut(span, "-")
		start, err1 := strconv.ParseUint(from, 16, 64)
		end, err2 := strconv.ParseUint(to, 16, 64)
		if err1 != nil || err2 != nil {
			t.Fatalf("read maps: %q", line)
		}
		if !strings.HasPrefix(rest, "r") || strings.Contains(rest, "[v") {
			continue // not readable, or the kernel's [vvar], [vdso] and [vsyscall]
		}
		const piece = 1 << 20
		buffer := make([]byte, piece+length)
		for at := start; at < end; at += piece {
			n, err := mem.ReadAt(buffer[:min(piece+length, end-at)], int64(at))
			if err != nil && n == 0 {
				break // went away meanwhile
			}
			read += n
			for _, x := range needles {
				if bytes.Contains(buffer[:n], x.bytes) && !slices.Contains(found, x.name) {
					found = append(found, x.name)
				}
			}
		}
	}
	if read < 1<<20 {
		t.Fatalf("got %d bytes of the memory of process %d: the search is blind", read, pid)
	}
	slices.Sort(found)
	return found
}

// otherUID is a user that is not the one who runs the tests.
const otherUID = 65534

// Neither daemon leaves a core dump, and both keep their own user from looking
// into them: the kernel gives root the files of a process that is not dumpable.
func TestHardened(t *testing.T) {
	b := open(t, trial.Config{})
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b.Filterd, b.Keyd, b.Kept = nil, nil, nil
	if err := os.Chmod(b.Bin, 0o755); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(b.Dir, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, otherUID, otherUID))
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args  []string
		owner uint32 // of its memory
	}{
		{[]string{b.Bin + "/keyd", "--config", b.Path("keyd.toml")}, 0},
		{[]string{b.Bin + "/filterd", "--config", b.Path("filterd.toml")}, 0},
		{[]string{"cat"}, otherUID}, // the control
	} {
		cmd := exec.Command(c.args[0], c.args[1:]...)
		cmd.Dir = b.Dir
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: otherUID, Gid: otherUID}, Pdeathsig: syscall.SIGKILL}
		var said bytes.Buffer
		cmd.Stderr = &said
		if _, err := cmd.StdinPipe(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() { defer close(ended); cmd.Wait() }()
		name, proc := filepath.Base(c.args[0]), fmt.Sprintf("/proc/%d", cmd.Process.Pid)
		eventually(t, recovery, func() (bool, string) {
			select {
			case <-ended:
				t.Fatalf("%s ended: %s", name, &said)
			default:
			}
			info, err := os.Stat(proc + "/mem")
			if err != nil {
				return false, err.Error()
			}
			got := info.Sys().(*syscall.Stat_t).Uid
			return got == c.owner, fmt.Sprintf("%s: owner of its memory: got %d, want %d", name, got, c.owner)
		})
		var core []string
		for line := range strings.Lines(contents(t, proc+"/limits")) {
			if rest, ok := strings.CutPrefix(line, "Max core file size"); ok {
				core = strings.Fields(rest)
			}
		}
		if c.owner == 0 && (len(core) < 2 || core[0] != "0" || core[1] != "0") {
			t.Errorf("%s: core file size: got %v, want 0 and 0", name, core)
		}
		cmd.Process.Kill()
		<-ended
	}
}
