package postfix

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Check is what Postfix says against the files of the folder; nothing where it
// takes them without a word.
func Check(ctx context.Context, dir string) ([]string, error) {
	said, err := say(exec.CommandContext(ctx, "postfix", "-c", dir, "check"), "check Postfix")
	return slices.DeleteFunc(said, copied), err
}

// copied holds for what Debian's Postfix says as it copies files of the system
// into its folder, for programs in a chroot: we have none, and it is no fault.
func copied(line string) bool {
	_, to, ok := strings.Cut(strings.TrimPrefix(line, "updating "), " => ")
	return ok && strings.HasPrefix(line, "updating /") && strings.HasPrefix(to, "/")
}

// CheckResolver is what unbound says against its file.
func CheckResolver(ctx context.Context, path string) ([]string, error) {
	said, err := say(exec.CommandContext(ctx, "unbound-checkconf", path), "check unbound")
	if len(said) == 1 && strings.Contains(said[0], "no errors") {
		said = nil
	}
	return said, err
}

// say runs a program that finds faults, and gives its lines. To find some is
// no error.
func say(cmd *exec.Cmd, what string) (lines []string, err error) {
	out, err := cmd.CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return nil, fmt.Errorf("%s: %w (hint: apt-get install postfix unbound)", what, err)
	case err != nil && len(lines) == 0:
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return lines, nil
}

// Running reports whether the Postfix of the folder runs.
func Running(ctx context.Context, dir string) bool {
	return exec.CommandContext(ctx, "postfix", "-c", dir, "status").Run() == nil
}

// Ask asks the policy socket for a domain as Postfix does: with its own
// program, and where we may, as its own user. The error wraps ErrAnswer where
// what comes is no answer of filterd's, and that of ctx where none comes.
func Ask(ctx context.Context, c *Config, domain string) (string, error) {
	cmd := exec.CommandContext(ctx, "postmap", "-c", c.Dir, "-q", domain, "socketmap:unix:"+c.Socket+":"+Table)
	if os.Geteuid() == 0 {
		credential, err := owner(mailOwner)
		if err != nil {
			return "", fmt.Errorf("ask for %s: %w", domain, err)
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential}
		cmd.Dir = "/"
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return "", fmt.Errorf("ask for %s: no answer: %w", domain, ctx.Err())
	}
	if err != nil {
		return "", fmt.Errorf("ask for %s: %w: %s", domain, err, bytes.TrimSpace(stderr.Bytes()))
	}
	answer := strings.TrimSpace(string(out))
	if level, _, _ := strings.Cut(answer, " "); !slices.Contains(answered, level) {
		return "", fmt.Errorf("ask for %s: %w: %.80q", domain, ErrAnswer, answer)
	}
	return answer, nil
}

// answered are the levels that filterd answers with (entry in policy.go). Any
// other one is the answer of somebody else, and of one that Postfix does not
// know it makes a mail that waits.
var answered = []string{"may", "encrypt", "dane", "dane-only", "fingerprint", "secure"}

// owner are the ids of a user, with all its groups.
func owner(name string) (*syscall.Credential, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, err
	}
	groups, err := u.GroupIds()
	if err != nil {
		return nil, err
	}
	c := &syscall.Credential{}
	for i, text := range append([]string{u.Uid, u.Gid}, groups...) {
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return nil, err
		}
		switch i {
		case 0:
			c.Uid = uint32(n)
		case 1:
			c.Gid = uint32(n)
		default:
			c.Groups = append(c.Groups, uint32(n))
		}
	}
	return c, nil
}
