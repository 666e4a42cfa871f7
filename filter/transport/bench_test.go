package transport

import (
	"fmt"
	"io"
	"strings"
	"testing"
)

func BenchmarkRelay(b *testing.B) {
	for _, size := range []int{4 << 10, 10 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			sink := &mailbox{data: func(_ *Envelope, body io.Reader) Reply {
				io.Copy(io.Discard, body)
				return Reply{250, [3]int{2, 0, 0}, "taken"}
			}}
			hop := &Hop{Address: serve(b, &Server{Handler: sink}), Name: "gw.example"}
			defer hop.Close()
			middle := &mailbox{}
			middle.data = func(e *Envelope, body io.Reader) Reply {
				all, err := io.ReadAll(body)
				if err != nil {
					return middle.Refuse(e, err)
				}
				res := hop.Deliver(b.Context(), e, int64(len(all)), text(all))
				if res.Err != nil {
					return middle.Refuse(e, res.Err)
				}
				return res.Replies[0]
			}
			from := &Hop{Address: serve(b, &Server{Handler: middle}), Name: "client.example"}
			defer from.Close()
			mail := strings.Repeat(strings.Repeat("x", 76)+"\r\n", size/78)
			e := envelope(b, "b@to.example")
			b.SetBytes(int64(len(mail)))
			b.ReportAllocs()
			for b.Loop() {
				res := from.Deliver(b.Context(), e, int64(len(mail)), text(mail))
				if res.Err != nil || !res.Replies[0].ok() {
					b.Fatalf("got %+v", res)
				}
			}
		})
	}
}
