package mtasts

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

// Text is the file of a policy of ours, as ParsePolicy reads it (RFC 8461 §3.2).
func (p Policy) Text() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "version: STSv1\r\nmode: %s\r\n", p.Mode)
	for _, mx := range p.MX {
		fmt.Fprintf(&b, "mx: %s\r\n", mx)
	}
	fmt.Fprintf(&b, "max_age: %d\r\n", p.MaxAge/time.Second)
	return []byte(b.String())
}

// Stamp is the id that the record of a policy of ours has (RFC 8461 §3.1): it is
// another one whenever the file is, and the same on every gateway that serves it.
func (p Policy) Stamp() string {
	sum := sha256.Sum256(p.Text())
	return hex.EncodeToString(sum[:10])
}

// Record is the TXT record that stands under _mta-sts of the domain.
func (p Policy) Record() string { return "v=STSv1; id=" + p.Stamp() + ";" }
