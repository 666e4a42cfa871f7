package postfix

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// header is how a file of ours begins: by it a file of somebody else is told.
const header = "# Printed by `postern postfix render`: do not edit, change filterd.toml instead.\n"

// weak are the ciphers that no level above may takes: without authentication,
// broken, or without a certificate.
const weak = "aNULL, eNULL, LOW, EXPORT, MD5, RC4, DES, 3DES, SEED, IDEA, PSK, SRP, aDSS, kDH, kECDH"

// static are those without forward secrecy.
const static = "kRSA"

// param is one line of main.cf, and why it stands there.
type param struct {
	why         string
	name, value string
}

// group is a paragraph of main.cf.
type group struct {
	title  string
	params []param
}

// main prints main.cf.
func (c *Config) main(have Installed) (string, error) {
	routes, err := c.routes()
	if err != nil {
		return "", err
	}
	hello := c.Hello
	if hello == "" {
		hello = c.Name
	}
	groups := []group{
		{"Who we are, and where things lie.", []param{
			{"New defaults of a later Postfix come with a later rendering, not by themselves.", "compatibility_level", "3.6"},
			{"The queue, and what Postfix remembers for itself.", "queue_directory", c.Queue},
			{"", "data_directory", c.Data},
			{"The name in our greeting and in Received, as filterd has it.", "myhostname", c.Name},
			{"What this machine itself sends, and reports to senders, come from this domain.", "myorigin", "$myhostname"},
			{"The name that partners hear.", "smtp_helo_name", hello},
			{"Queue ids are never used twice: they stand in the log beside our trace.", "enable_long_queue_ids", "yes"},
		}},
		{"In: only filterd, only on loopback. The ports stand in master.cf.", []param{
			{"Nobody outside of this machine can reach a port.", "inet_interfaces", "loopback-only"},
			{"And nobody else may send.", "mynetworks", "127.0.0.0/8 [::1]/128"},
			{"", "smtpd_client_restrictions", "permit_mynetworks, reject"},
			{"", "smtpd_relay_restrictions", "permit_mynetworks, reject"},
			{"Only root's programs submit on the command line: mail of others would pass filterd by.", "authorized_submit_users", "root"},
			{"filterd sends CRLF; a bare newline is an attempt at smuggling a second mail, whoever sends it.", "smtpd_forbid_bare_newline", "yes"},
			{"", "smtpd_forbid_bare_newline_exclusions", ""},
			{"Commands ahead of their time are another one.", "smtpd_forbid_unauth_pipelining", "yes"},
			{"Nobody asks whether an address exists, or for the queue of a domain; mail comes by DATA, not in chunks.", "disable_vrfy_command", "yes"},
			{"", "smtpd_discard_ehlo_keywords", "chunking, etrn, silent-discard"},
			{"", "fast_flush_domains", ""},
			{"Nobody tells us that he is somebody else.", "smtpd_authorized_xclient_hosts", ""},
			{"", "smtpd_authorized_xforward_hosts", ""},
			{"Loopback needs no names, and no TLS.", "smtpd_peername_lookup", "no"},
			{"", "smtpd_tls_security_level", "none"},
			{"As many recipients as filterd takes in one mail.", "smtpd_recipient_limit", strconv.Itoa(c.Recipients)},
			{"An error is answered at once: the one client is ours.", "smtpd_error_sleep_time", "0s"},
			{"", "smtpd_soft_error_limit", strconv.Itoa(c.Recipients + 10)},
			{"", "smtpd_hard_error_limit", strconv.Itoa(c.Recipients + 20)},
		}},
		{"Mail stays as filterd made it: signatures are over these bytes.", []param{
			{"The biggest mail that filterd makes of the biggest one that it takes.", "message_size_limit", strconv.FormatInt(c.MaxSize, 10)},
			{"Headers are never cut.", "header_size_limit", strconv.FormatInt(c.MaxSize, 10)},
			{"Lines are never broken.", "smtp_line_length_limit", "0"},
			{"No field is added, completed or removed. (A hop without 8BITMIME gets what is labelled 8bit in another coding; what we sign is labelled 7bit.)", "local_header_rewrite_clients", ""},
			{"", "remote_header_rewrite_domain", ""},
			{"", "message_drop_headers", ""},
			{"An address is what it says, and no way to somewhere else.", "append_dot_mydomain", "no"},
			{"", "swap_bangpath", "no"},
			{"", "allow_percent_hack", "no"},
			{"", "allow_untrusted_routing", "no"},
			{"", "resolve_dequoted_address", "no"},
			{"Addresses with other letters go only where the next server takes them (RFC 6531).", "smtputf8_enable", "yes"},
			{"", "strict_smtputf8", "yes"},
		}},
		{"Nothing is delivered here.", []param{
			{"", "mydestination", ""},
			{"", "local_transport", "error:5.1.1 no mailbox on this machine"},
			{"", "local_recipient_maps", ""},
			{"", "alias_maps", ""},
			{"", "alias_database", ""},
			{"", "relay_domains", ""},
			{"", "biff", "no"},
		}},
		{"Where mail goes.", []param{
			{"Mail for our own domains goes to the company's mail server, past filterd: reports to our senders, and mail among them. So nothing of it can come round again.", "transport_maps", routes},
			{"The size of a mail of filterd's own listeners tells how often it went round.", "hopcount_limit", "50"},
			{"All partners are found by their mail exchangers.", "relayhost", ""},
			{"", "default_transport", "smtp"},
			{"The second port has its own transport; each recipient's domain is its destination.", "default_filter_nexthop", ""},
		}},
		{"TLS to the partners: nothing of a mail is said below the level.", []param{
			{"filterd answers for every domain. When it does not, the mail waits.", "smtp_tls_policy_maps", c.table(Table, have)},
			{"Should it ever say that it knows nothing, the strictest general level holds.", "smtp_tls_security_level", "secure"},
			{"", "smtp_tls_secure_cert_match", "nexthop, dot-nexthop"},
			{"DANE is believed on the word of a validating resolver, on this machine.", "smtp_dns_support_level", "dnssec"},
			{"", "smtp_host_lookup", "dns"},
			{"Whom the level verify trusts; nobody else.", "smtp_tls_CAfile", c.CAFile},
			{"", "tls_append_default_CA", "no"},
			{"Servers hear whom we look for: some have a certificate for each name.", "smtp_tls_servername", "hostname"},
			{"Pins are SHA-256 of public keys.", "smtp_tls_fingerprint_digest", "sha256"},
			{"TLS 1.2 and later, everywhere.", "smtp_tls_protocols", ">=TLSv1.2"},
			{"", "smtp_tls_mandatory_protocols", ">=TLSv1.2"},
			{"", "smtp_tls_mandatory_ciphers", "high"},
			{"", "smtp_tls_mandatory_exclude_ciphers", weak},
			{"", "tls_ssl_options", "NO_COMPRESSION, NO_RENEGOTIATION"},
			{"Sessions are not taken up again: such a one is believed by the names that were wanted of its first, whatever is wanted now.", "smtp_tls_session_cache_database", ""},
			{"One line in the log for each handshake: version, cipher, and how far the server was believed.", "smtp_tls_loglevel", "1"},
		}},
		{"Time.", []param{
			{"The sender hears that his mail waits,", "delay_warning_time", seconds(c.Warn)},
			{"that it went after all,", "confirm_delay_cleared", "yes"},
			{"and that it does not go.", "maximal_queue_lifetime", seconds(c.Lifetime)},
			{"", "bounce_queue_lifetime", seconds(c.Lifetime)},
			{"Such reports hold the header of the mail only.", "bounce_size_limit", "1"},
			{"", "queue_run_delay", seconds(c.Retry)},
			{"", "minimal_backoff_time", seconds(c.Retry)},
			{"", "maximal_backoff_time", seconds(c.RetryMax)},
		}},
	}
	self, err := c.self()
	if err != nil {
		return "", err
	}
	groups = append(groups, self)
	where := &groups[4]
	if own := c.own(); own != "" {
		where.params = append(where.params, param{"Addresses of our own listeners: a partner who says that they are his mail exchanger gets his mail to himself back.", "proxy_interfaces", own})
	}
	for _, a := range c.Bind {
		name := "smtp_bind_address"
		if !a.Is4() {
			name = "smtp_bind_address6"
		}
		where.params = append(where.params, param{"Connections to partners come from here.", name, a.String()})
	}
	if c.reports(have) {
		groups[5].params = append(groups[5].params,
			param{"How it went is told to the collector of reports (RFC 8460).", "smtp_tlsrpt_enable", "yes"},
			param{"", "smtp_tlsrpt_socket_name", c.TLSRPT})
	}
	if c.Log != "" {
		groups[0].params = append(groups[0].params, param{"The log, and where logs may be.", "maillog_file", c.Log},
			param{"", "maillog_file_prefixes", c.Log[:strings.LastIndexByte(c.Log, '/')]})
	}
	return write(groups, have), nil
}

// routes is the table of our own domains.
func (c *Config) routes() (string, error) {
	var pairs []string
	for _, d := range slices.Sorted(slices.Values(c.Domains)) {
		names, err := spellings(d)
		if err != nil {
			return "", err
		}
		for _, name := range names {
			pairs = append(pairs, "{ "+name+" = inside:"+nextHop(c.Inside.Address)+" }")
		}
	}
	return "inline:{ " + strings.Join(pairs, ", ") + " }", nil
}

// self is what becomes of mail for the machine itself. Where its name is one of
// our domains too, only the names that no person has are taken out.
func (c *Config) self() (group, error) {
	g := group{title: "Mail for this machine itself goes to a person."}
	if slices.Contains(c.Domains, c.Name) {
		var pairs []string
		for _, local := range []string{"root", "postfix", "nobody"} {
			pairs = append(pairs, fmt.Sprintf("{ %s@%s = %s }", local, c.Name, c.Root))
		}
		g.params = []param{{"", "virtual_alias_maps", "inline:{ " + strings.Join(pairs, ", ") + " }"}, {"", "virtual_alias_domains", ""}}
		return g, nil
	}
	if strings.HasSuffix(c.Root, "@"+c.Name) {
		return g, fmt.Errorf("root %q: is on this machine itself: %w", c.Root, ErrConfig)
	}
	g.params = []param{
		{"", "virtual_alias_domains", "$myhostname"},
		{"", "virtual_alias_maps", fmt.Sprintf("inline:{ { @%s = %s } }", c.Name, c.Root)},
	}
	return g, nil
}

func (c *Config) own() string {
	var list []string
	for _, a := range c.Own {
		if !a.IsUnspecified() {
			list = append(list, bracketed(a))
		}
	}
	slices.Sort(list)
	return strings.Join(slices.Compact(list), ", ")
}

func bracketed(a netip.Addr) string {
	if a = a.Unmap(); a.Is4() {
		return a.String()
	}
	return "[" + a.String() + "]"
}

// write prints what the installed version knows: a name that it does not know
// would be a warning in each of its programs.
func write(groups []group, have Installed) string {
	var b strings.Builder
	b.WriteString(header)
	for _, g := range groups {
		b.WriteString("\n# --- " + g.title + "\n")
		for _, p := range g.params {
			if !have.Parameters[p.name] {
				continue
			}
			for _, line := range wrap(p.why, 76) {
				b.WriteString("# " + line + "\n")
			}
			b.WriteString(strings.TrimRight(p.name+" = "+p.value, " ") + "\n")
		}
	}
	return b.String()
}

// wrap breaks a sentence into lines of at most width bytes.
func wrap(s string, width int) (lines []string) {
	line := ""
	for word := range strings.FieldsSeq(s) {
		if line != "" && len(line)+1+len(word) > width {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}
