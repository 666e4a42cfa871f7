// Package units holds the systemd units of the daemons, their users and
// folders, and the drop-ins for tokens that need more than the default. The
// tests ask systemd itself: it must understand every line, and call the
// exposure of each daemon low enough.
package units

import "embed"

// DropIns are the files of drop-in/, by name.
//
//go:embed drop-in
var DropIns embed.FS
