package provisioning

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"postern/filter/message"
)

// maxMail is the biggest mail read from standard input, in bytes. The
// pipeline has its own, smaller limit; this one keeps the terminal alive.
const maxMail = 256 << 20

// run reads the envelope off the command line and puts the mail through.
func (c *call) process(ctx context.Context) (Processed, error) {
	if c.Pipeline == nil {
		return Processed{}, no("use the postern of the gateway's package", "%s: this program was built without the mail path", c.cmd.name())
	}
	r := ProcessRequest{Direction: c.get("direction"), From: c.get("from"), To: c.text["to"], At: c.now()}
	switch {
	case r.Direction != "inbound" && r.Direction != "outbound":
		return Processed{}, misuse(c.cmd.synopsis(), "%s wants --direction inbound or outbound", c.cmd.name())
	case c.text["from"] == nil:
		return Processed{}, misuse("--from '' is the null sender", "%s wants --from", c.cmd.name())
	case len(r.To) == 0:
		return Processed{}, misuse(c.cmd.synopsis(), "%s wants --to", c.cmd.name())
	}
	if r.From == "<>" {
		r.From = ""
	}
	for _, a := range r.To {
		if _, err := message.ParseAddress(a); err != nil {
			return Processed{}, misuse("an address looks like name@partner.example", "--to %.80q: %w", a, err)
		}
	}
	if r.From != "" {
		if _, err := message.ParseAddress(r.From); err != nil {
			return Processed{}, misuse("an address looks like name@partner.example", "--from %.80q: %w", r.From, err)
		}
	}
	if at := c.get("at"); at != "" {
		var err error
		if r.At, err = time.Parse(time.RFC3339, at); err != nil {
			return Processed{}, misuse("a time looks like 2026-03-01T12:00:00Z", "--at %.40q is not a time of RFC 3339", at)
		}
	}
	mail, err := c.read("-", maxMail)
	if err != nil {
		return Processed{}, fmt.Errorf("read mail: %w", err)
	}
	if len(mail) == 0 {
		return Processed{}, no("give the mail on standard input: `< mail.eml`", "read mail: there is none")
	}
	p, err := c.Pipeline(ctx, c.config())
	if err != nil {
		return Processed{}, fmt.Errorf("build mail path: %w", err)
	}
	return p.Process(ctx, r, bytes.NewReader(wireLines(mail)))
}

// wireLines gives a mail the line ends of SMTP. Only a file that holds no CR
// at all is taken for a text file of this system; in any other a bare LF is
// the mail's own, and the pipeline's to refuse.
func wireLines(mail []byte) []byte {
	if bytes.IndexByte(mail, '\r') >= 0 {
		return mail
	}
	return bytes.ReplaceAll(mail, []byte("\n"), []byte("\r\n"))
}

// verdict is the exit status of an action; what is not a plain yes or no is
// "try later".
func verdict(action string) error {
	switch action {
	case "relay":
		return nil
	case "reject":
		return &failure{err: errSaid, status: ExitNo}
	}
	return &failure{err: errSaid, status: ExitLater}
}

func process(ctx context.Context, c *call) (_ any, err error) {
	p, err := c.process(ctx)
	if err != nil {
		return nil, err
	}
	if p.Close != nil {
		defer p.Close()
	}
	if c.on["json"] { // the mail owns standard output
		e := json.NewEncoder(c.Stderr)
		e.SetEscapeHTML(false)
		if err := e.Encode(p.Decision); err != nil {
			return nil, fmt.Errorf("write decision: %w", err)
		}
	}
	if p.Action != "relay" {
		if !c.on["json"] && len(p.Explain) > 0 {
			fmt.Fprintln(c.Stderr, printable(p.Explain[len(p.Explain)-1]))
		}
		return nil, verdict(p.Action)
	}
	dir := c.get("out")
	if dir == "" && len(p.Copies) == 1 {
		if !c.dry() {
			if _, err := p.Copies[0].Message.WriteTo(c.Stdout); err != nil {
				return nil, fmt.Errorf("write mail: %w", err)
			}
		}
		return nil, nil
	}
	if dir == "" {
		dir = "."
	}
	if c.dry() {
		d := did{DryRun: true}
		for _, one := range p.Copies {
			d.Done = append(d.Done, "write "+filepath.Join(dir, one.Name))
		}
		if !c.on["json"] {
			d.text(c.Stderr)
		}
		return nil, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make folder: %w", err)
	}
	for _, one := range p.Copies {
		if one.Name == "" || one.Name[0] == '.' || strings.ContainsAny(one.Name, `/\`) {
			return nil, fmt.Errorf("write mail: file name %.80q", one.Name)
		}
		path := filepath.Join(dir, one.Name)
		if err := writeFile(path, 0o600, func(w io.Writer) error { _, err := one.Message.WriteTo(w); return err }); err != nil {
			return nil, fmt.Errorf("write mail: %w", err)
		}
		if !c.on["json"] {
			fmt.Fprintln(c.Stderr, "wrote", printable(path))
		}
	}
	return nil, nil
}

// explained is the result of explain.
type explained struct {
	Action   string   `json:"action"`
	Explain  []string `json:"explain"`
	Decision any      `json:"decision"`
}

func (e explained) text(w io.Writer) {
	for _, s := range e.Explain {
		fmt.Fprintln(w, printable(s))
	}
}

func explain(ctx context.Context, c *call) (any, error) {
	p, err := c.process(ctx)
	if err != nil {
		return nil, err
	}
	if p.Close != nil {
		defer p.Close()
	}
	decision, err := json.Marshal(p.Decision)
	if err != nil {
		return nil, errors.Join(errors.New("write decision"), err)
	}
	return explained{Action: p.Action, Explain: append([]string{}, p.Explain...), Decision: json.RawMessage(decision)}, verdict(p.Action)
}
