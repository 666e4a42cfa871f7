package access

import (
	"net"
	"time"
)

// piece is how much is copied at once, in bytes.
const piece = 16 << 10

// half is a connection whose one direction can be ended.
type half interface {
	net.Conn
	CloseWrite() error
}

// relay copies bytes both ways until one side ends, or nothing passes for the
// time of idle. It gives how many went to the server, and came from it.
func relay(client, server net.Conn, idle time.Duration) (up, down int64) {
	shut := func() { client.Close(); server.Close() }
	timer := time.AfterFunc(idle, shut)
	defer timer.Stop()
	done := make(chan int64)
	go func() {
		n := copyTo(server, client, timer, idle)
		if h, ok := server.(half); ok { // what the server still has to say arrives
			h.CloseWrite()
		}
		timer.Reset(min(idle, drain))
		done <- n
	}()
	down = copyTo(client, server, timer, idle)
	shut()
	return <-done, down
}

func copyTo(to, from net.Conn, timer *time.Timer, idle time.Duration) (n int64) {
	buffer := make([]byte, piece)
	defer clear(buffer)
	for {
		got, err := from.Read(buffer)
		if got > 0 {
			timer.Reset(idle)
			to.SetWriteDeadline(time.Now().Add(stall))
			put, failed := to.Write(buffer[:got])
			n += int64(put)
			if failed != nil {
				return n
			}
		}
		if err != nil {
			return n
		}
	}
}
