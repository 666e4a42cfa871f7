package smime

import (
	"context"
	"errors"
	"fmt"

	"postern/filter/cms"
	"postern/filter/message"
	"postern/filter/protect"
	"postern/filter/protect/entity"
	"postern/filter/protect/headers"
)

// Open takes off the layer that Detect saw. See protect.Protector.
//
// Of a signature around encryption nothing is claimed, and it goes with the
// encryption: its signer may not have read what he signed (R13). One signature
// without parts (opaque) inside of it goes as well, once it was looked at, since
// many programs show nothing of it; multipart/signed stays.
func (p *Protector) Open(ctx context.Context, r protect.OpenRequest) (*message.Message, protect.Finding, error) {
	source := entity.Watch(r.Message.Source)
	came := r.Message
	r.Message = &message.Message{Source: source, Root: came.Root, Top: came.Top, Drop: came.Drop}
	m, f, err := came, unsigned(), error(nil)
	switch p.Detect(r.Message) {
	case protect.Sealed:
		m, f, err = p.openSealed(ctx, r)
	case protect.Signed:
		f, err = p.openSigned(ctx, r)
	}
	if broken := source.Err(); broken != nil { // what can't be read must not count as not being there
		err = broken
	}
	if err != nil {
		return nil, protect.Finding{}, err
	}
	return m, f, nil
}

// openSealed decrypts into a new spool. What is wrong with the ciphertext is
// protect.ErrCannotOpen, bare; what is wrong with the token, a spool or the
// disk is told as it is, since it says nothing of the ciphertext.
func (p *Protector) openSealed(ctx context.Context, r protect.OpenRequest) (*message.Message, protect.Finding, error) {
	l := &layers{max: p.MaxExpanded}
	defer l.close()
	refuse := func() (*message.Message, protect.Finding, error) {
		return nil, protect.Finding{}, protect.ErrCannotOpen
	}
	e, err := l.around(r.Message.Source, r.Message.Root)
	if err != nil {
		return refuse()
	}
	envelope, err := cms.ReadEnvelope(e.body)
	if err != nil || envelope.Legacy() && !p.Legacy {
		return refuse()
	}
	key, err := p.unwrap(ctx, envelope, r.Identities)
	if err != nil {
		return nil, protect.Finding{}, err
	}
	defer clear(key.Key)

	out := &entity.Sink{Spool: r.NewSpool()}
	if err := entity.WriteOuter(out, r.Message); err != nil {
		return nil, protect.Finding{}, fmt.Errorf("write header: %w", err)
	}
	payload := entity.NewWriter(out)
	err = l.open(envelope, key.Key, payload)
	if out.Err() != nil && !errors.Is(out.Err(), message.ErrTooBig) {
		return nil, protect.Finding{}, fmt.Errorf("write plaintext: %w", out.Err())
	}
	if err != nil {
		return refuse()
	}
	opened, err := message.Parse(out.Spool, p.Limits)
	if err != nil {
		return refuse()
	}
	v := p.verifier(ctx, r)
	f, fits := unsigned(), false
	switch {
	case l.signed != nil:
		f, fits = v.finding(l.signed)
		if f.Good && hidden(opened.Source, opened.Root) {
			f = signedBut(protect.ReasonPartial)
		}
	case formOf(opened.Source, opened.Root) == detached:
		if f, fits, err = v.detached(opened); err != nil {
			return nil, protect.Finding{}, err
		}
	}
	f.Opened, f.Malleable = true, !envelope.Authenticated() && !f.Good
	if !envelope.Authenticated() && !fits {
		if p.Unauthenticated == Sealed {
			return refuse()
		}
		if !f.Signed {
			f.Reason = protect.ReasonUnauthenticated
		}
		if opened, err = p.inert(opened, r.NewSpool); err != nil {
			if errors.Is(err, message.ErrTooBig) {
				return refuse()
			}
			return nil, protect.Finding{}, err
		}
	}
	var signers []message.Address
	if f.Good {
		signers = f.Signers
	}
	shown, err := headers.Show(opened, payload.Header(), signers, p.Limits)
	if err != nil {
		return nil, protect.Finding{}, fmt.Errorf("show header: %w", err)
	}
	return shown, f, nil
}
