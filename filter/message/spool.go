package message

// Spool keeps the bytes of one mail.
type Spool struct{}
