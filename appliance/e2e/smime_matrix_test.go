package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"postern/hsm"
	"postern/hsm/hsmtest"
)

// peers are the programs that the gateway must get along with.
func peers(t testing.TB, p *partner) []mailer {
	t.Helper()
	return []mailer{newOpenSSL(t, p), newGPGSM(t, p), newNSS(t, p), newBouncyCastle(t, p)}
}

// cell is what came of one way with one peer in one direction.
type cell struct {
	good  bool
	cause string // that the peer can't do it, in its own words; "" with good
	sent  bool   // towards the peer: the gateway does it at all
}

// matrix is the whole table.
type matrix struct {
	ways  []way
	peers []mailer
	in    map[way][]cell // by peer
	out   map[way][]cell
}

// Each way to protect a mail, by each peer, in both directions: what a peer
// makes the gateway opens and verifies with keys in a token, and what the
// gateway makes the peer opens and verifies. A peer may be unable: what it
// reads of nobody's mail, its own least of all, it need not read of ours.
func TestSMIMEMatrix(t *testing.T) {
	ca := newAuthority(t, "Postern Test CA")
	them := newPartner(t, ca, "bob@partner.example")
	h := newHouse(t, hsmtest.SoftHSM(t), false, ca, them, signAlgorithms, openAlgorithms)
	x := &matrix{ways: ways(), peers: peers(t, them), in: map[way][]cell{}, out: map[way][]cell{}}
	x.run(t, h, them)
	x.complete(t)
	x.page(t)
}

// RSA and P-256 also with a second module, NSS softokn.
func TestSMIMESoftokn(t *testing.T) {
	ca := newAuthority(t, "Postern Test CA")
	them := newPartner(t, ca, "bob@partner.example")
	algorithms := []hsm.Algorithm{hsm.RSA2048, hsm.P256}
	h := newHouse(t, hsmtest.NSS(t), true, ca, them, algorithms, algorithms)
	x := &matrix{peers: []mailer{newOpenSSL(t, them), newBouncyCastle(t, them)}, in: map[way][]cell{}, out: map[way][]cell{}}
	for _, w := range ways() {
		if (w.seal == nil || slices.Contains(algorithms, w.seal.to)) && (w.sign == nil || slices.Contains(algorithms, w.sign.by)) {
			x.ways = append(x.ways, w)
		}
	}
	x.run(t, h, them)
}

// run fills the table, the peers side by side.
func (x *matrix) run(t *testing.T, h *house, them *partner) {
	t.Helper()
	sent := map[way][]byte{}
	for _, w := range x.ways {
		x.in[w], x.out[w] = make([]cell, len(x.peers)), make([]cell, len(x.peers))
		mail, err := h.send(w)
		switch {
		case err == nil:
			sent[w] = mail
		case !errors.Is(err, errNotSent):
			t.Errorf("%s: the gateway makes: %v", w, err)
		}
	}
	// What peers make for each other decides what they can read.
	samples := map[way][][]byte{}
	var mu sync.Mutex
	var making, all sync.WaitGroup
	making.Add(len(x.peers))
	for i, m := range x.peers {
		all.Go(func() {
			func() {
				defer making.Done()
				for _, w := range x.ways {
					x.in[w][i] = x.inbound(t, h, w, m)
					if sample := x.sample(w, m, them); sample != nil {
						mu.Lock()
						samples[w] = append(samples[w], sample)
						mu.Unlock()
					}
				}
			}()
			making.Wait()
			for _, w := range x.ways {
				if mail := sent[w]; mail != nil {
					x.out[w][i] = x.outbound(t, w, m, mail, samples[w])
				}
			}
		})
	}
	all.Wait()
}

// inbound has the peer make a mail, and the gateway open it.
func (x *matrix) inbound(t *testing.T, h *house, w way, m mailer) cell {
	mail, err := w.made(m, h.them, h.them.address, alice, h.reader(w))
	if err != nil {
		return cell{cause: err.Error()}
	}
	if err := h.receive(w, mail); err != nil {
		t.Errorf("%s: %s makes, the gateway reads: %v", w, m.name(), err)
		return cell{}
	}
	return cell{good: true}
}

// sample is what the peer makes for its like.
func (x *matrix) sample(w way, m mailer, them *partner) []byte {
	if w.seal == nil {
		mail, err := w.made(m, them, them.address, them.address, nil)
		if err != nil {
			return nil
		}
		return mail
	}
	mail, err := w.made(m, them, them.address, them.address, them.opens[w.seal.to].cert)
	if err != nil {
		return nil
	}
	return mail
}

// outbound has the peer read a mail of the gateway's.
func (x *matrix) outbound(t *testing.T, w way, m mailer, mail []byte, samples [][]byte) cell {
	err := w.read(m, mail)
	if err == nil {
		return cell{good: true, sent: true}
	}
	for _, sample := range samples {
		if w.read(m, sample) == nil {
			t.Errorf("%s: the gateway makes, %s reads: %v", w, m.name(), err)
			return cell{sent: true}
		}
	}
	if errors.Is(err, errForm) {
		t.Errorf("%s: the gateway makes, %s reads: %v", w, m.name(), err)
	}
	return cell{cause: err.Error(), sent: true}
}

// complete holds that nothing is only said: every way is read from somebody,
// but those that no peer makes, and every way of the gateway's is read by one.
func (x *matrix) complete(t *testing.T) {
	t.Helper()
	for _, w := range x.ways {
		if out := x.out[w]; out[0].sent && !slices.ContainsFunc(out, func(c cell) bool { return c.good }) {
			t.Errorf("%s: the gateway makes it, and nobody reads it", w)
		}
	}
	t.Log(x.summary())
}

// summary counts the cells.
func (x *matrix) summary() string {
	var yes, no, empty, fails int
	for _, w := range x.ways {
		for i := range x.peers {
			for _, c := range []struct {
				cell
				asked bool
			}{{x.in[w][i], true}, {x.out[w][i], x.out[w][i].sent}} {
				switch {
				case c.good:
					yes++
				case !c.asked:
					empty++
				case c.cause != "":
					no++
				default:
					fails++
				}
			}
		}
	}
	return fmt.Sprintf("%d ways: %d cells are yes, %d no; %d fail, and %d are empty.", len(x.ways), yes, no, fails, empty)
}

// versions are the heading of the table.
func (x *matrix) versions() string {
	var names []string
	for _, m := range x.peers {
		names = append(names, m.name())
	}
	return strings.Join(names, ", ")
}

// section is the table with its notes.
func (x *matrix) section() string {
	var b strings.Builder
	fmt.Fprintf(&b, "## %s\n\n%s\n\n| way |", x.versions(), x.summary())
	for _, m := range x.peers {
		fmt.Fprintf(&b, " %s makes | reads |", m.name())
	}
	b.WriteString("\n|---|" + strings.Repeat("---|---|", len(x.peers)) + "\n")
	var notes []string
	note := func(i int, c cell) string {
		text := x.peers[i].name() + ": " + c.cause
		n := slices.Index(notes, text)
		if n < 0 {
			n, notes = len(notes), append(notes, text)
		}
		return fmt.Sprintf("no (%d)", n+1)
	}
	for _, w := range x.ways {
		fmt.Fprintf(&b, "| %s |", w)
		for i := range x.peers {
			for _, c := range []struct {
				cell
				out bool
			}{{x.in[w][i], false}, {x.out[w][i], true}} {
				switch {
				case c.good:
					b.WriteString(" yes |")
				case c.out && !c.sent:
					b.WriteString("  |")
				case c.cause != "":
					b.WriteString(" " + note(i, c.cell) + " |")
				default:
					b.WriteString(" **fails** |")
				}
			}
		}
		b.WriteString("\n")
	}
	b.WriteString("\n")
	for i, n := range notes {
		fmt.Fprintf(&b, "%d. %s\n", i+1, n)
	}
	return b.String()
}

const matrixHead = `# S/MIME with others

What other programs and the gateway make of each other's mail, with the gateway's keys in a SoftHSM token behind keyd. Measured and printed by ` + "`go test ./appliance/e2e -run TestSMIMEMatrix -update`" + `, which replaces the table of the versions that it finds; without ` + "`-update`" + ` it fails when the table is stale. RSA and P-256 are measured with NSS softokn as the token, too.

A row is one way to protect a mail: key and algorithm of the recipient or of the signer, cipher, wrapping of the session key. *makes*: the program makes such a mail, and the gateway opens and verifies it. *reads*: the gateway makes it, and the program opens and verifies it; an empty cell is what the gateway reads only. *no* is what the program can't do, in its own words: it was asked, and it reads no such mail of any other program either.

`

// page holds the section for the programs of this machine against the page,
// or writes it. Those for other versions stay.
func (x *matrix) page(t *testing.T) {
	t.Helper()
	path := filepath.Join(docs, "smime.md")
	old, err := os.ReadFile(path)
	if err != nil && !*update {
		t.Fatal(err)
	}
	var sections []string
	known := false
	for i, s := range strings.Split(string(old), "\n## ") {
		if i == 0 {
			continue
		}
		s = "## " + strings.TrimRight(s, "\n") + "\n"
		if heading, _, _ := strings.Cut(s, "\n"); heading == "## "+x.versions() {
			s, known = x.section(), true
		}
		sections = append(sections, s)
	}
	if !known {
		sections = append(sections, x.section())
	}
	want := matrixHead + strings.Join(sections, "\n")
	switch {
	case *update:
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	case !known:
		t.Logf("%s has no table for %s; -update adds it", path, x.versions())
	case !bytes.Equal(old, []byte(want)):
		t.Errorf("%s is not what the run gives; -update writes it", path)
	}
}
