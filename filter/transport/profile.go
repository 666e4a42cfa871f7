package transport

import "crypto/tls"

// Profile is TLS as both sides of the gateway speak it, and the one place that
// says so: TLS 1.2 and 1.3, forward secrecy and authenticated encryption only
// (RFC 9325 §4.2), the hybrid of ML-KEM-768 and X25519 before the curves. min
// is the lowest version, 0 the default. There is no renegotiation, no
// compression and no early data in crypto/tls. Of session tickets see tickets.go.
func Profile(min uint16) *tls.Config {
	return &tls.Config{
		MinVersion: max(min, tls.VersionTLS12),
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
		},
		CurvePreferences: []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256, tls.CurveP384},
		Renegotiation:    tls.RenegotiateNever,
	}
}
