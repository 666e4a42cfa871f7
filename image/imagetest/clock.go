package imagetest

import (
	"encoding/binary"
	"net"
	"testing"
	"time"
)

// Clock tells the time to machines (RFC 5905), at the address that they call
// 10.0.2.2. NTP has one port.
func Clock(t testing.TB) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:123")
	if err != nil {
		t.Fatalf("clock: %v", err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		ask := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(ask)
			if err != nil {
				return
			}
			if n < 48 {
				continue
			}
			now := ntp(time.Now())
			say := make([]byte, 48)
			say[0] = ask[0]&0x38 | 4 // its version; mode: server
			say[1], say[2], say[3] = 1, ask[2], 0xec
			copy(say[12:], "TEST")
			binary.BigEndian.PutUint64(say[16:], now)
			copy(say[24:32], ask[40:48])
			binary.BigEndian.PutUint64(say[32:], now)
			binary.BigEndian.PutUint64(say[40:], ntp(time.Now()))
			conn.WriteTo(say, from)
		}
	}()
}

// ntp is a time in seconds since 1900, with 32 bits behind the point.
func ntp(t time.Time) uint64 {
	const since1900 = 2208988800
	return uint64(t.Unix()+since1900)<<32 | uint64(t.Nanosecond())<<32/1e9
}
