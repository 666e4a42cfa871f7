package gateway

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"postern/appliance/config"
	"postern/filter/accounts"
	"postern/filter/record"
	"postern/filter/state"
)

// Check judges what a configuration names before the daemon starts on it: the
// rules, who may log in, and the record of mails. It changes nothing, and asks
// nobody.
func Check(c *config.Filterd) error {
	if _, err := Policy(c); err != nil {
		return err
	}
	uid := os.Geteuid()
	if uid == 0 { // who asks is not who will read
		uid = state.Owner(filepath.Dir(c.Record))
	}
	if c.Accounts.Source == "file" {
		if _, err := accounts.Examine(c.Accounts.File, uid); err != nil {
			return fmt.Errorf("accounts: %w", err)
		}
	} else if _, err := Accounts(c, slog.New(slog.DiscardHandler)); err != nil {
		return err
	}
	if _, err := record.Examine(c.Record); err != nil {
		return fmt.Errorf("record: %w", err)
	}
	return nil
}
