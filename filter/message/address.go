package message

// Address is a mailbox as an envelope names it (RFC 5321 §4.1.2): Local
// without quotes and unescaped, Domain lower case and, where it is
// internationalised, in U-label form.
type Address struct{ Local, Domain string }
