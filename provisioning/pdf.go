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

// Documents is where mails are made into PDFs with a password.
type Documents struct {
	Socket string
	Try    func(ctx context.Context) error // has a document made
}

// examinePress has a document made.
func (c *call) examinePress(ctx context.Context, e *examined, site Site) {
	if site.Documents == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if err := site.Documents.Try(ctx); err != nil {
		e.say("documents", broken, "is postern-pdf.socket enabled, and may this user open its socket? `systemctl status postern-pdf.socket`", "%s: %v", site.Documents.Socket, err)
		return
	}
	e.say("documents", fine, "", "%s makes PDFs with a password", site.Documents.Socket)
}
