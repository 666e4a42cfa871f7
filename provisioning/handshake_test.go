package provisioning

import (
	"errors"
	"testing"

	"postern/hsm"
)

// A key that is for something else by its label is bound to no mail; one
// without such a label, as of keys brought from elsewhere, is.
func TestKeysForMail(t *testing.T) {
	for label, good := range map[string]bool{
		"openpgp/company1.example/sign": true, "smime/company1.example/unwrap": true, "old mail": true, "": true,
		"tls/mx.company1.example/sign": false, "tls/mx.company1.example/sign-rsa-2": false, "dkim/company1.example/sign": false, "ledger/company1.example/sign": false,
	} {
		err := forMail(hsm.Key{Label: label})
		if (err == nil) != good || err != nil && !errors.Is(err, hsm.ErrRefused) {
			t.Errorf("%q: got %v, want good %v", label, err, good)
		}
	}
}
