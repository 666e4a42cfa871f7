package directory

import (
	"context"
	"slices"

	"postern/filter/keyring"
	"postern/filter/message"
)

// Seen is what arrived by itself; keyring.Store is the real one.
type Seen interface {
	Certs(ctx context.Context, a message.Address) ([]keyring.Cert, error)
}

// Autocrypt are the certificates that mail has brought in its header. Whoever
// writes a mail chooses them: they can confirm what another source says, and
// neither count alone nor contradict anybody.
type Autocrypt struct{ Seen Seen }

var _ Directory = (*Autocrypt)(nil)

// Name is autocrypt.
func (*Autocrypt) Name() string { return keyring.ByAutocrypt }

// Lookup gives those that were seen last.
func (d *Autocrypt) Lookup(ctx context.Context, a message.Address) (Answer, error) {
	list, err := d.Seen.Certs(ctx, a)
	if err != nil {
		return Answer{}, err
	}
	list = slices.DeleteFunc(slices.Clone(list), func(c keyring.Cert) bool {
		return !slices.ContainsFunc(c.Sources, func(s keyring.Sighting) bool { return s.Source == keyring.ByAutocrypt })
	})
	slices.SortStableFunc(list, func(b, c keyring.Cert) int { return c.LastSeen.Compare(b.LastSeen) })
	return Answer{Certs: list[:min(len(list), maxCerts)], Open: true, Mute: true}, nil
}
