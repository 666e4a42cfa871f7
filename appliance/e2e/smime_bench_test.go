package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"postern/filter/cms"
	"postern/filter/message"
	"postern/hsm"
)

// cmsSizes are a usual mail, a large one, and the largest that is taken by
// default. many is how often one round does what takes no time.
var cmsSizes = []struct {
	name       string
	size, many int
}{{"4KiB", 4 << 10, 10}, {"1MiB", 1 << 20, 2}, {"50MiB", 50 << 20, 1}}

// leastRounds is how often a thing is measured, however long that takes.
const leastRounds = 3

// cost is the time that something took, and that it had on the processors, the
// kernel's part too. The second one says more where others use the machine.
type cost struct{ wall, cpu time.Duration }

func (c cost) plus(o cost) cost { return cost{c.wall + o.wall, c.cpu + o.cpu} }

// costOf measures f: who is this process, or its children that have ended.
func costOf(who int, f func() error) (cost, error) {
	used := func() (total time.Duration, err error) {
		var u syscall.Rusage
		err = syscall.Getrusage(who, &u)
		return time.Duration(u.Utime.Nano() + u.Stime.Nano()), err
	}
	before, err1 := used()
	begin := time.Now()
	err2 := f()
	wall := time.Since(begin)
	after, err3 := used()
	return cost{wall, after - before}, errors.Join(err1, err2, err3)
}

// other is what OpenSSL does, and what it costs.
type other func() (cost, error)

// task is one thing that both do, once.
type task struct {
	name   string
	ours   func() error
	theirs other
	key    bool  // a private key is used in it
	inside *cost // of ours, what a Protector took of it; nil: there is none in it
	keyed  other // what a private key alone costs them; nil: not known
}

// BenchmarkSMIME opens, verifies, seals and signs beside OpenSSL, from the same
// files and with the same RSA-3072 keys, in software on both sides: what a token
// takes is the same for everybody. openssl/ours above 1 is faster than OpenSSL.
// Each measurement is between two of OpenSSL, and the ratio is the median of
// the rounds, since others use the machine as well. cpu-openssl/ours is the
// ratio of what it took on the processors.
//
//	files   filter/cms, and `openssl cms`, a process for each: DER in a file to a file
//	memory  filter/cms, and OpenSSL's library in a process that runs on: from memory to nowhere
//	mail    the Protector of the gateway, and `openssl cms`: mail in a file to a file. Ours
//	        goes through a spool and into another one, encrypted where it is large, as in the
//	        gateway; openssl/protector is without reading and writing the files
//
// ours-key-ms and openssl-key-ms are of it the one operation of the private
// key, which is the token's in the gateway.
func BenchmarkSMIME(b *testing.B) {
	library := cmsLibrary(b)
	for _, size := range cmsSizes {
		b.Run(size.name, func(b *testing.B) {
			d := newCMSDesk(b, size.size)
			for _, t := range d.files() {
				b.Run("files/"+t.name, func(b *testing.B) { d.measure(b, t, 1) })
			}
			for _, t := range d.memory(library) {
				b.Run("memory/"+t.name, func(b *testing.B) { d.measure(b, t, size.many) })
			}
			for _, t := range d.mails() {
				b.Run("mail/"+t.name, func(b *testing.B) { d.measure(b, t, 1) })
			}
		})
	}
}

// measure does a task in turn with OpenSSL, many times for each round.
func (d *cmsDesk) measure(b *testing.B, t task, many int) {
	repeated := func(f other) (total cost) {
		for range many {
			c, err := f()
			if err != nil {
				b.Fatal(err)
			}
			total = total.plus(c)
		}
		return total
	}
	ours := func() (cost, error) { return costOf(syscall.RUSAGE_SELF, t.ours) }
	repeated(ours) // warm
	before := repeated(t.theirs)
	all := map[string][]float64{}
	add := func(name string, value float64) { all[name] = append(all[name], value) }
	ms := func(d time.Duration) float64 { return d.Seconds() * 1000 / float64(many) }
	rounds := 0
	round := func() {
		rounds++
		d.token.took = 0
		if t.inside != nil {
			*t.inside = cost{}
		}
		took := repeated(ours)
		key := d.token.took
		after := repeated(t.theirs)
		their := before.plus(after)
		add("ours-ms", ms(took.wall))
		add("openssl-ms", ms(their.wall)/2)
		add("openssl/ours", float64(their.wall)/2/float64(took.wall))
		add("cpu-openssl/ours", float64(their.cpu)/2/float64(took.cpu))
		if t.key {
			add("ours-key-ms", ms(key))
		}
		if t.inside != nil {
			add("protector-ms", ms(t.inside.wall))
			add("openssl/protector", float64(their.wall)/2/float64(t.inside.wall))
			add("cpu-openssl/protector", float64(their.cpu)/2/float64(t.inside.cpu))
		}
		if t.keyed != nil {
			add("openssl-key-ms", ms(repeated(t.keyed).wall))
		}
		before = after
	}
	for b.Loop() {
		round()
	}
	for rounds < leastRounds {
		round()
	}
	b.ReportMetric(0, "ns/op") // of both together
	for name, values := range all {
		b.ReportMetric(median(values), name)
	}
}

// process is one `openssl cms`.
func (d *cmsDesk) process(args ...string) other {
	return func() (cost, error) {
		return costOf(syscall.RUSAGE_CHILDREN, func() error {
			_, err := tool(d.t, nil, "openssl", append([]string{"cms"}, args...)...)
			return err
		})
	}
}

// inTurn is one after the other.
func inTurn(all ...other) other {
	return func() (total cost, err error) {
		for _, f := range all {
			c, err := f()
			if err != nil {
				return cost{}, err
			}
			total = total.plus(c)
		}
		return total, nil
	}
}

// cmsTask is what filter/cms does with a file of the desk, and the arguments by
// which OpenSSL does the same.
type cmsTask struct {
	name, file, library string
	key                 bool
	do                  func(r io.Reader, w io.Writer) error
	openssl             []string
}

func (d *cmsDesk) cmsTasks() []cmsTask {
	decrypt := []string{"-decrypt", "-inform", "DER", "-recip", d.path("opens.pem"), "-inkey", d.path("opens.key")}
	encrypt := func(c string) []string {
		return []string{"-encrypt", "-stream", "-outform", "DER", "-" + c, "-recip", d.path("opens.pem")}
	}
	return []cmsTask{
		{"open-cbc", "cbc.der", "open", true, d.openCMS, decrypt},
		{"open-gcm", "gcm.der", "open", true, d.openCMS, decrypt},
		{"verify-opaque", "opaque.der", "verify", false, d.verifyCMS, []string{"-verify", "-inform", "DER", "-noverify", "-certfile", d.path("signs.pem")}},
		{"seal-cbc", "content", "seal-cbc", false, d.sealCMS(cms.AES256CBC), encrypt("aes-256-cbc")},
		{"seal-gcm", "content", "seal-gcm", false, d.sealCMS(cms.AES256GCM), encrypt("aes-256-gcm")},
		{"sign-detached", "content", "sign", true, d.signCMS, []string{"-sign", "-outform", "DER", "-signer", d.path("signs.pem"), "-inkey", d.path("signs.key")}},
	}
}

// files are the tasks from file to file.
func (d *cmsDesk) files() (all []task) {
	for _, t := range d.cmsTasks() {
		in, out := d.path(t.file), d.path("out")
		all = append(all, task{name: t.name, key: t.key,
			ours:   func() error { return fromTo(in, out, t.do) },
			theirs: d.process(append(slices.Clip(t.openssl), "-binary", "-in", in, "-out", d.path("their.out"))...),
		})
	}
	return all
}

// memory are the tasks without files.
func (d *cmsDesk) memory(library string) (all []task) {
	for _, t := range d.cmsTasks() {
		data, err := os.ReadFile(d.path(t.file))
		if err != nil {
			d.t.Fatal(err)
		}
		who := "opens"
		if t.library == "verify" || t.library == "sign" {
			who = "signs"
		}
		one := task{name: t.name, key: t.key,
			ours:   func() error { return t.do(bytes.NewReader(data), io.Discard) },
			theirs: d.library(library, t.library, who, t.file),
		}
		if t.key {
			one.keyed = d.library(library, "key", who, t.file)
		}
		all = append(all, one)
	}
	return all
}

// mails are the tasks of a Protector.
func (d *cmsDesk) mails() []task {
	inside := new(cost)
	ours := func(in string, do func(*message.Message) (*message.Message, error)) func() error {
		return func() error { return d.through(d.path(in), d.path("out"), inside, do) }
	}
	recip, signer := []string{"-recip", d.path("opens.pem"), "-inkey", d.path("opens.key")}, []string{"-signer", d.path("signs.pem"), "-inkey", d.path("signs.key")}
	decrypt := func(in, out string) other {
		return d.process(append(slices.Clip(recip), "-decrypt", "-binary", "-in", d.path(in), "-out", d.path(out))...)
	}
	// Without -binary, with which OpenSSL does not verify the lines of a multipart/signed.
	verify := func(in string) other {
		return d.process("-verify", "-CAfile", d.path("ca.pem"), "-in", d.path(in), "-out", d.path("their.out"))
	}
	encrypt := d.process("-encrypt", "-binary", "-stream", "-aes-256-cbc", "-in", d.path("content"), "-out", d.path("their.out"), "-recip", d.path("opens.pem"))
	sign := d.process(append(slices.Clip(signer), "-sign", "-binary", "-in", d.path("content"), "-out", d.path("their.out"))...)
	return []task{
		{name: "open-cbc", key: true, inside: inside, ours: ours("cbc.eml", d.opener(true, false)), theirs: decrypt("cbc.eml", "their.out")},
		{name: "open-gcm", key: true, inside: inside, ours: ours("gcm.eml", d.opener(true, false)), theirs: decrypt("gcm.eml", "their.out")},
		{name: "open-verify", key: true, inside: inside, ours: ours("both.eml", d.opener(true, true)), theirs: inTurn(decrypt("both.eml", "their.in"), verify("their.in"))},
		{name: "verify", inside: inside, ours: ours("signed.eml", d.opener(false, true)), theirs: verify("signed.eml")},
		{name: "seal-cbc", inside: inside, ours: ours("plain.eml", d.sealer(false, true, "aes-256-cbc")), theirs: encrypt},
		{name: "sign", key: true, inside: inside, ours: ours("plain.eml", d.sealer(true, false, "")), theirs: sign},
	}
}

// cmsLibrary builds the program around OpenSSL's library.
func cmsLibrary(b *testing.B) string {
	b.Helper()
	program := filepath.Join(folder(b), "cms")
	if out, err := exec.CommandContext(b.Context(), "cc", "-O2", "-o", program, "testdata/cms.c", "-l:libcrypto.so.3").CombinedOutput(); err != nil {
		b.Fatalf("build the program around OpenSSL's library: %v (make deps)\n%s", err, out)
	}
	return program
}

// library starts it for one operation when it is first asked.
func (d *cmsDesk) library(program, operation, who, file string) other {
	var in io.Writer
	var out io.Reader
	start := func() error {
		cmd := exec.CommandContext(d.t.Context(), program, operation, d.path(who+".key"), d.path(who+".pem"), d.path(file))
		w, err1 := cmd.StdinPipe()
		r, err2 := cmd.StdoutPipe()
		if err := errors.Join(err1, err2, cmd.Start()); err != nil {
			return err
		}
		d.t.Cleanup(func() { _ = cmd.Wait() }) // its context has ended by then
		in, out = w, r
		return nil
	}
	return func() (c cost, err error) {
		if in == nil {
			if err := start(); err != nil {
				return cost{}, err
			}
		}
		if _, err = fmt.Fprintln(in, 1); err == nil {
			_, err = fmt.Fscan(out, &c.wall, &c.cpu)
		}
		if err != nil {
			return cost{}, fmt.Errorf("%s by OpenSSL's library: %w", operation, err)
		}
		return c, nil
	}
}

// stopwatch is a token that measures itself.
type stopwatch struct {
	hsm.Token
	took time.Duration
}

func (s *stopwatch) Sign(ctx context.Context, id hsm.KeyID, alg hsm.SignAlg, digest []byte) ([]byte, error) {
	defer s.add(time.Now())
	return s.Token.Sign(ctx, id, alg, digest)
}

func (s *stopwatch) Unwrap(ctx context.Context, id hsm.KeyID, w hsm.Wrapped) (hsm.SessionKey, error) {
	defer s.add(time.Now())
	return s.Token.Unwrap(ctx, id, w)
}

func (s *stopwatch) add(begin time.Time) { s.took += time.Since(begin) }
