// Package autoconfig tells mail programs which servers a domain has: as
// Thunderbird asks for it, as Outlook does (Autodiscover with plain XML), and as
// records of the domain (RFC 6186, RFC 8314 §5.1).
package autoconfig

import (
	"bytes"
	"cmp"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"postern/filter/message"
)

// ErrRequest is a question that cannot be answered.
var ErrRequest = errors.New("request not understood")

// maxRequest is how much of a question is read, in bytes, and maxTokens how many
// pieces of XML.
const (
	maxRequest = 8 << 10
	maxTokens  = 200
)

// Server is one that mail programs use.
type Server struct {
	Protocol string // "imap", "pop3" or "smtp"
	Host     string
	Port     int
	Implicit bool // TLS from the first byte; else by STARTTLS, and not without
}

// Site is what is told of a domain. Implicit TLS goes before STARTTLS, and IMAP
// before POP3, in every form.
type Site struct {
	Domain  string
	Name    string // for people
	Local   bool   // accounts are named by what stands before the @
	Servers []Server
}

// order gives the servers, the preferred ones first.
func (s Site) order() []Server {
	rank := []string{"imap", "pop3", "smtp"}
	list := slices.Clone(s.Servers)
	slices.SortStableFunc(list, func(a, b Server) int {
		first := func(x Server) int {
			if x.Implicit {
				return 0
			}
			return 1
		}
		return cmp.Or(cmp.Compare(slices.Index(rank, a.Protocol), slices.Index(rank, b.Protocol)), cmp.Compare(first(a), first(b)))
	})
	return list
}

// thunderbird is https://wiki.mozilla.org/Thunderbird:Autoconfiguration:ConfigFileFormat.
type thunderbird struct {
	XMLName  xml.Name `xml:"clientConfig"`
	Version  string   `xml:"version,attr"`
	Provider struct {
		ID       string       `xml:"id,attr"`
		Domain   string       `xml:"domain"`
		Name     string       `xml:"displayName"`
		Short    string       `xml:"displayShortName"`
		Incoming []thunderbox `xml:"incomingServer"`
		Outgoing []thunderbox `xml:"outgoingServer"`
	} `xml:"emailProvider"`
}

type thunderbox struct {
	Type   string `xml:"type,attr"`
	Host   string `xml:"hostname"`
	Port   int    `xml:"port"`
	Socket string `xml:"socketType"`
	User   string `xml:"username"`
	Auth   string `xml:"authentication"`
}

// Thunderbird is the file config-v1.1.xml.
func (s Site) Thunderbird() ([]byte, error) {
	var d thunderbird
	d.Version = "1.1"
	d.Provider.ID, d.Provider.Domain, d.Provider.Name, d.Provider.Short = s.Domain, s.Domain, s.Name, s.Name
	user := "%EMAILADDRESS%"
	if s.Local {
		user = "%EMAILLOCALPART%"
	}
	for _, v := range s.order() {
		b := thunderbox{Type: v.Protocol, Host: v.Host, Port: v.Port, Socket: "STARTTLS", User: user, Auth: "password-cleartext"} // inside of TLS
		if v.Implicit {
			b.Socket = "SSL"
		}
		if v.Protocol == "smtp" {
			d.Provider.Outgoing = append(d.Provider.Outgoing, b)
		} else {
			d.Provider.Incoming = append(d.Provider.Incoming, b)
		}
	}
	return document(d)
}

// Namespaces of Autodiscover [MS-OXDSCLI].
const (
	discoverAnswer = "http://schemas.microsoft.com/exchange/autodiscover/responseschema/2006"
	discoverMail   = "http://schemas.microsoft.com/exchange/autodiscover/outlook/responseschema/2006a"
)

type discover struct {
	XMLName  xml.Name `xml:"http://schemas.microsoft.com/exchange/autodiscover/responseschema/2006 Autodiscover"`
	Response struct {
		XMLName xml.Name
		Account struct {
			Type      string        `xml:"AccountType"`
			Action    string        `xml:"Action"`
			Protocols []discoverbox `xml:"Protocol"`
		}
	}
}

type discoverbox struct {
	Type       string `xml:"Type"`
	Server     string `xml:"Server"`
	Port       int    `xml:"Port"`
	Domain     string `xml:"DomainRequired"`
	Login      string `xml:"LoginName"`
	SPA        string `xml:"SPA"`
	SSL        string `xml:"SSL"`
	Encryption string `xml:"Encryption"`
	Auth       string `xml:"AuthRequired"`
}

// Autodiscover is the answer for one address.
func (s Site) Autodiscover(a message.Address) ([]byte, error) {
	var d discover
	d.Response.XMLName = xml.Name{Space: discoverMail, Local: "Response"}
	d.Response.Account.Type, d.Response.Account.Action = "email", "settings"
	login := a.String()
	if s.Local {
		login = a.Local
	}
	for _, v := range s.order() {
		b := discoverbox{Type: strings.ToUpper(v.Protocol), Server: v.Host, Port: v.Port, Domain: "off", Login: login, SPA: "off", SSL: "on", Encryption: "TLS", Auth: "on"}
		if v.Implicit {
			b.Encryption = "SSL"
		}
		d.Response.Account.Protocols = append(d.Response.Account.Protocols, b)
	}
	return document(d)
}

func document(d any) ([]byte, error) {
	b, err := xml.MarshalIndent(d, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write settings: %w", err)
	}
	return append([]byte(xml.Header), append(b, '\n')...), nil
}

// ReadAutodiscover finds whose settings a program asks for. What else it says is
// passed over; a document type, which could define more than stands there, is
// no question.
func ReadAutodiscover(r io.Reader) (message.Address, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxRequest+1))
	if err != nil || len(text) > maxRequest {
		return message.Address{}, fmt.Errorf("read Autodiscover: %w", ErrRequest)
	}
	d := xml.NewDecoder(bytes.NewReader(text))
	var value strings.Builder
	inside := false
	for range maxTokens {
		token, err := d.RawToken()
		if err != nil {
			break
		}
		switch token := token.(type) {
		case xml.Directive:
			return message.Address{}, fmt.Errorf("read Autodiscover: %w", ErrRequest)
		case xml.StartElement:
			inside = token.Name.Local == "EMailAddress"
		case xml.CharData:
			if inside {
				value.Write(token)
			}
		case xml.EndElement:
			if !inside {
				continue
			}
			a, err := message.ParseAddress(strings.TrimSpace(value.String()))
			if err != nil {
				return message.Address{}, fmt.Errorf("read Autodiscover: %w", ErrRequest)
			}
			return a, nil
		}
	}
	return message.Address{}, fmt.Errorf("read Autodiscover: no address: %w", ErrRequest)
}

// services are the names of RFC 6186 §3 and RFC 8314 §5.1.
var services = []struct {
	name, protocol string
	implicit       bool
}{
	{"_imaps", "imap", true}, {"_imap", "imap", false}, {"_pop3s", "pop3", true}, {"_pop3", "pop3", false},
	{"_submissions", "smtp", true}, {"_submission", "smtp", false},
}

// Records are those of the domain, each as a line of a zone file. What the domain
// does not have is said too (RFC 6186 §3.4), or programs would guess.
func (s Site) Records() (lines []string) {
	for _, v := range services {
		priority, none := 0, true
		for _, has := range s.Servers {
			if has.Protocol == v.protocol && has.Implicit == v.implicit {
				lines = append(lines, record(v.name+"._tcp."+s.Domain, priority, 1, has.Port, has.Host+"."))
				priority, none = priority+10, false
			}
		}
		if none {
			lines = append(lines, record(v.name+"._tcp."+s.Domain, 0, 0, 0, "."))
		}
	}
	return append(lines, record("_autodiscover._tcp."+s.Domain, 0, 1, 443, "autodiscover."+s.Domain+"."))
}

func record(name string, priority, weight, port int, target string) string {
	return name + ". IN SRV " + strconv.Itoa(priority) + " " + strconv.Itoa(weight) + " " + strconv.Itoa(port) + " " + target
}
