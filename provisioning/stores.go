package provisioning

import (
	"errors"
	"io/fs"
	"path/filepath"

	"postern/filter/accounts"
	"postern/filter/record"
	"postern/filter/state"
)

// examineStores looks at the files that filterd needs as mails come: who may
// log in, and what it remembers of mails.
func (c *call) examineStores(e *examined, site Site) {
	filterd := state.Nobody
	if site.Record != "" {
		filterd = state.Owner(filepath.Dir(site.Record))
	}
	if site.Accounts != "" {
		switch n, err := accounts.Examine(site.Accounts, filterd); {
		case errors.Is(err, fs.ErrPermission):
			e.say("accounts", unknown, judge(err).hint, "%v", err)
		case err != nil:
			e.broke("accounts", err)
		case n == 0:
			e.say("accounts", concern, "`postern account add`", "%s: nobody can log in", site.Accounts)
		default:
			e.say("accounts", fine, "", "%s: %d", site.Accounts, n)
		}
	}
	if site.Record == "" {
		return
	}
	switch h, err := record.Examine(site.Record); {
	case errors.Is(err, fs.ErrPermission):
		e.say("record", unknown, judge(err).hint, "%v", err)
	case err != nil:
		e.broke("record", err)
	case !h.Made:
		e.say("record", fine, "", "%s: filterd has not made it yet", site.Record)
	default:
		e.say("record", fine, "", "%s, %d MiB free", site.Record, h.Free>>20)
	}
}
