// Package p11 is the only code that speaks to a PKCS#11 module.
package p11
