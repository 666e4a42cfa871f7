package directory_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"postern/filter/directory"
	"postern/filter/keyring"
	"postern/filter/ldaphost/slapdtest"
	"postern/filter/message"
	"postern/filter/openpgp"
	"postern/filter/resolver"
	"postern/filter/web"
)

// keyserver speaks what is asked of a key server (draft-gallagher-openpgp-hkp):
// anybody may add certificates, and look them up by fingerprint or address. It
// stands beside SKS, which not every Debian has.
type keyserver struct {
	mutex sync.Mutex
	certs []keyring.Cert
}

func (k *keyserver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	switch q := r.URL.Query(); {
	case r.Method == http.MethodPost && r.URL.Path == "/pks/add":
		certs, err := openpgp.Read([]byte(r.PostFormValue("keytext")))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		k.certs = append(k.certs, certs...)
	case r.Method == http.MethodGet && r.URL.Path == "/pks/lookup" && q.Get("op") == "get":
		var found bytes.Buffer
		for _, c := range k.certs {
			if fpr, ok := strings.CutPrefix(q.Get("search"), "0x"); ok && strings.HasSuffix(c.Fingerprint, strings.ToUpper(fpr)) ||
				slices.ContainsFunc(c.Addresses, func(a message.Address) bool { return a.String() == q.Get("search") }) {
				openpgp.Armor(&found, c)
			}
		}
		if found.Len() == 0 {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/pgp-keys")
		w.Write(found.Bytes())
	default:
		http.NotFound(w, r)
	}
}

// localhost is the one name there is.
type localhost struct{}

func (localhost) Addresses(context.Context, string) (resolver.Answer[netip.Addr], error) {
	return resolver.Answer[netip.Addr]{Found: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}, nil
}

// What GnuPG puts on a key server, on SKS too, is found there, by GnuPG, and over HTTPS by us,
// under a certificate that is trusted and no other; and it is worth nothing alone.
func TestKeyServer(t *testing.T) {
	dir, err := os.MkdirTemp("", "hkp") // short: it holds sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	roots := slapdtest.SelfSigned(t, dir)
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	for name, handler := range map[string]http.Handler{"ours": &keyserver{}, "SKS": runSKS(t, dir)} {
		if handler != nil {
			t.Run(name, func(t *testing.T) { fill(t, filepath.Join(dir, name), handler, cert, roots) })
		}
	}
}

// runSKS is the key server that the pools were of, until the test ends; nil where
// Debian has it no more.
func runSKS(t *testing.T, dir string) http.Handler {
	t.Helper()
	if _, err := os.Stat("/usr/sbin/sks"); err != nil {
		if system, _ := os.ReadFile("/etc/os-release"); strings.Contains(string(system), "VERSION_CODENAME=bookworm") {
			t.Fatal("sks is missing (hint: make deps)")
		}
		return nil
	}
	at, port := filepath.Join(dir, "sks"), free(t)
	for _, sub := range []string{"etc/sks", "var/lib/sks", "var/log/sks", "var/run/sks", "var/spool/sks"} {
		if err := os.MkdirAll(filepath.Join(at, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for path, text := range map[string]string{"etc/sks/sksconf": "hostname: localhost\nhkp_address: 127.0.0.1\nhkp_port: " + port + "\ninitial_stat:\ndisable_mailsync:\n", "none": ""} {
		if err := os.WriteFile(filepath.Join(at, path), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.CommandContext(t.Context(), "/usr/sbin/sks", "build", filepath.Join(at, "none"), "-basedir", at).CombinedOutput(); err != nil {
		t.Fatalf("sks build: %v: %s", err, out)
	}
	var said bytes.Buffer
	cmd := exec.Command("/usr/sbin/sks", "db", "-basedir", at)
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = &said, &said, &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		<-ended
	})
	for end := time.Now().Add(2 * time.Minute); ; {
		c, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			c.Close()
			break
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("sks db: %v: %s", err, &said)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(end) {
			t.Fatal("sks does not listen")
		}
	}
	return httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "127.0.0.1:" + port})
}

// free is a port of this machine that nobody listens at.
func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// fill is what GnuPG and we do with a server.
func fill(t *testing.T, dir string, keys http.Handler, cert tls.Certificate, roots *x509.CertPool) {
	open := httptest.NewServer(keys) // for dirmngr, which names no host to TLS where that is localhost
	defer open.Close()
	server := httptest.NewUnstartedServer(keys)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	server.StartTLS()
	defer server.Close()
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	gpg := func(home string, args ...string) string {
		t.Helper()
		home = filepath.Join(dir, home)
		if err := os.MkdirAll(home, 0o700); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run() })
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		out, err := exec.CommandContext(ctx, "gpg", append([]string{"--homedir", home, "--batch", "--no-tty", "--pinentry-mode", "loopback", "--passphrase", "", "--keyserver", "hkp://" + open.Listener.Addr().String()}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("gpg %v: %v: %s", args, err, out)
		}
		return string(out)
	}
	const bob = "bob@partner.example"
	gpg("a", "--quick-generate-key", "Bob <"+bob+">", "future-default")
	var fingerprint string
	for line := range strings.Lines(gpg("a", "--list-keys", "--with-colons", bob)) {
		if f := strings.Split(line, ":"); f[0] == "fpr" && fingerprint == "" {
			fingerprint = f[9]
		}
	}
	gpg("a", "--send-keys", fingerprint)
	gpg("b", "--recv-keys", fingerprint)
	if got := gpg("b", "--list-keys", "--with-colons", bob); !strings.Contains(got, fingerprint) {
		t.Errorf("gpg finds %q, want %s", got, fingerprint)
	}

	for _, c := range []struct {
		name, address string
		trusted       bool
		want          []string
		fails         bool
	}{
		{"there", bob, true, []string{fingerprint}, false},
		{"not there", "alice@partner.example", true, nil, false},
		{"a server that nobody vouches for", bob, false, nil, true},
	} {
		trust := roots
		if !c.trusted {
			trust = slapdtest.SelfSigned(t, t.TempDir())
		}
		d := &directory.HKPS{URL: "https://localhost:" + port, HTTP: web.Client(localhost{}, trust, true, nil), Read: openpgp.Read}
		a, err := d.Lookup(t.Context(), at(t, c.address))
		var got []string
		for _, one := range a.Certs {
			got = append(got, one.Fingerprint)
		}
		if !slices.Equal(got, c.want) || (err != nil) != c.fails || a.Home || a.Secure || !c.fails && !a.Open {
			t.Errorf("%s: got %q, open %t, %v, want %q", c.name, got, a.Open, err, c.want)
		}
		found := directory.New(directory.Config{Sources: []directory.Source{{Directory: d, Trust: directory.Agree}}, Budget: time.Minute}).Find(t.Context(), []message.Address{at(t, c.address)})[at(t, c.address).Key()]
		if len(found.Found) != len(c.want) || slices.ContainsFunc(found.Found, func(f directory.Found) bool { return f.Use }) {
			t.Errorf("%s: got %+v, want %d that nobody uses", c.name, found.Found, len(c.want))
		}
	}
}
