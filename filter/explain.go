package filter

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"postern/filter/directory"
	"postern/filter/keyring"
	"postern/filter/policy"
	"postern/filter/protect"
)

// explain says in sentences which rule decided, with which keys, and why not
// with others.
func (p *passage) explain(rules *policy.Policy, err error) []string {
	var e account
	e.say("The mail is %s, from %s, to %d recipient(s).", p.listener.Direction, name(p.env.From), len(p.env.Recipients))
	if p.msg != nil && p.msg.Root != nil {
		if p.author.IsZero() {
			e.say("Its From field does not name exactly one address: no signature can be claimed for it, or made in its name.")
		} else {
			e.say("Its author is %s.", p.author.Key())
		}
		switch {
		case p.unsealed:
			e.say("It arrived encrypted by the sender's own program, and was opened with the author's keys.")
		case p.layer == protect.Sealed:
			e.say("It arrived encrypted (%s).", p.protector.Format())
		case p.layer == protect.Signed:
			e.say("It arrived signed (%s).", p.protector.Format())
		default:
			e.say("It arrived without protection.")
		}
	}
	if p.origin != nil {
		e.say("Where it came from, as it came: %s.", p.originWords())
	}
	switch outbound := p.listener.Direction == policy.Outbound; {
	case outbound && p.failed:
		e.say("It could not be opened as its author's own.")
	case outbound:
	case p.finding.Opened:
		ok, reason := p.verified(p.read, p.finding)
		e.say("It was opened. Verified: %v (%s).", ok, reason)
	case p.failed:
		e.say("It could not be opened with the keys of its recipients, and is delivered as it came unless policy refuses it.")
	case p.finding.Signed:
		ok, reason := p.verified(p.read, p.finding)
		e.say("Its signature was checked. Verified: %v (%s).", ok, reason)
	}
	e.scanning(p)
	if p.listener.Direction == policy.Outbound {
		if p.decision.Reason == policy.ReasonNoCert && !p.facts.Tells && slices.ContainsFunc(p.facts.Recipients, func(r policy.Recipient) bool { return rules.Without(r.Address) == policy.NoKeyPDF }) {
			e.say("There is no author whom a password could be told: one of ours who has logged in, or is the envelope sender as well. For want of a certificate it is refused.")
		}
		if p.msg == nil && len(p.facts.Recipients) > 0 {
			e.say("It goes no further than to its recipient %s, before anything of it is read.", p.facts.Recipients[0].Address.Key())
		}
		e.wishes(p.facts)
		for _, r := range p.facts.Recipients {
			e.recipient(p, rules, r)
		}
		e.signing(p)
	}
	for i, plan := range p.decision.Plans {
		if plan.Archive != "" {
			e.archived(p, plan)
		} else {
			e.plan(plan)
		}
		if p.listener.Direction == policy.Outbound && !plan.Encrypt {
			e.clear(p.facts, rules, plan)
		}
		if i < len(p.levels) && p.levels[i] != policy.NextHop {
			e.say("Its way to the recipients' servers: %s, as `postern route DOMAIN` explains.", p.levels[i])
		}
	}
	for _, u := range p.unkept {
		e.say("Not used for the archive: %s: %s.", certWords(u.Cert), u.why)
	}
	for _, name := range p.attested {
		e.say("It is signed with DKIM by the key of %s.", name)
	}
	if p.decision.Rule != "" {
		e.say("The rule that decided: %s.", p.decision.Rule)
	}
	if err != nil {
		e.say("The mail would not be relayed now: %v.", err)
		e.advice(p.decision, err)
	}
	return e.lines
}

// account is what is told, sentence by sentence.
type account struct{ lines []string }

func (e *account) say(format string, args ...any) {
	e.lines = append(e.lines, fmt.Sprintf(format, args...))
}

// wishes tells what raises or lowers the levels of the rules.
func (e *account) wishes(f policy.Facts) {
	for _, w := range []struct {
		is   bool
		what string
	}{
		{f.Asked.Encrypt, "Its sender asks for encryption: it is required for everybody outside."},
		{f.Asked.Sign, "Its sender asks for a signature."},
		{f.Asked.Plain, "Its sender asks for it to go in plain, where the rule is optional."},
		{f.Answer, "It answers a mail that came encrypted and was opened here: encryption is required for everybody outside, unless answers = \"usual\"."},
		{f.Unsealed, "Its sender's program had encrypted it: encryption is required for everybody outside."},
	} {
		if w.is {
			e.say("%s", w.what)
		}
	}
}

// recipient tells the rule for one, and what is known of his certificates.
func (e *account) recipient(p *passage, rules *policy.Policy, r policy.Recipient) {
	level, rule := rules.Protection(r.Address)
	if p.msg == nil { // nor is its author known
		e.say("To %s: encryption is %s by %s.", r.Address.Key(), level, rule)
	} else {
		sign, by := rules.Signing(p.author, r.Address)
		e.say("To %s: encryption is %s by %s; signatures are %s by %s.", r.Address.Key(), level, rule, sign, by)
	}
	if r.Once && level != policy.None {
		e.say("Mail to %s was encrypted before: it is required, unless `postern policy forget %s` is said.", r.Address.Key(), r.Address.Key())
	}
	taken := map[string]bool{}
	for _, plan := range p.decision.Plans {
		for i, a := range plan.Recipients {
			if a == r.Address && i < len(plan.Certs) {
				taken[plan.Certs[i].Fingerprint] = true
			}
		}
	}
	fit := rules.Fit(r.Address, r.Certs)
	var keys []string
	for _, c := range fit {
		key := certWords(c.Cert)
		about := p.found[r.Address.Key()].Found
		switch i := slices.IndexFunc(about, func(f directory.Found) bool { return f.Fingerprint == c.Fingerprint }); {
		case c.Trust != keyring.Seen:
		case i >= 0 && about[i].Use:
			key += " (" + about[i].Why + ")"
		default:
			key += " (it arrived by itself, and is good by its path)"
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		keys = []string{"none that is trusted and valid now"}
	}
	e.say("Certificates for %s: %s.", r.Address.Key(), strings.Join(keys, ", "))
	for _, c := range r.Certs {
		inForm := false
		for _, f := range fit {
			inForm = inForm || f.Fingerprint == c.Fingerprint
		}
		switch {
		case !inForm:
			e.say("Not used: %s: mail to this recipient is not sent in %s.", certWords(c.Cert), c.Format)
		case len(taken) > 0 && !taken[c.Fingerprint]:
			e.say("Not used: %s: another one goes before it, by the order of formats, or as the one format that the mail can be signed in.", certWords(c.Cert))
		}
	}
	for _, u := range p.unused[r.Address.Key()] {
		e.say("Not used: %s: %s.", certWords(u.Cert), u.why)
	}
	if away := p.found[r.Address.Key()].Away; len(away) > 0 {
		e.say("Did not answer in time, and may know of certificates for %s: %s.", r.Address.Key(), strings.Join(away, ", "))
	}
}

func certWords(c keyring.Cert) string {
	return strings.TrimSpace(string(c.Format) + " " + c.Fingerprint)
}

// signing tells the identities that can sign, and those that cannot.
func (e *account) signing(p *passage) {
	for _, f := range p.facts.Signing {
		e.say("It can be signed with the %s identity %s.", f, p.signers[f].Fingerprint)
	}
	for _, u := range p.idle {
		e.say("Not used to sign: %s: %s.", certWords(u.Cert), u.why)
	}
}

func (e *account) plan(plan policy.Plan) {
	var to []string
	for _, a := range plan.Recipients {
		to = append(to, a.Key())
	}
	how := "as it came"
	switch {
	case plan.Opened:
		how = "opened"
	case plan.Sign && plan.Encrypt:
		how = "signed and encrypted"
	case plan.PDF && plan.Sign:
		how = "as a PDF with a password in a signed mail"
	case plan.PDF:
		how = "as a PDF with a password"
	case plan.Sign:
		how = "signed, not encrypted"
	case plan.Encrypt:
		how = "encrypted, not signed"
	}
	e.say("One copy, %s, goes to %s.", how, strings.Join(to, ", "))
	for i, c := range plan.Certs {
		e.say("It is encrypted to %s %s of %s.", c.Format, c.Fingerprint, plan.Recipients[i].Key())
	}
	for _, c := range plan.Escrow {
		e.say("It can also be read by our own %s certificate %s.", c.Format, c.Fingerprint)
	}
	if plan.PDF {
		e.say("Its author is told the password in a mail of his own, and has to tell them by another way.")
	}
	if plan.Floor != "" {
		e.say("In place of encryption its way to the recipients' servers must be %s at least, or it waits.", plan.Floor)
	}
}

// archived tells of a copy for an archive.
func (e *account) archived(p *passage, plan policy.Plan) {
	var of []string
	for _, a := range plan.Of {
		of = append(of, a.Key())
	}
	to := plan.Recipients[0].Key()
	e.say("One more copy, signed and encrypted, goes to the archive %s before anybody has his: what it holds is for %s.", to, strings.Join(of, ", "))
	e.say("It is encrypted to %s of %s, and signed with the %s identity %s.", certWords(plan.Certs[0]), to, plan.Format, p.keepers[plan.Archive].signers[plan.Format].Fingerprint)
}

// clear answers for each recipient of a copy why it was not encrypted.
func (e *account) clear(f policy.Facts, rules *policy.Policy, plan policy.Plan) {
	for _, a := range plan.Recipients {
		level, rule := rules.Protection(a)
		var why string
		switch {
		case f.Layer == protect.Sealed:
			why = "the sender's own program has encrypted it, and client-encryption keeps that"
		case plan.PDF:
			why = "no certificate of the recipient can be used now, and no-key makes a PDF with a password of it"
		case plan.Floor != "":
			why = "no certificate of the recipient can be used now, and no-key takes a safe way instead"
		case level == policy.None:
			why = "the rule " + rule + " never does"
		case level == policy.OnDemand:
			why = "the rule " + rule + " does where the sender asks for it, and nothing in the mail does"
		case level == policy.Optional && f.Asked.Plain && rules.Lowering:
			why = "the sender asked for it to go in plain, and the rule " + rule + " leaves that to him"
		default:
			why = "no certificate of the recipient can be used now, and the rule " + rule + " does not insist"
		}
		e.say("Why not encrypted to %s: %s.", a.Key(), why)
	}
}

// advice says what an operator can do.
func (e *account) advice(d policy.Decision, err error) {
	switch d.Reason {
	case policy.ReasonNoEscrow:
		e.say("Add an identity of that format and kind of key for an entry of escrow, or take the entry out.")
	case policy.ReasonNoArchive:
		e.say("The archive needs one of its certs in the keyring, trusted and valid, and %s or its domain an identity that signs in the same format.", keeper(strings.TrimSuffix(strings.TrimPrefix(d.Rule, `domain."`), `"`)).Key())
	case policy.ReasonNoIdentity:
		e.say("Make an identity for the author or his domain with `postern identity create` or `postern identity add`, or change sign of the rule.")
	case policy.ReasonNoAuthor:
		e.say("The mail needs one From field with one address, or sign must not be always.")
	case policy.ReasonDowngrade:
		e.say("Import a new certificate of the recipient with `postern cert import`; or say `postern policy forget ADDRESS`, and mail to him goes by the rule again.")
	case policy.ReasonAnswer:
		e.say("Import a certificate of the recipient with `postern cert import` (look at `postern cert find ADDRESS`), or set answers = \"usual\".")
	case policy.ReasonForbidden:
		e.say("The sender has to leave the tag or field out, or the rule has to allow what he asks for.")
	case policy.ReasonClientBanned:
		e.say("The sender has to send without encryption of his own, or client-encryption has to allow it. It is opened only with keys of his own, for him alone.")
	case policy.ReasonNoCert:
		e.say("Import a certificate of the recipient with `postern cert import`, or change the rule, or no-key.")
	default:
		if errors.Is(err, ErrMustProtect) {
			e.say("Import a certificate of the recipient with `postern cert import`, or change the rule.")
			return
		}
		e.say("Look at: %s.", rowOf(err).Look)
	}
}
