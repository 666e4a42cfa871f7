package authres

import (
	"strings"
	"time"

	"postern/filter/message"
)

// Archive is what stands on top of a mail in an archive: what nothing else in it
// says. Its Status is that of the mail.
type Archive struct {
	Direction string
	At        time.Time       // when it was taken
	From      message.Address // of the envelope; zero: the null sender
	To        []message.Address
	Status
}

// Fields are Postern-Archive, Postern-Archive-From and Postern-Archive-To,
// complete with CRLF. The values are as safe as those of Status.
func (a Archive) Fields() []byte {
	from := "none"
	if !a.From.IsZero() {
		from = Word(a.From)
	}
	var to []string
	for _, one := range a.To {
		to = append(to, Word(one))
	}
	status := "v=1; direction=" + a.Direction + "; time=" + a.At.UTC().Format(time.RFC3339) + "; opened=" + a.Opened + "; verified=" + a.verified() +
		"; signer=" + a.signer() + "; reason=" + a.Reason + "; trace=" + a.Trace
	b := message.FoldField("Postern-Archive", status)
	b = append(b, message.FoldField("Postern-Archive-From", from)...)
	return append(b, message.FoldField("Postern-Archive-To", strings.Join(to, ", "))...)
}
