package publish

import (
	"encoding/base64"
	"fmt"
	"io"
	"strings"

	"github.com/go-ldap/ldap/v3"

	"postern/filter/message"
)

// Entry is what a directory is to have of one address.
type Entry struct {
	Address message.Address
	X509    [][]byte // userCertificate;binary (RFC 4523 §2.1): each one in DER
	Bundle  []byte   // userSMIMECertificate (RFC 2798 §2.8): PKCS#7 with the chain
	OpenPGP []byte   // pgpKey: in ASCII armor
}

// DN is the name of the entry of an address, after a template in which {address},
// {local} and {domain} stand for what they say.
func DN(template string, a message.Address) string {
	return strings.NewReplacer("{address}", ldap.EscapeDN(a.String()), "{local}", ldap.EscapeDN(a.Local), "{domain}", ldap.EscapeDN(a.Domain)).Replace(template)
}

// LDIF writes the changes (RFC 2849) that give entries which are there already
// what they are to have, in place of what they had of the same kind. A kind of
// which there is nothing is left alone.
func LDIF(w io.Writer, template string, list []Entry) error {
	var all strings.Builder
	all.WriteString("version: 1\n")
	for _, e := range list {
		var changes strings.Builder
		for _, a := range []struct {
			name   string
			values [][]byte
		}{{"userCertificate;binary", e.X509}, {"userSMIMECertificate", [][]byte{e.Bundle}}, {"pgpKey", [][]byte{e.OpenPGP}}} {
			if len(a.values) == 0 || a.values[0] == nil {
				continue
			}
			fmt.Fprintf(&changes, "replace: %s\n", a.name)
			for _, v := range a.values {
				changes.WriteString(line(a.name, v))
			}
			changes.WriteString("-\n")
		}
		if changes.Len() > 0 {
			all.WriteString("\n" + line("dn", []byte(DN(template, e.Address))) + "changetype: modify\n" + changes.String())
		}
	}
	_, err := io.WriteString(w, all.String())
	return err
}

// line is a value in base64, folded.
func line(name string, value []byte) string {
	text, folded := name+":: "+base64.StdEncoding.EncodeToString(value), ""
	for n := 76; len(text) > n; n = 75 {
		folded, text = folded+text[:n]+"\n ", text[n:]
	}
	return folded + text + "\n"
}
