package policy

// Protect is how much end-to-end protection a recipient's mail gets.
type Protect string

const (
	None     Protect = "none"     // never encrypted: where the sender asks for it, the mail is refused
	OnDemand Protect = "asked"    // encrypted where the sender asks for it
	Optional Protect = "optional" // encrypted when a usable certificate is known
	Require  Protect = "require"  // encrypted, or what NoKey says
)

// strictness orders the levels; it is -1 for a word that is none.
func strictness(p Protect) int {
	switch p {
	case None:
		return 0
	case OnDemand:
		return 1
	case Optional:
		return 2
	case Require:
		return 3
	}
	return -1
}

// Sign says whether mail of one of our domains is signed.
type Sign string

const (
	SignAlways   Sign = "always"
	SignOptional Sign = "optional" // where there is an identity that can
	SignAsked    Sign = "asked"    // where the sender asks for it
	SignNever    Sign = "never"    // where the sender asks for it, the mail is refused
)

// NoKey says what becomes of mail that must be encrypted where there is no
// certificate to do it with. The empty word refuses it.
type NoKey string

const (
	NoKeyReject    NoKey = "reject"
	NoKeyTransport NoKey = "transport" // it goes over a way that is safe from server to server
	NoKeyDefer     NoKey = "defer"
	NoKeyPDF       NoKey = "pdf" // it goes as a PDF with a password, which its author is told
)

// Downgrade says what becomes of mail to somebody to whom mail was sealed
// before, where none can be sealed now. The empty word refuses it.
type Downgrade string

const (
	DowngradeReject Downgrade = "reject"
	DowngradeDefer  Downgrade = "defer"
	DowngradeOff    Downgrade = "off" // nothing is asked about before
)

// Answers says how an answer goes out to a mail that came sealed and that we
// opened: it may quote it. The empty word protects it.
type Answers string

const (
	AnswersProtect Answers = "protect" // sealed, or not at all
	AnswersUsual   Answers = "usual"   // as any other mail
)

// Client says what becomes of outbound mail that the sender's own program has
// sealed. The empty word keeps it.
type Client string

const (
	ClientKeep   Client = "keep"   // passes as it is
	ClientRefuse Client = "refuse" // banned
	ClientOpen   Client = "open"   // opened, and sealed anew
)

// Undecryptable says what becomes of sealed mail that does not open.
type Undecryptable string

const (
	Mark   Undecryptable = "mark"   // delivered as it came, marked
	Reject Undecryptable = "reject" // refused, one text for every cause
)

// Words for Decision.Reason.
const (
	ReasonPlain         = "plain"            // nothing to protect
	ReasonSealed        = "sealed"           // sealed for every recipient that has a certificate
	ReasonTransport     = "transport"        // no certificate: protected from server to server
	ReasonPDF           = "pdf"              // no certificate: a PDF with a password
	ReasonOpened        = "opened"           // inbound, see the finding
	ReasonNotOpened     = "not-opened"       // inbound, delivered as it came
	ReasonNotOurs       = "not-ours"         // inbound, to a domain that is none of ours
	ReasonNoCert        = "no-cert"          // protection is required and there is no usable certificate
	ReasonDowngrade     = "downgrade"        // mail was sealed before, and there is no usable certificate any more
	ReasonAnswer        = "answer"           // answers a mail that came sealed, and there is no usable certificate
	ReasonForbidden     = "forbidden"        // the sender asks for what the rule forbids
	ReasonNoIdentity    = "no-identity"      // signing is asked for and there is no identity
	ReasonNoEscrow      = "no-escrow"        // somebody of ours must read along, and has no certificate of this kind
	ReasonNoArchive     = "no-archive"       // the mail must be archived, and nothing can be sealed for the archive and signed
	ReasonNoAuthor      = "no-author"        // signing is asked for and From does not name one address
	ReasonUndecryptable = "undecryptable"    // site refuses what it cannot open
	ReasonClient        = "client-protected" // the sender's own program protected it already
	ReasonClientBanned  = "client-sealed"    // the sender's own program sealed it, and the site does not have that
)
