package smime

import (
	"strings"
	"testing"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/protect"
)

var benchSizes = []struct {
	name string
	size int64
}{{"4KiB", 4 << 10}, {"1MiB", 1 << 20}, {"50MiB", 50 << 20}}

// bench is a mail with an attachment of so many bytes in base64.
func bench(b *testing.B, size int64) *message.Message {
	b.Helper()
	m, err := message.Parse(&long{head: head + "Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\r\n", line: strings.Repeat("A", 76) + "\r\n", size: size}, message.Limits{})
	if err != nil {
		b.Fatal(err)
	}
	return m
}

// room makes spools that go with each turn of a benchmark.
type room struct {
	made *message.Spools
	open []*message.Spool
}

func (r *room) spool() *message.Spool {
	s := r.made.New()
	r.open = append(r.open, s)
	return s
}

func (r *room) clear() {
	for _, s := range r.open {
		_ = s.Close()
	}
	r.open = nil
}

// Each way of a mail, with the token in memory.
func BenchmarkMail(b *testing.B) {
	w := newWorld(b, ecPair)
	p := New(w.config)
	for _, c := range []struct {
		name   string
		signed bool
		to     []keyring.Cert
		style  protect.Style
	}{
		{"signed", true, nil, protect.Style{}},
		{"cbc", false, []keyring.Cert{w.bob.opens.Cert}, protect.Style{}},
		{"gcm", false, []keyring.Cert{w.bob.opens.Cert}, protect.Style{Cipher: "aes-256-gcm"}},
		{"signed-cbc", true, []keyring.Cert{w.bob.opens.Cert}, protect.Style{}},
	} {
		for _, size := range benchSizes {
			r := &room{made: &message.Spools{Max: 256 << 20, Dir: b.TempDir()}}
			request := protect.SealRequest{Message: bench(b, size.size), Recipients: c.to, Style: c.style, At: now, NewSpool: r.spool}
			if c.signed {
				request.Signer, request.Own = &w.alice.signs, w.alice.both()
			}
			b.Run("seal/"+c.name+"/"+size.name, func(b *testing.B) {
				b.SetBytes(size.size)
				b.ReportAllocs()
				for b.Loop() {
					if _, err := p.Seal(b.Context(), request); err != nil {
						b.Fatal(err)
					}
					r.clear()
				}
			})
			sealed, err := p.Seal(b.Context(), request)
			if err != nil {
				b.Fatal(err)
			}
			kept := r.open
			r.open = nil
			b.Run("open/"+c.name+"/"+size.name, func(b *testing.B) {
				b.SetBytes(size.size)
				b.ReportAllocs()
				for b.Loop() {
					_, f, err := p.Open(b.Context(), protect.OpenRequest{Message: sealed, Identities: w.ids, At: now, NewSpool: r.spool})
					if err != nil || f.Good != c.signed {
						b.Fatalf("got %+v, %v", f, err)
					}
					r.clear()
				}
			})
			r.open = kept
			r.clear()
		}
	}
}
