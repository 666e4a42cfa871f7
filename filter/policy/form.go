package policy

import (
	"slices"

	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/protect"
)

// Form is how a domain's mail is protected, where there is a choice.
type Form struct {
	Formats []keyring.Format // best first, and no other one; nil: those of Policy
	Style   protect.Style
}

// Form is the nearest form for mail to a: what its domain says, then the
// nearest "*.domain", then what is true of all.
func (p *Policy) Form(a message.Address) Form {
	f, _, _ := nearest(p.Forms, a.Domain)
	if f.Formats == nil {
		f.Formats = p.Formats
	}
	return f
}

// Fit are those of the certificates that mail to a may be sealed to, in the
// order that his form likes.
func (p *Policy) Fit(a message.Address, certs []Sealable) []Sealable {
	formats := p.Form(a).Formats
	if formats == nil {
		return certs
	}
	var fit []Sealable
	for _, f := range formats {
		for _, c := range certs {
			if c.Format == f {
				fit = append(fit, c)
			}
		}
	}
	return fit
}

// signing is in which of our formats mail of this form is signed, or "".
func (f Form) signing(ours []keyring.Format) keyring.Format {
	if f.Formats == nil && len(ours) > 0 {
		return ours[0]
	}
	for _, format := range f.Formats {
		if slices.Contains(ours, format) {
			return format
		}
	}
	return ""
}

// styleOf leaves no style where it says nothing, so that such copies are one.
func styleOf(f keyring.Format, s protect.Style) protect.Style {
	if f != keyring.SMIME {
		return protect.Style{}
	}
	return s
}
