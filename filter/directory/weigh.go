package directory

import (
	"fmt"
	"slices"
	"strings"

	"postern/filter/keyring"
)

// witness is a source and what it said.
type witness struct {
	Source
	Answer
}

func (w witness) gives(c keyring.Cert) bool {
	return slices.ContainsFunc(w.Certs, func(d keyring.Cert) bool { return d.Fingerprint == c.Fingerprint })
}

// speaks reports whether w gives anything of a format: a source that has no
// OpenPGP certificate contradicts nobody who has one.
func (w witness) speaks(f keyring.Format) bool {
	return slices.ContainsFunc(w.Certs, func(d keyring.Cert) bool { return d.Format == f })
}

// weigh puts together what all say of one address. Each certificate stands there
// once, in the order of the sources.
func weigh(all []witness) (list []Found) {
	for _, w := range all {
		for _, c := range w.Certs {
			if slices.ContainsFunc(list, func(f Found) bool { return f.Fingerprint == c.Fingerprint }) {
				continue
			}
			list = append(list, judge(c, all))
		}
	}
	return list
}

// judge says what one certificate is worth. A source contradicts it that has
// others of the same format and not this one; one that never counts does not, nor
// one that is mute.
func judge(c keyring.Cert, all []witness) Found {
	f := Found{Cert: c}
	var agree int
	open := true
	var alone, secure string
	var against []string
	for _, w := range all {
		if !w.gives(c) {
			if w.Trust != Never && !w.Mute && w.speaks(c.Format) {
				against = append(against, w.Name())
			}
			continue
		}
		f.By = append(f.By, w.Name())
		if w.Trust != Never {
			agree++
			open = open && w.Open
		}
		switch {
		case w.Trust == Alone && alone == "":
			alone = w.Name()
		case w.Trust == DNSSEC && w.Secure && secure == "":
			secure = w.Name()
		}
	}
	by := strings.Join(f.By, " and ")
	switch {
	case len(against) > 0:
		f.Why = fmt.Sprintf("found by %s, and %s has another one: an operator decides", by, strings.Join(against, " and "))
	case alone != "":
		f.Use, f.Why = true, fmt.Sprintf("found by %s, which the site believes", alone)
	case secure != "":
		f.Use, f.Why = true, fmt.Sprintf("found by %s in a validated answer", secure)
	case agree >= 2 && open:
		f.Why = fmt.Sprintf("found by %s, where anybody can put one: an operator decides", by)
	case agree >= 2:
		f.Use, f.Why = true, fmt.Sprintf("found by %s alike", by)
	default:
		f.Why = fmt.Sprintf("found by %s alone, which is not enough: an operator decides", by)
	}
	return f
}
