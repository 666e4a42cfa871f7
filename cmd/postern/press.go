package main

import (
	"context"
	"os"

	"postern/appliance/service"
	"postern/filter/press"
)

// makePDF takes one mail from standard input, which is a connection of filterd,
// and answers it with a document on standard output. It is a process of its own
// for each mail.
func makePDF(context.Context) error {
	if err := service.Harden(); err != nil {
		return err
	}
	return press.Serve(os.Stdin, os.Stdout)
}
