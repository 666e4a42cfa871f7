package postfix

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// mailOwner is the user as whom Postfix's programs run: mail_owner of its defaults.
const mailOwner = "postfix"

// logMode lets Postfix's user write the log, and nobody else read who writes to whom.
const logMode = 0o640

// ErrLog says that the file of the log is not one that Postfix's user can write.
// After a crash Postfix 3.7 would not start: the program that cleans the queue up
// runs as that user, and ends where it cannot say what it found.
var ErrLog = errors.New("log that Postfix's own user cannot write")

// CheckLog tells whether the file of the log is there and belongs to Postfix's
// user. The error wraps ErrLog where it does not. Without such a file there is
// nothing to tell.
func (c *Config) CheckLog() error {
	if c.Log == "" {
		return nil
	}
	who, err := owner(mailOwner)
	if err != nil {
		return fmt.Errorf("check log: %w", err)
	}
	info, err := os.Lstat(c.Log)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: is not there: %w", c.Log, ErrLog)
	}
	if err != nil {
		return fmt.Errorf("check log: %w", err)
	}
	if err := plainFile(info); err != nil {
		return fmt.Errorf("%s: %w", c.Log, err)
	}
	if uid := info.Sys().(*syscall.Stat_t).Uid; uid != who.Uid {
		return fmt.Errorf("%s: belongs to user %d, not to %s (%d): %w", c.Log, uid, mailOwner, who.Uid, ErrLog)
	}
	if info.Mode().Perm()&0o200 == 0 {
		return fmt.Errorf("%s: has mode %#o: %w", c.Log, info.Mode().Perm(), ErrLog)
	}
	return nil
}

// MakeLog makes the file of the log where there is none, and gives it to
// Postfix's user. What stands in it stays. A link is not followed, and a file
// with a second name is left alone: it could be anybody's.
func (c *Config) MakeLog() error {
	if c.Log == "" {
		return nil
	}
	who, err := owner(mailOwner)
	if err != nil {
		return fmt.Errorf("make log: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(c.Log), 0o755); err != nil {
		return fmt.Errorf("make log: %w", err)
	}
	f, err := os.OpenFile(c.Log, os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, logMode)
	if err != nil {
		return fmt.Errorf("make log: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil {
		err = plainFile(info)
	}
	if err != nil {
		return fmt.Errorf("make log %s: %w (hint: move it away)", c.Log, err)
	}
	if err := errors.Join(f.Chown(int(who.Uid), 0), f.Chmod(logMode)); err != nil {
		return fmt.Errorf("make log: %w (hint: run it as root)", err)
	}
	return nil
}

// plainFile refuses what is no file of its own.
func plainFile(info os.FileInfo) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() || stat.Nlink != 1 {
		return fmt.Errorf("no regular file, or one with several names: %w", ErrLog)
	}
	return nil
}
