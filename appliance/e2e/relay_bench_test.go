package e2e

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"text/template"
	"time"

	"postern/appliance/postfix/postfixtest"
	"postern/appliance/trial"
)

// relaySessions are those of smtp-source, which makes a connection for each mail.
const relaySessions = 10

// BenchmarkRelay compares mail that filterd only hands on, without any
// protection, with a Postfix: with a filter before its queue, which is the same
// job, and as a plain relay, which has no filter at all. All get their mail from
// smtp-source and hand it to the same smtp-sink; a round ends when the sink has
// every mail. Each round of the house is between two of Postfix, and the ratio
// is the median. cpu-postfix/ours is the ratio of what a mail took on the
// processors, the filter not counted: it says more where others use the machine.
func BenchmarkRelay(b *testing.B) {
	sink := openSMTPSink(b)
	box := open(b, trial.Config{NextHop: sink.address})
	p := openPostfix(b, sink.address)
	ours := relayWay{box.Outside, func() time.Duration { return processor(b, box.Filterd) }}
	for _, size := range []struct {
		name         string
		bytes, mails int
	}{{"4KiB", 4 << 10, 300}, {"10MiB", 10 << 20, 20}} {
		for _, theirs := range []struct{ name, address string }{{"ProxyFilter", p.proxy}, {"Plain", p.plain}} {
			b.Run(size.name+"/"+theirs.name, func(b *testing.B) {
				through := func(w relayWay) (rate, cpu float64) {
					used, begin := w.used(), time.Now()
					sink.take(b, w.address, size.bytes, size.mails)
					took := time.Since(begin)
					return float64(size.mails) / took.Seconds(), (w.used() - used).Seconds() * 1000 / float64(size.mails)
				}
				other := relayWay{theirs.address, func() time.Duration { return p.processor(b) }}
				through(ours)
				before, cpuBefore := through(other)
				var all [5][]float64
				b.ResetTimer()
				for b.Loop() {
					for range rounds {
						rate, cpu := through(ours)
						after, cpuAfter := through(other)
						for i, v := range []float64{rate, after, 2 * rate / (before + after), cpu, (cpuBefore + cpuAfter) / 2 / cpu} {
							all[i] = append(all[i], v)
						}
						before, cpuBefore = after, cpuAfter
					}
				}
				for i, name := range []string{"ours/s", "postfix/s", "ours/postfix", "filterd-ms/mail", "cpu-postfix/ours"} {
					b.ReportMetric(median(all[i]), name)
				}
			})
		}
	}
}

// relayWay is where mail goes in, and what it has cost so far.
type relayWay struct {
	address string
	used    func() time.Duration
}

// smtpSink is the program of Postfix that takes mail and keeps none.
type smtpSink struct {
	address string
	count   atomic.Int64
	more    chan struct{} // something came
}

func openSMTPSink(b *testing.B) *smtpSink {
	b.Helper()
	s := &smtpSink{address: postfixtest.Free(b), more: make(chan struct{}, 1)}
	cmd := exec.Command("smtp-sink", "-u", "nobody", "-c", s.address, "1024")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		b.Fatalf("start smtp-sink (make deps installs Postfix): %v", err)
	}
	var reading sync.WaitGroup
	reading.Go(func() { s.read(out) })
	b.Cleanup(func() {
		cmd.Process.Kill()
		reading.Wait()
		cmd.Wait()
	})
	awaitListener(b, s.address)
	return s
}

// read follows the counters, which are printed over and over with CR behind them.
func (s *smtpSink) read(r io.Reader) {
	in := bufio.NewReader(r)
	for {
		text, err := in.ReadString('\r')
		_, mails, _ := strings.Cut(text, "mesg=")
		if n, bad := strconv.ParseInt(strings.TrimSpace(mails), 10, 64); bad == nil {
			s.count.Store(n)
			select {
			case s.more <- struct{}{}:
			default:
			}
		}
		if err != nil {
			return
		}
	}
}

// take sends mails to a server, and waits until they have come through.
func (s *smtpSink) take(b *testing.B, server string, size, mails int) {
	b.Helper()
	want := s.count.Load() + int64(mails)
	out, err := exec.CommandContext(b.Context(), "smtp-source", "-4", "-s", strconv.Itoa(relaySessions), "-m", strconv.Itoa(mails),
		"-l", strconv.Itoa(size), "-M", "peer.example", "-f", "bob@partner.example", "-t", alice, server).CombinedOutput()
	if err != nil {
		b.Fatalf("smtp-source: %v\n%s", err, out)
	}
	late := time.NewTimer(5 * patience)
	defer late.Stop()
	for s.count.Load() < want {
		select {
		case <-s.more:
		case <-late.C:
			b.Fatalf("got %d mails at the sink, want %d", s.count.Load(), want)
		}
	}
	if got := s.count.Load(); got != want {
		b.Errorf("got %d mails at the sink, want %d", got, want)
	}
}

// relayPostfix is a Postfix with two ways to the sink.
type relayPostfix struct {
	Dir, Next, Plain, Proxy, Filter, Back string // ports, but for Dir; for the templates
	plain, proxy                          string // addresses
	master                                int    // process
}

func openPostfix(b *testing.B, next string) *relayPostfix {
	b.Helper()
	p := &relayPostfix{Dir: folder(b), plain: postfixtest.Free(b), proxy: postfixtest.Free(b)}
	back := postfixtest.Free(b)
	p.Next, p.Plain, p.Proxy, p.Back = portOf(b, next), p.plain, p.proxy, back
	p.Filter = openProxyFilter(b, back)
	for _, name := range []string{"main.cf", "master.cf"} {
		var text bytes.Buffer
		t, err := template.ParseFiles(filepath.Join("testdata", "relay", name))
		if err == nil {
			err = t.Execute(&text, p)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(p.Dir, name), text.Bytes(), 0o644)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	run := func(name string, args ...string) {
		b.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			log, _ := os.ReadFile(filepath.Join(p.Dir, "log"))
			b.Fatalf("%s %v: %v\n%s%s", name, args, err, out, tail(log, 6000))
		}
	}
	run("chmod", "755", p.Dir)
	run("mkdir", filepath.Join(p.Dir, "queue"), filepath.Join(p.Dir, "data"))
	run("chown", "postfix", filepath.Join(p.Dir, "data"))
	b.Cleanup(func() { exec.Command("postfix", "-c", p.Dir, "abort").Run() })
	run("postfix", "-c", p.Dir, "start")
	awaitListener(b, p.plain)
	awaitListener(b, p.proxy)
	pid, err := strconv.Atoi(strings.TrimSpace(contents(b, filepath.Join(p.Dir, "queue", "pid", "master.pid"))))
	if err != nil {
		b.Fatal(err)
	}
	p.master = pid
	return p
}

// processor is what Postfix has had on the processors: its master, whose count
// has all that have ended, and those that it runs now.
func (p *relayPostfix) processor(b *testing.B) time.Duration {
	b.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		b.Fatal(err)
	}
	var ticks int
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended since
		}
		pid, _, _ := strings.Cut(string(text), " ")
		f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		number := func(i int) int {
			n, err := strconv.Atoi(f[i])
			if err != nil {
				b.Fatal(err)
			}
			return n
		}
		switch {
		case pid == strconv.Itoa(p.master):
			ticks += number(11) + number(12) + number(13) + number(14)
		case number(1) == p.master:
			ticks += number(11) + number(12)
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// openProxyFilter is a filter that lets everything pass, once it has seen the
// whole of it: what a filter before the queue does at least.
func openProxyFilter(b *testing.B, back string) (address string) {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				defer c.Close()
				if next, err := net.Dial("tcp", back); err == nil {
					defer next.Close()
					proxyFilter(c, next)
				}
			})
		}
	})
	b.Cleanup(func() { l.Close() }) // after Postfix, whose connections end the others
	return l.Addr().String()
}

// proxyFilter passes commands on one by one, and mails once they are complete.
func proxyFilter(c, next net.Conn) error {
	in, replies := bufio.NewReaderSize(c, 64<<10), bufio.NewReader(next)
	reply := func() (code string, err error) {
		for {
			line, err := replies.ReadSlice('\n')
			if err != nil {
				return "", err
			}
			if _, err := c.Write(line); err != nil {
				return "", err
			}
			if len(line) < 4 || line[3] != '-' {
				return string(line[:min(3, len(line))]), nil
			}
		}
	}
	if _, err := reply(); err != nil {
		return err
	}
	var mail bytes.Buffer
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return err
		}
		data := bytes.EqualFold(bytes.TrimSpace(line), []byte("DATA"))
		if _, err := next.Write(line); err != nil {
			return err
		}
		code, err := reply()
		if err != nil {
			return err
		}
		if !data || code != "354" {
			continue
		}
		mail.Reset()
		for line := []byte(nil); string(line) != ".\r\n"; {
			if line, err = in.ReadSlice('\n'); err != nil && !errors.Is(err, bufio.ErrBufferFull) {
				return err
			}
			mail.Write(line)
		}
		if _, err := next.Write(mail.Bytes()); err != nil {
			return err
		}
		if _, err := reply(); err != nil {
			return err
		}
	}
}

func portOf(t testing.TB, address string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// awaitListener waits until somebody listens.
func awaitListener(t testing.TB, address string) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("nobody listens at %s: %v", address, err)
		}
	}
}
