package render

import (
	"fmt"
	"net"
	"slices"
	"strings"

	"postern/appliance/config"
	"postern/appliance/units"
)

// where systemd looks for what the site adds to units.
const systemd = "/etc/systemd/system/"

// dropIns are the files of units/drop-in that a kind of token needs.
var dropIns = map[string]map[string]string{
	"card": {"smartcard.conf": systemd + "postern-keyd.service.d/smartcard.conf", "smartcard.rules": "/etc/polkit-1/rules.d/50-postern.rules"},
	"tpm":  {"tpm.conf": systemd + "postern-keyd.service.d/tpm.conf"},
}

// SealedPIN is the credential that the TPM opens for keyd, in the state folder.
// units/tmpfiles.conf lets systemd find it by CredentialLink.
const (
	SealedPIN      = "box/pin.cred"
	CredentialLink = "/run/credstore.encrypted/pin"
)

// tokenDropIns are what keyd needs beyond its unit: devices, and its PIN.
func tokenDropIns(c *config.Box) (list []File, err error) {
	for name, path := range dropIns[c.Token.Kind] {
		text, err := units.DropIns.ReadFile("drop-in/" + name)
		if err != nil {
			return nil, fmt.Errorf("render %s: %w", path, err)
		}
		list = append(list, File{path, string(text)})
	}
	// Without the lines of the unit there is no credential, and keyd waits for
	// people; a box that is to wait must not find one in /etc either.
	text := header + "\n[Service]\nLoadCredentialEncrypted=\n"
	if c.Box.Unlock == "tpm" {
		// By name, and found through CredentialLink: a path would keep keyd from
		// starting where there is none yet.
		text += "LoadCredentialEncrypted=pin\n"
	}
	return append(list, File{systemd + "postern-keyd.service.d/50-pin.conf", text}), nil
}

// sockets are the listeners of filterd: it may not take ports below 1024
// itself, and they outlive it.
func sockets(c *config.Box) (list []File) {
	var names []string
	for _, l := range c.Listeners {
		unit := "postern-filterd-" + l.Name + ".socket"
		names = append(names, unit)
		listen := l.Address
		if host, port, _ := net.SplitHostPort(listen); host == "" {
			listen = port
		}
		text := header + "\n[Socket]\nListenStream=\nListenStream=" + listen + "\n"
		if listen != l.Address {
			text += "BindIPv6Only=both\n"
		} else {
			text += "FreeBind=yes\n" // the address may come up later
		}
		path := systemd + unit + ".d/50-box.conf"
		if l.Name != "outside" && l.Name != "inside" { // those have a unit
			path = systemd + unit
			text = strings.Replace(text, "\n[Socket]\nListenStream=\n", "\n[Unit]\nDescription=Postern mail filter, listener "+l.Name+"\n\n[Socket]\n", 1) +
				"FileDescriptorName=" + l.Name + "\nBacklog=1024\nService=postern-filterd.service\n"
		}
		list = append(list, File{path, text})
	}
	for _, usual := range []string{"outside", "inside"} {
		unit := "postern-filterd-" + usual + ".socket"
		if !slices.Contains(names, unit) { // not served: its port stays closed
			list = append(list, File{systemd + unit + ".d/50-box.conf", header + "\n[Unit]\nConditionPathExists=/nonexistent\n"})
		}
	}
	names = append(names, "postern-filterd-policy.socket")
	all := strings.Join(names, " ")
	return append(list, File{systemd + "postern-filterd.service.d/50-box.conf",
		header + "\n[Unit]\nRequires=" + all + "\nAfter=" + all + "\n\n[Service]\nSockets=" + all + "\n"})
}
