package openpgp

import (
	"testing"
	"time"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/protect"
	"postern/filter/protect/protecttest"
	"postern/hsm"
)

// The suite of all formats, with data of both versions: among others a layer
// below another stays shut and unclaimed (R4, R13), and what stands beside a
// layer keeps it from being one (R7, R10).
func TestConform(t *testing.T) {
	for _, s := range []suiteUnderTest{suites[3], suites[11]} {
		t.Run(s.String(), func(t *testing.T) {
			protecttest.Run(t, protecttest.Format{
				New: func(token hsm.Token) protect.Protector { return New(Config{Token: token}) },
				Identity: func(t testing.TB, token hsm.Keeper, a message.Address, at time.Time) keyring.Identity {
					return newIdentityAt(t, token, s, a.Key(), at.Add(-48*time.Hour))
				},
			})
		})
	}
}
