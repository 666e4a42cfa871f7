package filter

import (
	"bufio"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"postern/filter/authres"
	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/policy"
	"postern/filter/protect"
	"postern/filter/protect/entity"
)

// ErrNoArchive says that nothing can be sealed for an archive, or nobody of ours
// can sign it.
var ErrNoArchive = errors.New("no certificate of the archive that can be sealed to, or no identity that signs for it")

// keeper signs what goes to the archive of a domain: who answers for the mail
// of a domain (RFC 2142 §5).
func keeper(domain string) message.Address {
	return message.Address{Local: "postmaster", Domain: domain}
}

// signing is who of ours signs for an archive.
type signing struct {
	own     []keyring.Identity
	signers map[keyring.Format]*keyring.Identity
}

// kept collects what is known of the archives that the mail may have to go to.
func (g *Gateway) kept(ctx context.Context, p *passage) (err error) {
	var domains []string
	if p.listener.Direction == policy.Outbound {
		if home := strings.ToLower(p.author.Domain); g.Policy.Archives[home].Outbound {
			domains = append(domains, home)
		}
	} else if p.layer == protect.Sealed {
		for _, r := range p.facts.Recipients {
			if d := strings.ToLower(r.Address.Domain); g.Policy.Archives[d].Inbound && !slices.Contains(domains, d) {
				domains = append(domains, d)
			}
		}
	}
	p.keepers = map[string]signing{}
	for _, d := range domains {
		k := policy.Kept{Domain: d}
		if k.Certs, err = g.keeping(ctx, p, g.Policy.Archives[d]); err != nil {
			return err
		}
		own, err := g.KeyRing.Identities(ctx, keeper(d))
		if err != nil {
			return fmt.Errorf("look up %s: %w", keeper(d).Key(), err)
		}
		s := signing{own: own}
		s.signers, k.Signing, _ = g.signers(own, p.at)
		p.keepers[d], p.facts.Kept = s, append(p.facts.Kept, k)
	}
	if len(domains) > 0 && p.listener.Direction == policy.Inbound {
		p.facts.Returned, err = g.returned(ctx, p.msg)
	}
	return err
}

// keeping are the certificates of an archive that can be sealed to: those that
// its rule names and an operator trusts for its address, as long as their keys
// are not here.
func (g *Gateway) keeping(ctx context.Context, p *passage, a policy.Archive) (list []policy.Sealable, err error) {
	known, err := g.KeyRing.Certs(ctx, a.Address)
	if err != nil {
		return nil, fmt.Errorf("look up archive: %w", err)
	}
	not := func(c keyring.Cert, why string) { p.unkept = append(p.unkept, unused{c, why}) }
	for _, name := range a.Certs {
		name = keyring.CanonicalFingerprint(name)
		i := slices.IndexFunc(known, func(c keyring.Cert) bool { return c.Fingerprint == name })
		if i < 0 {
			not(keyring.Cert{Fingerprint: name}, "the keyring has no such certificate for "+a.Address.Key())
			continue
		}
		c := known[i]
		ours, err := g.KeyRing.Ours(ctx, c.Fingerprint)
		if err != nil {
			return nil, fmt.Errorf("look up archive: %w", err)
		}
		fit, out := g.sealable([]keyring.Cert{c}, p.at)
		switch {
		case c.Trust != keyring.Trusted:
			not(c, "no operator trusts it")
		case len(ours) > 0:
			not(c, "it is our own: its key is here")
		case g.Revoked != nil && g.Revoked(ctx, c, p.at):
			not(c, "its authority has revoked it")
		default:
			list = append(list, fit...)
			p.unkept = append(p.unkept, out...)
		}
	}
	return list, nil
}

// returned tells whether a mail is an archive's copy that we have made. Who does
// not know one's Message-ID cannot pass for it.
func (g *Gateway) returned(ctx context.Context, m *message.Message) (bool, error) {
	if g.Record == nil {
		return false, nil
	}
	ids, err := idsIn(m, "Message-ID")
	if err != nil {
		return false, err
	}
	for _, id := range ids[:min(len(ids), maxOwnIDs)] {
		if !strings.HasSuffix(id, g.archiveSuffix()) {
			continue
		}
		if made, err := g.Record.Opened(ctx, id); err != nil || made {
			return made, err
		}
	}
	return false, nil
}

// archiveSuffix is how the Message-ID of each archive's copy ends. What stands
// before it is chance: the trace id, which the sender hears, would let him pass
// his mails for such copies.
func (g *Gateway) archiveSuffix() string { return ".archive@" + g.Name }

// text is one form in which a mail is kept, and for whom it is that.
type text struct {
	msg   *message.Message
	facts authres.Archive
}

// archive makes the copies for archives. Nothing in clear leaves: what is kept
// stands inside of what is sealed, its envelope too.
func (g *Gateway) archive(ctx context.Context, p *passage) error {
	for _, plan := range p.decision.Plans {
		if plan.Archive == "" {
			continue
		}
		texts, err := g.texts(p, plan)
		if err != nil {
			return fmt.Errorf("read mail to archive: %w", err)
		}
		report, err := g.report(p, plan, texts)
		if err != nil {
			return fmt.Errorf("write mail to archive: %w", err)
		}
		s := p.keepers[plan.Archive]
		r := protect.SealRequest{Message: report, Signer: s.signers[plan.Format], Recipients: plan.Certs, Own: s.own, Style: plan.Style, At: p.at,
			NewSpool: func() *message.Spool { return g.vast(p) }}
		i := slices.IndexFunc(g.Protectors, func(pr protect.Protector) bool { return pr.Format() == plan.Format })
		if i < 0 || r.Signer == nil || len(r.Recipients) == 0 {
			return fmt.Errorf("seal for archive of %s: %w", plan.Archive, ErrNoArchive)
		}
		c := Copy{Plan: plan}
		if c.Message, err = g.Protectors[i].Seal(ctx, r); err != nil {
			return fmt.Errorf("seal for archive of %s: %w", plan.Archive, err)
		}
		copies := []Copy{c}
		if _, err := g.signAs(ctx, plan.Archive, p, copies); err != nil {
			return err
		}
		p.archived = append(p.archived, copies...)
	}
	return nil
}

// vastly is how much larger than any other mail one may become for the archive:
// a file in it, and what is sealed around that, are each base64.
const vastly = 8

// vast makes a spool for what becomes larger than any mail.
func (g *Gateway) vast(p *passage) *message.Spool {
	all := *g.Spools
	all.Max = vastly * cmp.Or(all.Max, message.DefaultMax)
	s := all.New()
	p.spools = append(p.spools, s)
	return s
}

// texts are what the archive keeps: inbound what the recipients are delivered,
// each form of it once; outbound the mail before it was sealed, as it would have
// left without.
func (g *Gateway) texts(p *passage, plan policy.Plan) (list []text, err error) {
	facts := authres.Archive{Direction: string(p.listener.Direction), At: p.at, From: p.env.From, To: plan.Of}
	if p.listener.Direction == policy.Outbound {
		c := Copy{Message: p.msg}
		if err := g.markCopy(p, &c); err != nil {
			return nil, err
		}
		facts.Status = authres.Status{Opened: "none", Reason: p.decision.Reason, Trace: p.env.Trace}
		if p.unsealed {
			facts.Opened = string(p.finding.Format)
		}
		return []text{{c.Message, facts}}, nil
	}
	named, seen := setOf(plan.Of), map[[sha256.Size]byte]int{}
	for i := range p.copies {
		c := &p.copies[i]
		facts.To = slices.DeleteFunc(slices.Clone(c.Plan.Recipients), func(a message.Address) bool { return !named[a] })
		if len(facts.To) == 0 {
			continue
		}
		h := sha256.New()
		if _, err := c.Message.WriteTo(h); err != nil {
			return nil, err
		}
		sum := [sha256.Size]byte(h.Sum(nil))
		if at, twice := seen[sum]; twice {
			list[at].facts.To = append(list[at].facts.To, facts.To...)
			continue
		}
		facts.Status, _ = p.status(c)
		seen[sum], list = len(list), append(list, text{c.Message, facts})
	}
	return list, nil
}

// report is the mail to an archive before it is sealed. Each text stands in it
// byte by byte, with what is known of it in fields on top of its own. Outside it
// has as many Received fields as what it keeps, and one: whatever brings such
// copies back, they end as any other mail that goes in circles.
func (g *Gateway) report(p *passage, plan policy.Plan, texts []text) (*message.Message, error) {
	from, _ := p.archivist(plan).ASCII()
	to, ok := plan.Recipients[0].ASCII()
	if !ok {
		to = plan.Recipients[0].String()
	}
	date := p.at.UTC().Format("Mon, 2 Jan 2006 15:04:05 -0700")
	spool := g.vast(p)
	w := bufio.NewWriter(spool) // its errors stick until Flush
	for range p.came.Count("Received") + 1 {
		w.Write(message.FoldField("Received", "by "+g.Name+" (archive) id "+p.env.Trace+"; "+date))
	}
	for _, f := range []struct{ name, value string }{
		{"Date", date}, {"From", "<" + from + ">"}, {"To", "<" + to + ">"}, {"Subject", "Archive copy " + p.env.Trace},
		{"Message-ID", "<" + strings.ToLower(rand.Text()) + g.archiveSuffix() + ">"}, {"Auto-Submitted", "auto-generated"}, {"MIME-Version", "1.0"},
	} {
		w.Write(message.FoldField(f.name, f.value))
	}
	boundary := entity.Boundary()
	fmt.Fprintf(w, "Content-Type: multipart/mixed;\r\n boundary=%q\r\n", boundary)
	for _, t := range texts {
		fmt.Fprintf(w, "\r\n--%s\r\n", boundary)
		if err := attach(w, t); err != nil {
			return nil, err
		}
	}
	fmt.Fprintf(w, "\r\n--%s--\r\n", boundary)
	if err := w.Flush(); err != nil {
		return nil, err
	}
	return message.Parse(spool, message.Limits{Depth: 1 << 20, Parts: 1 << 30, Fields: 1 << 20, HeaderBytes: 1 << 40}) // what is inside was bounded when it was read
}

// archivist is in whose name a copy is signed: an address at the domain that the
// signer's certificate names, so that programs find it the right one, or
// postmaster's.
func (p *passage) archivist(plan policy.Plan) message.Address {
	if s := p.keepers[plan.Archive].signers[plan.Format]; s != nil {
		for _, a := range s.Addresses {
			if _, ok := a.ASCII(); ok && strings.EqualFold(a.Domain, plan.Archive) {
				return a
			}
		}
	}
	return keeper(plan.Archive)
}

// attach writes a text as a message (RFC 2046 §5.2.1) where its bytes stay as
// they are on their way, and otherwise, since a message must not be encoded, as
// a file.
func attach(w io.Writer, t text) error {
	whole := *t.msg
	whole.Top = append(t.facts.Fields(), t.msg.Top...)
	lasts, err := whole.Lasts()
	if err != nil {
		return err
	}
	if lasts {
		if _, err := io.WriteString(w, "Content-Type: message/rfc822\r\nContent-Disposition: attachment; filename=\"mail.eml\"\r\n\r\n"); err != nil {
			return err
		}
		_, err := whole.WriteTo(w)
		return err
	}
	if _, err := io.WriteString(w, "Content-Type: application/octet-stream; name=\"mail.eml\"\r\nContent-Transfer-Encoding: base64\r\nContent-Disposition: attachment; filename=\"mail.eml\"\r\n\r\n"); err != nil {
		return err
	}
	lines := entity.NewEncoder(w, entity.Line)
	if _, err := whole.WriteTo(lines); err != nil {
		return err
	}
	return lines.Close()
}
