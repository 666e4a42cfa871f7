package transport

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// What a header of the PROXY protocol may have (its §2.1 and §2.2).
const (
	maxProxyLine = 107  // version 1, with its CRLF
	maxProxyData = 1024 // version 2, behind the first 16 bytes: addresses, and what a proxy says beside them
)

var errProxy = errors.New("header of the PROXY protocol not understood")

// proxySignature begins version 2.
var proxySignature = []byte("\r\n\r\n\x00\r\nQUIT\n")

// readProxy reads the header that a proxy puts before all else, of version 1 or
// 2, and not one byte beyond it. The address is not valid where the proxy
// speaks for itself.
func readProxy(r io.Reader) (client netip.AddrPort, err error) {
	head := make([]byte, len(proxySignature), 16)
	if _, err := io.ReadFull(r, head); err != nil {
		return client, err
	}
	if bytes.Equal(head, proxySignature) {
		head = head[:16]
		if _, err := io.ReadFull(r, head[12:]); err != nil {
			return client, err
		}
		size := binary.BigEndian.Uint16(head[14:])
		if size > maxProxyData {
			return client, errProxy
		}
		data := make([]byte, size)
		if _, err := io.ReadFull(r, data); err != nil {
			return client, err
		}
		return proxyBinary(head[12], head[13], data)
	}
	if !bytes.HasPrefix(head, []byte("PROXY ")) {
		return client, errProxy
	}
	line := head
	for !bytes.HasSuffix(line, []byte("\r\n")) {
		if len(line) == maxProxyLine {
			return client, errProxy
		}
		line = append(line, 0)
		if _, err := io.ReadFull(r, line[len(line)-1:]); err != nil {
			return client, err
		}
	}
	return proxyText(string(line[:len(line)-2]))
}

// proxyText is version 1, without its CRLF.
func proxyText(line string) (client netip.AddrPort, err error) {
	words := strings.Split(line, " ")
	if len(words) >= 2 && words[1] == "UNKNOWN" { // what stands behind it is to be passed over
		return client, nil
	}
	if len(words) != 6 {
		return client, errProxy
	}
	var ends [2]netip.AddrPort
	for i := range ends {
		a, err := netip.ParseAddr(words[2+i])
		port, err2 := strconv.ParseUint(words[4+i], 10, 16)
		if err != nil || err2 != nil || a.Zone() != "" || words[4+i] != strconv.FormatUint(port, 10) || (words[1] == "TCP4") != a.Is4() {
			return client, errProxy
		}
		ends[i] = netip.AddrPortFrom(a, uint16(port))
	}
	if words[1] != "TCP4" && words[1] != "TCP6" {
		return client, errProxy
	}
	return ends[0], nil
}

// proxyBinary is version 2.
func proxyBinary(command, family byte, data []byte) (client netip.AddrPort, err error) {
	const version, local, proxied = 2, 0, 1
	if command>>4 != version || command&15 > proxied {
		return client, errProxy
	}
	var size int
	switch family {
	case 0x11: // TCP over IPv4
		size = 4
	case 0x21: // TCP over IPv6
		size = 16
	case 0x00:
	default:
		return client, errProxy
	}
	if command&15 == local || size == 0 {
		return client, nil
	}
	if len(data) < 2*size+4 {
		return client, errProxy
	}
	a, ok := netip.AddrFromSlice(data[:size])
	if !ok {
		return client, errProxy
	}
	return netip.AddrPortFrom(a, binary.BigEndian.Uint16(data[2*size:])), nil
}

// proxied learns the client from the proxy that connected, or ends the session:
// a proxy that does not say for whom it speaks speaks for nobody.
func (g *guard) proxied() bool {
	g.SetReadDeadline(time.Now().Add(g.server.Timeouts.Handshake))
	g.shaking = true
	client, err := readProxy(socket{g.Conn, g})
	g.shaking = false
	if err != nil {
		g.log("PROXY: " + err.Error())
		g.ended = true
		g.Conn.Close()
		return false
	}
	g.SetReadDeadline(time.Time{})
	if !client.IsValid() || g.become(client) {
		return true
	}
	if !g.server.ImplicitTLS {
		g.say(crowded)
	}
	return false
}

// become makes the session one of client, whom the peer speaks for.
func (g *guard) become(client netip.AddrPort) bool {
	if g.server.move(g, client) {
		return true
	}
	g.ended = true
	return false
}
