// Trial runs a whole gateway on loopback, with a SoftHSM token it makes and a
// sink as next hop, and tells how to send mail through it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"postern/appliance/trial"
)

// version is set by the linker.
var version = "unknown"

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	flags := flag.NewFlagSet("trial", flag.ContinueOnError)
	dir := flags.String("dir", "state", "folder of token, configuration and mails")
	demo := flags.Bool("demo", false, "send mails in both formats, show them before and after, and stop")
	show := flags.Bool("version", false, "print the version and stop")
	if err := flags.Parse(args); err != nil || flags.NArg() > 0 {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if *show {
		fmt.Println("trial", version)
		return 0
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	self, err := os.Executable()
	if err == nil {
		c := trial.Config{Dir: *dir, Bin: filepath.Dir(self)}
		if *demo {
			err = trial.Demo(ctx, c, os.Stdout)
		} else {
			c.Outside, c.Inside, c.Sink = "127.0.0.1:2525", "127.0.0.1:2587", "127.0.0.1:2526"
			err = trial.Run(ctx, c, os.Stdout)
		}
	}
	if err != nil {
		text, hint, ok := strings.Cut(err.Error(), " (hint: ")
		fmt.Fprintln(os.Stderr, "trial:", text)
		if ok {
			fmt.Fprintln(os.Stderr, "hint:", strings.TrimSuffix(hint, ")"))
		}
		return 1
	}
	return 0
}
