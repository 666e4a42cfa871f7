package est

import (
	"encoding/base64"
	"net/http"
	"testing"
)

// FuzzRead: an answer gives certificates that parse, or an error.
func FuzzRead(f *testing.F) {
	f.Add("application/pkcs7-mime", []byte("MAA="))
	f.Add("application/pkcs7-mime; smime-type=certs-only", []byte(base64.StdEncoding.EncodeToString([]byte{0x30, 0x80, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0xd, 1, 7, 2})))
	f.Add("text/html", []byte("<html>"))
	f.Fuzz(func(t *testing.T, kind string, body []byte) {
		certs, err := read(kind, body)
		if (err == nil) == (len(certs) == 0) {
			t.Errorf("got %d certificates and %v", len(certs), err)
		}
		after(http.Header{"Retry-After": {kind}})
		for _, r := range reason(body) {
			if r < ' ' {
				t.Errorf("got %q, want what can be printed", reason(body))
			}
		}
	})
}
