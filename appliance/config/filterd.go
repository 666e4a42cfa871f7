package config

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Filterd is filterd.toml.
type Filterd struct {
	AuthservID string   `toml:"authserv-id" need:"yes" form:"domain" doc:"The name of the gateway in Received, Authentication-Results (RFC 8601 §2.5) and its greeting. Results under this name that arrive from outside are removed."`
	State      string   `toml:"state" default:"/var/lib/postern" form:"path" doc:"Folder of what outlives a restart."`
	Keyring    string   `toml:"keyring" form:"path" doc:"File of the partners' certificates and our identities, public material only. Default: keyring.db in state."`
	Seen       string   `toml:"seen" form:"path" doc:"File of certificates that verified mail brought; the daemon writes it, and nothing in it is trusted. Default: seen/seen.db in state."`
	Record     string   `toml:"record" form:"path" doc:"File of what outlives a mail: who has his copy already, with whom protection was once used, and how mails were carried. It holds addresses and Message-IDs, and nothing that a mail says but the token of an authority's mail that an operator awaits. The daemon writes it. Default: record/record.db in state."`
	RecordKeep Duration `toml:"record-keep" default:"30d" max:"3650d" doc:"How long it is kept how each mail was carried (postern trace). 0s: not at all."`
	Clock      string   `toml:"clock" form:"path" doc:"File in which postern clock watch notes that a time service has set the clock. Until then, and while somebody has set it otherwise, every mail is deferred with 451 4.3.2. Default: none, and a clock is believed that is not before the build of the program."`
	SpoolDir   string   `toml:"spool-dir" form:"path" doc:"Folder for mails that outgrow spool-memory. Each is a file without a name, encrypted with a key that lives in memory only. Default: spool in state."`

	Key        Key                  `toml:"key" doc:"How to reach the key daemon."`
	Listeners  []Listener           `toml:"listener" doc:"Where mail comes in, one table for each. Its direction decides what is done with a mail, never its content."`
	NextHop    NextHops             `toml:"next-hop" doc:"Where mail goes. A sender hears 250 only after the next hop has said it."`
	Postfix    *Postfix             `toml:"postfix" doc:"The Postfix behind the gateway, which keeps the queue of outbound mail and brings it to the partners. postern postfix render writes its configuration from here. Without this table there is none of ours."`
	Domains    map[string]Domain    `toml:"domain" form:"ours" doc:"Our own domains: inbound mail to any other is refused. Names below a domain are not part of it. An international name is written in its own letters."`
	Partners   map[string]Partner   `toml:"partner" form:"partner" doc:"Rules for mail to one domain, or with *. to every name below it. The nearest name decides."`
	Recipients map[string]Recipient `toml:"recipient" form:"address" doc:"Rules for mail to one address; they go before those of its domain."`
	Archives   map[string]Archive   `toml:"archive" form:"address" doc:"Where a domain keeps one more copy of mail that came or leaves encrypted, signed and sealed for the archive's own certificate. The address is that of the archive; it gets one mail for each, signed by an identity of postmaster at the domain or of the domain, and with the null sender."`
	Default    Default              `toml:"default" doc:"The rules where no other one fits."`
	Trigger    Trigger              `toml:"trigger" doc:"What a sender can ask for in a mail. An entry is a tag, which counts where it stands in the subject whole and by itself, or a field of the header, as Name: value, or Name: for any value. Capital and small letters make no difference. What counted is taken out before the mail is sealed and sent; signed parts stay as they are. Only outbound mail is looked at."`
	Texts      Texts                `toml:"texts" doc:"What refusals say to people. The trace id of the mail stands behind."`
	Resolver   Resolver             `toml:"resolver" doc:"Who is asked for names of the Internet."`
	Find       Find                 `toml:"find" doc:"Where certificates of recipients outside are looked for of whom none is trusted."`
	MTASTS     MTASTS               `toml:"mta-sts" doc:"Policies of partners' domains for the way to them (RFC 8461)."`
	SMIME      SMIME                `toml:"smime" doc:"How X.509 certificates are judged."`
	Scan       Scan                 `toml:"scan" doc:"Programs that are asked whether a mail holds something malicious: of inbound mail what was opened, of outbound mail what is not yet sealed. Mail that stays sealed is not held against anybody: it passes, and Postern-Scan says scanned=no."`
	PDF        PDF                  `toml:"pdf" doc:"Documents with a password, for recipients without a certificate, where a rule says no-key = \"pdf\". The author of a mail is told its password in a mail of his own, by [next-hop.inbound], and tells it the recipients by another way."`
	Accounts   Accounts             `toml:"accounts" doc:"Who may log in, on listeners with auth."`
	Access     []Access             `toml:"access" doc:"Doors for mail programs to the company's IMAP or POP3 server, which postern access serve keeps: TLS with a key in the token, and behind it the server, byte for byte."`
	Web        []Web                `toml:"web" doc:"Where postern access serve answers over HTTPS what belongs to our domains: settings for mail programs, the Web Key Directory."`
	Autoconfig Autoconfig           `toml:"autoconfig" doc:"What mail programs are told of the servers in [[access]] and of the listeners where people log in (postern autoconfig print)."`
	Limits     Limits               `toml:"limits" doc:"What one mail, and all of them together, may cost."`
	Log        Log                  `toml:"log" doc:"Messages of the daemon."`

	Authentication Authentication `toml:"authentication" doc:"Where inbound mail says it comes from, and what the gateway says of it."`
}

// Key is the table [key].
type Key struct {
	Socket string `toml:"socket" default:"/run/postern/use.sock" form:"socket" doc:"Socket of the key daemon for signing and opening."`
	Keep   string `toml:"keep" default:"/run/postern/keep.sock" form:"socket" doc:"Socket of the key daemon for operators; only the command postern uses it."`
}

// Listener is a table of [[listener]].
type Listener struct {
	Name           string      `toml:"name" need:"yes" form:"name" doc:"Name in the log. A socket of this name that systemd hands over is taken in place of the address."`
	Address        string      `toml:"address" need:"yes" form:"listen" doc:"IP address and port; without an address, every one of this machine. Port 0 takes a free one."`
	Protocol       string      `toml:"protocol" default:"smtp" enum:"smtp|lmtp" doc:"smtp (RFC 5321), or lmtp (RFC 2033), where each recipient gets an answer of his own: for a mail server of the site that hands its mail through the gateway, never on port 25."`
	Direction      string      `toml:"direction" need:"yes" enum:"inbound|outbound" doc:"inbound: from outside to our domains, is opened and verified. outbound: from our users to anybody, is signed and sealed."`
	Allow          []Network   `toml:"allow" doc:"Networks that may connect. Default: everybody on an inbound listener and where clients have to log in, this machine only on any other outbound one, which must not be an open relay. What named networks bring inbound is taken for mail of everybody: its failures are counted for no single sender (origin-failures of keyd)."`
	MaxConnections int         `toml:"max-connections" min:"1" max:"100000" doc:"Connections at once. Default: connections in [limits]."`
	PerClient      int         `toml:"per-client" min:"1" max:"100000" doc:"Connections at once from one IPv4 address or the first 64 bits of an IPv6 address. Default: 50; max-connections on an outbound listener where nobody logs in."`
	Rate           Rate        `toml:"rate" doc:"Mails in a time from one such network, and of one account, such as 100/1m. Further ones wait. Default: no limit."`
	ProxyFrom      []Network   `toml:"proxy-from" doc:"Proxies that connect for others, and say so with the PROXY protocol (version 1 or 2), before TLS. They are not served without it; from anybody else it is refused."`
	XClientFrom    []Network   `toml:"xclient-from" doc:"Mail servers that are believed when they say by XCLIENT or XFORWARD for whom they speak. What they name is the client from then on, by XFORWARD for one mail and for all but allow."`
	TLS            ListenerTLS `toml:"tls" doc:"TLS towards the clients."`
	Auth           string      `toml:"auth" default:"none" enum:"none|offer|required" doc:"Whether clients log in (RFC 4954), over TLS only. none: they cannot. offer: they may. required: there is no mail without it, and allow is everybody by default. An account writes as its own addresses only, in the envelope and in From and Sender."`
}

// NextHops is the table [next-hop].
type NextHops struct {
	Inbound  *Hop `toml:"inbound" doc:"For inbound mail: the company's mail server."`
	Outbound *Hop `toml:"outbound" doc:"For outbound mail: the relay that keeps the queue."`
}

// Hop is a table of [next-hop].
type Hop struct {
	Route    string `toml:"route" default:"relay" enum:"relay|direct" doc:"relay: the one host of address. direct, for outbound mail without a relay: the servers of each recipient's domain, found through [resolver], with the transport of its rule; there is no queue, so a mail that cannot be delivered is deferred, and whoever sent it has to come back."`
	Address  string `toml:"address" form:"dial" doc:"Host and port of a relay."`
	Port     int    `toml:"port" default:"25" min:"1" max:"65535" doc:"Port of the servers, with route = \"direct\"."`
	Protocol string `toml:"protocol" default:"smtp" enum:"smtp|lmtp" doc:"smtp (RFC 5321), or lmtp (RFC 2033)."`
	TLS      string `toml:"tls" enum:"off|may|encrypt|verify" doc:"off: in clear. may: TLS where it is offered. encrypt: TLS with any certificate, or the mail waits. verify: TLS with a certificate that is trusted and names the host, or the mail waits. Default: verify; off where the host is localhost or a loopback address."`
	Name     string `toml:"name" form:"domain" doc:"Name that verify wants in the certificate. Default: the host of address."`
	CAFile   string `toml:"ca-file" form:"path" doc:"Certificates in PEM that verify trusts, also that of a partner's rule with route = \"direct\". Default: those of the system."`
}

// Domain is a table of [domain].
type Domain struct {
	Sign     string `toml:"sign" default:"always" enum:"always|optional|asked|never" doc:"always: outbound mail of the domain is signed, or deferred where no identity can sign it. optional: signed where one can. asked: signed where the sender asks for it. never: not signed; where the sender asks for it, the mail is refused."`
	Internal string `toml:"internal" default:"plain" enum:"plain|optional|require" doc:"End-to-end encryption of mail to the domain from inside the company. plain: none, whatever its sender asks for elsewhere. optional and require: as in [partner]."`
	DKIM     string `toml:"dkim" default:"off" enum:"off|sign" doc:"Whether outbound mail whose author is of the domain leaves with a DKIM signature (RFC 6376) of each kind of key that postern dkim rotate has made for it. sign: signed, or deferred."`
	// MTASTS and what belongs to it are served by [[web]].
	MTASTS       string   `toml:"mta-sts" default:"off" enum:"off|none|testing|enforce" doc:"The MTA-STS policy of the domain (RFC 8461), which [[web]] serves at mta-sts and the domain. enforce: others bring mail over TLS, to the servers that mta-sts-mx names, or not at all. testing: they only report. none: there is no policy any more, as one that was there has to say for its max_age. off: nothing is served."`
	MTASTSMX     []string `toml:"mta-sts-mx" form:"host" doc:"Servers of the policy: the names of the domain's MX records, which the servers' certificates must have; *.company1.example for every name one label longer."`
	MTASTSMaxAge Duration `toml:"mta-sts-max-age" default:"7d" min:"1d" max:"365d" doc:"How long others keep the policy."`
	Autocrypt    bool     `toml:"autocrypt" doc:"Whether mail of the domain that is signed with OpenPGP has the certificate in its header (Autocrypt), so that whoever reads it can answer encrypted. Where the sender's program has put such a field there, that one stays alone."`
	Archive      string   `toml:"archive" form:"address" doc:"Address of the [archive] of the domain. Default: none."`
	Joiners      string   `toml:"joiners" default:"off" enum:"off|senders|all" doc:"Who of the domain is noted, where he has no certificate of his own, for the next run of postern enrol to give him one, if its plan takes joiners. senders: whoever sends mail. all: whoever gets mail, too, which is for a mail server that refuses addresses that are not there. Until then the domain's own certificate counts for him."`
	// Escrow is checked against our domains.
	Escrow []string `toml:"escrow" form:"escrow" doc:"Identities of ours, by address or fingerprint, that can read every mail that is sealed for an author of the domain. For each format and kind of key that mail is sealed with, one of them must have a certificate, or the mail is deferred."`
}

// Partner is a table of [partner].
type Partner struct {
	Protect   string   `toml:"protect" enum:"none|asked|optional|require" doc:"End-to-end encryption. none: never; where the sender asks for it, the mail is refused. asked: where the sender asks for it. optional: where a usable certificate is known. require: always, or what no-key says. Default: protect in [default]."`
	Sign      string   `toml:"sign" default:"inherit" enum:"inherit|always|optional|asked|never" doc:"Signatures on mail to the partner, with the words of [domain]. inherit: what the domain of the author says."`
	NoKey     string   `toml:"no-key" enum:"reject|transport|defer|pdf" doc:"What becomes of mail that must be encrypted and cannot be, with the words of [default]. Default: no-key in [default]."`
	Transport string   `toml:"transport" enum:"next-hop|may|encrypt|verify|dane|dane-only|pin" doc:"Security of the way to the partner. next-hop: left to the next hop. may: TLS where it is offered. encrypt: TLS with any certificate. verify: TLS with a certificate that is trusted and names the partner. dane: as the partner's TLSA records say (RFC 7672), encrypt where there are none. dane-only: as they say, or not at all. pin: TLS with one of pins. What is not met makes the mail wait. All but next-hop want [postfix] or a direct route. Default: transport in [default]."`
	Names     []string `toml:"names" form:"host" doc:"Mail servers outside the partner's own domain whose certificates verify takes, as mx.provider.example, or *.provider.example for every name below it."`
	Pins      []string `toml:"pins" form:"pin" doc:"SHA-256 of the partner's public keys (SubjectPublicKeyInfo), as sha256: and 64 hexadecimal digits."`
	Min       string   `toml:"min" form:"tls-version" doc:"Lowest TLS version on the way to the partner, 1.2 or 1.3. Default: min in [default]."`
	PFS       bool     `toml:"pfs" doc:"Whether the way to the partner has forward secrecy, or is not used. Also where [default] says so."`
	// What is asked of mail that comes from the partner.
	Inbound     string   `toml:"inbound" default:"any" enum:"any|force|pin" doc:"Security of the way from the partner: of mail with a sender there, and of clients that call themselves, or have a certificate for, a name there or below it. any: as it comes. force: TLS, in min or later; in clear it is refused with 530 5.7.0. pin: TLS with a client certificate whose key is one of inbound-pins; otherwise it is refused with 550 5.7.1."`
	InboundPins []string `toml:"inbound-pins" form:"pin" doc:"SHA-256 of the public keys (SubjectPublicKeyInfo) of the servers that bring the partner's mail."`
	Format      []string `toml:"format" enum:"openpgp|smime" doc:"Formats for mail to the partner, the preferred one first; one that is missing is not used. Default: format in [default]."`
	SMIME       Agreed   `toml:"smime" doc:"Algorithms of S/MIME that were agreed on with the partner. The profile of EDI@Energy wants oaep and pss, and aes-128-gcm or aes-128-cbc."`
}

// Agreed is the table smime of a partner.
type Agreed struct {
	Cipher string `toml:"cipher" default:"auto" enum:"auto|aes-128-cbc|aes-192-cbc|aes-256-cbc|aes-128-gcm|aes-256-gcm" doc:"Cipher of the content. auto: what the partner's programs said that they read, and AES-CBC where they said nothing."`
	OAEP   bool   `toml:"oaep" doc:"Whether RSA keys of the partner are always used with RSAES-OAEP and SHA-256. Otherwise that depends on what the partner's programs said."`
	PSS    bool   `toml:"pss" doc:"Whether RSA keys of ours always sign with RSASSA-PSS. Otherwise that depends on what the partner's programs said."`
}

// Recipient is a table of [recipient].
type Recipient struct {
	Protect string `toml:"protect" need:"yes" enum:"none|asked|optional|require" doc:"End-to-end encryption, with the words of [partner]."`
	Sign    string `toml:"sign" default:"inherit" enum:"inherit|always|optional|asked|never" doc:"Signatures on mail to the address, with the words of [domain]. inherit: as for its domain."`
	NoKey   string `toml:"no-key" default:"inherit" enum:"inherit|reject|transport|defer|pdf" doc:"What becomes of mail that must be encrypted and cannot be, with the words of [default]. inherit: as for its domain."`
}

// Default is the table [default].
type Default struct {
	Protect    string `toml:"protect" default:"optional" enum:"none|asked|optional|require" doc:"End-to-end encryption, with the words of [partner]."`
	Transport  string `toml:"transport" default:"next-hop" enum:"next-hop|may|encrypt|verify|dane|dane-only" doc:"Security of the way to partners, with the words of [partner]."`
	Min        string `toml:"min" form:"tls-version" doc:"Lowest TLS version on the way to partners, 1.2 or 1.3; not below encrypt, where clear text would be worse. Default: 1.2."`
	PFS        bool   `toml:"pfs" doc:"Whether the way to partners has forward secrecy, or is not used; not below encrypt."`
	NoKey      string `toml:"no-key" default:"reject" enum:"reject|transport|defer|pdf" doc:"What becomes of mail that must be encrypted where no certificate is usable. reject: it is refused with 550 5.7.3. transport: it goes without, over a way that is at least verify (or dane-only, or pin, where the partner has that), or waits; it wants [postfix] or a direct route. defer: it waits with 451 4.7.3. pdf: it goes as a PDF with a password, which its author is told, see [pdf]; where nobody can be told, or others of ours must be able to read along (escrow), it is refused."`
	Downgrade  string `toml:"downgrade" default:"reject" enum:"reject|defer|off" doc:"What becomes of mail to somebody to whom mail was encrypted before, where no certificate is usable any more; under the rule none nothing is remembered. reject: it is refused, until a certificate comes or postern policy forget is said. defer: it waits. off: it is not remembered."`
	Answers    string `toml:"answers" default:"protect" enum:"protect|usual" doc:"How answers go outside to mail that came encrypted and was opened here. protect: encrypted, or they are refused. usual: as any mail."`
	Client     string `toml:"client-encryption" default:"keep" enum:"keep|refuse|open" doc:"What becomes of outbound mail that the sender's own program has encrypted. keep: it passes. refuse: it is refused. open: it is opened with the keys of its author or of his domain, if he has logged in as the envelope sender, or has signed inside; and encrypted anew for everybody outside, or refused."`
	Shadow     bool   `toml:"shadow" doc:"Whether decisions are only logged. Mail then passes as it came: nothing is opened, signed, encrypted, taken out of a subject or refused by a rule on protection or for what a scanner says; nothing is learned or remembered. What is not our mail, loops, broken or too big is refused all the same, and marks that only the gateway may write are taken off."`
	Headers    string `toml:"header-confidentiality" default:"baseline" enum:"baseline|shy|none" doc:"What of an encrypted mail's header nobody on the way reads; the recipient does (RFC 9788 §3.2). baseline: subject, comments and keywords. shy: also display names and the sender's time zone. none: nothing."`
	OldCiphers bool   `toml:"old-ciphers" doc:"Whether mail is opened that is sealed with CAST5, 3DES, Blowfish or Twofish, or in LibrePGP's OCB packet (RFC 9580 §9.3 wants none of them). What is opened so is never called verified. Of S/MIME see triple-des in [smime]."`
	// Format is a list in the order of preference.
	Format          []string `toml:"format" enum:"openpgp|smime" doc:"Formats for outbound mail, the preferred one first; one that is missing is not used. Default: openpgp, then smime."`
	Learn           string   `toml:"learn" default:"seen" enum:"off|seen|chain" doc:"What becomes of certificates that verified mail brings. off: nothing. seen: they are kept for a person to trust. chain: one whose path ends at an anchor is also sealed to, as long as nobody has trusted any other one of its address."`
	Unauthenticated string   `toml:"unauthenticated" default:"neutralise" enum:"neutralise|sealed" doc:"What becomes of S/MIME mail whose cipher lets anybody change it (AES-CBC), with no signature inside that fits. neutralise: it is opened, and what a program could run in it is shown as text. sealed: it is delivered as it came."`
	Undecryptable   string   `toml:"undecryptable" default:"mark" enum:"mark|reject" doc:"What becomes of sealed mail that does not open. mark: it is delivered as it came, and marked. reject: it is refused, with one text for every cause."`
}

// Trigger is the table [trigger].
type Trigger struct {
	Encrypt []string `toml:"encrypt" form:"trigger" doc:"The mail is encrypted for everybody outside, or what no-key says. Default: [encrypt], and X-Postern-Encrypt: yes."`
	Sign    []string `toml:"sign" form:"trigger" doc:"The mail is signed, where sign in [domain] does not say always anyhow. Default: [sign], and X-Postern-Sign: yes."`
	Plain   []string `toml:"plain" form:"trigger" doc:"The mail is not encrypted for those whose rule is optional. Nobody else's protection becomes less by it. Default: none, so that nobody can ask for that."`
}

// Texts is the table [texts].
type Texts struct {
	Language string            `toml:"language" default:"en" enum:"en|de|both" doc:"en: English. de: German. both: German, then English. Replies of SMTP are ASCII: umlauts are written as two letters."`
	Own      map[string]string `toml:"own" doc:"Texts of the site, by the word that replies.md has under Reason; they stand in place of ours in every language. At most 300 characters."`
}

// SMIME is the table [smime].
type SMIME struct {
	Roots      string   `toml:"roots" default:"public" enum:"public|own" doc:"Where paths may end. public: at the roots that Mozilla trusts for e-mail, and at those of the site. own: only at those of the site, which postern cert import --anchor brings in."`
	Revocation string   `toml:"revocation" default:"soft" enum:"off|soft|hard" doc:"Whether authorities are asked if a certificate is revoked. off: nobody is asked. soft: asked, and good where nobody answers. hard: asked, and not good where nobody answers."`
	Budget     Duration `toml:"revocation-budget" default:"3s" min:"100ms" max:"30s" doc:"How long one mail waits for those answers at most."`
	Private    bool     `toml:"revocation-private" doc:"Whether those that are asked may be inside the site's own networks, as an authority of the site is. Otherwise addresses that the Internet does not route are never asked."`
	Proxy      string   `toml:"revocation-proxy" form:"url" doc:"HTTP proxy to ask through, as http://host:port. It has to mind where it goes."`
	TripleDES  string   `toml:"triple-des" default:"open" enum:"open|sealed" doc:"What becomes of mail that is sealed with 3DES, as old programs still do. open: it is opened as any other. sealed: it is delivered as it came."`
	BareOwn    bool     `toml:"bare-own" doc:"Whether certificates below the site's own anchors may lack the extended key usage emailProtection."`
}

// Limits is the table [limits].
type Limits struct {
	MessageSize  Size `toml:"message-size" default:"50MiB" min:"64KiB" max:"1GiB" doc:"Largest mail; the SMTP extension SIZE tells it (RFC 1870)."`
	Recipients   int  `toml:"recipients" default:"1000" min:"100" max:"100000" doc:"Recipients of one mail; RFC 5321 §4.5.3.1.8 asks for 100 at least."`
	InFlight     int  `toml:"in-flight" default:"64" min:"1" max:"10000" doc:"Mails between the end of DATA and the answer of the next hop. Further ones are deferred."`
	SpoolMemory  Size `toml:"spool-memory" default:"256KiB" min:"4KiB" max:"64MiB" doc:"Bytes of one mail that are held in memory; what is larger goes to spool-dir."`
	MIMEDepth    int  `toml:"mime-depth" default:"32" min:"1" max:"100" doc:"Multiparts and messages inside each other."`
	MIMEParts    int  `toml:"mime-parts" default:"2000" min:"1" max:"100000" doc:"Parts of one mail."`
	HeaderFields int  `toml:"header-fields" default:"1000" min:"50" max:"100000" doc:"Fields in the header of a mail or a part."`
	HeaderBytes  Size `toml:"header-bytes" default:"256KiB" min:"4KiB" max:"16MiB" doc:"Size of the header of a mail or a part."`
	Connections  int  `toml:"connections" default:"1000" min:"1" max:"100000" doc:"Connections at once on each listener that has no max-connections."`
}

// loopback may send through an outbound listener that says nothing else.
var loopback = []Network{{netip.MustParsePrefix("127.0.0.0/8")}, {netip.MustParsePrefix("::1/128")}}

// check fills in what depends on other fields, and finds what does not fit together.
func (c *Filterd) check(r *reading) {
	set := func(v *string, d string) {
		if *v == "" {
			*v = d
		}
	}
	set(&c.Keyring, c.State+"/keyring.db")
	set(&c.Seen, c.State+"/seen/seen.db")
	set(&c.Record, c.State+"/record/record.db")
	set(&c.SpoolDir, c.State+"/spool")
	if c.Record == c.Keyring || c.Record == c.Seen {
		r.wrong(r.line("record"), "record: is the path of keyring or seen too", "each is a file of its own")
	}
	if c.Seen == c.Keyring {
		r.wrong(r.line("seen"), "seen: is the path of keyring too", "what mail brings must not reach the file that is trusted")
	}
	if c.Key.Socket == c.Key.Keep {
		r.wrong(r.line("key", "keep"), "key.keep: is the path of key.socket too", "operators have a socket of their own")
	}
	c.checkPostfix(r)
	c.checkRoute()
	c.checkFind(r)
	c.checkHop(r, c.NextHop.Inbound, "next-hop", "inbound")
	c.checkHop(r, c.NextHop.Outbound, "next-hop", "outbound")
	c.checkListeners(r)
	c.checkAccounts(r)
	c.checkScan(r)
	c.checkAccess(r)

	if len(c.Domains) == 0 {
		r.wrong(1, "no [domain] says which mail is ours", `add [domain."company1.example"]`)
	}
	c.Domains = lowerDomains(r, "domain", c.Domains)
	c.Partners = lowerDomains(r, "partner", c.Partners)
	c.Recipients = lowerDomains(r, "recipient", c.Recipients)
	c.Archives = lowerDomains(r, "archive", c.Archives)
	if c.Default.Format == nil {
		c.Default.Format = []string{"openpgp", "smime"}
	}
	checkList(r, c.Default.Format, "default", "format")
	c.checkTriggers(r)
	c.checkPromises(r)
	c.checkPDF(r)
	for d, v := range c.Domains {
		c.checkOwnPolicy(r, d, v)
		for _, e := range v.Escrow {
			_, domain, ok := cutLast(e, "@")
			if _, ours := c.Domains[strings.ToLower(domain)]; ok && !ours {
				r.wrong(r.line("domain", d, "escrow"), fmt.Sprintf("domain.%s.escrow: %s is at none of our own domains", quote(d), quote(e)), "who reads along needs a certificate of ours")
			}
		}
	}
	c.checkArchives(r)
	c.checkAuthentication(r)
	for d, p := range c.Partners {
		c.checkInbound(r, d, p)
		if _, ours := c.Domains[d]; ours {
			r.wrong(r.line("partner", d), fmt.Sprintf("partner.%s: is one of our own domains", quote(d)), "a rule for one address of ours goes to [recipient]")
		}
		set(&p.Protect, c.Default.Protect)
		set(&p.NoKey, c.Default.NoKey)
		c.checkWay(r, d, &p)
		if p.Format == nil {
			p.Format = c.Default.Format
		}
		checkList(r, p.Format, "partner", d, "format")
		c.Partners[d] = p
	}
}

// lowerDomains gives every key the spelling of its domain that rules are found by.
func lowerDomains[T any](r *reading, table string, m map[string]T) map[string]T {
	lower := make(map[string]T, len(m))
	n := r.root.keys[table]
	if n == nil {
		return lower
	}
	for _, k := range n.order {
		local, domain, ok := cutLast(k, "@")
		key := strings.ToLower(k)
		if ok {
			key = local + "@" + strings.ToLower(domain)
		}
		if _, twice := lower[key]; twice {
			r.wrong(n.keys[k].line, fmt.Sprintf("%s.%s: stands here twice", table, quote(k)), "capital and small letters make no difference in a domain")
		}
		lower[key] = m[k]
	}
	return lower
}

// checkHop fills in what depends on other fields of a next hop, whose table is
// path, and finds what does not fit together.
func (c *Filterd) checkHop(r *reading, h *Hop, path ...any) {
	if h == nil {
		return
	}
	if h.Route == "direct" {
		c.checkDirect(r, h, path...)
		return
	}
	at := name(path)
	line := func(field string) int { return r.line(append(slices.Clip(path), field)...) }
	if h.Address == "" {
		r.wrong(r.line(path...), at+".address is missing", "")
	}
	host, _, _ := net.SplitHostPort(h.Address) // has its form already
	if h.TLS == "" {
		h.TLS = "verify"
		if isLoopback(host) {
			h.TLS = "off"
		}
	}
	for _, f := range []struct{ name, value string }{{"name", h.Name}, {"ca-file", h.CAFile}} {
		if f.value != "" && h.TLS != "verify" {
			r.wrong(line(f.name), fmt.Sprintf("%s.%s: has no effect with tls = %q", at, f.name, h.TLS), `set tls = "verify"`)
		}
	}
	if h.Name == "" && h.TLS == "verify" {
		h.Name = host
	}
	for _, l := range c.Listeners {
		if meets(l.Address, h.Address) {
			r.wrong(line("address"), fmt.Sprintf("%s.address = %q: is listener %q itself", at, h.Address, l.Name), "mail would come back for ever")
		}
	}
}

// meets reports whether who dials surely reaches a listener.
func meets(listen, dial string) bool {
	lh, lp, _ := net.SplitHostPort(listen)
	dh, dp, _ := net.SplitHostPort(dial)
	if lp != dp {
		return false
	}
	if dh == "localhost" {
		dh = "127.0.0.1"
	}
	la, err := netip.ParseAddr(lh)
	if lh == "" || err == nil && la.IsUnspecified() {
		return isLoopback(dh)
	}
	da, err2 := netip.ParseAddr(dh)
	return err == nil && err2 == nil && la.Unmap() == da.Unmap()
}

func (c *Filterd) checkListeners(r *reading) {
	if len(c.Listeners) == 0 {
		r.wrong(1, "no [[listener]] takes mail", `add one with name, address and direction`)
	}
	names, addresses := map[string]bool{}, map[string]string{}
	for i := range c.Listeners {
		l := &c.Listeners[i]
		line := func(field string) int { return r.line("listener", i, field) }
		if names[l.Name] {
			r.wrong(line("name"), fmt.Sprintf("listener.name = %q: another listener has it", l.Name), "")
		}
		names[l.Name] = true
		if other, taken := addresses[l.Address]; taken && !strings.HasSuffix(l.Address, ":0") {
			r.wrong(line("address"), fmt.Sprintf("listener.address = %q: listener %q has it", l.Address, other), "")
		}
		addresses[l.Address] = l.Name
		c.checkTLS(r, i)
		if l.MaxConnections == 0 {
			l.MaxConnections = c.Limits.Connections
		}
		if _, port, _ := net.SplitHostPort(l.Address); l.Protocol == "lmtp" && port == "25" { // RFC 2033 §5
			r.wrong(line("protocol"), `listener.protocol = "lmtp": port 25 is that of SMTP`, "take another port")
		}
		c.checkAuth(r, i)
		switch l.Direction {
		case "inbound":
			c.wants(r, i, c.NextHop.Inbound)
		case "outbound":
			c.wants(r, i, c.NextHop.Outbound)
			if len(l.Allow) == 0 && l.Auth != "required" {
				l.Allow = loopback
			}
			for _, n := range l.Allow {
				if l.Auth != "required" && n.Bits() < 8 && !n.Addr().IsPrivate() {
					r.wrong(line("allow"), fmt.Sprintf("listener.allow: %s on an outbound listener would make an open relay", n), "name the networks of the company")
				}
			}
		}
	}
}

// wants makes sure that the mail of listener i has a next hop.
func (c *Filterd) wants(r *reading, i int, h *Hop) {
	if l := c.Listeners[i]; h == nil {
		r.wrong(r.line("listener", i), fmt.Sprintf("listener %q: there is no [next-hop.%s]", l.Name, l.Direction), "")
	}
}
