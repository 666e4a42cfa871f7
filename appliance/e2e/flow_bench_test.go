package e2e

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"postern/appliance/trial"
	"postern/hsm/hsmtest"
)

// workers are the operations that keyd has in the token at a time, as many as
// hsm/internal/p11.BenchmarkRawUnwrap has. The sessions are more, as they are
// in a company: while one mail is on its way the token works on another.
const (
	workers  = 4
	sessions = 16
)

// BenchmarkOpened is the rate of opened mails through the whole house: SMTP in,
// keyd and its token, SMTP out, and a sink that syncs each mail to the disk.
// opened/raw compares it with what the token does by itself, measured just
// before and just after on the same machine. The part that begins with SoftHSM
// computes RSA on the processors that the mails need, so that the house and
// its token take from each other; a token of its own takes its time only, as
// the late one does.
func BenchmarkOpened(b *testing.B) {
	for _, c := range []struct {
		name  string
		rules []string
	}{{"SoftHSM", nil}, {"Late20ms", []string{"C_Decrypt delay 20"}}} {
		b.Run(c.name, func(b *testing.B) {
			config := trial.Config{KeydFields: fmt.Sprintf("workers = %d\n", 2*workers)} // half of them RSA
			if c.rules != nil {
				shim := hsmtest.NewShim(b, hsmtest.EmptySoftHSM(b))
				shim.Set(c.rules...)
				config.Module, config.Env = shim.Module, shim.Env()
			}
			box := open(b, config)
			bob := correspond(b, box)
			sealed := bob.seal(bob.ours, "Content-Type: text/plain\r\n\r\n"+filler("4 KiB", 4<<10)+"\r\n")
			raw := rawRate(b, c.name)
			const batch = 200
			mails := 0
			b.ResetTimer()
			for b.Loop() {
				queue := make(chan []byte, batch)
				for range batch {
					queue <- trial.Encrypted(inHeader(fmt.Sprintf("%d@bench.example", mails)), sealed)
					mails++
				}
				close(queue)
				through(b, box.Outside, queue)
			}
			rate := float64(mails) / b.Elapsed().Seconds()
			raw = (raw + rawRate(b, c.name)) / 2
			b.ReportMetric(rate, "opened/s")
			b.ReportMetric(raw, "raw/s")
			b.ReportMetric(rate/raw, "opened/raw")
			if got, _ := opened(b, box); got != mails {
				b.Errorf("got %d opened mails in the sink, want %d", got, mails)
			}
		})
	}
}

// through sends what is in the queue in several sessions at once.
func through(b *testing.B, server string, queue <-chan []byte) {
	b.Helper()
	errs := make([]error, sessions)
	var group sync.WaitGroup
	for i := range sessions {
		group.Go(func() { errs[i] = session(server, queue) })
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		b.Fatal(err)
	}
}

func session(server string, queue <-chan []byte) error {
	c, err := dial(server)
	if err != nil {
		return err
	}
	defer c.Close()
	for mail := range queue {
		if a := deliver(c, bob, alice, mail); a.code != 250 {
			return fmt.Errorf("got %s, want 250", a)
		}
	}
	return c.Quit()
}

// opened counts the opened mails in the sink, and the sealed ones. It reads no
// further than their headers.
func opened(b *testing.B, box *trial.Box) (opened, sealed int) {
	b.Helper()
	seen, err := box.Kept.Seen()
	if err != nil {
		b.Fatal(err)
	}
	for name := range seen {
		f, err := os.Open(filepath.Join(box.Kept.Dir(), name))
		if err != nil {
			b.Fatal(err)
		}
		head, err := io.ReadAll(io.LimitReader(f, 8<<10))
		f.Close()
		if err != nil {
			b.Fatal(err)
		}
		switch mail := string(head); {
		case parameter(field(mail, "Postern-Status"), "opened") == "openpgp":
			opened++
		case strings.HasPrefix(field(mail, "Content-Type"), "multipart/encrypted"):
			sealed++
		}
	}
	return opened, sealed
}

// rawRate runs the benchmark of the token alone. It is a process of its own:
// its package can't be imported here.
func rawRate(b *testing.B, name string) float64 {
	b.Helper()
	cmd := exec.CommandContext(b.Context(), "go", "test", "-run", "^$", "-bench", "^BenchmarkRawUnwrap$/^"+name+"$", "-benchtime", "2s", "./hsm/internal/p11")
	cmd.Dir = "../.."
	out, err := cmd.CombinedOutput()
	if err != nil {
		b.Fatalf("measure the token: %v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		for i := 1; i < len(f) && strings.HasPrefix(line, "BenchmarkRawUnwrap/"); i++ {
			if f[i] == "ops/s" {
				rate, err := strconv.ParseFloat(f[i-1], 64)
				if err != nil {
					b.Fatal(err)
				}
				return rate
			}
		}
	}
	b.Fatalf("measure the token: no rate in %s", out)
	return 0
}

// BenchmarkMemory is the most memory that filterd has for 20 sessions with a
// mail of 20 MiB each at the same time: ten to be opened, ten to be sealed.
func BenchmarkMemory(b *testing.B) {
	const each, size = 10, 20 << 20
	box := open(b, trial.Config{})
	c := correspond(b, box)
	entity := "Content-Type: text/plain\r\n\r\n" + filler("20 MiB", size) + "\r\n"
	sealed, plain := c.sealedMail("in@memory.example", entity), plainMail("out@memory.example", filler("20 MiB", size))
	rounds := 0
	for b.Loop() {
		rounds++
		// Each mail is sent but for its end, and all ends are sent together:
		// so every mail is in the house at the same time.
		var ready, group sync.WaitGroup
		ready.Add(2 * each)
		errs := make([]error, 2*each)
		for i := range errs {
			server, from, to, mail := box.Outside, bob, alice, sealed
			if i%2 == 1 {
				server, from, to, mail = box.Inside, alice, bob, plain
			}
			group.Go(func() { errs[i] = together(server, from, to, mail, &ready) })
		}
		group.Wait()
		if err := errors.Join(errs...); err != nil {
			b.Fatal(err)
		}
	}
	if in, out := opened(b, box); in != rounds*each || out != rounds*each {
		b.Errorf("got %d opened and %d sealed mails in the sink, want %d of each", in, out, rounds*each)
	}
	b.ReportMetric(peak(b, box.Filterd.PID()), "MiB-peak")
}

// together sends a mail, and waits before its end until all others are there.
func together(server, from, to string, mail []byte, ready *sync.WaitGroup) error {
	arrived := sync.OnceFunc(ready.Done)
	defer arrived()
	c, err := dial(server)
	if err != nil {
		return err
	}
	defer c.Close()
	w, err := begin(c, from, to, mail)
	if err != nil {
		return err
	}
	arrived()
	ready.Wait()
	return w.Close()
}

// peak is the most memory that a process had, in MiB.
func peak(b *testing.B, pid int) float64 {
	b.Helper()
	for line := range strings.Lines(contents(b, fmt.Sprintf("/proc/%d/status", pid))) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			if err != nil {
				b.Fatal(err)
			}
			return kib / 1024
		}
	}
	b.Fatal("the kernel does not say VmHWM")
	return 0
}
