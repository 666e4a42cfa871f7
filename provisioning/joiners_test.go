package provisioning

import (
	"path/filepath"
	"strings"
	"time"

	"postern/filter/message"
	"postern/filter/record"
)

// joins is filterd, sound or not, which notes addresses at their first mail.
func (s *script) joins(words []string) error {
	r, err := record.Open(filepath.Join(s.dir, "record.db"), record.Options{})
	if err != nil {
		return err
	}
	s.t.Cleanup(func() { r.Close() })
	at := time.Now().Add(-time.Duration(len(words)) * time.Minute)
	for n, w := range words {
		i := strings.LastIndexByte(w, '@')
		if err := r.Join(s.t.Context(), record.Joiner{Address: message.Address{Local: w[:i], Domain: w[i+1:]}, Sends: true, At: at.Add(time.Duration(n) * time.Minute)}); err != nil {
			return err
		}
	}
	return nil
}
