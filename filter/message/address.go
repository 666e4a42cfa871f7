package message

import "errors"

// ErrAddress is text that is not exactly one address in the strict grammar.
var ErrAddress = errors.New("not an address")

// Address is a mailbox as an envelope names it (RFC 5321 §4.1.2): Local
// without quotes and unescaped, Domain lower case and, where it is
// internationalised, in U-label form.
type Address struct{ Local, Domain string }

// ParseAddress reads one addr-spec without angle brackets, source route,
// comment or white space. What two readers could take differently is ErrAddress.
func ParseAddress(s string) (Address, error) { return Address{}, ErrAddress }

// ParseFrom reads the value of a From, To or Cc field (RFC 5322 §3.4).
func ParseFrom(value string) ([]Address, error) { return nil, ErrAddress }

// IsZero reports whether a is the null sender, or none at all.
func (a Address) IsZero() bool { return a == Address{} }

// Key is the canonical form by which an address is found.
func (a Address) Key() string { return a.Local + "@" + a.Domain }

// String prints a for an envelope, the local part quoted where it must be.
func (a Address) String() string { return a.Key() }
