package route

import (
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net"
	"testing"

	"postern/filter/transport/hoptest"
)

// association is the data of a TLSA record for c.
func association(c *x509.Certificate, selector, matching int) string {
	data := c.Raw
	if selector == 1 {
		data = c.RawSubjectPublicKeyInfo
	}
	switch matching {
	case 1:
		sum := sha256.Sum256(data)
		data = sum[:]
	case 2:
		sum := sha512.Sum512(data)
		data = sum[:]
	}
	return hex.EncodeToString(data)
}

// partner listens at ip and port.
func partner(t testing.TB, ip string, port int) *hoptest.Partner {
	t.Helper()
	return hoptest.Listen(t, net.JoinHostPort(ip, fmt.Sprint(port)), hoptest.Habit{})
}

// freePort is one that nobody has at any of the addresses.
func freePort(t testing.TB, ips ...string) int {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", ips[0]+":0")
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		all := []net.Listener{l}
		for _, ip := range ips[1:] {
			if l, err = net.Listen("tcp", fmt.Sprintf("%s:%d", ip, port)); err != nil {
				break
			}
			all = append(all, l)
		}
		for _, l := range all {
			l.Close()
		}
		if err == nil {
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}
