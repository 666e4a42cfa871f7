package provisioning

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"

	"postern/filter/keyring"
	"postern/hsm"
)

const (
	soon       = 30 * 24 * time.Hour // a certificate that ends before that is a concern
	askTimeout = 10 * time.Second    // of each check that asks somebody
)

// Verdicts of a check.
const (
	fine    = "ok"
	concern = "concern"
	broken  = "broken"
	unknown = "unknown"
)

// check is one line of the doctor.
type check struct {
	Name    string `json:"name"`
	Verdict string `json:"verdict"` // ok, concern, broken or unknown
	Detail  string `json:"detail"`
	Hint    string `json:"hint,omitempty"`
}

// examined is the result of doctor.
type examined struct {
	Checks  []check `json:"checks"`
	Verdict string  `json:"verdict"` // the worst of them
}

func (e examined) text(w io.Writer) {
	var rows [][]string
	for _, c := range e.Checks {
		rows = append(rows, []string{c.Verdict, c.Name, c.Detail})
	}
	table(w, nil, rows)
	for _, c := range e.Checks {
		if c.Hint != "" {
			fmt.Fprintf(w, "hint: %s: %s\n", printable(c.Name), printable(c.Hint))
		}
	}
}

func (e *examined) say(name, verdict, hint, format string, args ...any) {
	e.Checks = append(e.Checks, check{name, verdict, fmt.Sprintf(format, args...), hint})
}

// broke says an error with the hint it has anywhere.
func (e *examined) broke(name string, err error) {
	e.say(name, broken, judge(err).hint, "%v", err)
}

func doctor(ctx context.Context, c *call) (any, error) {
	if c.on["box"] && c.Health != nil {
		return boxDoctor(ctx, c)
	}
	if c.on["box"] || c.get("wait") != "" {
		return nil, misuse("doctor --box --wait 10m", "--wait belongs to --box, on a box")
	}
	e := &examined{}
	site := c.examineConfig(e)
	c.examineClock(ctx, e, site)
	keys, keysKnown := c.examineKeys(ctx, e, site)
	c.examineKeyring(ctx, e, site, keys, keysKnown)
	examineShown(e, site, keys, keysKnown, c.now())
	if keysKnown {
		c.examineDKIM(e, site, keys)
	}
	c.examineStores(e, site)
	c.examineHops(ctx, e, site)
	c.examineScanners(ctx, e, site)
	c.examineMailboxes(ctx, e, site)
	c.examinePress(ctx, e, site)
	c.examineAgent(ctx, e, site)
	c.examineResolver(ctx, e, site)
	e.Verdict = fine
	for _, v := range []string{unknown, concern, broken} {
		if slices.ContainsFunc(e.Checks, func(k check) bool { return k.Verdict == v }) {
			e.Verdict = v
		}
	}
	if e.Verdict == broken {
		return *e, &failure{err: errSaid, status: ExitNo}
	}
	return *e, nil
}

func (c *call) examineConfig(e *examined) Site {
	s, err := c.site()
	switch {
	case err != nil:
		e.broke("configuration", err)
		return Site{Keyring: DefaultKeyring, KeepSocket: DefaultSocket}
	case s.Policy == nil:
		e.say("configuration", concern, "write it, or name it with --config", "there is none at %s", c.config())
	default:
		e.say("configuration", fine, "", "%s", c.config())
	}
	return s
}

func (c *call) examineClock(ctx context.Context, e *examined, site Site) {
	now := c.now()
	if now.Before(c.Built) || now.Year() < c.Built.Year() {
		e.say("clock", broken, "set the clock: signatures and certificates are judged by it", "%s is before this program was built (%s)", stamp(now), stamp(c.Built))
		return
	}
	if site.Gate != nil {
		if err := site.Gate(); err != nil {
			e.say("clock", broken, "no mail is taken and nothing is signed: see that a time service sets it, and that postern-clock.service runs", "%s: %v", stamp(now), err)
			return
		}
	}
	if c.Clock == nil {
		e.say("clock", unknown, "", "%s; nobody here knows whether it is synchronised", stamp(now))
		return
	}
	switch synchronised, known := c.Clock(ctx); {
	case !known:
		e.say("clock", unknown, "", "%s; the system does not say whether it is synchronised", stamp(now))
	case !synchronised:
		e.say("clock", concern, "start a time service: `timedatectl set-ntp true`", "%s, not synchronised", stamp(now))
	default:
		e.say("clock", fine, "", "%s, synchronised", stamp(now))
	}
}

// examineKeys asks keyd at both doors. known is false when the keys could not be listed.
func (c *call) examineKeys(ctx context.Context, e *examined, site Site) (keys []hsm.Key, known bool) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	k, err := c.keeper(ctx)
	var s hsm.Status
	if err == nil {
		s, err = k.Status(ctx)
	}
	if err != nil {
		e.broke("key daemon", err)
		return nil, false
	}
	switch {
	case s.State == hsm.Unprovisioned:
		e.say("key daemon", broken, "make the token: `postern token init`", "%s: %s", s.State, s.Reason)
	case s.State == hsm.Locked:
		e.say("key daemon", broken, "unlock the token: `postern token unlock`", "%s: %s", s.State, s.Reason)
	case s.State != hsm.Ready:
		e.say("key daemon", broken, "see the journal of keyd", "%s: %s", s.State, s.Reason)
	case s.PINCount:
		e.say("key daemon", concern, "somebody gave a wrong PIN: find out who", "%s, and the token counted a wrong PIN", s.State)
	default:
		e.say("key daemon", fine, "", "%s, token %q, serial %s, %d keys", s.State, s.Token, s.Serial, s.Keys)
	}
	if s.State != hsm.Ready {
		return nil, false
	}
	if keys, err = k.Keys(ctx); err != nil {
		e.broke("keys", fmt.Errorf("list keys: %w", err))
		return nil, false
	}
	switch a, err := audit(ctx, k); {
	case err != nil:
		e.broke("key audit", err)
	case a.faulty() > 0:
		e.say("key audit", broken, "`postern key audit` names them", "%d of %d keys are not as they must be", a.faulty(), len(a.Keys))
	default:
		e.say("key audit", fine, "", "%d keys", len(a.Keys))
	}
	if site.UseSocket != "" && site.UseSocket != site.KeepSocket {
		u, err := c.Keeper(ctx, site.UseSocket)
		if err == nil {
			_, err = u.Keys(ctx)
		}
		switch {
		case errors.Is(err, fs.ErrPermission):
			e.say("use socket", unknown, "run it as root, or as the user of filterd", "%s may not be opened by this user", site.UseSocket)
		case err != nil:
			e.broke("use socket", fmt.Errorf("ask at %s: %w", site.UseSocket, err))
		default:
			e.say("use socket", fine, "", "%s answers", site.UseSocket)
		}
	}
	return keys, true
}

func (c *call) examineKeyring(ctx context.Context, e *examined, site Site, keys []hsm.Key, keysKnown bool) {
	store, err := keyring.OpenReadOnly(site.Keyring)
	if err != nil {
		e.broke("keyring", err)
		return
	}
	defer store.Close()
	certs, err := store.List(ctx, keyring.Filter{})
	var ours []keyring.Identity
	if err == nil {
		ours, err = store.AllIdentities(ctx)
	}
	if err != nil {
		e.broke("keyring", err)
		return
	}
	if info, err := os.Stat(site.Keyring); err == nil && info.Mode().Perm()&0o002 != 0 {
		e.say("keyring", broken, "chmod o-w "+site.Keyring, "%s may be written by everybody", site.Keyring)
	} else {
		e.say("keyring", fine, "", "%s; our identities: %d; partners' certificates: %d", site.Keyring, len(ours), len(certs))
	}
	newest := map[string]bool{}
	for _, i := range ours {
		name := "identity " + ownerOf(i).String()
		kind := string(i.Format) + " " + doesOf(i) + " " + ownerOf(i).String()
		renew := "`postern identity create --successor`"
		if i.Format == keyring.SMIME {
			renew = "get a new one with `postern identity create --use smime`, and bind it with `postern identity add`"
		}
		first := !newest[kind] // predecessors are there to open old mail
		newest[kind] = true
		missing := missingKeys(i.Cert, keys)
		switch {
		case keysKnown && len(missing) == len(i.KeyIDs):
			e.say(name, broken, "plug in the token that holds them, or remove the identity", "%s: none of its keys is in the token", i.Fingerprint)
		case keysKnown && len(missing) > 0:
			e.say(name, concern, "", "%s: %d of its %d keys are not in the token", i.Fingerprint, len(missing), len(i.KeyIDs))
		case first && !valid(i.Cert, c.now()):
			e.say(name, broken, renew, "%s expired on %s", i.Fingerprint, day(stamp(i.Expires)))
		case first && !valid(i.Cert, c.now().Add(soon)):
			e.say(name, concern, renew+", and tell the partners", "%s expires on %s", i.Fingerprint, day(stamp(i.Expires)))
		case !keysKnown:
			e.say(name, unknown, "", "%s: whether its keys are in the token is not known", i.Fingerprint)
		default:
			e.say(name, fine, "", "%s, expires %s", i.Fingerprint, day(stamp(i.Expires)))
		}
	}
	examinePairs(e, ours, c.now())
	c.examineAuthorities(ctx, e, site, store)
	c.examineSeen(ctx, e, site)
	past, ending := 0, 0
	for _, one := range certs {
		if one.Trust != keyring.Trusted {
			continue
		}
		if !valid(one, c.now()) {
			past++
		} else if !valid(one, c.now().Add(soon)) {
			ending++
		}
	}
	if past+ending > 0 {
		e.say("partners' certificates", concern, "`postern cert list --trust trusted` shows the dates; ask the partners for new ones", "%d expired, %d expire within 30 days", past, ending)
	}
	if site.Policy != nil {
		list, err := concerns(ctx, site.Policy, store, c.now())
		if err != nil {
			e.broke("policy", err)
		}
		for _, s := range list {
			e.say("policy", concern, "", "%s", s)
		}
	}
}

// examinePairs looks for the other half of each S/MIME identity: one
// certificate signs, another one is encrypted to.
func examinePairs(e *examined, ours []keyring.Identity, at time.Time) {
	uses := map[string]map[string]bool{}
	var owners []string
	for _, i := range ours {
		if i.Format != keyring.SMIME || !valid(i.Cert, at) {
			continue
		}
		o := ownerOf(i).String()
		if uses[o] == nil {
			uses[o] = map[string]bool{}
			owners = append(owners, o)
		}
		uses[o][doesOf(i)] = true
	}
	const hint = "`postern identity create --use smime` writes what the authority needs for it"
	for _, o := range owners {
		switch sign, unwrap := uses[o][hsm.Sign.String()], uses[o][hsm.Unwrap.String()]; {
		case sign && !unwrap:
			e.say("identity "+o, concern, hint, "no certificate for encryption beside the one for signatures: nobody can encrypt to it in S/MIME")
		case unwrap && !sign:
			e.say("identity "+o, concern, hint, "no certificate for signatures beside the one for encryption: it cannot sign in S/MIME")
		}
	}
}

// examineAuthorities looks where paths of X.509 certificates may end.
func (c *call) examineAuthorities(ctx context.Context, e *examined, site Site, store *keyring.Store) {
	list, err := store.Authorities(ctx)
	if err != nil {
		e.broke("anchors", err)
		return
	}
	anchors, past := 0, 0
	for _, a := range list {
		if a.Role != keyring.Anchor || a.Trust != keyring.Trusted {
			continue
		}
		if anchors++; !valid(a, c.now()) {
			past++
		}
	}
	switch {
	case anchors+site.Roots == 0:
		e.say("anchors", concern, "`postern cert import --anchor FILE`, or roots = \"public\" in [smime]", "none: no X.509 certificate is good by its path")
	case past > 0:
		e.say("anchors", concern, "`postern cert list --authorities` shows the dates", "%d public roots, %d of the site, %d of them expired", site.Roots, anchors, past)
	default:
		e.say("anchors", fine, "", "%d public roots, %d of the site", site.Roots, anchors)
	}
}

// examineSeen counts what verified mail brought.
func (c *call) examineSeen(ctx context.Context, e *examined, site Site) {
	if site.Seen == "" {
		return
	}
	list, err := c.seenCerts(func(s *keyring.Store) ([]keyring.Cert, error) { return s.List(ctx, keyring.Filter{}) })
	switch {
	case errors.Is(err, fs.ErrPermission):
		e.say("seen certificates", unknown, judge(err).hint, "%s may not be opened by this user", site.Seen)
		return
	case err != nil:
		e.broke("seen certificates", err)
		return
	}
	e.say("seen certificates", fine, "", "%d; `postern cert list --seen`", len(list))
}

func (c *call) examineHops(ctx context.Context, e *examined, site Site) {
	if c.Greet == nil {
		return
	}
	for _, h := range site.Hops {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		err := c.Greet(ctx, h)
		cancel()
		name := "next hop " + h.Name
		if err != nil {
			e.say(name, broken, "is it running, and reachable from here?", "%s: %v", h.Address, err)
			continue
		}
		e.say(name, fine, "", "%s answers", h.Address)
	}
}

// summary is the result of status.
type summary struct {
	Keyd       string         `json:"keyd"`
	Reason     string         `json:"reason"`
	Token      string         `json:"token"`
	Keys       int            `json:"keys"`
	Wrapped    int            `json:"wrapped"` // of them
	Keyring    string         `json:"keyring"`
	Identities int            `json:"identities"`
	Certs      map[string]int `json:"certs"`
	Version    string         `json:"version"`
}

func (s summary) text(w io.Writer) {
	rows := [][]string{{"keyd", s.Keyd}}
	if s.Reason != "" {
		rows = append(rows, []string{"reason", s.Reason})
	}
	table(w, nil, append(rows, [][]string{{"token", s.Token}, {"keys", counted(s.Keys, s.Wrapped)}, {"keyring", s.Keyring},
		{"identities", fmt.Sprint(s.Identities)},
		{"certificates", fmt.Sprintf("%d trusted, %d seen, %d distrusted", s.Certs["trusted"], s.Certs["seen"], s.Certs["distrusted"])},
		{"postern", s.Version}}...))
}

func status(ctx context.Context, c *call) (any, error) {
	site, err := c.site()
	if err != nil {
		return nil, err
	}
	result := summary{Keyring: site.Keyring, Version: c.Version, Certs: map[string]int{"trusted": 0, "seen": 0, "distrusted": 0}}
	store, err := c.ring(false)
	if err != nil {
		return nil, err
	}
	certs, err := store.List(ctx, keyring.Filter{})
	if err = absent(err); err != nil {
		return nil, err
	}
	for _, one := range certs {
		result.Certs[string(one.Trust)]++
	}
	ours, err := store.AllIdentities(ctx)
	if err = absent(err); err != nil {
		return nil, err
	}
	result.Identities = len(ours)
	k, err := c.keeper(ctx)
	var s hsm.Status
	if err == nil {
		s, err = k.Status(ctx)
	}
	if err != nil {
		result.Keyd, result.Reason = "away", err.Error()
		return result, fmt.Errorf("ask for status: %w", err)
	}
	result.Keyd, result.Reason, result.Token, result.Keys, result.Wrapped = s.State.String(), s.Reason, s.Token, s.Keys, s.Wrapped
	if s.State != hsm.Ready {
		return result, &failure{err: errSaid, status: ExitNo}
	}
	return result, nil
}
