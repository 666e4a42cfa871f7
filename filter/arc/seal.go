package arc

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"postern/filter/dkim"
)

// ErrEnded is a chain that nobody adds to: it is as long as it may be, its last
// sealer found it broken, or its keys could not be had.
var ErrEnded = errors.New("nobody adds to this chain")

// ours are fields that a seal is over beside those of a DKIM signature.
var ours = []string{"dkim-signature", "postern-status"}

// Seal gives the three fields of the next set, to stand on top of the mail.
// came is the chain that was judged when the mail came, results the text of
// Authentication-Results with our name in front. A mail that has another chain
// now, as out of its ciphertext, is ErrEnded.
func Seal(mail io.WriterTo, came Chain, k dkim.Key, results string, now time.Time) ([]byte, error) {
	if came.dead || came.Sets >= MaxSets || came.Value == dkim.TempError || came.Value == "" {
		return nil, ErrEnded
	}
	var is Chain
	h, sums, err := dkim.Scan(mail, func(h dkim.Header) []dkim.Form {
		is, _ = collect(h)
		return []dkim.Form{{Relaxed: true, Limit: -1}}
	})
	if err != nil {
		return nil, fmt.Errorf("read mail: %w", err)
	}
	if is.Sets != came.Sets || !slices.Equal(is.sets, came.sets) {
		return nil, ErrEnded
	}
	i := "i=" + strconv.Itoa(came.Sets+1)
	made := "t=" + strconv.FormatInt(now.Unix(), 10)
	const rsa = "a=" + dkim.RSA

	next := set{results: dkim.Field{Raw: dkim.Fold("ARC-Authentication-Results", slices.Concat([]string{i}, split(results))) + "\r\n"}}
	names := dkim.Names(h)
	for _, name := range ours {
		for range h.Count(name) {
			names = append(names, name)
		}
	}
	message, err := k.Field("ARC-Message-Signature", []string{i, rsa, "c=relaxed/relaxed", "d=" + k.Domain, "s=" + k.Selector, made,
		"h=" + strings.Join(names, ":"), "bh=" + base64.StdEncoding.EncodeToString(sums[0].Hash[:])},
		func(f dkim.Field) [32]byte { return h.Sum(names, true, f, -1) })
	if err != nil {
		return nil, err
	}
	next.message = dkim.Field{Raw: string(message)}
	before := came.sets
	if came.Value == dkim.Fail {
		before = nil // as if this set were alone (RFC 8617 §5.1.2)
	}
	sealed, err := k.Field("ARC-Seal", []string{i, rsa, made, "cv=" + string(came.Value), "d=" + k.Domain, "s=" + k.Selector}, func(f dkim.Field) [32]byte {
		own := next
		own.seal = f
		return seal(slices.Concat(before, []set{own}))
	})
	if err != nil {
		return nil, err
	}
	return slices.Concat(sealed, message, []byte(next.results.Raw)), nil
}

// split cuts results at their semicolons, where lines may be folded.
func split(results string) (list []string) {
	for _, r := range strings.Split(results, ";") {
		list = append(list, strings.TrimSpace(r))
	}
	return list
}
