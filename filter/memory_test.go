package filter

import (
	"path/filepath"

	"postern/filter/record"
)

// remembers gives the gateway a record in which mail to an address was sealed,
// and a mail with an id was opened; "" for neither.
func (w *world) remembers(sealed, opened string) *record.Record {
	w.t.Helper()
	r, err := record.Open(filepath.Join(w.t.TempDir(), "record.db"), record.Options{Now: w.config.Now})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { r.Close() })
	if sealed != "" {
		err = r.Protect(w.t.Context(), address(w.t, sealed), noon)
	}
	if opened != "" && err == nil {
		err = r.RememberOpened(w.t.Context(), opened)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.gate.Record = r
	return r
}
