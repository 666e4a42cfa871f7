package postfix

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Installed is what the Postfix of this machine knows.
type Installed struct {
	Version    string // "3.7.11"
	Parameters map[string]bool
}

// Probe asks postconf. The error wraps ErrMissing where there is none.
func Probe(ctx context.Context) (Installed, error) {
	var have Installed
	path, err := exec.LookPath("postconf")
	if err != nil {
		return have, fmt.Errorf("%w (hint: apt-get install postfix)", ErrMissing)
	}
	// It reads a main.cf whatever it is asked, and Debian installs none. While
	// one is newer than two seconds it waits, lest somebody is writing to it.
	empty, err := os.MkdirTemp("", "postern-postconf-*")
	if err != nil {
		return have, fmt.Errorf("ask postconf: %w", err)
	}
	defer os.RemoveAll(empty)
	name := filepath.Join(empty, "main.cf")
	err = os.WriteFile(name, nil, 0o644)
	if err == nil {
		err = os.Chtimes(name, time.Unix(0, 0), time.Unix(0, 0))
	}
	if err != nil {
		return have, fmt.Errorf("ask postconf: %w", err)
	}
	cmd := exec.CommandContext(ctx, path, "-c", empty, "-d")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return have, fmt.Errorf("ask postconf: %w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	have.Parameters = map[string]bool{}
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		name, value, ok := strings.Cut(lines.Text(), "=")
		if name = strings.TrimSpace(name); ok {
			have.Parameters[name] = true
		}
		if name == "mail_version" {
			have.Version = strings.TrimSpace(value)
		}
	}
	if have.Version == "" {
		return have, fmt.Errorf("ask postconf: no version: %w", ErrMissing)
	}
	return have, nil
}

// least reports whether the version is major.minor or a later one.
func (i Installed) least(major, minor int) bool {
	a, rest, _ := strings.Cut(i.Version, ".")
	b, _, _ := strings.Cut(rest, ".")
	x, err1 := strconv.Atoi(a)
	y, err2 := strconv.Atoi(b)
	return err1 == nil && err2 == nil && (x > major || x == major && y >= minor)
}
