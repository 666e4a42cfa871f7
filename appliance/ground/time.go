package ground

import (
	"fmt"
	"strings"
)

// clock is the configuration of chronyd.
func clock(t Time) File {
	var b strings.Builder
	b.WriteString(header)
	option := ""
	if t.NTS {
		option = " nts"
	}
	for _, s := range t.Servers {
		fmt.Fprintf(&b, "server %s iburst%s\n", s, option)
	}
	if t.NTS {
		b.WriteString(`
# An answer that is not proven does not count.
authselectmode require
# A clock that was never set cannot tell whether a certificate is still valid;
# once it was set it can, and does.
nocerttimecheck 1
# Keys and cookies, so that a restart need not shake hands again.
ntsdumpdir /var/lib/chrony
`)
	}
	if len(t.Servers) > 2 {
		b.WriteString("\n# No single server moves the clock.\nminsources 2\n")
	}
	b.WriteString(`
# Steps only at the beginning; later the clock is slewed.
makestep 1 3
driftfile /var/lib/chrony/chrony.drift
# Tells the kernel that its clock is right, which the gate before signing asks.
rtcsync

# It serves nobody, and takes orders from this machine only.
port 0
cmdport 0
bindcmdaddress /run/chrony/chronyd.sock
user _chrony
`)
	return File{"/etc/chrony/chrony.conf", b.String()}
}
