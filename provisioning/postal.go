package provisioning

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"postern/filter/challenge"
	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/policy"
	"postern/filter/record"
	"postern/filter/transport"
	"postern/hsm"
	"postern/hsm/client"
	"postern/provisioning/acme"
)

// useACME are the keys of accounts at such authorities.
const useACME = "acme"

// ACME is what an authority that is asked by ACME wants beyond its URL.
type ACME struct {
	Contact              []string // addresses of mail
	Agreed               bool     // to its terms of service
	Binding, BindingFile string   // of an account elsewhere (RFC 8555 §7.3.4)
	Join                 string   // of the halves of a token
	Submit               string   // listener of filterd that answers go to; "": the first that takes them
	Wait                 time.Duration
}

// postal is an authority that proves addresses by mail (RFC 8823). filterd
// notes what its mail to an address says, and signs our answer to it: what both
// need to know of each other stands in the keyring and in the record.
type postal struct {
	*acme.Server
	absence
	e      *enrolment
	name   string
	config ACME
	site   Site
	hop    *transport.Hop
	record *record.Record       // nil: not opened yet
	until  time.Time            // before then no further order is made
	told   map[string]bool      // challenges whose answer this run has told of
	again  map[string]time.Time // orders that are not looked at before
}

// orderLife is how long an order is believed in whose authority does not say.
const orderLife = 7 * 24 * time.Hour

// openPostal finds the key of the account, or makes it; nothing is asked yet.
func (e *enrolment) openPostal(ctx context.Context, name string, a Authority) (*postal, error) {
	p := &postal{e: e, name: name, config: *a.ACME, told: map[string]bool{}, again: map[string]time.Time{}}
	var err error
	if p.site, err = e.site(); err != nil {
		return nil, err
	}
	if err := p.way(); err != nil || e.dry() {
		return p, err
	}
	c := acme.Config{URL: a.URL, Contact: a.ACME.Contact, Agreed: a.ACME.Agreed, Binding: a.ACME.Binding, Join: challenge.Join(a.ACME.Join)}
	if c.Roots, err = e.roots(a.CAFile); err != nil {
		return nil, err
	}
	if c.Binding != "" {
		if c.MAC, err = e.password(a.ACME.BindingFile); err != nil {
			return nil, err
		}
	}
	now := e.now() // what nobody wants any more is not awaited for ever
	if err := e.store.DropOrdersBefore(ctx, name, now, now.Add(-orderLife)); err != nil {
		return nil, err
	}
	key, err := e.accountKey(ctx, name)
	if err != nil {
		return nil, err
	}
	if c.Key, err = client.Signer(ctx, e.keeper, key); err != nil {
		return nil, err
	}
	p.Server, err = acme.New(c)
	return p, err
}

// accountKey is the key of the account at an authority: of the token, like all
// others, and for nothing else.
func (e *enrolment) accountKey(ctx context.Context, name string) (hsm.Key, error) {
	base := useACME + "/" + name + "/" + hsm.Sign.String()
	if key, ok := newest(e.keys, base); ok {
		return key, nil
	}
	label, err := free(e.keys, base, true)
	if err != nil {
		return hsm.Key{}, err
	}
	key, err := e.keeper.Generate(ctx, hsm.KeySpec{Algorithm: hsm.P256, Usage: hsm.Sign, Label: label})
	if err != nil {
		return key, fmt.Errorf("generate %s: %w", label, err)
	}
	e.keys = append(e.keys, key)
	return key, nil
}

// way finds where answers go: through filterd, which signs them.
func (p *postal) way() error {
	address := p.config.Submit
	if address == "" {
		if len(p.site.Inside) == 0 {
			return no("add an outbound listener to filterd.toml that this machine uses without login, as address = \"127.0.0.1:2525\", direction = \"outbound\"; or name one as `submit`", "no listener of filterd takes answers to the authority")
		}
		address = p.site.Inside[0]
	}
	p.hop = &transport.Hop{Address: address, Name: "localhost", Need: transport.Need{TLS: transport.TLSMay}, MaxIdle: -1}
	switch {
	case !p.site.Vets:
		return no(`set dmarc = "mark" in [authentication] of filterd.toml`, "filterd does not look at DKIM signatures, and so takes no mail for the authority's")
	case p.site.Policy != nil && p.site.Policy.Shadow:
		return no("set shadow = false in [default] of filterd.toml", "filterd signs nothing in shadow mode, and an answer counts only with its DKIM signature")
	}
	return nil
}

func (p *postal) has(hsm.Key) bool { return false }

// certify brings an order one step further.
func (p *postal) certify(ctx context.Context, a plea) ([]keyring.Cert, error) {
	if err := p.refuse(); err != nil {
		return nil, fmt.Errorf("%w: %w", errWaiting, err)
	}
	certs, err := p.further(ctx, a)
	p.note(err, acme.ErrAway)
	if terms, ok := errors.AsType[*acme.Terms](err); ok {
		return nil, no("read them, and set terms-agreed = true in the plan", "%w: %s", acme.ErrTerms, terms.URL)
	}
	if errors.Is(err, acme.ErrDenied) {
		return nil, no("binding and binding-file in the plan name the account that the authority knows us by, and contact who runs it", "%w", err)
	}
	if errors.Is(err, acme.ErrAway) || errors.Is(err, acme.ErrLater) {
		return nil, fmt.Errorf("%w: %w", errWaiting, err)
	}
	return certs, err
}

func (p *postal) further(ctx context.Context, a plea) ([]keyring.Cert, error) {
	address, err := p.e.mailbox(a.wanted)
	if err != nil {
		return nil, err
	}
	o, err := p.ordered(ctx, a, address)
	if err != nil {
		return nil, err
	}
	if o.Answered.IsZero() {
		if err := p.answer(ctx, &o); err != nil {
			return nil, err
		}
	}
	state, err := p.Look(ctx, o.URL)
	if errors.Is(err, acme.ErrInvalid) {
		return nil, p.lost(ctx, o, err)
	}
	if err != nil {
		return nil, p.postpone(o, err)
	}
	if state == acme.Pending && o.Challenge != "" && !p.told[o.Challenge] { // a run that ended in between
		if err := p.tell(ctx, o); err != nil && !errors.Is(err, acme.ErrRefused) { // it was told before, and does not want to hear it again
			return nil, err
		}
		if state, err = p.Look(ctx, o.URL); err != nil {
			return nil, p.postpone(o, err)
		}
	}
	if state == acme.Pending {
		p.again[o.URL] = time.Now().Add(pollEvery)
		return nil, fmt.Errorf("%w: it looks at our answer of %s", errWaiting, o.Answered.Format(time.RFC3339))
	}
	made, err := p.Finish(ctx, o.URL, a.der)
	if errors.Is(err, acme.ErrInvalid) {
		return nil, p.lost(ctx, o, err)
	}
	if err != nil {
		return nil, p.postpone(o, err)
	}
	certs, err := asCerts(made)
	if err != nil {
		return nil, err
	}
	return append(certs[:1:1], above(made[0], certs[1:])...), nil
}

// pollEvery is how often an order is looked at whose authority does not say.
const pollEvery = 5 * time.Second

// postpone keeps to the time that an authority named.
func (p *postal) postpone(o keyring.Order, err error) error {
	if later, ok := errors.AsType[*acme.Later](err); ok {
		p.again[o.URL] = time.Now().Add(max(later.After, pollEvery))
	}
	return err
}

// lost ends an order that came to nothing, so that the next run orders anew.
func (p *postal) lost(ctx context.Context, o keyring.Order, err error) error {
	if err := p.e.store.DropOrder(ctx, o.URL); err != nil {
		return err
	}
	return no("see what it says, and run it again: a new certificate is ordered then", "%w", err)
}

// ordered is the order for a key, made now where there is none.
func (p *postal) ordered(ctx context.Context, a plea, address message.Address) (o keyring.Order, err error) {
	o, ok, err := p.e.store.OrderOf(ctx, p.name, a.key.ID)
	if err != nil {
		return o, err
	}
	if ok && p.over(o) {
		if err := p.e.store.DropOrder(ctx, o.URL); err != nil {
			return o, err
		}
		ok = false
	}
	if !ok {
		if o, err = p.order(ctx, a, address); err != nil {
			return o, err
		}
	}
	if !o.Answered.IsZero() || o.Challenge != "" {
		return o, nil
	}
	c, err := p.Challenge(ctx, o.URL)
	switch {
	case errors.Is(err, acme.ErrInvalid):
		return o, p.lost(ctx, o, err)
	case err != nil:
		return o, err
	case c.URL == "":
		o.Answered = p.e.now() // nobody has to prove anything
	default:
		sender, err := message.ParseAddress(c.Sender)
		if err != nil {
			return o, fmt.Errorf("sender %.80q of the authority's mail: %w: %w", c.Sender, acme.ErrAnswer, err)
		}
		o.Challenge, o.Token, o.Sender = c.URL, c.Token, sender.Key()
	}
	return o, p.e.store.PutOrder(ctx, o)
}

func (p *postal) over(o keyring.Order) bool {
	if o.Expires.IsZero() {
		return p.e.now().After(o.Made.Add(orderLife))
	}
	return p.e.now().After(o.Expires)
}

// order orders a certificate. It is written down before the authority is asked
// for the challenge, and with that for its mail: filterd has to know it by then.
// Of an address one order at a time waits for a mail, which does not say to
// which it belongs.
func (p *postal) order(ctx context.Context, a plea, address message.Address) (o keyring.Order, err error) {
	ascii, ok := address.ASCII()
	if !ok {
		return o, no("take an authority with a folder for it", "address %s is not ASCII, which is all that ACME for mail takes here", address.Key())
	}
	blocked, err := p.blocked(ctx, address, a.key.ID)
	if err != nil {
		return o, err
	}
	if blocked {
		return o, fmt.Errorf("%w: another certificate of %s is ordered first", errWaiting, address.Key())
	}
	if err := p.signs(address); err != nil {
		return o, err
	}
	if left := time.Until(p.until); left > 0 {
		return o, fmt.Errorf("%w: it takes further orders in %v", errWaiting, left.Round(time.Second))
	}
	if err := p.e.pace.wait(ctx); err != nil {
		return o, err
	}
	o = keyring.Order{Authority: p.name, Address: address, Key: a.key.ID, Made: p.e.now()}
	if o.URL, o.Expires, err = p.Order(ctx, ascii); err != nil {
		if later, ok := errors.AsType[*acme.Later](err); ok {
			p.until = time.Now().Add(max(later.After, time.Second))
		}
		return o, err
	}
	return o, p.e.store.PutOrder(ctx, o)
}

func (p *postal) blocked(ctx context.Context, address message.Address, key hsm.KeyID) (bool, error) {
	others, err := p.e.store.OrdersOf(ctx, address)
	if err != nil {
		return false, err
	}
	for _, o := range others {
		if o.Authority == p.name && o.Key != key && o.Answered.IsZero() && !p.over(o) {
			return true, nil
		}
	}
	return false, nil
}

// signs holds that filterd signs what leaves as the address.
func (p *postal) signs(address message.Address) error {
	if !p.site.Mail.DKIM[strings.ToLower(address.Domain)] {
		return no(fmt.Sprintf("`postern dkim rotate --domain %s`, publish its records, and set dkim = \"sign\" in [domain.%q] of filterd.toml", address.Domain, address.Domain),
			"mail of %s leaves without a DKIM signature, and the authority takes no answer without", address.Domain)
	}
	return nil
}

// answer answers the authority's mail, where it has come. An order is answered
// once (RFC 8823 §3): that it was is written down before the answer leaves.
func (p *postal) answer(ctx context.Context, o *keyring.Order) error {
	if err := p.plain(o.Address, o.Sender); err != nil {
		return err
	}
	proof, ok, err := p.proof(ctx, *o)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("%w: its mail from %s to %s has not come", errWaiting, o.Sender, o.Address.Key())
	}
	to := cmpOr(proof.ReplyTo, o.Sender)
	if err := p.plain(o.Address, to); err != nil {
		return err
	}
	digest, err := p.Digest(proof.Token, o.Token)
	if err != nil {
		return fmt.Errorf("%w: %w", acme.ErrAnswer, err)
	}
	a := challenge.Answer{From: o.Address, Token: proof.Token, InReplyTo: proof.MessageID, Digest: digest, Host: o.Address.Domain, At: p.e.now()}
	if a.To, err = message.ParseAddress(to); err != nil {
		return fmt.Errorf("answer to %.80q: %w", to, err)
	}
	o.Answered = p.e.now()
	if err := p.e.store.PutOrder(ctx, *o); err != nil {
		return err
	}
	if sent, err := p.send(ctx, a); !sent {
		o.Answered = time.Time{}
		return errors.Join(err, p.e.store.PutOrder(context.WithoutCancel(ctx), *o))
	}
	return p.tell(ctx, *o)
}

// tell tells the authority that the answer is on its way.
func (p *postal) tell(ctx context.Context, o keyring.Order) error {
	p.told[o.Challenge] = true
	return p.postpone(o, p.Answered(ctx, o.Challenge))
}

// plain holds that the answer to somebody leaves as text: signed or sealed no
// authority reads it (RFC 8823 §3.2).
func (p *postal) plain(from message.Address, to string) error {
	a, err := message.ParseAddress(to)
	if err != nil {
		return fmt.Errorf("answer to %.80q: %w", to, err)
	}
	rules := p.site.Policy
	if rules == nil {
		return nil
	}
	protect, _ := rules.Protection(a)
	sign, _ := rules.Signing(from, a)
	if (protect == policy.None || protect == policy.OnDemand) && (sign == policy.SignNever || sign == policy.SignAsked) {
		return nil
	}
	return no(fmt.Sprintf("add to filterd.toml: [recipient.%q] protect = \"none\", sign = \"never\"; or the same in [partner.%q]", a.Key(), a.Domain),
		"the answer to %s would be signed or sealed, and the authority reads neither", a.Key())
}

// proof is what filterd noted of the authority's mail.
func (p *postal) proof(ctx context.Context, o keyring.Order) (found record.Proof, ok bool, err error) {
	if p.record == nil {
		p.record, err = record.OpenForeign(p.site.Record)
		switch {
		case errors.Is(err, record.ErrNoRecord):
			return found, false, fmt.Errorf("%w: filterd has not run yet, which notes its mail", errWaiting)
		case errors.Is(err, fs.ErrPermission):
			return found, false, no("run it as root: the folder is filterd's own", "read what filterd noted: %w", err)
		case err != nil:
			return found, false, err
		}
	}
	return p.record.Proved(ctx, o.URL, o.Sender)
}

// send gives an answer to filterd. sent is true where it may have left.
func (p *postal) send(ctx context.Context, a challenge.Answer) (sent bool, err error) {
	mail := a.Mail()
	result := p.hop.Deliver(ctx, &transport.Envelope{From: a.From, Recipients: []transport.Recipient{{Address: a.To}}}, int64(len(mail)), bytes.NewReader(mail))
	if err = result.Err; err == nil && len(result.Replies) == 1 && result.Replies[0].Code/100 != 2 {
		err = result.Replies[0]
	}
	if err == nil || result.Err != nil && result.Sent {
		return true, nil
	}
	if reply, ok := errors.AsType[transport.Reply](err); ok && reply.Code/100 == 5 {
		return false, no("`postern trace` and the journal of filterd say why; the order stays", "answer to %s: filterd refuses it: %w", a.To.Key(), err)
	}
	return false, fmt.Errorf("%w: the answer to %s did not leave: %w", errWaiting, a.To.Key(), err)
}

// moved reports whether to look again at what waits for this authority.
func (p *postal) moved(ctx context.Context, w wanted) bool {
	address, err := p.e.mailbox(w)
	if err != nil {
		return false
	}
	orders, err := p.e.store.OrdersOf(ctx, address)
	if err != nil {
		return true
	}
	waits := false
	for _, o := range orders {
		if o.Authority != p.name {
			continue
		}
		if !o.Answered.IsZero() {
			if time.Now().After(p.again[o.URL]) {
				return true
			}
			continue
		}
		if _, ok, err := p.proof(ctx, o); ok || o.Challenge == "" || err != nil && !errors.Is(err, errWaiting) {
			return true
		}
		waits = true
	}
	return !waits && time.Now().After(p.until)
}

func (p *postal) done(a plea) error {
	o, ok, err := p.e.store.OrderOf(context.Background(), p.name, a.key.ID)
	if err != nil || !ok {
		return err
	}
	return p.e.store.DropOrder(context.Background(), o.URL)
}

func (p *postal) close() {
	if p.Server != nil {
		p.Server.Close()
	}
	if p.record != nil {
		p.record.Close()
	}
	if p.hop != nil {
		p.hop.Close()
	}
}

// roots are the certificates in a file; nil, the system's, where there is none.
func (e *enrolment) roots(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	data, err := e.read(path, maxFile)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, no("it is the certificate of the authority that the server's own was made by", "%s: no certificate in PEM", path)
	}
	return pool, nil
}

// password is the one line of a file.
func (e *enrolment) password(path string) (string, error) {
	data, err := e.read(path, maxSecret)
	if err != nil {
		return "", fmt.Errorf("read password: %w", err)
	}
	text := strings.TrimRight(string(data), "\r\n")
	if text == "" || strings.ContainsAny(text, "\r\n") {
		return "", no("it is the file's one line", "%s: no password", path)
	}
	return text, nil
}
