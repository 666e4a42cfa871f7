package postfix_test

import (
	"os/exec"
	"strings"
	"testing"

	"postern/appliance/postfix/postfixtest"
)

// What is rendered, Postfix takes without a word.
func TestCheckIsClean(t *testing.T) {
	p := postfixtest.Start(t, postfixtest.Config(t))
	for _, args := range [][]string{{"postfix", "-c", p.Dir, "check"}, {"postconf", "-c", p.Dir, "-n"}, {"postconf", "-c", p.Dir, "-M"}} {
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		if err != nil || strings.Contains(string(out), "warning:") || args[2] == "check" && len(out) > 0 {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
	for _, l := range append(p.Lines("warning:"), append(p.Lines("fatal:"), p.Lines("error:")...)...) {
		t.Errorf("log: %s", l)
	}
}
