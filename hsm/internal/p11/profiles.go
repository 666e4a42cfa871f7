package p11

import (
	"strings"

	"github.com/miekg/pkcs11"

	"postern/hsm"
)

// What PKCS#11 v3.0 adds and the header of v2.40 has not.
const (
	ckrKeyNotWrappable = 0x69 // of v2.40 too, but the binding below lacks it

	ckkEdwards    = 0x40
	ckkMontgomery = 0x41

	ckmEdwardsKeyPairGen    = 0x1055
	ckmMontgomeryKeyPairGen = 0x1056
	ckmEdDSA                = 0x1057
)

// ckaNSSPoint is CKA_NSS_DB: the public half of a key, in NSS.
const ckaNSSPoint = 0xd5a0db00

// The DER of the two curves of RFC 8410 §3.
var (
	oidEd25519 = []byte{0x06, 0x03, 0x2b, 0x65, 0x70}
	oidX25519  = []byte{0x06, 0x03, 0x2b, 0x65, 0x6e}
)

// profile is how one family of modules departs from the standard, or from
// what the standard leaves open. All quirks stand here; nothing else in the
// package asks for a module's name.
type profile struct {
	name  string
	match []string // words of the manufacturer or description, lower case; none: any module

	crypto11       bool            // crypto11 may initialise it (a module that wants pReserved never)
	rawRSA         bool            // CKM_RSA_X_509 decryption is used where it is offered
	copyable       bool            // takes CKA_COPYABLE in templates
	usageBits      bool            // takes usage bits in private-key templates; otherwise the first byte of CKA_ID holds the usage
	officerFirst   bool            // made by C_InitPIN as the officer with an empty PIN, without C_InitToken; has its label before CKF_TOKEN_INITIALIZED
	unreliable     []uint          // attributes it reports wrongly, not judged by the audit
	xKeyGen        uint            // mechanism that generates X25519
	xKeyType       uint            // key type of X25519
	unwrapTemplate bool            // holds to CKA_UNWRAP_TEMPLATE of a wrapping key
	pointOnUnwrap  bool            // wants the public point to unwrap a key on a curve (NSS)
	mayLack        []hsm.Algorithm // not offered by every version: where Probe says no, that is well
}

// profiles is looked through from the top; the last fits every module.
var profiles = []profile{
	{
		name: "softhsm", match: []string{"softhsm"},
		crypto11: true, rawRSA: true, copyable: true, usageBits: true, unwrapTemplate: true,
		// X25519 stands among the Edwards keys.
		xKeyGen: ckmEdwardsKeyPairGen, xKeyType: ckkEdwards,
	},
	{
		// 3.87 of Debian 12 and 3.110 of Debian 13, which has X25519. It needs its configuration through pReserved,
		// reports every key as not made in the token, and answers bad RSA
		// padding with garbage of random length, so raw RSA matters here too.
		// It wraps out keys that are not extractable, so the audit takes all
		// its keys for copies: a second opinion for tests, no vault.
		name: "nss-softokn", match: []string{"mozilla", "nss internal"},
		// It ignores CKA_UNWRAP_TEMPLATE, and wraps keys on its curves only if
		// told their public half again.
		rawRSA: true, usageBits: true, officerFirst: true, pointOnUnwrap: true,
		unreliable: []uint{pkcs11.CKA_LOCAL},
		xKeyGen:    ckmMontgomeryKeyPairGen, xKeyType: ckkMontgomery,
		mayLack: []hsm.Algorithm{hsm.Ed25519, hsm.X25519},
	},
	{
		// RSA and ECDSA only. A failed decryption poisons its session, which
		// the pool closes after any error. Keys take no usage of their own.
		name: "tpm2-pkcs11", match: []string{"tpm2"},
		rawRSA:  true,
		xKeyGen: ckmMontgomeryKeyPairGen, xKeyType: ckkMontgomery,
		mayLack: []hsm.Algorithm{hsm.Ed25519, hsm.X25519},
	},
	{
		name:     "generic",
		crypto11: true, rawRSA: true, usageBits: true, unwrapTemplate: true,
		xKeyGen: ckmMontgomeryKeyPairGen, xKeyType: ckkMontgomery,
	},
}

// profileOf finds the profile of a module by what it says of itself.
func profileOf(info pkcs11.Info) *profile {
	words := strings.ToLower(info.ManufacturerID + " " + info.LibraryDescription)
	for i := range profiles {
		p := &profiles[i]
		if len(p.match) == 0 {
			return p
		}
		for _, m := range p.match {
			if strings.Contains(words, m) {
				return p
			}
		}
	}
	return &profiles[len(profiles)-1]
}
