package housetest

import (
	"net"
	"testing"
)

// Listens waits until somebody does.
func Listens(t testing.TB, address string) {
	t.Helper()
	Eventually(t, Patience, func() (bool, string) {
		c, err := net.Dial("tcp", address)
		if err != nil {
			return false, "nobody listens at " + address
		}
		c.Close()
		return true, ""
	})
}
