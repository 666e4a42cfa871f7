package dkim

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"
)

// Verify judges the DKIM signatures of a mail, the first MaxSignatures of them
// from the top. It waits for keys as long as ctx allows; a signature whose key
// did not come is a temperror. The error is that of reading the mail, or
// ErrHeader; a mail without signatures has no results.
func Verify(ctx context.Context, mail io.WriterTo, look Lookup, now time.Time) ([]Result, error) {
	var all []*Signature
	h, sums, err := Scan(mail, func(h Header) []Form {
		for i, f := range h {
			if f.Name == "dkim-signature" && len(all) < MaxSignatures {
				all = append(all, Read(h, i, Message, now))
			}
		}
		return forms(all)
	})
	if err != nil {
		return nil, fmt.Errorf("read mail: %w", err)
	}
	var wait sync.WaitGroup
	for i, s := range all {
		wait.Go(func() { s.Judge(ctx, look, h, sums[i]) })
	}
	wait.Wait()
	results := make([]Result, len(all))
	for i, s := range all {
		results[i] = s.Result
		results[i].Signed = s.signed
	}
	return results, nil
}

func forms(all []*Signature) (list []Form) {
	for _, s := range all {
		list = append(list, s.form)
	}
	return list
}
