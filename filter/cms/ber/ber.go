// Package ber pulls elements of ASN.1 from a stream in the Basic Encoding
// Rules (X.690 §8), and helps to write them.
//
// The reader takes definite and indefinite lengths, constructed strings, long
// tags and long lengths. It never recurses, keeps no more of the stream than a
// buffer of fixed size, and gives memory only for bytes that came, whatever
// length is claimed. Elements are at most 24 deep, and there are at most
// 262,144 of them and one more for each 16 bytes that were read.
//
// Departures from the standard: a tag number has at most 31 bits and a length
// at most 63; EXTERNAL, EMBEDDED PDV and CHARACTER STRING are structures like
// any other, and what stands inside of a primitive element is not looked at.
package ber

import (
	"errors"
	"fmt"
)

// What may be wrong with the input. Errors of the stream come through as they are.
var (
	ErrSyntax = errors.New("not well formed") // no BER, or not what was asked for
	ErrLimit  = errors.New("beyond the limits")
)

func syntax(what string) error { return fmt.Errorf("read element: %s: %w", what, ErrSyntax) }

func limit(what string) error { return fmt.Errorf("read element: %s: %w", what, ErrLimit) }

// The classes of tags (X.690 §8.1.2.2).
const (
	Universal   = 0
	Application = 1
	Context     = 2
	Private     = 3
)

// Numbers of universal tags (X.680 §8.4).
const (
	Boolean     = 1
	Integer     = 2
	BitString   = 3
	OctetString = 4
	Null        = 5
	OID         = 6
	Real        = 9
	Enumerated  = 10
	RelativeOID = 13
	Sequence    = 16
	Set         = 17
)

// Tag is what an element says of itself.
type Tag struct {
	Class       byte // Universal, Application, Context or Private
	Number      uint32
	Constructed bool
}

// Is reports whether t is the tag of the class with the number, primitive or not.
func (t Tag) Is(class byte, number uint32) bool { return t.Class == class && t.Number == number }

// isString reports whether X.690 §8.6, §8.7 and §8.23 let a universal type be
// cut into pieces: the string types, and the times, which are strings (X.680 §46, §47).
func (t Tag) isString() bool {
	if t.Class != Universal {
		return false
	}
	switch t.Number {
	case BitString, OctetString, 12, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 30:
		return true
	}
	return false
}

// check holds a universal tag against the form that its type must have.
func (t Tag) check() error {
	if t.Class != Universal {
		return nil
	}
	switch t.Number {
	case 0:
		return syntax("end of contents where none may be")
	case Boolean, Integer, Null, OID, Real, Enumerated, RelativeOID:
		if t.Constructed {
			return syntax("a simple type is constructed")
		}
	case Sequence, Set:
		if !t.Constructed {
			return syntax("a structure is primitive")
		}
	}
	return nil
}

// Indefinite is the length of an element that an end of contents closes.
const Indefinite = -1

// EndOfContents closes an element of indefinite length (X.690 §8.1.5).
var EndOfContents = [2]byte{}

// AppendHeader appends the identifier and length octets of an element in DER
// (X.690 §10.1), or with the indefinite form when length is Indefinite.
func AppendHeader(b []byte, t Tag, length int64) []byte {
	first := t.Class << 6
	if t.Constructed {
		first |= 0x20
	}
	if t.Number < 31 {
		b = append(b, first|byte(t.Number))
	} else {
		b = append(b, first|31)
		shift := 28
		for t.Number>>shift == 0 {
			shift -= 7
		}
		for ; shift > 0; shift -= 7 {
			b = append(b, byte(t.Number>>shift)|0x80)
		}
		b = append(b, byte(t.Number)&0x7f)
	}
	switch {
	case length < 0:
		return append(b, 0x80)
	case length < 128:
		return append(b, byte(length))
	}
	n := 1
	for length>>(8*n) != 0 {
		n++
	}
	b = append(b, 0x80|byte(n))
	for n--; n >= 0; n-- {
		b = append(b, byte(length>>(8*n)))
	}
	return b
}
