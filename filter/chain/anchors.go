package chain

import (
	"bufio"
	"crypto/x509"
	_ "embed"
	"encoding/pem"
	"fmt"
	"strings"
	"time"
)

// bundle is made by anchors/generate.
//
//go:embed anchors.pem
var bundle []byte

// Bundle is the set of public roots that Mozilla's NSS trusts for e-mail, which
// is not that of web servers: some of either are missing in the other.
func Bundle() ([]Anchor, error) { return ReadAnchors(bundle) }

// ReadAnchors reads anchors in PEM. A comment "# distrust-after: TIME" before
// a certificate, with a time as in RFC 3339, is Anchor.DistrustAfter.
func ReadAnchors(data []byte) (all []Anchor, err error) {
	for rest := data; ; {
		block, after := pem.Decode(rest)
		if block == nil {
			if strings.Contains(string(rest), "-----BEGIN") {
				return nil, fmt.Errorf("read anchor %d: not PEM: %w", len(all)+1, ErrForm)
			}
			return all, nil
		}
		var a Anchor
		comments := bufio.NewScanner(strings.NewReader(string(rest[:len(rest)-len(after)])))
		for comments.Scan() && !strings.HasPrefix(comments.Text(), "-----") {
			if date, ok := strings.CutPrefix(comments.Text(), "# distrust-after: "); ok {
				if a.DistrustAfter, err = time.Parse(time.RFC3339, date); err != nil {
					return nil, fmt.Errorf("read anchor %d: date %.40q: %w", len(all)+1, date, ErrForm)
				}
			}
		}
		if a.Cert, err = x509.ParseCertificate(block.Bytes); err != nil || block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("read anchor %d: not a certificate: %w", len(all)+1, ErrForm)
		}
		all = append(all, a)
		rest = after
	}
}
