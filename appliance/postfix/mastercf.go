package postfix

import (
	"net"
	"strings"
)

// master prints master.cf. No process is put into a chroot: the policy socket,
// the certificates and the resolver lie outside, and the unit that runs
// Postfix shuts all of it in more tightly than a folder would.
func (c *Config) master(have Installed) string {
	var b strings.Builder
	b.WriteString(header)
	b.WriteString("\n# service type  private unpriv chroot wakeup maxproc command\n")
	service := func(why, line string, options ...string) {
		if why != "" {
			for _, l := range wrap(why, 76) {
				b.WriteString("# " + l + "\n")
			}
		}
		b.WriteString(line + "\n")
		for _, o := range options {
			b.WriteString("  -o " + o + "\n")
		}
	}
	service("filterd submits here.", endpoint(c.Listen)+" inet n - n - - smtpd")
	service("And here what must leave with TLS to a server that proves its name: it gets a transport of its own, with the recipient's domain as its destination.",
		endpoint(c.Strict)+" inet n - n - - smtpd", "syslog_name=postfix/strict", "content_filter=smtp-floor:")
	service("Mail of root's programs on this machine.", "pickup unix n - n 60 1 pickup")
	service("The queue.", "cleanup unix n - n - 0 cleanup")
	service("", "qmgr unix n - n 300 1 qmgr")
	service("", "rewrite unix - - n - - trivial-rewrite")
	service("", "bounce unix - - n - 0 bounce")
	service("", "defer unix - - n - 0 bounce")
	service("", "trace unix - - n - 0 bounce")
	service("", "showq unix n - n - - showq")
	service("The ways out.", "smtp unix - - n - - smtp")
	service("", "smtp-floor unix - - n - - smtp", "syslog_name=postfix/strict",
		"smtp_tls_policy_maps="+c.table(TableFloor, have))
	service("The company's mail server. What is asked of it does not depend on filterd: it is how a sender hears that his mail waits.",
		"inside unix - - n - - "+map[bool]string{true: "lmtp", false: "smtp"}[c.Inside.LMTP], c.inside()...)
	service("What they need.", "error unix - - n - - error")
	service("", "retry unix - - n - - error")
	service("", "tlsmgr unix - - n 1000? 1 tlsmgr")
	service("", "anvil unix - - n - 1 anvil")
	service("", "scache unix - - n - 1 scache")
	if c.Log != "" {
		service("The log is a file.", "postlog unix-dgram n - n - 1 postlogd")
	}
	return b.String()
}

// inside are the options of the way to the company's mail server.
func (c *Config) inside() []string {
	in, kind := c.Inside, map[bool]string{true: "lmtp", false: "smtp"}[c.Inside.LMTP]
	level := map[string]string{"off": "none", "may": "may", "encrypt": "encrypt", "verify": "secure"}[in.TLS]
	options := []string{
		"syslog_name=postfix/inside", kind + "_tls_policy_maps=", kind + "_tls_security_level=" + level,
		kind + "_host_lookup=dns,native", // a name of the company's own may stand in /etc/hosts
	}
	if kind == "lmtp" {
		options = append(options, "lmtp_tls_mandatory_protocols=>=TLSv1.2", "lmtp_tls_mandatory_ciphers=high", "lmtp_line_length_limit=0")
	}
	if level == "secure" {
		name, ca := in.Name, in.CAFile
		if name == "" {
			name, _, _ = net.SplitHostPort(in.Address)
		}
		if ca == "" {
			ca = c.CAFile
		}
		options = append(options, kind+"_tls_secure_cert_match="+name, kind+"_tls_CAfile="+ca)
	}
	return options
}

// endpoint is address:port as master.cf has it.
func endpoint(address string) string {
	host, port, _ := net.SplitHostPort(address)
	if strings.Contains(host, ":") {
		return "[" + host + "]:" + port
	}
	return host + ":" + port
}
