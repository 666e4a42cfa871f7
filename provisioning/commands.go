package provisioning

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"postern/filter/keyring"
)

var (
	optAddress   = option{name: "address", value: "A", about: "the address it belongs to"}
	optDomain    = option{name: "domain", value: "D", about: "the domain it belongs to"}
	optWrapped   = option{name: "wrapped", about: "keep new keys of a user outside the token, as ciphertext that it alone opens; needs allow-wrapped in keyd.toml"}
	optAlgorithm = option{name: "algorithm", value: "ALG", about: "rsa-2048, rsa-3072, rsa-4096, p-256, p-384, p-521 or ed25519 (which opens with x25519)"}
	optYes       = option{name: "yes", value: "NAME", about: "the name that would be asked for"}
	optPINFile   = option{name: "pin-file", value: "FILE", about: "file with the PIN in its one line"}
	optAskPIN    = option{name: "ask-pin", about: "ask for the PIN at the terminal"}
	envelope     = []option{
		{name: "direction", value: "inbound|outbound", about: "the side the mail comes from is outside (inbound) or inside (outbound)"},
		{name: "from", value: "A", about: "envelope sender; '' is the null sender"},
		{name: "to", value: "A", about: "envelope recipient", many: true},
		{name: "at", value: "TIME", about: "time of judgement, RFC 3339; now by default"},
	}
)

// commands is the program. Usage, completion and manual page are printed from it.
func (a *App) commands() []command {
	list := []command{
		{noun: "token", verb: "init", here: true, about: "initialise the token",
			more:  "Makes a token with the label of keyd.toml. Without --pin-file and --ask-pin the PIN is the one of the daemon's credential. The PIN is never an argument. A token that is initialised already is left alone.",
			flags: []option{optPINFile, optAskPIN, {name: "so-pin-file", value: "FILE", about: "file with the security officer's PIN; otherwise one is made up and forgotten"}}, run: tokenInit},
		{noun: "token", verb: "unlock", here: true, about: "log in to the token, once",
			more:  "Without --pin-file and --ask-pin the daemon tries its credential again. A wrong PIN is counted by the token: one try for each call.",
			flags: []option{optPINFile, optAskPIN}, run: tokenUnlock},
		{noun: "token", verb: "probe", about: "test every mechanism, and say which keys to make",
			more: "Each mechanism gets a known-answer test with keys that exist for the test only. Under it stands the key plan that follows: the algorithm to take for each purpose.", run: tokenProbe},
		{noun: "token", verb: "status", about: "show state and health of key daemon and token",
			more: "Exit status 0 when the token is ready, 1 when it is not, 75 when the key daemon does not answer.", run: tokenStatus},

		{noun: "key", verb: "generate", about: "make keys inside the token",
			more:  "Labels are use/owner/sign and use/owner/unwrap; openpgp and smime make both. Mail keys are rsa-3072 by default, tls and ledger p-256, dkim rsa-2048, release p-384, log ed25519. The label of an RSA key for tls ends in -rsa. A key that exists is never replaced; when it is retired the new one gets the label with -2. With --wrapped the keys of a user take no room in the token: it makes them, and gives them out as ciphertext that it alone opens.",
			flags: []option{optDomain, optAddress, {name: "use", value: "USE", about: useWords}, optAlgorithm, optWrapped}, run: keyGenerate},
		{noun: "key", verb: "list", about: "list the keys that are served", run: listKeys},
		{noun: "key", verb: "audit", about: "check the attributes of every private key",
			more: "Exit status 1 when a key could leave the token, serves two purposes, or did not begin there. Wrapped keys are opened one by one, and must not leave either.", run: keyAudit},
		{noun: "key", verb: "retire", args: "ID", min: 1, max: 1, about: "end signing with a key; opening goes on",
			more: "ID is the label, the id, or at least 8 digits of it.", run: keyRetire},
		{noun: "key", verb: "destroy", args: "ID", min: 1, max: 1, about: "remove a key from the token for good",
			more:  "Asks for the label of the key. Mail sealed to it will never open again. Of a wrapped key the ciphertext is removed: a copy of that, in a backup say, is of no use without this token, but it is not destroyed, and put back it opens again.",
			flags: []option{optYes}, run: keyDestroy},

		{noun: "identity", verb: "create", about: "make a certificate for keys of the token, or ask an authority for it",
			more: "Uses the keys of the owner, and generates them when there are none. For OpenPGP the token signs the certificate, and it is bound. For S/MIME an authority makes the certificates: written is a request (PKCS#10) for each of the two keys, signed by itself; for a key on a curve that opens, which cannot sign, its public key. For tls --domain is the name of a listener, and there are two keys, p-256 and rsa-3072, with a request each.",
			flags: []option{{name: "use", value: "openpgp|smime|tls", about: "kind of certificate; openpgp by default"}, {name: "format", value: "openpgp|smime", about: "the same"}, optDomain, optAddress,
				{name: "name", value: "N", about: "name in the user id, or common name of the request"}, optAlgorithm, optWrapped,
				{name: "lifetime", value: "T", about: "OpenPGP and --self-signed: 2y (default), 18m, 90d; of OpenPGP 0 is for ever"},
				{name: "self-signed", about: "tls: no request; the key certifies itself, for filterd to show at once"},
				{name: "v6", about: "OpenPGP: version 6 certificate (RFC 9580)"},
				{name: "mailbox", value: "M", about: "S/MIME: which address of the domain its certificates name, " + mailbox + " by default (RFC 3183)"},
				{name: "out", value: "DIR", about: "folder for the requests, the current one by default"},
				{name: "successor", about: "new keys beside those there are"}}, run: identityCreate},
		{noun: "identity", verb: "add", about: "bind a certificate whose keys are in the token",
			more: "The certificate is matched with the token by its public keys, whatever their labels. Of S/MIME one certificate signs and another one is encrypted to: bind both. Authorities in the file are kept, to be sent with signatures; they are no anchors by that. A certificate of a tls key, in PEM with its chain behind it, goes where filterd looks for it, and is shown from the next handshake on. Several certificates of one owner may overlap; expired ones go on opening.",
			flags: []option{optAddress, optDomain, {name: "cert", value: "FILE", about: "the certificate, X.509 with its chain or OpenPGP; - reads standard input"},
				{name: "expired", about: "bind it even if it has expired, to open old mail"}}, run: identityAdd},
		{noun: "identity", verb: "list", about: "list our identities", run: identities},
		{noun: "identity", verb: "export", args: "ADDRESS|DOMAIN|FPR", min: 1, max: 1, about: "print a certificate of ours for partners",
			more:  "For S/MIME the newest valid certificate of each use, and the authorities above them without their root, in PEM.",
			flags: []option{{name: "out", value: "FILE", about: "write it there"}, {name: "format", value: "openpgp|smime", about: "which, where the owner has both"}}, run: identityExport},
		identityRevokeCommand,
		{noun: "identity", verb: "remove", args: "ADDRESS|DOMAIN|FPR", min: 1, max: 1, about: "unbind a certificate of ours; the keys stay",
			more: "Asks for the address or domain of the identity.", flags: []option{optYes}, run: identityRemove},

		{noun: "cert", verb: "import", args: "FILE…", min: 1, max: -1, about: "import partners' certificates, and trust them",
			more: "A file may hold several; - reads standard input. A certificate that is known gets its new bytes. One that was distrusted stays so without --trust. Nothing is imported when one of the files cannot be read.",
			flags: []option{{name: "domain", value: "D", about: "it serves every address of this domain", many: true},
				{name: "trust", about: "trust it even if it was distrusted"},
				{name: "anchor", about: "X.509 certificates of authorities: paths may end there, and all below them is believed"}}, run: certImport},
		{noun: "cert", verb: "list", about: "list partners' certificates",
			flags: []option{{name: "domain", value: "D", about: "only those of this domain"}, {name: "trust", value: "seen|trusted|distrusted", about: "only those"},
				{name: "seen", about: "those that verified mail brought, and nobody has judged"}, {name: "authorities", about: "anchors and intermediates"}}, run: certs},
		{noun: "cert", verb: "show", args: "FPR", min: 1, max: 1, about: "show one certificate",
			more: "FPR is the fingerprint, or at least 8 digits from its beginning. Of an X.509 certificate it says whether its path is good, as the mail path would judge it.", run: certShow},
		{noun: "cert", verb: "trust", args: "FPR", min: 1, max: 1, about: "trust a certificate",
			more: "One that verified mail brought is copied into the keyring.", run: say(keyring.Trusted)},
		{noun: "cert", verb: "distrust", args: "FPR", min: 1, max: 1, about: "distrust a certificate, and do not learn it again", run: say(keyring.Distrusted)},
		{noun: "cert", verb: "remove", args: "FPR", min: 1, max: 1, about: "forget a certificate", run: certRemove},
		{noun: "cert", verb: "find", args: "ADDRESS", min: 1, max: 1, about: "find the certificates for an address",
			more:  "Exit status 1 when there is none that is trusted and that mail can be sealed to now. With --online the directories of [find] are asked too, whoever is trusted already, and each certificate is told with who gave it and what that is worth; exit status 75 when one of them did not answer.",
			flags: []option{{name: "online", about: "ask the directories"}, {name: "trust", value: "FPR", about: "trust that one of them, and import it"}}, run: certFind},

		{noun: "keyring", verb: "upgrade", about: "bring the keyring file up to this version",
			more: "Every command that changes the keyring does it as well. Programs of earlier versions cannot read the file then.", run: upgrade},

		{noun: "account", verb: "add", args: "NAME", min: 1, max: 1, about: "add an account that may log in and send",
			more: "The password is typed twice at a terminal, or is the first line of standard input; it is never an argument. Kept are its argon2id hash and keys for SCRAM-SHA-256. The running daemon knows the account at once.",
			flags: []option{{name: "sender", value: "A", about: "address that the account writes as, or *@domain for all of a domain", many: true},
				{name: "no-scram", about: "keep no keys for SCRAM, which are easier to guess the password from than the hash"}}, run: accountAdd},
		{noun: "account", verb: "passwd", args: "NAME", min: 1, max: 1, about: "change the password of an account",
			more: "The password is read as by account add.", run: accountPassword},
		{noun: "account", verb: "list", about: "list the accounts, and as whom they write", run: accountsOf},
		{noun: "account", verb: "remove", args: "NAME", min: 1, max: 1, about: "remove an account",
			more: "Asks for its name. Sessions that it has open end by themselves.", flags: []option{optYes}, run: accountRemove},

		{noun: "process", about: "run a mail through the gateway without relaying it",
			more:  "Reads the mail from standard input and writes what would be relayed: to standard output when it is one mail and there is no --out, otherwise one file for each. With --json the decision is printed to standard error. Exit status 0 relay, 1 reject, 75 defer.",
			flags: append(slices.Clone(envelope), option{name: "out", value: "DIR", about: "folder for the mails; the current one by default when there are several"}), run: process},
		{noun: "explain", about: "say which rule decides about a mail, and with which keys",
			more: "Takes what process takes, and prints reasons for people.", flags: envelope, run: explain},
		{noun: "trace", args: "MESSAGE-ID|TRACE", min: 1, max: 1, about: "tell what became of a mail, and how it was carried",
			more: "Answers from the record of filterd, which may be running: who sent it to whom, by which rule, what each recipient's server said, and how both hops were protected. The record holds nothing that a mail says. TRACE is the id at the end of a reply, in the log and in Postern-Status; a mail that came several times has several. Exit status 1 when there is none.", run: traceMail},
		{noun: "policy", verb: "check", about: "show the rules, and which of them would hold mail up now",
			more: "Exit status 1 when a rule asks for an identity or a certificate that is not there.", run: policyCheck},
		{noun: "route", args: "DOMAIN|ADDRESS", min: 1, max: 1, about: "say how mail reaches a domain, what is asked of the way, and why",
			more:  "Nothing is sent and no server is connected to; the resolver is asked, and for an MTA-STS policy that the daemon does not know yet its place. Exit status 1 where the domain takes no mail, or no server can be as safe as it must be, 75 where names are not resolved now.",
			flags: []option{{name: "floor", value: "LEVEL", about: "what a mail asks for by itself: encrypt or verify"}}, run: showRoute},
		{noun: "policy", verb: "forget", args: "ADDRESS", min: 1, max: 1, about: "let mail to somebody go without encryption again",
			more: "Mail to somebody to whom mail was encrypted once is never sent without it, whatever has become of his certificate, until this is said. From then on the rules decide alone, until mail to him is encrypted again.", run: policyForget},
		{noun: "doctor", about: "look at the health of everything",
			more:  "Configuration, clock, key daemon, key audit, keyring, identities, certificates, next hops, scanners, the servers behind the doors for mail programs, Postfix and its queue, resolver. Exit status 1 when something is broken; a concern is no failure. With --box only what judges a release after a start: the key daemon and a signature of each algorithm, a mail sealed to an identity of the box and opened by the mail path, an answer of filterd at each of its listeners, and Postfix.",
			flags: []option{{name: "box", about: "judge the release that runs"}, {name: "wait", value: "TIME", about: "with --box, look again for so long while something is broken, as 10m"}}, run: doctor},
		{noun: "status", about: "show the state in a few lines", run: status},
		{noun: "help", args: "[COMMAND]", max: 2, about: "list the commands, or print usage of one", run: help},
		{noun: "completion", here: true, args: "bash", min: 1, max: 1, about: "print shell completion", run: completion},
		{noun: "manual", here: true, about: "print the manual page postern(1)", run: manual},
		{noun: "version", about: "print the version, and the time before which it believes no clock", run: version},
	}
	if a.Operations != nil {
		list = append(list, keyLogCommand)
	}
	list = append(list, dkimCommands...)
	if a.Names != nil {
		list = append(list, dnsCommands...)
	}
	if a.Plan != nil {
		list = append(list, enrolCommands...)
	}
	if a.Agent != nil {
		list = append(list, command{noun: "postfix", verb: "render", here: true, about: "write the files of the Postfix behind the gateway, and of the resolver",
			more: "From the tables [postfix], [next-hop] and [resolver]. Only their own folders are written to, each file whole; files that somebody else wrote are left alone, and named. With -n the differences are shown.", run: renderAgent},
			command{noun: "postfix", verb: "check", about: "say whether those files are as the configuration has them, and taken as they are",
				more: "Exit status 1 when they are not.", run: checkAgent})
	}
	if a.Watch != nil {
		list = append(list, command{noun: "clock", verb: "watch", here: true, about: "note for the daemons that a time service has set the clock, until it is ended",
			more:  "What postern-clock.service runs. It asks the kernel every five seconds, changes nothing, and leaves a mark that clock in filterd.toml and keyd.toml names. Both daemons read it: no mail is taken and nothing is signed before there is one, or after somebody has set the clock otherwise.",
			flags: []option{{name: "mark", value: "FILE", about: "the mark, " + DefaultMark + " by default"}}, run: watchClock})
	}
	list = append(list, imageCommands...)
	list = append(list, publishCommands...)
	if a.Update != nil {
		list = append(list, updateCommands...)
	}
	if a.Access != nil {
		list = append(list, accessCommands...)
	}
	if a.Press != nil {
		list = append(list, pdfCommand)
	}
	if a.Box != nil {
		list = append(list, boxCommands()...)
	}
	if a.ConfigDoc != nil {
		list = append(list, command{noun: "config", verb: "doc", args: "filterd|keyd|box|plan", min: 1, max: 1, about: "print the annotated example of a configuration", run: configDoc})
	}
	return list
}

// page is a result that is text already.
type page struct {
	Text string `json:"text"`
}

func (p page) text(w io.Writer) { io.WriteString(w, p.Text) }

// synopsis is "postern key retire [flags] ID".
func (c command) synopsis() string {
	var b strings.Builder
	b.WriteString("postern " + c.name())
	for _, o := range c.flags {
		b.WriteString(" [" + o.form() + "]")
		if o.many {
			b.WriteString("…")
		}
	}
	if c.args != "" {
		b.WriteString(" " + c.args)
	}
	return b.String()
}

func (o option) form() string {
	dash := "--"
	if len(o.name) == 1 {
		dash = "-"
	}
	if o.value == "" {
		return dash + o.name
	}
	return dash + o.name + " " + o.value
}

// usage is what --help prints.
func (c command) usage() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n\nusage: %s\n", c.name(), c.about, c.synopsis())
	if c.more != "" {
		fmt.Fprintf(&b, "\n%s\n", c.more)
	}
	b.WriteByte('\n')
	var rows [][]string
	for _, o := range append(slices.Clone(c.flags), common...) {
		rows = append(rows, []string{"  " + o.form(), o.about})
	}
	table(&b, nil, rows)
	return b.String()
}

func help(_ context.Context, c *call) (any, error) {
	var b strings.Builder
	if len(c.args) > 0 {
		name := strings.Join(c.args, " ")
		for _, t := range c.commands() {
			if t.name() == name {
				return page{t.usage()}, nil
			}
			if t.noun == name {
				b.WriteString(t.usage() + "\n")
			}
		}
		if b.Len() == 0 {
			return nil, misuse("`postern help` lists the commands", "no command %.40q", name)
		}
		return page{b.String()}, nil
	}
	b.WriteString("usage: postern NOUN [VERB] [FLAGS] [ARGUMENTS]\n\n")
	var rows [][]string
	for _, t := range c.commands() {
		rows = append(rows, []string{"  " + strings.TrimSpace(t.name()+" "+t.args), t.about})
	}
	table(&b, nil, rows)
	b.WriteString("\nflags of every command:\n")
	rows = nil
	for _, o := range common {
		rows = append(rows, []string{"  " + o.form(), o.about})
	}
	table(&b, nil, rows)
	b.WriteString("\nexit status: 0 done, 1 said no, 2 usage, 75 try later\n")
	return page{b.String()}, nil
}

// completion prints a function for bash: nouns, then verbs, then flags.
func completion(_ context.Context, c *call) (any, error) {
	if c.args[0] != "bash" {
		return nil, misuse("shells: bash", "no completion for %.40q", c.args[0])
	}
	var nouns []string
	verbs := map[string][]string{}
	flags := map[string][]string{}
	for _, t := range c.commands() {
		if !slices.Contains(nouns, t.noun) {
			nouns = append(nouns, t.noun)
		}
		if t.verb != "" {
			verbs[t.noun] = append(verbs[t.noun], t.verb)
		}
		for _, o := range append(slices.Clone(t.flags), common...) {
			word, _, _ := strings.Cut(o.form(), " ")
			flags[t.name()] = append(flags[t.name()], word)
		}
	}
	var b strings.Builder
	b.WriteString("_postern() {\n\tlocal cur=${COMP_WORDS[COMP_CWORD]} noun=${COMP_WORDS[1]} verb=${COMP_WORDS[2]} words=\n")
	fmt.Fprintf(&b, "\tif [ \"$COMP_CWORD\" -eq 1 ]; then\n\t\twords=%q\n\telse\n\t\tcase \"$COMP_CWORD $noun\" in\n", strings.Join(nouns, " "))
	for _, n := range nouns {
		if v := verbs[n]; v != nil {
			fmt.Fprintf(&b, "\t\t\"2 %s\") words=%q ;;\n", n, strings.Join(v, " "))
		}
	}
	b.WriteString("\t\t*)\n\t\t\tcase \"$noun $verb\" in\n")
	for _, t := range c.commands() {
		pattern := fmt.Sprintf("%q", t.name())
		if t.verb == "" {
			pattern = fmt.Sprintf("%q*", t.noun+" ")
		}
		fmt.Fprintf(&b, "\t\t\t%s) words=%q ;;\n", pattern, strings.Join(flags[t.name()], " "))
	}
	b.WriteString("\t\t\tesac ;;\n\t\tesac\n\tfi\n\tif [[ $cur != -* && $COMP_CWORD -gt 2 ]]; then\n\t\tCOMPREPLY=($(compgen -f -- \"$cur\"))\n\telse\n\t\tCOMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n\tfi\n}\ncomplete -F _postern postern\n")
	return page{b.String()}, nil
}

// roff escapes a line of text for the manual page.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "…", `\&...`, "'", `\(aq`).Replace(s)
	if strings.HasPrefix(s, ".") {
		s = `\&` + s
	}
	return s
}

func manual(_ context.Context, c *call) (any, error) {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line(`.TH POSTERN 1 "" "postern %s" "Postern"`, roff(c.Version))
	line(".SH NAME\npostern \\- keys, certificates and health of the mail gateway")
	line(".SH SYNOPSIS\n.B postern\n.I noun\n.RI [ verb ]\n.RI [ flags ]\n.RI [ arguments ]")
	line(".SH DESCRIPTION")
	line("%s", roff("Every private key is in the token; postern asks the key daemon to work with it, and keeps certificates in the keyring. Commands only look unless the verb says otherwise. What cannot be undone asks for the name of the object. Errors are one line, then a line that begins with hint:."))
	line(".SH COMMANDS")
	option := func(o option) { line(".RS\n.TP\n.B %s\n%s\n.RE", roff(o.form()), roff(o.about)) }
	for _, t := range c.commands() {
		line(".TP\n.B %s\n%s.", roff(strings.TrimSpace(t.name()+" "+t.args)), roff(strings.ToUpper(t.about[:1])+t.about[1:]))
		if t.more != "" {
			line("%s", roff(t.more))
		}
		for _, o := range t.flags {
			option(o)
		}
	}
	line(".SH FLAGS OF EVERY COMMAND")
	for _, o := range common {
		line(".TP\n.B %s\n%s", roff(o.form()), roff(o.about))
	}
	line(".SH EXIT STATUS\n.TP\n.B 0\nDone.\n.TP\n.B 1\nSaid no.\n.TP\n.B 2\nUsage.\n.TP\n.B 75\nTry again later.")
	line(".SH FILES\n.TP\n.I %s\n.TP\n.I %s\n.TP\n.I %s", roff(DefaultConfig), roff(DefaultKeyring), roff(DefaultSocket))
	return page{b.String()}, nil
}

func version(_ context.Context, c *call) (any, error) {
	text := "postern " + c.Version + "\n"
	if !c.Built.IsZero() {
		text += "of " + stamp(c.Built) + "\n"
	}
	return page{text}, nil
}

func configDoc(_ context.Context, c *call) (any, error) {
	if d := c.args[0]; !slices.Contains([]string{"filterd", "keyd", "box", "plan"}, d) {
		return nil, misuse("files: filterd, keyd, box, plan", "no file %.40q", d)
	}
	var b strings.Builder
	if err := c.ConfigDoc(&b, c.args[0]); err != nil {
		return nil, err
	}
	return page{b.String()}, nil
}
