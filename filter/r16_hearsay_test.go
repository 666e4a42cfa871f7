package filter

import (
	"context"
	"encoding/base64"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"postern/filter/autocrypt"
	"postern/filter/directory"
	"postern/filter/keyring"
	"postern/filter/message"
	"postern/filter/openpgp"
	"postern/filter/policy"
	"postern/hsm"
)

// spoken is a field of Autocrypt, for a mail in Go source.
func spoken(name, addr string, keydata []byte) string {
	text := base64.StdEncoding.EncodeToString(keydata)
	var b strings.Builder
	b.WriteString(name + ": addr=" + addr + "; keydata=")
	for n := 0; text != ""; text = text[n:] {
		n = min(70, len(text))
		b.WriteString("\n " + text[:n])
	}
	return b.String() + "\n"
}

// TestHearsay (R16): what the header of a mail says of certificates is kept for
// its author alone, and of others only where the mail was sealed and went to them,
// too; as seen, by autocrypt.
func TestHearsay(t *testing.T) {
	const bob, alice, carol = "bob@partner.example", "alice@company1.example", "carol@other.example"
	w := newWorld(t)
	b, c := w.keyed(bob, "planted", hsm.P256), w.person(carol)
	both := append(slices.Clone(b.Raw), c.Raw...)
	letter := func(from, fields string) string {
		return crlf("From: Somebody <" + from + ">\nTo: " + alice + ", " + carol + "\n" + fields + "Subject: in\nMIME-Version: 1.0\nContent-Type: text/plain\n\nhello\n")
	}
	own, gossip := spoken("Autocrypt", bob, b.Raw), spoken("Autocrypt-Gossip", carol, c.Raw)
	one := "planted [" + bob + "]"
	for _, x := range []struct {
		name   string
		mail   string
		change func(*world)
		want   []string
	}{
		{"the author's", letter(bob, own), nil, []string{one}},
		{"in other letters", letter("Bob@Partner.Example", own), nil, []string{one}},
		{"somebody else's", letter("dave@freemail.example", own), nil, nil},
		{"two of the author", letter(bob, own+own), nil, nil},
		{"one of the author, one of somebody else", letter(bob, own+spoken("Autocrypt", carol, c.Raw)), nil, []string{one}},
		{"very many", letter(bob, own+strings.Repeat("Autocrypt: addr=x@y.example; keydata=a2V5\n", maxHeaders)), nil, nil},
		{"of one of our own, by somebody outside", letter(alice, spoken("Autocrypt", alice, b.Raw)), nil, nil},
		{"two certificates in one field", letter(bob, spoken("Autocrypt", bob, both)), nil, nil},
		{"no certificate", letter(bob, spoken("Autocrypt", bob, []byte("none"))), nil, nil},
		{"two authors", letter(bob+">, <"+carol, own), nil, nil},
		{"gossip in the open", letter(bob, gossip), nil, nil},
		{"gossip inside", w.sealed(letter(bob, gossip), "", alice), nil, []string{"carol [" + carol + "]"}},
		{"gossip inside, of the author", w.sealed(letter(bob, spoken("Autocrypt-Gossip", bob, b.Raw)), "", alice), nil, nil},
		{"gossip inside, of one of our own", w.sealed(letter(bob, spoken("Autocrypt-Gossip", alice, b.Raw)), "", alice), nil, nil},
		{"gossip inside, of somebody whom the mail did not go to", w.sealed(letter(bob, spoken("Autocrypt-Gossip", "eve@evil.example", b.Raw)), "", alice), nil, nil},
		{"nobody listens", letter(bob, own), func(w *world) { w.gate.Autocrypt.Read = nil }, nil},
		{"a reader that panics", letter(bob, own), func(w *world) {
			w.gate.Autocrypt.Read = func([]byte) ([]keyring.Cert, error) { panic("x") }
		}, nil},
		{"the next hop did not take the mail", letter(bob, own), func(w *world) { w.hop.answers = append(w.hop.answers, answer(451)) }, nil},
	} {
		s := &school{}
		w.hop.got, w.hop.answers = nil, nil
		w.gate = New(w.config)
		w.gate.Learn, w.gate.Autocrypt.Read = s, openpgp.Read
		if x.change != nil {
			x.change(w)
		}
		w.send(policy.Inbound, x.mail, "bounce@partner.example", alice)
		w.gate.Idle()
		var got []string
		for _, k := range s.got {
			who := map[string]string{b.Fingerprint: "planted", c.Fingerprint: "carol"}[k.Fingerprint]
			got = append(got, fmt.Sprint(who, " ", k.Addresses))
			if k.Trust != keyring.Seen || k.Domains != nil || k.Source != keyring.ByAutocrypt || !k.LastSeen.Equal(noon) || len(k.Raw) == 0 || k.Role != keyring.Holder {
				t.Errorf("%s: got %+v, want it seen, now, by autocrypt, for no domain", x.name, k)
			}
		}
		if !slices.Equal(got, x.want) {
			t.Errorf("%s: got %q, want %q\n%s", x.name, got, x.want, w.log)
		}
	}
	s := &school{}
	w.hop.answers, w.gate = nil, New(w.config)
	w.gate.Learn, w.gate.Autocrypt.Read = s, openpgp.Read
	w.send(policy.Outbound, letter(alice, spoken("Autocrypt", alice, b.Raw)), alice, bob)
	if w.gate.Idle(); len(s.got) > 0 {
		t.Errorf("outbound mail taught %v", s.got)
	}
}

// saying is a source that gives one certificate.
type saying struct {
	cert keyring.Cert
	open bool
}

func (saying) Name() string { return "saying" }

func (s saying) Lookup(context.Context, message.Address) (a directory.Answer, err error) {
	if s.cert.Raw != nil {
		a.Certs = []keyring.Cert{s.cert}
	}
	a.Open = s.open
	return a, nil
}

// TestHearsayAlone (R16), from mail to file to the next mail: a header alone is
// sealed to by nobody, whatever other headers and open directories say alike; it
// confirms a directory that not anybody can fill, and contradicts none.
func TestHearsayAlone(t *testing.T) {
	const bob, alice, carol = "bob@partner.example", "alice@company1.example", "carol@other.example"
	for _, x := range []struct {
		name  string
		says  string // what one other source gives
		open  bool   // which anybody can fill
		trust directory.Trust
		want  string
		reads string // who can open it
	}{
		{"alone", "", false, directory.Agree, "550 5.7.3", ""},
		{"an open directory says the same", "planted", true, directory.Agree, "550 5.7.3", ""},
		{"one by the domain says the same", "planted", false, directory.Agree, "250 2.0.0", "planted"},
		{"one that is believed says another", carol, false, directory.Alone, "250 2.0.0", carol},
		{"one by the domain says another", carol, false, directory.Agree, "550 5.7.3", ""},
	} {
		w := newWorld(t)
		w.people[carol], w.people["planted"] = w.person(carol), w.keyed(carol, "planted", hsm.P256)
		seen, err := keyring.Open(filepath.Join(t.TempDir(), "seen.db"))
		if err != nil {
			t.Fatal(err)
		}
		defer seen.Close()
		w.gate.Learn, w.gate.Autocrypt.Read = seen, openpgp.Read
		w.send(policy.Inbound, crlf("From: Carol <"+carol+">\nTo: "+alice+"\n"+spoken("Autocrypt", carol, w.people["planted"].Raw)+"Subject: in\n\nhello\n"), carol, alice)
		w.gate.Idle()
		if list, err := seen.Certs(t.Context(), address(t, carol)); err != nil || len(list) != 1 {
			t.Fatalf("%s: got %d kept, %v, want 1", x.name, len(list), err)
		}
		w.gate.Finder = directory.New(directory.Config{Sources: []directory.Source{
			{Directory: saying{w.people[x.says].Cert, x.open}, Trust: x.trust}, {Directory: &directory.Autocrypt{Seen: seen}, Trust: directory.Agree}}, Budget: time.Minute})
		w.gate.Policy.Recipients[carol] = policy.Require
		w.hop.got = nil
		if got := w.send(policy.Outbound, out, alice, carol); !strings.HasPrefix(got.String(), x.want) {
			t.Errorf("%s: got %v, want %s\n%s", x.name, got, x.want, w.log)
			continue
		}
		for _, who := range []string{carol, "planted"} {
			if len(w.hop.got) == 0 {
				break
			}
			if _, _, err := w.opened(w.hop.got[0].mail, who, ""); (err == nil) != (who == x.reads) {
				t.Errorf("%s: %s opens it: got %v", x.name, who, err)
			}
		}
	}
}

// TestShownInHeader: mail that is signed with OpenPGP shows its author's
// certificate where his domain wants that, and once.
func TestShownInHeader(t *testing.T) {
	const alice, bob, dave = "alice@company1.example", "bob@partner.example", "dave@company1.example"
	for _, x := range []struct {
		name   string
		from   string
		fields string
		change func(*world)
		want   string
	}{
		{"signed", alice, "", nil, alice},
		{"signed as the domain", dave, "", nil, "company1.example"},
		{"not wanted", alice, "", func(w *world) { w.gate.Autocrypt.Domains = nil }, ""},
		{"not signed", alice, "", func(w *world) { w.gate.Policy.Domains["company1.example"] = policy.SignNever }, ""},
		{"one of his own program", alice, "Autocrypt: addr=" + alice + "; keydata=a2V5\n", nil, "own"},
		{"shadow", alice, "", func(w *world) { w.gate.Policy.Shadow = true }, ""},
	} {
		w := newWorld(t)
		w.gate.Autocrypt.Domains = map[string]bool{"company1.example": true}
		if x.change != nil {
			x.change(w)
		}
		for _, to := range []string{bob, "nobody@other.example"} { // sealed, and signed only
			w.hop.got = nil
			w.send(policy.Outbound, crlf("From: A <"+x.from+">\nTo: "+to+"\n"+x.fields+"Subject: out\n\nhello\n"), x.from, to)
			if len(w.hop.got) != 1 {
				t.Fatalf("%s: got %d mails\n%s", x.name, len(w.hop.got), w.log)
			}
			m := parsed(t, w.hop.got[0].mail)
			all := m.All(autocrypt.Field)
			if len(all) == 0 && x.want == "" || x.want == "own" && len(all) <= 1 {
				continue
			}
			if len(all) != 1 {
				t.Errorf("%s: got %d fields, want %q", x.name, len(all), x.want)
				continue
			}
			h := fieldsOf(m, autocrypt.Field)
			if len(h) != 1 || h[0].Addr.Key() != x.from || string(h[0].Keydata) != string(w.people[x.want].Raw) {
				t.Errorf("%s: got %d bytes for %v, want the certificate of %s", x.name, len(h[0].Keydata), h[0].Addr, x.want)
			}
		}
	}
}
