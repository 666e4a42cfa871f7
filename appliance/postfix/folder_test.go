package postfix

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// sample is a configuration with every field.
func sample() Config {
	return Config{
		Dir: "/etc/postfix", Queue: "/var/spool/postfix", Data: "/var/lib/postfix", Listen: "127.0.0.1:10026", Strict: "[::1]:10027",
		Name: "gw.company1.example", Hello: "mx.company1.example", Domains: []string{"company1.example", "bücher.example"},
		Inside: Inside{Address: "mail.company1.example:25", TLS: "verify", CAFile: "/etc/postern/ca.pem"}, Root: "admin@company1.example",
		Socket: "/run/postern/tls-policy.sock", CAFile: "/etc/ssl/certs/ca-certificates.crt",
		Own: []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("::"), netip.MustParseAddr("2001:db8::2")}, Bind: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
		MaxSize: 100 << 20, Recipients: 1000, Warn: 4 * time.Hour, Lifetime: 120 * time.Hour, Retry: 5 * time.Minute, RetryMax: time.Hour, TLSRPT: "/run/tlsrpt.sock",
	}
}

// old and late are what two Debians have.
func installed(t *testing.T) (old, late Installed) {
	t.Helper()
	have, err := Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	old, late = have, have
	old.Version, late.Version = "3.7.11", "3.10.5"
	late.Parameters = map[string]bool{"smtp_tlsrpt_enable": true, "smtp_tlsrpt_socket_name": true}
	for name := range have.Parameters {
		late.Parameters[name] = true
	}
	return old, late
}

// lines are the settings of a file, without comments.
func lines(text string) (list []string) {
	for line := range strings.Lines(text) {
		if line = strings.TrimRight(line, "\n"); line != "" && line[0] != '#' {
			list = append(list, line)
		}
	}
	return list
}

func TestRender(t *testing.T) {
	old, late := installed(t)
	files, err := Render(sample(), old)
	if err != nil {
		t.Fatal(err)
	}
	main, master := lines(files[0].Text), lines(files[1].Text)
	for _, want := range []string{
		"inet_interfaces = loopback-only", "mynetworks = 127.0.0.0/8 [::1]/128", "mydestination =", "smtpd_forbid_bare_newline = yes", "smtpd_forbid_bare_newline_exclusions =",
		"disable_vrfy_command = yes", "smtpd_authorized_xclient_hosts =", "smtpd_authorized_xforward_hosts =", "smtp_tls_security_level = secure", "smtp_dns_support_level = dnssec",
		"smtp_tls_policy_maps = socketmap:unix:/run/postern/tls-policy.sock:tls-policy", "smtp_helo_name = mx.company1.example", "bounce_size_limit = 1",
		"transport_maps = inline:{ { bücher.example = inside:[mail.company1.example]:25 }, { xn--bcher-kva.example = inside:[mail.company1.example]:25 }, { company1.example = inside:[mail.company1.example]:25 } }",
		"proxy_interfaces = 10.0.0.2, [2001:db8::2]", "smtp_bind_address = 192.0.2.1", "smtp_bind_address6 = 2001:db8::1", "delay_warning_time = 14400s",
		"smtp_tls_session_cache_database =", "message_size_limit = 104857600", "header_size_limit = 104857600", "smtp_line_length_limit = 0",
		"virtual_alias_maps = inline:{ { @gw.company1.example = admin@company1.example } }",
	} {
		if !slices.Contains(main, want) {
			t.Errorf("main.cf: want %q", want)
		}
	}
	for _, want := range []string{
		"127.0.0.1:10026 inet n - n - - smtpd", "[::1]:10027 inet n - n - - smtpd", "  -o content_filter=smtp-floor:",
		"  -o smtp_tls_policy_maps=socketmap:unix:/run/postern/tls-policy.sock:tls-policy-verify",
		"  -o smtp_tls_security_level=secure", "  -o smtp_tls_secure_cert_match=mail.company1.example", "  -o smtp_tls_CAfile=/etc/postern/ca.pem",
	} {
		if !slices.Contains(master, want) {
			t.Errorf("master.cf: want %q", want)
		}
	}
	if strings.Contains(files[0].Text, "tlsrpt") {
		t.Error("3.7: got TLSRPT, want none")
	}
	if files, err = Render(sample(), late); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"smtp_tlsrpt_enable = yes", "smtp_tlsrpt_socket_name = /run/tlsrpt.sock"} {
		if !slices.Contains(lines(files[0].Text), want) {
			t.Errorf("3.10: want %q", want)
		}
	}
	c := sample()
	c.Inside.LMTP, c.Name = true, "company1.example"
	if files, err = Render(c, old); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(lines(files[1].Text), "inside unix - - n - - lmtp") || !slices.Contains(lines(files[1].Text), "  -o lmtp_tls_security_level=secure") {
		t.Errorf("LMTP: got %s", files[1].Text)
	}
	if !slices.Contains(lines(files[0].Text), "virtual_alias_domains =") || !strings.Contains(files[0].Text, "root@company1.example = admin@company1.example") {
		t.Errorf("a name that is a domain of ours: got %s", files[0].Text)
	}
}

// Every line of main.cf stands below a reason.
func TestEveryLineHasAReason(t *testing.T) {
	old, _ := installed(t)
	files, err := Render(sample(), old)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		for _, block := range strings.Split(f.Text, "\n\n") {
			if !strings.HasPrefix(block, "#") {
				t.Errorf("%s: want a reason above %q", f.Name, block)
			}
		}
	}
}

// What Postfix would read otherwise is not written.
func TestRenderRefuses(t *testing.T) {
	old, _ := installed(t)
	for name, change := range map[string]func(*Config){
		"variable":          func(c *Config) { c.Queue = "/var/$spool" },
		"second line":       func(c *Config) { c.Name = "gw.example\nmynetworks = 0.0.0.0/0" },
		"two words":         func(c *Config) { c.CAFile = "/etc/my ca.pem" },
		"closing brace":     func(c *Config) { c.Domains = []string{"a} {b"} },
		"public port":       func(c *Config) { c.Listen = "0.0.0.0:10026" },
		"one port":          func(c *Config) { c.Strict = c.Listen },
		"no inside":         func(c *Config) { c.Inside.Address = "" },
		"unknown level":     func(c *Config) { c.Inside.TLS = "best" },
		"no domain":         func(c *Config) { c.Domains = nil },
		"two sources":       func(c *Config) { c.Bind = append(c.Bind, netip.MustParseAddr("192.0.2.9")) },
		"warned after":      func(c *Config) { c.Warn = c.Lifetime + 1 },
		"root here":         func(c *Config) { c.Root = "root@gw.company1.example" },
		"comment":           func(c *Config) { c.Hello = "#" },
		"domain is no name": func(c *Config) { c.Domains = []string{"xn--\u00fc"} },
	} {
		c := sample()
		change(&c)
		if _, err := Render(c, old); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: got %v, want %v", name, err, ErrConfig)
		}
	}
}

// Only our own files are replaced, only where they differ, and whole.
func TestFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etc")
	files := []File{{"main.cf", header + "a = 1\n"}, {"master.cf", header + "x\n"}}
	list, err := Compare(dir, files)
	if err != nil || len(list) != 2 || !list[0].New {
		t.Fatalf("empty: got %+v, %v", list, err)
	}
	if err := Write(dir, list); err != nil {
		t.Fatal(err)
	}
	if list, err = Compare(dir, files); err != nil || len(list) != 0 {
		t.Errorf("written: got %+v, %v", list, err)
	}
	files[0].Text = header + "b = 1\n"
	if list, err = Compare(dir, files); err != nil || len(list) != 1 || list[0].Diff() != "--- main.cf\n-a = 1\n+b = 1\n" {
		t.Errorf("changed: got %+v, %v", list, err)
	}
	foreign := "myhostname = somebody\n"
	if err := os.WriteFile(filepath.Join(dir, "main.cf"), []byte(foreign), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err = Compare(dir, files); !errors.Is(err, ErrForeign) {
		t.Errorf("foreign: got %v, want %v", err, ErrForeign)
	}
	dist, err := os.ReadFile(filepath.Join(shipped, "master.cf.dist"))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "master.cf"), dist, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	if list, err = Compare(dir, files[1:]); err != nil || len(list) != 1 {
		t.Errorf("as the package brought it: got %+v, %v", list, err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 2 {
		t.Errorf("got %v, %v, want two files", left, err)
	}
}

// unbound takes what is printed for it.
func TestResolver(t *testing.T) {
	f, err := Resolver("127.0.0.1:53")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), f.Name)
	if err := os.WriteFile(path, []byte(f.Text), 0o644); err != nil {
		t.Fatal(err)
	}
	if said, err := CheckResolver(context.Background(), path); err != nil || len(said) > 0 {
		t.Errorf("got %q, %v, want nothing", said, err)
	}
	if err := os.WriteFile(path, []byte(f.Text+"\tno-such-word: yes\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if said, err := CheckResolver(context.Background(), path); err != nil || len(said) == 0 {
		t.Errorf("a bad file: got %q, %v, want it said", said, err)
	}
	if _, err := Resolver("192.0.2.1:53"); !errors.Is(err, ErrConfig) {
		t.Errorf("elsewhere: got %v, want %v", err, ErrConfig)
	}
}
