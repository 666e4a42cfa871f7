package ground

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postern/hsm/certtest"
)

// TestProvenTime is chronyd with the box's own file, and a server that it asks.
// Neither sets a clock (-x). A server whose certificate is not trusted, or that
// proves nothing, is not believed.
func TestProvenTime(t *testing.T) {
	if !alone(t) {
		return
	}
	dir := t.TempDir()
	certify(t, dir, "a.example", "b.example", "c.example")
	certify(t, filepath.Join(dir, "other"), "nobody.example")
	sh(t, `ip link set lo up
mount -t tmpfs run /run && mkdir /run/chrony && chmod 700 /run/chrony && mount -t tmpfs state /var/lib/chrony
printf '127.0.0.1 a.example\n127.0.0.2 b.example\n127.0.0.3 c.example\n' >`+dir+`/hosts && mount --bind `+dir+`/hosts /etc/hosts`)
	server := filepath.Join(dir, "server.conf")
	write(t, server, "local stratum 8\nallow all\ncmdport 0\nbindcmdaddress /\npidfile "+dir+"/server.pid\nntsservercert "+dir+"/cert.pem\nntsserverkey "+dir+"/key.pem\n")
	chronyd(t, server)
	for _, c := range []struct {
		name, trusted string
		servers       Time
		right         bool
	}{
		{"proven", dir + "/cert.pem", Time{Servers: []string{"a.example", "b.example", "c.example"}, NTS: true}, true},
		{"another authority", dir + "/other/cert.pem", Time{Servers: []string{"a.example", "b.example", "c.example"}, NTS: true}, false},
		{"another name", dir + "/cert.pem", Time{Servers: []string{"127.0.0.1"}, NTS: true}, false},
		{"not proven, and not asked to", "", Time{Servers: []string{"127.0.0.1"}}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := outsideInside()
			config.Time = c.servers
			text := rendered(t, config)["/etc/chrony/chrony.conf"]
			if c.trusted != "" {
				text += "ntstrustedcerts " + c.trusted + "\n"
			}
			file := filepath.Join(t.TempDir(), "chrony.conf")
			write(t, file, text)
			stop := chronyd(t, file)
			defer stop()
			tick := time.NewTicker(100 * time.Millisecond)
			defer tick.Stop()
			for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); <-tick.C {
				tracking, err := ask("tracking")
				if err != nil {
					continue // not there yet
				}
				if strings.HasSuffix(strings.TrimSpace(tracking), "Normal") {
					if !c.right {
						t.Errorf("got its time believed: %s", tracking)
					}
					return
				}
				if !c.right && refused(t) {
					return
				}
			}
			data, _ := ask("authdata")
			t.Errorf("nothing was decided in two minutes: %s", data)
		})
	}
}

// refused reports whether each server was asked to prove itself, and did not.
func refused(t *testing.T) bool {
	t.Helper()
	data, err := ask("authdata")
	if err != nil {
		return false
	}
	for line := range strings.Lines(data) {
		f := strings.Split(strings.TrimSpace(line), ",") // name, mode, key, type, length, last, attempts, NAK, cookies, length
		if len(f) != 10 || f[1] != "NTS" || f[6] == "0" || f[8] != "0" {
			return false
		}
	}
	return strings.Contains(data, "NTS")
}

func ask(what string) (string, error) {
	out, err := exec.Command("chronyc", "-c", "-n", "-h", "/run/chrony/chronyd.sock", what).Output()
	return string(out), err
}

// chronyd runs until the test ends, or stop is called.
func chronyd(t *testing.T, config string) (stop func()) {
	t.Helper()
	cmd := exec.Command("chronyd", "-x", "-n", "-U", "-u", "root", "-f", config)
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	stop = func() {
		if !ended {
			ended = true
			cmd.Process.Kill()
			cmd.Wait()
			if t.Failed() {
				t.Log(log.String())
			}
			os.Remove("/run/chrony/chronyd.sock")
			os.Remove("/run/chrony/chronyd.pid")
		}
	}
	t.Cleanup(stop)
	return stop
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// certify makes a certificate for names that certifies itself.
func certify(t *testing.T, dir string, names ...string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	certtest.Write(t, certtest.SelfSigned(t, certtest.Host(names...)), dir+"/cert.pem", dir+"/key.pem")
}
