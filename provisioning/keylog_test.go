package provisioning

import (
	"context"
	"time"
)

// journalStub is a journal with two key operations, of which one was for a mail.
func journalStub(_ context.Context, trace string, n int) (list []Operation, err error) {
	for i, one := range []Operation{
		{Op: "generate", Label: "openpgp/company1.example/sign", UID: "0", Verdict: "ok", Took: "2s"},
		{Op: "unwrap", Key: "0a", Label: "openpgp/company1.example/unwrap", UID: "998", Verdict: "ok", Trace: "TRACETRACETRACE1", Took: "12ms"},
	} {
		if one.At = time.Date(2026, 1, 2, 3, 4, i, 0, time.UTC); (trace == "" || one.Trace == trace) && len(list) < n {
			list = append(list, one)
		}
	}
	return list, nil
}
