package provisioning

import (
	"context"
	"fmt"
)

// pdfCommand is there where the program can make documents.
var pdfCommand = command{noun: "pdf", verb: "make", here: true, about: "make a document with a password of one mail, for filterd",
	more: "What postern-pdf.socket starts for each mail that goes as a PDF: it takes one job from standard input, in the form that filterd gives it, answers on standard output, and ends. It reads no configuration.", run: makePDF}

func makePDF(ctx context.Context, c *call) (any, error) {
	if c.dry() {
		return nil, misuse(c.cmd.synopsis(), "%s has no -n", c.cmd.name())
	}
	if err := c.Press(ctx); err != nil {
		return nil, fmt.Errorf("make PDF: %w", err)
	}
	return nil, nil
}
