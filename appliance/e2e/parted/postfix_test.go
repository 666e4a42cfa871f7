package parted

import (
	"fmt"
	"maps"
	"net"
	"regexp"
	"slices"
	"strings"
	"testing"

	"postern/appliance/e2e/housetest"
	"postern/appliance/postfix/postfixtest"
	"postern/appliance/trial"
	"postern/filter/transport"
	"postern/filter/transport/hoptest"
)

// A site's own Postfix hands all mail through the gateway, and takes it back at
// a port that hands on to the office.
const (
	mainCF = `myhostname = site.example
relayhost = [127.0.0.1]:%[1]s
smtpd_recipient_restrictions = permit_mynetworks, reject
minimal_backoff_time = 2s
maximal_backoff_time = 2s
queue_run_delay = 2s
content_filter = lmtp:[127.0.0.1]:%[2]s
lmtp_send_xforward_command = no
`
	masterCF = `%[1]s inet n - n - - smtpd
%[2]s inet n - n - - smtpd
  -o content_filter=
  -o smtpd_recipient_restrictions=check_recipient_access,inline:{dave@other.example=REJECT},permit_mynetworks,reject
  -o receive_override_options=no_unknown_recipient_checks,no_header_body_checks
`
)

func port(t *testing.T, address string) string {
	t.Helper()
	_, p, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// site runs that Postfix. front takes mail, back takes it again.
func site(t *testing.T, front, back, filter, next string) {
	t.Helper()
	hoptest.Postfix(t, hoptest.Here, fmt.Sprintf(mainCF, port(t, next), port(t, filter)), fmt.Sprintf(masterCF, front, back), front, back)
}

// Behind a real Postfix, over LMTP, each recipient of one mail gets what is his:
// who has a certificate a sealed copy, who has none a signed one, and of those
// who are refused, by a rule of ours or by the way back, the sender hears, and of
// nobody else. Who is put off waits alone.
func TestPostfixOverLMTP(t *testing.T) {
	const later = "later@other.example"
	puts := make(chan bool, 1)
	puts <- true
	o := &office{data: func(to []string) *transport.Reply {
		if slices.Contains(to, later) {
			select {
			case <-puts: // the first time
				return &transport.Reply{Code: 451, Enhanced: [3]int{4, 2, 1}, Text: "not now"}
			default:
			}
		}
		return nil
	}}
	office := o.open(t)
	front, back, filter := postfixtest.Free(t), postfixtest.Free(t), postfixtest.Free(t)
	b := box(t, trial.Config{NextHop: back, FilterdTables: `
[[listener]]
name = "site"
address = "` + filter + `"
protocol = "lmtp"
direction = "outbound"
`})
	site(t, front, back, filter, office)
	to := []string{bob, carol, dave, "vault@partner.example", later}
	if got := send(front, to, mail("lmtp@company1.example")); got.code != 250 {
		t.Fatalf("submit: got %+v, want 250", got)
	}
	want := map[string]int{bob: 1, carol: 1, later: 1}
	var bounce string
	housetest.Eventually(t, 2*housetest.Patience, func() (bool, string) {
		bounce = ""
		got := map[string]int{}
		for _, l := range o.got() {
			if l.from == "" {
				bounce += l.text
			} else {
				for _, a := range l.to {
					got[a]++
				}
			}
		}
		return maps.Equal(got, want) && strings.Contains(bounce, dave) && strings.Contains(bounce, "vault@partner.example"),
			fmt.Sprintf("got %v, want %v, and a report of two:\n%s", got, want, bounce)
	})
	failed := regexp.MustCompile(`(?m)^Final-Recipient: rfc822; ?(\S+?)\r?$`).FindAllStringSubmatch(bounce, -1)
	var names []string
	for _, m := range failed {
		names = append(names, m[1])
	}
	slices.Sort(names)
	if want := []string{dave, "vault@partner.example"}; !slices.Equal(names, want) {
		t.Errorf("the sender hears of %q, want %q:\n%s", names, want, bounce)
	}
	for _, l := range o.got() {
		if l.from != "" && slices.Contains(l.to, bob) && (strings.Contains(l.text, "secret of") || !strings.Contains(l.text, "multipart/encrypted") || len(l.to) != 1) {
			t.Errorf("Bob got, with %q:\n%s", l.to, l.text)
		}
		if l.from != "" && slices.Contains(l.to, carol) && (!strings.Contains(l.text, "secret of") || !strings.Contains(l.text, "LMTP id ")) {
			t.Errorf("Carol got:\n%s", l.text)
		}
	}
	out, err := b.Postern(t.Context(), nil, "trace", "lmtp@company1.example")
	for _, want := range []string{"signed and encrypted, openpgp", "250 2.0.0 Ok: queued", "554 5.7.1", "vault@partner.example", "550 5.7.3"} {
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("postern trace: got %v, want %q in\n%s", err, want, out)
		}
	}
}
