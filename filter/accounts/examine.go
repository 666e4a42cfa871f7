package accounts

import (
	"errors"
	"io/fs"

	"postern/filter/state"
)

// Examine judges the file at path before anybody logs in: every line of it, and
// who may read and write it. uid is filterd's user, who has to read it;
// state.Nobody where it is not known. It gives the number of accounts.
func Examine(path string, uid int) (n int, err error) {
	switch err := state.Secret(path, uid); {
	case errors.Is(err, fs.ErrNotExist):
		return 0, state.Wrong(path, err, "`postern account add` makes it; until then nobody can log in")
	case err != nil:
		return 0, err
	}
	list, err := List(path)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return 0, state.Wrong(path, err, "run it as root, or as the user of filterd")
	case err != nil:
		return 0, state.Wrong(path, err, "`postern account` writes sound lines; as long as one is not understood nobody can log in")
	}
	return len(list), nil
}
