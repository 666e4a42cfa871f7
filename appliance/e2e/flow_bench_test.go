package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	pgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"postern/appliance/trial"
	"postern/hsm/hsmtest"
)

// workers are the operations that keyd has in the token at a time, as many as
// hsm/internal/p11.BenchmarkRawUnwrap has. The sessions are more, as they are
// in a company: while one mail is on its way the token works on another.
const (
	workers  = 4
	sessions = 16
	batch    = 200 // mails of a round
	rounds   = 5   // of the house, each between two of what it is compared with
)

// BenchmarkOpened is the rate of opened mails through the whole house: SMTP in,
// keyd and its token, SMTP out. opened/raw compares it with what the token does
// by itself, measured just before and just after on the same machine; it is the
// median of the rounds, since others use the machine as well. The part that
// begins with SoftHSM computes RSA on the processors that the mails need, so
// that the house and its token take from each other, and both from the
// benchmark's own client and next hop, which do no more than they must
// (load_test.go). One at a time is how most tokens work: then the other
// processor is left for the mails. A token of its own takes its time only, as
// the late one does.
func BenchmarkOpened(b *testing.B) {
	for _, c := range []struct {
		name    string
		rules   []string
		workers int
	}{{"SoftHSM", nil, workers}, {"OneAtATime", nil, 1}, {"Late20ms", []string{"C_Decrypt delay 20"}, workers}} {
		b.Run(c.name, func(b *testing.B) {
			raw := rawBench(b)
			compare(b, "raw", c.rules, c.workers, func(*correspondent) func() float64 {
				return func() float64 { return rawRate(b, raw, c.name) }
			})
		})
	}
}

// BenchmarkGnuPG compares the house with one gpg for each mail, which opens the
// same text, sealed to an RSA-3072 key in its own key ring and signed by the
// same sender, as many at a time.
func BenchmarkGnuPG(b *testing.B) {
	compare(b, "gpg", nil, workers, func(sender *correspondent) func() float64 {
		reader, err := trial.NewPartner(b.Context(), folder(b), "alice@gnupg.example", "rsa3072", "default", "never")
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { reader.Close() })
		err = errors.Join(reader.AddKeys(b.Context(), "rsa3072", "encr", "never"), reader.Import(b.Context(), printed(b, sender.entity)))
		if err != nil {
			b.Fatal(err)
		}
		cert, err := reader.Cert(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		ring, err := pgp.ReadArmoredKeyRing(bytes.NewReader(cert))
		if err != nil {
			b.Fatal(err)
		}
		mail := trial.Encrypted("", sender.seal(ring[0], letter))
		return func() float64 {
			begin := time.Now()
			inParallel(b, workers, func(int) error {
				for range batch / workers / 4 {
					if _, err := reader.Open(b.Context(), mail); err != nil {
						return err
					}
				}
				return nil
			})
			return batch / 4 / time.Since(begin).Seconds()
		}
	})
}

// letter is what all mails of a comparison hold.
var letter = "Content-Type: text/plain\r\n\r\n" + filler("4 KiB", 4<<10) + "\r\n"

// compare measures the house and another in turn. rules are those of the shim
// between keyd and its token, which does so many RSA operations at a time.
func compare(b *testing.B, name string, rules []string, atATime int, prepare func(*correspondent) func() float64) {
	next := openHole(b)
	config := trial.Config{KeydFields: fmt.Sprintf("workers = %d\n", 2*atATime), NextHop: next.address()} // half of them RSA
	if rules != nil {
		shim := hsmtest.NewShim(b, hsmtest.EmptySoftHSM(b))
		shim.Set(rules...)
		config.Module, config.Env = shim.Module, shim.Env()
	}
	box := open(b, config)
	partner := correspond(b, box)
	rest := trial.Encrypted("", partner.seal(partner.ours, letter))
	other := prepare(partner)
	mails := 0
	through := func() {
		queue := make(chan []byte, batch)
		for range batch {
			queue <- []byte(strings.ReplaceAll(inHeader(fmt.Sprintf("%d@bench.example", mails)), "\n", "\r\n"))
			mails++
		}
		close(queue)
		inParallel(b, sessions, func(int) error {
			s, err := openSender(box.Outside)
			if err != nil {
				return err
			}
			for header := range queue {
				if err := s.send(bob, alice, header, rest); err != nil {
					return errors.Join(err, s.close())
				}
			}
			return s.close()
		})
	}
	through() // warm
	var rates, others, ratios []float64
	var filterd, keyd time.Duration // on the processors
	before := other()
	b.ResetTimer()
	for b.Loop() {
		for range rounds {
			ofFilterd, ofKeyd, begin := processor(b, box.Filterd), processor(b, box.Keyd), time.Now()
			through()
			rate := batch / time.Since(begin).Seconds()
			filterd += processor(b, box.Filterd) - ofFilterd
			keyd += processor(b, box.Keyd) - ofKeyd
			b.StopTimer()
			after := other()
			b.StartTimer()
			rates, others, ratios = append(rates, rate), append(others, after), append(ratios, 2*rate/(before+after))
			before = after
		}
	}
	if got := next.opened.Load(); got != int64(mails) {
		b.Errorf("got %d opened mails at the next hop, want %d", got, mails)
	}
	b.ReportMetric(median(rates), "opened/s")
	b.ReportMetric(median(others), name+"/s")
	b.ReportMetric(median(ratios), "opened/"+name)
	b.ReportMetric(filterd.Seconds()*1000/float64(mails-batch), "filterd-ms/mail")
	b.ReportMetric(keyd.Seconds()*1000/float64(mails-batch), "keyd-ms/mail")
}

// inParallel runs f in n goroutines.
func inParallel(b *testing.B, n int, f func(i int) error) {
	b.Helper()
	errs := make([]error, n)
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() { errs[i] = f(i) })
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		b.Fatal(err)
	}
}

func median(list []float64) float64 {
	list = slices.Sorted(slices.Values(list))
	return list[len(list)/2]
}

// processor is the time that a daemon has had on the processors, of all threads
// and in the kernel too. Its unit is 10 ms.
func processor(b *testing.B, p *trial.Process) time.Duration {
	b.Helper()
	stat := contents(b, fmt.Sprintf("/proc/%d/stat", p.PID()))
	f := strings.Fields(stat[strings.LastIndex(stat, ")")+1:])
	user, err1 := strconv.Atoi(f[11])
	system, err2 := strconv.Atoi(f[12])
	if err := errors.Join(err1, err2); err != nil {
		b.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}

// rawBench builds the benchmark of the token alone. It is a process of its own:
// its package can't be imported here.
func rawBench(b *testing.B) string {
	b.Helper()
	program := filepath.Join(folder(b), "p11.test")
	cmd := exec.CommandContext(b.Context(), "go", "test", "-c", "-o", program, "./hsm/internal/p11")
	cmd.Dir = "../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("build the benchmark of the token: %v\n%s", err, out)
	}
	return program
}

// rawRate runs it.
func rawRate(b *testing.B, program, name string) float64 {
	b.Helper()
	cmd := exec.CommandContext(b.Context(), program, "-test.run", "^$", "-test.bench", "^BenchmarkRawUnwrap$/^"+name+"$", "-test.benchtime", "1s")
	cmd.Dir = "../../hsm/internal/p11"
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
	next := openHole(b)
	box := open(b, trial.Config{NextHop: next.address()})
	c := correspond(b, box)
	entity := "Content-Type: text/plain\r\n\r\n" + filler("20 MiB", size) + "\r\n"
	sealed, plain := c.sealedMail("in@memory.example", entity), plainMail("out@memory.example", filler("20 MiB", size))
	mails := 0
	before := processor(b, box.Filterd)
	for b.Loop() {
		mails += each
		// Each mail is sent but for its end, and all ends are sent together:
		// so every mail is in the house at the same time.
		var ready sync.WaitGroup
		ready.Add(2 * each)
		inParallel(b, 2*each, func(i int) error {
			if i%2 == 0 {
				return together(box.Outside, bob, alice, sealed, &ready)
			}
			return together(box.Inside, alice, bob, plain, &ready)
		})
	}
	if in, out := int(next.opened.Load()), int(next.sealed.Load()); in != mails || out != mails {
		b.Errorf("got %d opened and %d sealed mails at the next hop, want %d of each", in, out, mails)
	}
	b.ReportMetric((processor(b, box.Filterd)-before).Seconds()/float64(2*mails), "filterd-s/mail")
	b.ReportMetric(peak(b, box.Filterd.PID()), "MiB-peak")
}

// together sends a mail, and waits before its end until all others are there.
func together(server, from, to string, mail []byte, ready *sync.WaitGroup) error {
	arrived := sync.OnceFunc(ready.Done)
	defer arrived()
	s, err := openSender(server)
	if err != nil {
		return err
	}
	defer s.conn.Close()
	if err := s.begin(from, to, mail); err != nil {
		return err
	}
	arrived()
	ready.Wait()
	return s.end()
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
