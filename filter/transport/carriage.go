package transport

import (
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"strings"
)

// Carriage is how one hop of a mail was protected. The zero Carriage tells of
// no hop at all.
type Carriage struct {
	TLS    string `json:"tls"`              // version and cipher, or "clear"; "": there was no hop
	Peer   string `json:"peer,omitempty"`   // who the other side proved to be: name:… of its certificate, or sha256:… of its key
	Level  string `json:"level,omitempty"`  // what was asked of the way, in the words of policy
	Result string `json:"result,omitempty"` // met or missed
}

// Words of Carriage.Result.
const (
	LevelMet    = "met"
	LevelMissed = "missed" // there was no way as safe as it must be: nothing was said of the mail
)

// CarriageOf tells of a connection; nil is one in clear. Its peer is named by
// the key of the certificate that it showed, whoever made that.
func CarriageOf(s *tls.ConnectionState) Carriage {
	c := Carriage{TLS: Carried(s)}
	if s != nil && len(s.PeerCertificates) > 0 {
		c.Peer = fmt.Sprintf("sha256:%x", sha256.Sum256(s.PeerCertificates[0].RawSubjectPublicKeyInfo))
	}
	return c
}

// String is the carriage in one line, beginning with what Carried says.
func (c Carriage) String() string {
	words := []string{c.TLS}
	for _, p := range []struct{ name, value string }{{"peer", c.Peer}, {"level", c.Level}, {"result", c.Result}} {
		if p.value != "" {
			words = append(words, p.name+"="+p.value)
		}
	}
	return strings.Join(words, " ")
}
