package postfix

import (
	"fmt"
	"net/netip"
	"strings"
)

// Places of Debian's package dns-root-data.
const (
	rootKey   = "/usr/share/dns/root.key"
	rootHints = "/usr/share/dns/root.hints"
)

// Resolver prints unbound.conf for the validating resolver beside Postfix,
// which DANE rests on: it answers this machine only, at address.
func Resolver(address string) (File, error) {
	a, err := netip.ParseAddrPort(address)
	if err != nil || !a.Addr().IsLoopback() {
		return File{}, fmt.Errorf("resolver %q: not an address of this machine alone: %w", address, ErrConfig)
	}
	var b strings.Builder
	b.WriteString(header + "\nserver:\n")
	for _, p := range []param{
		{"This machine asks, and nobody else.", "interface", fmt.Sprintf("%s@%d", a.Addr(), a.Port())},
		{"", "access-control", "127.0.0.0/8 allow"},
		{"", "access-control", "::1/128 allow"},
		{"What can be validated is validated, from the root's key that Debian brings.", "module-config", `"validator iterator"`},
		{"", "trust-anchor-file", `"` + rootKey + `"`},
		{"", "root-hints", `"` + rootHints + `"`},
		{"Why an answer was not believed stands in the log.", "val-log-level", "1"},
		{"", "ede", "yes"},
		{"Names that surely do not exist are not asked for one by one.", "aggressive-nsec", "yes"},
		{"Nobody learns more of us than a question.", "hide-identity", "yes"},
		{"", "hide-version", "yes"},
		{"What is asked for often is fetched before it runs out.", "prefetch", "yes"},
		{"The unit that runs it shuts it in, and systemd has its log.", "username", `""`},
		{"", "chroot", `""`},
		{"", "pidfile", `""`},
		{"", "do-daemonize", "no"},
		{"", "use-syslog", "no"},
	} {
		for _, line := range wrap(p.why, 72) {
			b.WriteString("\t# " + line + "\n")
		}
		b.WriteString("\t" + p.name + ": " + p.value + "\n")
	}
	b.WriteString("remote-control:\n\t# Nobody steers it while it runs.\n\tcontrol-enable: no\n")
	return File{"unbound.conf", b.String()}, nil
}
