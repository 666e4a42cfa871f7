package filter

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"postern/filter/message"
	"postern/filter/paper"
	"postern/filter/policy"
	"postern/filter/protect"
	"postern/filter/record"
	"postern/filter/resolver"
	"postern/filter/route"
	"postern/filter/scan"
	"postern/filter/transport"
	"postern/hsm"
)

// The ways in which a mail does not pass. Each has a row in Replies.
var (
	ErrConfig        = errors.New("own configuration broken")
	ErrOverload      = errors.New("too much in flight")
	ErrUndecryptable = errors.New("mail does not open and policy refuses it")
	ErrNoCertYet     = errors.New("protection required and no usable certificate yet")
	ErrMustProtect   = errors.New("protection required and no usable certificate")
	ErrDowngrade     = errors.New("protected before, and no usable certificate any more")
	ErrAnswer        = errors.New("answers sealed mail, and no usable certificate")
	ErrForbidden     = errors.New("the sender asks for what the rule forbids")
	ErrClientSealed  = errors.New("sealed by the sender's own program")
	ErrPolicy        = errors.New("policy says no")
	ErrClear         = errors.New("partner's mail in clear")
	ErrClient        = errors.New("partner's client not as agreed")
	ErrOrigin        = errors.New("its author's domain has mail like this refused")
	ErrLoop          = errors.New("mail loop")
	ErrNotYours      = errors.New("sender address is not of the account")
	ErrVirus         = errors.New("scanner found something malicious")
	ErrSpam          = errors.New("scanner refuses the mail")
	ErrScanLater     = errors.New("scanner wants the mail later")
	ErrUntold        = errors.New("author not told the password now")
	ErrUntellable    = errors.New("author's mailbox refuses the password")
	ErrParted        = errors.New("some have their copy, and the others never will")
)

// Row is one line of the reply table: the one place where an error becomes
// SMTP (RFC 5321 §4.2, RFC 3463). The text is fixed; the trace id is added.
// The page appliance/docs/replies.md is printed from it.
type Row struct {
	When   string
	Word   string // in the log and the decision object, where the decision has none
	Reply  transport.Reply
	German string // for the text of Reply
	Look   string // where an operator looks first
	is     func(error) bool
}

func is(targets ...error) func(error) bool {
	return func(err error) bool {
		for _, t := range targets {
			if errors.Is(err, t) {
				return true
			}
		}
		return false
	}
}

func reply(code int, enhanced [3]int, text string) transport.Reply {
	return transport.Reply{Code: code, Enhanced: enhanced, Text: text}
}

// Replies is the table, first match first. The last row takes everything that
// was not foreseen, and defers.
var Replies = []Row{
	{"token or key daemon away", "token-away", reply(451, [3]int{4, 7, 5}, "cryptographic service not available, try again later"),
		"der Dienst zum Verschlüsseln ist gerade nicht da; bitte später noch einmal",
		"`postern token status`; the mail comes back by itself",
		is(hsm.ErrAway, hsm.ErrLocked, hsm.ErrEmpty, hsm.ErrBudget, hsm.ErrBusy, hsm.ErrPIN, hsm.ErrOpaque)},
	{"must be archived, and nothing can be sealed for the archive or signed", "no-archive", reply(451, [3]int{4, 3, 5}, "mail cannot be archived yet, try again later"),
		"die Mail kann noch nicht archiviert werden; bitte später noch einmal",
		"`postern policy check`; the certificate of the archive, and the identity that signs for it",
		is(ErrNoArchive)},
	{"must be archived, and the archive's next hop does not take it", "archive", reply(451, [3]int{4, 3, 0}, "archive does not take the mail now, try again later"),
		"das Archiv nimmt die Mail gerade nicht an; bitte später noch einmal",
		"`postern doctor`, and the log, which has what the archive's server said; `on-failure` of the archive",
		is(ErrArchive)},
	{"clock not plausible", "clock", reply(451, [3]int{4, 3, 2}, "clock of the gateway not set yet, try again later"),
		"die Uhr des Gateways ist noch nicht gestellt; bitte später noch einmal",
		"`postern doctor`, and the time service; the mail comes back by itself",
		is(hsm.ErrClock)},
	{"own configuration broken", "configuration", reply(451, [3]int{4, 3, 5}, "gateway not configured for this mail, try again later"),
		"das Gateway ist für diese Mail nicht eingerichtet; bitte später noch einmal",
		"`postern policy check` and `postern key audit`",
		is(ErrConfig, hsm.ErrNoKey, hsm.ErrRefused, hsm.ErrInvalid)},
	{"recipient's domain takes no mail by its own word", "null-mx", reply(556, [3]int{5, 1, 10}, "domain of the recipient takes no mail"),
		"die Domain des Empfängers nimmt keine Mail an",
		"nothing: it has a null MX",
		is(route.ErrNull)},
	{"recipient's domain does not exist, or has no mail server", "no-domain", reply(550, [3]int{5, 1, 2}, "no mail server for the domain of the recipient"),
		"zur Domain des Empfängers gibt es keinen Mailserver; bitte die Adresse prüfen",
		"`postern route DOMAIN`; often a name is not spelled right",
		is(route.ErrNowhere)},
	{"names of the Internet not resolved", "resolver-away", reply(451, [3]int{4, 4, 3}, "domain of the recipient not resolvable now, try again later"),
		"die Domain des Empfängers ist gerade nicht aufzulösen; bitte später noch einmal",
		"`postern doctor` asks the resolver, `postern route DOMAIN` for the domain",
		is(resolver.ErrAway)},
	{"way to the recipient's domain not as safe as it must be", "unsafe-way", reply(451, [3]int{4, 7, 10}, "no way to the recipient that is as safe as it must be, try again later"),
		"zum Empfänger führt gerade kein so sicherer Weg, wie er sein muss; bitte später noch einmal",
		"`postern route DOMAIN` says what is asked and why",
		is(route.ErrUnsafe)},
	{"next hop lost before it answered a whole mail", "next-hop-lost", reply(451, [3]int{4, 4, 2}, "next hop lost before its answer, try again later"),
		"der nächste Mailserver war weg, bevor er die Mail bestätigt hat; bitte später noch einmal",
		"nothing: the mail may be there twice in the end, and is not lost",
		is(transport.ErrLost)},
	{"next hop away, or not as safe as it must be", "next-hop", reply(451, [3]int{4, 4, 1}, "next hop not reachable, try again later"),
		"der nächste Mailserver ist nicht erreichbar, oder nicht sicher genug; bitte später noch einmal",
		"`postern doctor`; whoever had his copy already does not get it again",
		is(transport.ErrNextHop)},
	{"too much in flight", "overload", reply(451, [3]int{4, 3, 2}, "gateway busy, try again later"),
		"das Gateway ist ausgelastet; bitte später noch einmal",
		"how long the next hop takes to answer",
		is(ErrOverload, context.DeadlineExceeded)},
	{"message too big", "too-big", reply(552, [3]int{5, 3, 4}, "message too big"),
		"die Mail ist zu groß",
		"the size limit in filterd.toml",
		is(message.ErrTooBig)},
	{"too many recipients", "too-many", reply(452, [3]int{4, 5, 3}, "too many recipients"),
		"die Mail hat zu viele Empfänger",
		"nothing: the sender splits the mail",
		is(transport.ErrTooMany)},
	{"bare CR or LF", "line-ends", reply(554, [3]int{5, 6, 0}, "line ends other than CRLF"),
		"das Programm, das die Mail schickt, beendet Zeilen falsch",
		"the program that sent it",
		is(message.ErrLineEnds)},
	{"hopeless MIME", "structure", reply(554, [3]int{5, 6, 0}, "message structure beyond limits"),
		"der Aufbau der Mail ist zu verschachtelt oder fehlerhaft",
		"the program that sent it",
		is(message.ErrLimit, message.ErrHeaderLimit, message.ErrSigned8Bit)},
	{"cannot be opened, and `undecryptable = \"reject\"`", "undecryptable", reply(554, [3]int{5, 7, 5}, "message cannot be accepted as protected"),
		"die Mail kann so verschlüsselt nicht angenommen werden",
		"the log has no cause either: whether a mail opens is told to nobody outside",
		is(ErrUndecryptable)},
	{"must be protected, no usable certificate, and a rule lets it wait", "no-cert-yet", reply(451, [3]int{4, 7, 3}, "this mail must be encrypted and waits for a certificate of its recipient, try again later"),
		"diese Mail muss verschlüsselt werden und wartet auf ein Zertifikat des Empfängers; bitte später noch einmal",
		"`postern cert find ADDRESS`; `no-key` and `downgrade` in filterd.toml",
		is(ErrNoCertYet)},
	{"must be protected, no usable certificate", "no-cert", reply(550, [3]int{5, 7, 3}, "not sent: this mail must be encrypted, and no valid certificate of its recipient is known; ask your IT desk to import one"),
		"nicht gesendet: diese Mail muss verschlüsselt werden, und es ist kein gültiges Zertifikat des Empfängers bekannt; Ihre IT kann es einspielen",
		"`postern cert find ADDRESS`",
		is(ErrMustProtect, protect.ErrNoCert)},
	{"was protected before, no usable certificate any more", "downgrade", reply(550, [3]int{5, 7, 3}, "not sent: mail to this recipient was encrypted until now, and his certificate is missing or has expired; ask him for a new one"),
		"nicht gesendet: Mails an diesen Empfänger wurden bisher verschlüsselt, und sein Zertifikat fehlt oder ist abgelaufen; bitten Sie ihn um ein neues",
		"`postern cert find ADDRESS`; `postern policy forget ADDRESS` if his mail is to go without from now on",
		is(ErrDowngrade)},
	{"answers a mail that came encrypted, no usable certificate", "answer", reply(550, [3]int{5, 7, 3}, "not sent: this is an answer to an encrypted mail, and cannot be encrypted for everybody it goes to; ask your IT desk for a certificate, or write a new mail"),
		"nicht gesendet: dies ist die Antwort auf eine verschlüsselte Mail und lässt sich nicht für alle Empfänger verschlüsseln; Ihre IT kann ein Zertifikat einspielen",
		"`postern cert find ADDRESS`; `answers` in filterd.toml",
		is(ErrAnswer)},
	{"the sender's own program encrypted it, and the site does not have that", "client-sealed", reply(550, [3]int{5, 7, 1}, "not sent: your own program has encrypted this mail; send it without, the gateway encrypts it for you"),
		"nicht gesendet: Ihr eigenes Programm hat diese Mail verschlüsselt; senden Sie sie unverschlüsselt, das Gateway verschlüsselt sie für Sie",
		"`client-encryption` in filterd.toml",
		is(ErrClientSealed)},
	{"the sender asks for what the rule forbids", "forbidden", reply(550, [3]int{5, 7, 1}, "not sent: you asked to encrypt or sign this mail, and the rules of your company do not allow that for this recipient"),
		"nicht gesendet: Sie wollten diese Mail verschlüsseln oder signieren, und die Regeln Ihrer Firma erlauben das für diesen Empfänger nicht",
		"`postern explain` names the rule",
		is(ErrForbidden)},
	{"partner's mail in clear, and `inbound` asks for TLS", "clear", reply(530, [3]int{5, 7, 0}, "must issue a STARTTLS command first"),
		"diese Mail muss über eine verschlüsselte Verbindung kommen (STARTTLS)",
		"`inbound` of the partner; the partner's server must use STARTTLS",
		is(ErrClear)},
	{"partner's mail over TLS, and not from a client or in a version that was agreed on", "client", reply(550, [3]int{5, 7, 1}, "client certificate or TLS version not as agreed"),
		"das Zertifikat des Mailservers oder die TLS-Version ist nicht die vereinbarte",
		"`min` and `inbound-pins` of the partner; the log names the key that was shown",
		is(ErrClient)},
	{"From or Sender is not an address of the account that sends", "not-yours", reply(550, [3]int{5, 7, 1}, "not sent: the sender address does not belong to the account that you are logged in with"),
		"nicht gesendet: die Absenderadresse gehört nicht zu dem Konto, mit dem Sie angemeldet sind",
		"the senders of the account: `postern account list`",
		is(ErrNotYours)},
	{"a scanner found something malicious", "virus", reply(550, [3]int{5, 7, 1}, "refused: this mail or something attached to it holds a virus or another harmful program; have your computer looked at"),
		"abgelehnt: diese Mail oder ein Anhang enthält einen Virus oder ein anderes schädliches Programm; bitte Ihren Computer prüfen lassen",
		"the log names it; `[scan.clamd]` in filterd.toml",
		is(ErrVirus)},
	{"a scanner takes it for spam, or worse", "spam", reply(550, [3]int{5, 7, 1}, "refused: this mail looks like spam or fraud; if it is not, please tell its recipient in another way"),
		"abgelehnt: diese Mail sieht nach Werbung oder Betrug aus; falls nicht, sagen Sie es dem Empfänger bitte auf anderem Weg",
		"the log has its score and what counted; the rules of rspamd",
		is(ErrSpam)},
	{"a scanner wants it later", "scan-later", reply(451, [3]int{4, 7, 1}, "not accepted now, try again later"),
		"gerade nicht angenommen; bitte später noch einmal",
		"`postern explain`; greylisting in rspamd",
		is(ErrScanLater)},
	{"a scanner away, and `on-failure = \"defer\"`", "scanner-away", reply(451, [3]int{4, 3, 0}, "mail cannot be scanned now, try again later"),
		"die Mail kann gerade nicht geprüft werden; bitte später noch einmal",
		"`postern doctor` asks each scanner",
		is(scan.ErrAway)},
	{"too big to be scanned, and `too-big = \"reject\"`", "scan-too-big", reply(552, [3]int{5, 3, 4}, "message too big to be scanned"),
		"die Mail ist zu groß, um geprüft zu werden",
		"`max-size` and `too-big` of the scanner in filterd.toml",
		is(scan.ErrTooBig)},
	{"its author's domain says that mail like this is not its own, and `dmarc = \"enforce\"`", "dmarc", reply(550, [3]int{5, 7, 1}, "refused: the domain of the author has all mail refused that it neither signed nor sent (DMARC)"),
		"abgelehnt: die Domain des Absenders lässt Mail abweisen, die sie nicht selbst signiert oder gesendet hat (DMARC)",
		"`dmarc` of the log line; mailing lists and forwarders break signatures",
		is(ErrOrigin)},
	{"nobody makes the PDF now, and `no-key = \"pdf\"`", "pdf-away", reply(451, [3]int{4, 3, 0}, "the PDF that this mail goes as cannot be made now, try again later"),
		"die Mail geht als PDF mit Passwort, das gerade nicht zu machen ist; bitte später noch einmal",
		"`systemctl status postern-pdf.socket`; `[pdf]` in filterd.toml",
		is(paper.ErrAway)},
	{"too big to go as a PDF", "pdf-too-big", reply(552, [3]int{5, 3, 4}, "not sent: this mail would go as a PDF with a password, and is too big for that; send less, or ask your IT desk for a certificate of its recipient"),
		"nicht gesendet: diese Mail ginge als PDF mit Passwort und ist dafür zu groß; senden Sie weniger, oder lassen Sie Ihre IT ein Zertifikat des Empfängers einspielen",
		"`max-size` of `[pdf]` in filterd.toml; `postern cert find ADDRESS`",
		is(paper.ErrTooBig)},
	{"the password of a PDF has not reached its author, and the PDF does not leave", "pdf-untold", reply(451, [3]int{4, 4, 1}, "the password for the recipient could not be brought to you, try again later"),
		"das Passwort für den Empfänger war Ihnen nicht zuzustellen; bitte später noch einmal",
		"`[next-hop.inbound]`, by which it goes",
		is(ErrUntold)},
	{"the author's own mail server refuses the password of a PDF", "pdf-untellable", reply(550, [3]int{5, 7, 1}, "not sent: the password for the recipient has to be brought to you, and your mail server does not take it"),
		"nicht gesendet: das Passwort für den Empfänger müsste zu Ihnen, und Ihr Mailserver nimmt es nicht an",
		"the log has the answer of `[next-hop.inbound]`; the author must have a mailbox",
		is(ErrUntellable)},
	{"policy says no", "policy", reply(550, [3]int{5, 7, 1}, "refused by policy"),
		"von den Regeln dieser Firma abgelehnt",
		"`postern explain` names the rule",
		is(ErrPolicy)},
	{"some recipients have their copy, and the next hop refuses the others", "parted", reply(451, [3]int{4, 5, 0}, "some recipients were refused, try again to hear which; who has the mail does not get it again"),
		"einige Empfänger wurden abgelehnt; noch einmal senden, um zu erfahren welche; wer die Mail hat, bekommt sie nicht noch einmal",
		"nothing: when the sender comes back, each refused recipient is refused at RCPT",
		is(ErrParted)},
	{"the record can't be read or written", "record", reply(451, [3]int{4, 3, 1}, "record not available, try again later"),
		"das Gateway kann sich gerade nichts merken; bitte später noch einmal",
		"the disk of `record` in filterd.toml",
		is(record.ErrAway)},
	{"mail loop", "loop", reply(554, [3]int{5, 4, 6}, "mail loop"),
		"die Mail läuft im Kreis",
		"the Received fields of the mail",
		is(ErrLoop, route.ErrLoop)},
	{"anything not foreseen", "unforeseen", reply(451, [3]int{4, 3, 0}, "internal trouble, try again later"),
		"interne Störung; bitte später noch einmal",
		"the log line with the trace id",
		func(error) bool { return true }},
}

// faultOf is the error of a decision that does not relay.
func faultOf(d policy.Decision) error {
	cause := ErrConfig
	waits := d.Action == policy.Defer
	switch d.Reason {
	case policy.ReasonNoCert, policy.ReasonDowngrade, policy.ReasonAnswer:
		cause = map[string]error{policy.ReasonNoCert: ErrMustProtect, policy.ReasonDowngrade: ErrDowngrade, policy.ReasonAnswer: ErrAnswer}[d.Reason]
		if waits {
			cause = ErrNoCertYet
		}
	case policy.ReasonNoArchive:
		cause = ErrNoArchive
	case policy.ReasonUndecryptable:
		return ErrUndecryptable // and nothing of why
	case policy.ReasonClientBanned:
		cause = ErrClientSealed
	case policy.ReasonForbidden:
		cause = ErrForbidden
	default:
		if !waits {
			cause = ErrPolicy
		}
	}
	return fmt.Errorf("rule %s: %s: %w", d.Rule, d.Reason, cause)
}

// Word is the reply of the table for err, for a next hop that has one for each
// recipient.
func (t Texts) Word(err error) transport.Reply {
	row := rowOf(err)
	r := row.Reply
	r.Text = t.of(row)
	return r
}

// replyTo puts err into the words of SMTP. A next hop's own answer stays what
// it is where it is a no: what is neither 4xx nor 5xx can't stand for an
// error, and 421 would close a channel that is not the next hop's (RFC 5321
// §3.8). Every other text is fixed, so that nothing of the cause gets out.
func (t Texts) replyTo(err error, trace string) transport.Reply {
	var r transport.Reply
	if !errors.As(err, &r) || r.Code/100 != 4 && r.Code/100 != 5 {
		r = t.Word(err)
	}
	if r.Code == 421 {
		r.Code = 451
	}
	r.Text += " " + trace
	return r
}

// quiet keeps the codes of a next hop's answer, and none of its words: they may
// quote what was opened, and go to whoever sent the mail. Sealed mail that did
// not open gets the same, or the words would tell which did.
func quiet(res transport.Result) transport.Result {
	wordless := func(r transport.Reply) transport.Reply {
		r.Text = "taken"
		if r.Code/100 != 2 {
			r.Text = "next hop does not take it"
		}
		return r
	}
	replies := make([]transport.Reply, len(res.Replies))
	for i, r := range res.Replies {
		replies[i] = wordless(r)
	}
	res.Replies = replies
	if r := (transport.Reply{}); errors.As(res.Err, &r) {
		res.Err = wordless(r)
	}
	return res
}

// wordOf is the reason why a mail did not pass, in a word.
func wordOf(err error) string {
	var r transport.Reply
	if errors.As(err, &r) {
		return "next-hop"
	}
	return rowOf(err).Word
}

// rowOf is the row of the table for err.
func rowOf(err error) Row {
	i := slices.IndexFunc(Replies, func(row Row) bool { return row.is(err) })
	return Replies[i] // the last row takes all
}
