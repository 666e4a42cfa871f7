package smime

import (
	"context"
	"testing"
	"time"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/protect"
	"postern/filter/protect/protecttest"
	"postern/hsm"
)

// styled seals everything in one style.
type styled struct {
	*Protector
	style protect.Style
}

func (s styled) Seal(ctx context.Context, r protect.SealRequest) (*message.Message, error) {
	r.Style = s.style
	return s.Protector.Seal(ctx, r)
}

// The suite of all formats, with AES-CBC, which everybody reads, and AES-GCM.
func TestConform(t *testing.T) {
	for _, c := range []struct {
		pair
		style protect.Style
	}{
		{rsaPair, protect.Style{}},
		{rsaPair, protect.Style{Cipher: "aes-256-gcm", OAEP: true, PSS: true}},
		{ecPair, protect.Style{Cipher: "aes-128-gcm"}},
		{pair{hsm.Ed25519, hsm.X25519}, protect.Style{}},
	} {
		t.Run(c.pair.String()+" "+c.style.Cipher, func(t *testing.T) {
			ca := newAuthority(t, "Conforming CA")
			protecttest.Run(t, protecttest.Format{
				New: func(token hsm.Token) protect.Protector { return styled{New(Config{Token: token}), c.style} },
				Identity: func(t testing.TB, token hsm.Keeper, a message.Address, at time.Time) keyring.Identity {
					return ca.signs(t, token, c.sign, a)
				},
				Reader: func(t testing.TB, token hsm.Keeper, a message.Address, at time.Time) keyring.Identity {
					return ca.opens(t, token, c.open, a)
				},
				Malleable: c.style.Cipher == "",
				Wrapped:   true,
			})
		})
	}
}
