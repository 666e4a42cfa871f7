package postfix

import "testing"

// Only what Debian copies is no fault.
func TestCopied(t *testing.T) {
	for line, want := range map[string]bool{
		"updating /etc/localtime => /var/spool/postfix//etc/localtime":           true,
		"updating /etc/resolv.conf => /var/spool/postfix//etc/resolv.conf":       true,
		"updating /etc/resolv.conf":                                              false,
		"postfix/postfix-script: warning: not owned by root: /etc/postfix":       false,
		"postsuper: warning: bogus file name: incoming/x => /y":                  false,
		"updating failed: /etc/services => /var/spool":                           false,
		"/usr/sbin/postconf: warning: /etc/postfix/main.cf: unused parameter: x": false,
	} {
		if got := copied(line); got != want {
			t.Errorf("%q: got %t, want %t", line, got, want)
		}
	}
}
