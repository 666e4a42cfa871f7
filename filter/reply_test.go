package filter

import (
	"bytes"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"postern/filter/dmarc"
	"postern/filter/message"
	"postern/filter/paper"
	"postern/filter/policy"
	"postern/filter/resolver"
	"postern/filter/route"
	"postern/filter/scan"
	"postern/filter/transport"
	"postern/hsm"
)

var update = flag.Bool("update", false, "write pages and golden files")

// TestEveryReplyCanBeReached: each row of the table is what a mail, or a
// recipient of it, is answered with in some case.
func TestEveryReplyCanBeReached(t *testing.T) {
	nested := crlf("From: bob@partner.example\nContent-Type: multipart/mixed; boundary=a\n\n--a\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\n--b--\n--a--\n")
	// A next hop that finds its own ways words what it meets by the same table.
	fails := func(err error) func(*world) transport.Reply {
		return func(w *world) transport.Reply {
			w.hop.answers = append(w.hop.answers, func(*transport.Envelope) transport.Result {
				return transport.Result{Err: Texts{}.Word(fmt.Errorf("route: %w", err))}
			})
			return w.send(policy.Outbound, out, "alice@company1.example", "bob@partner.example")
		}
	}
	cases := map[string]func(*world) transport.Reply{
		"token or key daemon away": func(w *world) transport.Reply {
			w.token.unplug(hsm.ErrAway)
			return w.send(policy.Outbound, out, "alice@company1.example", "bob@partner.example")
		},
		"clock not plausible": func(w *world) transport.Reply {
			w.gate.Clock = func() error { return fmt.Errorf("%w: it is 1970", hsm.ErrClock) }
			return w.send(policy.Inbound, out, "bob@partner.example", "alice@company1.example")
		},
		"must be archived, and nothing can be sealed for the archive or signed": func(w *world) transport.Reply {
			w.archiving(true, false)
			w.ring.partners = w.ring.partners[1:]
			return w.send(policy.Inbound, w.sealed(in, bob, alice), bob, alice)
		},
		"must be archived, and the archive's next hop does not take it": func(w *world) transport.Reply {
			w.archiving(false, true).answers = []func(*transport.Envelope) transport.Result{answer(550)}
			return w.send(policy.Outbound, out, alice, bob)
		},
		"own configuration broken": func(w *world) transport.Reply {
			w.ring.ours = nil
			return w.send(policy.Outbound, out, "alice@company1.example", "bob@partner.example")
		},
		"next hop away, or not as safe as it must be": func(w *world) transport.Reply {
			w.hop.answers = append(w.hop.answers, func(*transport.Envelope) transport.Result {
				return transport.Result{Err: fmt.Errorf("dial: %w", transport.ErrNextHop)}
			})
			return w.send(policy.Outbound, out, "alice@company1.example", "bob@partner.example")
		},
		"next hop lost before it answered a whole mail": func(w *world) transport.Reply {
			w.hop.answers = append(w.hop.answers, func(*transport.Envelope) transport.Result {
				return transport.Result{Err: fmt.Errorf("hear: %w: %w", transport.ErrNextHop, transport.ErrLost)}
			})
			return w.send(policy.Outbound, out, "alice@company1.example", "bob@partner.example")
		},
		"recipient's domain takes no mail by its own word":         fails(route.ErrNull),
		"recipient's domain does not exist, or has no mail server": fails(route.ErrNowhere),
		"names of the Internet not resolved":                       fails(resolver.ErrAway),
		"way to the recipient's domain not as safe as it must be":  fails(route.ErrUnsafe),
		"too much in flight": func(w *world) transport.Reply {
			for range cap(w.gate.slots) {
				w.gate.slots <- struct{}{}
			}
			return w.send(policy.Outbound, out, "alice@company1.example", "bob@partner.example")
		},
		"message too big": func(w *world) transport.Reply {
			w.config.Spools.Max = 100
			return w.send(policy.Outbound, out, "alice@company1.example", "bob@partner.example")
		},
		"too many recipients": func(w *world) transport.Reply {
			return w.gate.Handler(Listener{}).Refuse(w.envelope("bob@partner.example"), transport.ErrTooMany)
		},
		"bare CR or LF": func(w *world) transport.Reply {
			return w.send(policy.Outbound, out+"a\nb\r\n", "alice@company1.example", "bob@partner.example")
		},
		"hopeless MIME": func(w *world) transport.Reply {
			w.gate.Limits = message.Limits{Depth: 1}
			return w.send(policy.Inbound, nested, "bob@partner.example", "alice@company1.example")
		},
		"cannot be opened, and `undecryptable = \"reject\"`": func(w *world) transport.Reply {
			w.config.Policy.Undecryptable = policy.Reject
			return w.send(policy.Inbound, w.sealed(in, "", "mallory@evil.example"), "bob@partner.example", "alice@company1.example")
		},
		"must be protected, no usable certificate": func(w *world) transport.Reply {
			return w.send(policy.Outbound, out, "alice@company1.example", "x@strict.example")
		},
		"must be protected, no usable certificate, and a rule lets it wait": func(w *world) transport.Reply {
			w.gate.Policy.NoKey = policy.NoKeyDefer
			return w.send(policy.Outbound, out, "alice@company1.example", "x@strict.example")
		},
		"was protected before, no usable certificate any more": func(w *world) transport.Reply {
			w.remembers("carol@other.example", "")
			return w.send(policy.Outbound, out, "alice@company1.example", "carol@other.example")
		},
		"answers a mail that came encrypted, no usable certificate": func(w *world) transport.Reply {
			w.remembers("", "1@partner.example")
			return w.send(policy.Outbound, "In-Reply-To: <1@partner.example>\r\n"+out, "alice@company1.example", "carol@other.example")
		},
		"the sender's own program encrypted it, and the site does not have that": func(w *world) transport.Reply {
			w.gate.Policy.Client = policy.ClientRefuse
			return w.send(policy.Outbound, w.sealed(out, "", "bob@partner.example"), "alice@company1.example", "bob@partner.example")
		},
		"its author's domain says that mail like this is not its own, and `dmarc = \"enforce\"`": func(w *world) transport.Reply {
			w.gate.Origins, w.gate.Enforce = &dmarc.Checker{Names: texts{"_dmarc.partner.example": "v=DMARC1; p=reject"}, Budget: time.Minute}, true
			return w.send(policy.Inbound, in, "bob@partner.example", "alice@company1.example")
		},
		"nobody makes the PDF now, and `no-key = \"pdf\"`": func(w *world) transport.Reply {
			p, _ := w.prints()
			p.err = paper.ErrAway
			return w.send(policy.Outbound, out, "alice@company1.example", "carol@other.example")
		},
		"too big to go as a PDF": func(w *world) transport.Reply {
			p, _ := w.prints()
			p.err = paper.ErrTooBig
			return w.send(policy.Outbound, out, "alice@company1.example", "carol@other.example")
		},
		"the password of a PDF has not reached its author, and the PDF does not leave": func(w *world) transport.Reply {
			_, inside := w.prints()
			inside.answers = append(inside.answers, answer(451))
			return w.send(policy.Outbound, out, "alice@company1.example", "carol@other.example")
		},
		"the author's own mail server refuses the password of a PDF": func(w *world) transport.Reply {
			_, inside := w.prints()
			inside.answers = append(inside.answers, answer(550))
			return w.send(policy.Outbound, out, "alice@company1.example", "carol@other.example")
		},
		"the sender asks for what the rule forbids": func(w *world) transport.Reply {
			w.gate.Triggers = []Trigger{{Tag: "[encrypt]", Asks: policy.Asks{Encrypt: true}}}
			w.gate.Policy.Default = policy.None
			return w.send(policy.Outbound, strings.Replace(out, "Subject: ", "Subject: [encrypt] ", 1), "alice@company1.example", "carol@other.example")
		},
		"partner's mail in clear, and `inbound` asks for TLS": func(w *world) transport.Reply {
			w.config.Policy.Ways = map[string]policy.Way{"partner.example": {Inbound: policy.Demand{TLS: true}}}
			return w.send(policy.Inbound, in, "bob@partner.example", "alice@company1.example")
		},
		"partner's mail over TLS, and not from a client or in a version that was agreed on": func(w *world) transport.Reply {
			w.config.Policy.Ways = map[string]policy.Way{"partner.example": {Inbound: policy.Demand{TLS: true, Pins: [][32]byte{{1}}}}}
			e := w.envelope("bob@partner.example", "alice@company1.example")
			e.TLS = &tls.ConnectionState{Version: tls.VersionTLS13}
			return w.deliver(policy.Inbound, e, strings.NewReader(in))
		},
		"From or Sender is not an address of the account that sends": func(w *world) transport.Reply {
			e := w.envelope("alice@company1.example", "bob@partner.example")
			e.User, e.Senders = "alice", []string{"alice@company1.example"}
			return w.deliver(policy.Outbound, e, strings.NewReader(strings.Replace(out, "alice@company1.example", "boss@company1.example", 1)))
		},
		"a scanner found something malicious": func(w *world) transport.Reply {
			w.scanned(&scanner{})
			return w.send(policy.Inbound, in+virus, bob, alice)
		},
		"a scanner takes it for spam, or worse": func(w *world) transport.Reply {
			w.scanned(&scanner{name: "rspamd"})
			return w.send(policy.Inbound, in+virus, bob, alice)
		},
		"a scanner wants it later": func(w *world) transport.Reply {
			w.scanned(&scanner{name: "rspamd"})
			return w.send(policy.Inbound, in+spam, bob, alice)
		},
		"a scanner away, and `on-failure = \"defer\"`": func(w *world) transport.Reply {
			w.scanned(&scanner{err: scan.ErrAway})
			return w.send(policy.Outbound, out, alice, bob)
		},
		"too big to be scanned, and `too-big = \"reject\"`": func(w *world) transport.Reply {
			w.scanned(&scanner{})
			w.config.Scan.Posts[0].MaxSize = 10
			return w.send(policy.Outbound, out, alice, bob)
		},
		"policy says no": func(w *world) transport.Reply {
			return w.send(policy.Inbound, in, "bob@partner.example", "x@elsewhere.example")
		},
		"some recipients have their copy, and the next hop refuses the others": func(w *world) transport.Reply {
			w.hop.answers = append(w.hop.answers, answer(0, 550))
			defer func() { w.hop.got = nil }()
			return w.send(policy.Outbound, out, "alice@company1.example", "x@other.example", "y@other.example")
		},
		"the record can't be read or written": func(w *world) transport.Reply {
			if err := w.config.Record.Close(); err != nil {
				w.t.Fatal(err)
			}
			return w.send(policy.Outbound, out, "alice@company1.example", "bob@partner.example", "carol@other.example")
		},
		"mail loop": func(w *world) transport.Reply {
			return w.send(policy.Inbound, strings.Repeat("Received: by x\r\n", 51)+in, "bob@partner.example", "alice@company1.example")
		},
		"anything not foreseen": func(w *world) transport.Reply {
			w.ring.err = errors.New("disk gone")
			return w.send(policy.Outbound, out, "alice@company1.example", "bob@partner.example")
		},
	}
	for _, row := range Replies {
		reach := cases[row.When]
		if reach == nil {
			t.Errorf("%s: no case reaches it", row.When)
			continue
		}
		w := newWorld(t)
		want := row.Reply
		want.Text += " " + traceID
		if got := reach(w); got != want {
			t.Errorf("%s: got %q, want %q\n%s", row.When, got, want, w.log)
		}
		if len(w.hop.got) > 0 {
			t.Errorf("%s: the next hop got a mail", row.When)
		}
		delete(cases, row.When)
	}
	for when := range cases {
		t.Errorf("case %q has no row", when)
	}
}

// The next hop's own answer is a row without an error of ours: code, enhanced
// code and text pass.
func TestNextHopsOwnAnswer(t *testing.T) {
	w := newWorld(t)
	w.hop.answers = append(w.hop.answers, func(*transport.Envelope) transport.Result {
		return transport.Result{Err: transport.Reply{Code: 552, Enhanced: [3]int{5, 2, 2}, Text: "mailbox full"}}
	})
	if got, want := w.send(policy.Inbound, in, "bob@partner.example", "alice@company1.example").String(), "552 5.2.2 mailbox full "+traceID; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// No row is hidden behind one before it, each defers or refuses, and texts
// are plain.
func TestRepliesAreSound(t *testing.T) {
	for i, row := range Replies {
		if c := row.Reply.Code / 100; c != 4 && c != 5 || c != row.Reply.Enhanced[0] {
			t.Errorf("%s: got %d and %v, want 4xx or 5xx twice", row.When, row.Reply.Code, row.Reply.Enhanced)
		}
		if slices.ContainsFunc(Replies[:i], func(r Row) bool { return r.When == row.When || r.Word == row.Word }) || row.Look == "" || row.Word == "" {
			t.Errorf("%s: named twice, or without a word for operators", row.When)
		}
		for _, lang := range []string{"en", "de", "both"} {
			if text := (Texts{Language: lang}).of(row); row.German == "" || len(text) > 350 || strings.ContainsAny(text, "?|") {
				t.Errorf("%s: text %q in %s", row.When, text, lang)
			}
		}
		if strings.ContainsFunc(row.Reply.Text, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("%s: text %q", row.When, row.Reply.Text)
		}
	}
	for _, err := range []error{hsm.ErrAway, hsm.ErrLocked, hsm.ErrEmpty, hsm.ErrNoKey, hsm.ErrRefused, hsm.ErrBudget, hsm.ErrBusy, hsm.ErrInvalid, hsm.ErrExists, hsm.ErrPIN, hsm.ErrOpaque} {
		if r := (Texts{}).replyTo(err, ""); r.Code/100 != 4 {
			t.Errorf("%v: got %v, want 4xx: our own trouble is no verdict on a mail", err, r)
		}
	}
}

const repliesPage = "../appliance/docs/replies.md"

// printReplies prints the page.
func printReplies() []byte {
	var b bytes.Buffer
	b.WriteString(`# Replies

What the gateway answers a mail or a recipient with. This page is printed from ` + "`filter.Replies`" + ` by ` + "`go test ./filter -run TestPage -update`" + `; a test fails when it is stale.

Texts are fixed, in English, German or both as ` + "`[texts]`" + ` of filterd.toml says, or the site's own by their reason; on the wire they are ASCII, with umlauts as two letters. They end in the trace id, which stands in the log line of the mail, in its Received and Postern-Status fields, and in the audit record of the key daemon. Details are in the log only; the reason stands there, and in the decision object of ` + "`postern process --json`" + `, where the decision gives none. 4xx is trouble of ours, which passes: the sender keeps the mail and comes back. 5xx is a verdict on the mail. Nothing is ever passed on unprotected because something is missing. The first row that fits is taken.

| When | Reply | Text | German | Reason | Look at |
|---|---|---|---|---|---|
`)
	for _, r := range Replies {
		e := r.Reply.Enhanced
		fmt.Fprintf(&b, "| %s | %d %d.%d.%d | %s | %s | `%s` | %s |\n", r.When, r.Reply.Code, e[0], e[1], e[2], r.Reply.Text, r.German, r.Word, r.Look)
	}
	b.WriteString(`| next hop answered | its own | its own | its own | ` + "`next-hop`" + ` | the next hop's log |
| mail passed on | 250, the next hop's own | its own | its own | of the decision | |

The next hop's refusals pass with their codes, except 421, which speaks of a connection that is not the sender's and becomes 451. Where the next hop takes a mail for some recipients and not for others, the reply is its 4xx if there is one: the sender comes back, and nobody who has the mail gets it again (as long as filterd runs, and for five days). Otherwise it is its 5xx. Where the mail came encrypted, only the codes pass, with a text of ours, whether it could be opened or not: the next hop may quote what it reads, and its reply goes to whoever sent the mail.

A sealed mail that does not open is delivered as it came and marked, with the codes of the next hop's own reply. Only a site that says ` + "`undecryptable = \"reject\"`" + ` refuses it, with one text for every cause.
`)
	return b.Bytes()
}

// TestPageOfReplies holds the page to the table.
func TestPageOfReplies(t *testing.T) {
	want := printReplies()
	if *update {
		if err := os.WriteFile(filepath.FromSlash(repliesPage), want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(filepath.FromSlash(repliesPage))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is stale: go test ./filter -run TestPage -update", repliesPage)
	}
}
