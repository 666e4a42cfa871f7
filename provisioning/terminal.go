package provisioning

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/term"
)

// TerminalSecret is App.Secret for a person at the terminal in, or nil when
// in is something else.
func TerminalSecret(in *os.File, out io.Writer) func(prompt string) (string, error) {
	if !term.IsTerminal(int(in.Fd())) {
		return nil
	}
	return func(prompt string) (string, error) {
		fmt.Fprint(out, prompt)
		b, err := term.ReadPassword(int(in.Fd()))
		fmt.Fprintln(out)
		if errors.Is(err, io.EOF) {
			err = errors.New("nothing was typed")
		}
		return string(b), err
	}
}
