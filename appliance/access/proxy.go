package access

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"net/netip"
)

// What the PROXY protocol calls things (its §2.2).
const (
	proxySignature = "\r\n\r\n\x00\r\nQUIT\n"
	proxyCommand   = 0x21 // version 2, for another
	proxyTCP4      = 0x11
	proxyTCP6      = 0x21
	proxySSL       = 0x20 // of TLS, with what stands below in it
	proxyVersion   = 0x21
	proxyCipher    = 0x23
	proxyWithTLS   = 0x01
)

// proxyHeader tells a server who the client is, and that his side has TLS, so
// that it takes passwords from him.
func proxyHeader(client, local netip.AddrPort, state tls.ConnectionState) []byte {
	var body bytes.Buffer
	family := byte(proxyTCP4)
	ends := []netip.AddrPort{client, local}
	if !client.Addr().Is4() || !local.Addr().Is4() {
		family = proxyTCP6
	}
	for _, e := range ends {
		if family == proxyTCP4 {
			body.Write(e.Addr().AsSlice())
			continue
		}
		a := e.Addr()
		if !a.IsValid() {
			a = netip.IPv6Unspecified()
		}
		mapped := a.As16()
		body.Write(mapped[:])
	}
	for _, e := range ends {
		binary.Write(&body, binary.BigEndian, e.Port())
	}
	said := []byte{proxyWithTLS, 0, 0, 0, 1} // and no certificate of his
	said = appendTLV(said, proxyVersion, tls.VersionName(state.Version))
	said = appendTLV(said, proxyCipher, tls.CipherSuiteName(state.CipherSuite))
	all := appendTLV(body.Bytes(), proxySSL, string(said))
	head := append([]byte(proxySignature), proxyCommand, family)
	return append(binary.BigEndian.AppendUint16(head, uint16(len(all))), all...)
}

func appendTLV(b []byte, kind byte, value string) []byte {
	return append(binary.BigEndian.AppendUint16(append(b, kind), uint16(len(value))), value...)
}
