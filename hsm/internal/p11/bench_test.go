package p11

import (
	"crypto/rsa"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"postern/hsm"
	"postern/hsm/hsmtest"
)

// benchWorkers are the operations at a time. The benchmark of the whole house
// in appliance/e2e compares itself with this one, and has as many sessions.
const benchWorkers = 4

// BenchmarkRawUnwrap is RSA-3072 in the module and nothing else: the most that
// opened mails per second can be. A late module is one with a token of its own,
// which takes its time and none of this machine's.
func BenchmarkRawUnwrap(b *testing.B) {
	for _, c := range []struct {
		name    string
		rules   []string
		workers int
	}{{"SoftHSM", nil, benchWorkers}, {"OneAtATime", nil, 1}, {"Late20ms", []string{"C_Decrypt delay 20"}, benchWorkers}} {
		b.Run(c.name, func(b *testing.B) {
			f := hsmtest.SoftHSM(b)
			if c.rules != nil {
				shim := hsmtest.NewShim(b, f)
				shim.Set(c.rules...)
				f = shim.Fixture
			}
			tok := New(Config{Module: f.Module, Token: f.Label, Workers: c.workers})
			b.Cleanup(func() { tok.Close() })
			if err := reopen(tok, f.PIN); err != nil {
				b.Fatal(err)
			}
			k, err := tok.Generate(hsm.KeySpec{Algorithm: hsm.RSA3072, Usage: hsm.Unwrap, Label: "bench/unwrap"})
			if err != nil {
				b.Fatal(err)
			}
			_, wrapped, err := sealed(k.Public.(*rsa.PublicKey))
			if err != nil {
				b.Fatal(err)
			}
			var failed atomic.Pointer[error]
			b.SetParallelism(max(1, benchWorkers/runtime.GOMAXPROCS(0)))
			used := processor(b)
			b.ResetTimer()
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					if _, _, err := tok.Decrypt(k.ID, wrapped); err != nil {
						failed.Store(&err)
						return
					}
				}
			})
			if err := failed.Load(); err != nil {
				b.Fatal(*err)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
			b.ReportMetric((processor(b)-used).Seconds()*1000/float64(b.N), "cpu-ms/op")
		})
	}
}

// processor is the time that this process has had on the processors.
func processor(b *testing.B) time.Duration {
	b.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
