package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"

	"postern/appliance/config"
	"postern/appliance/service"
	"postern/cmd/internal/gateway"
	"postern/filter/paper"
	"postern/filter/press"
	"postern/provisioning"
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

// documents is where c has documents made, for the doctor; nil where no rule asks
// for any.
func documents(c *config.Filterd) *provisioning.Documents {
	if !gateway.Prints(c) {
		return nil
	}
	return &provisioning.Documents{Socket: c.PDF.Socket, Try: func(ctx context.Context) error {
		const mail = "Subject: self-check\r\n\r\n.\r\n"
		var b bytes.Buffer
		if err := gateway.PDF(c).Press.Print(ctx, paper.Job{Trace: "doctor", Password: "self-check", Size: int64(len(mail)), Mail: strings.NewReader(mail)}, &b); err != nil {
			return err
		}
		if !bytes.HasPrefix(b.Bytes(), []byte("%PDF-")) {
			return errors.New("what came is no document")
		}
		return nil
	}}
}
