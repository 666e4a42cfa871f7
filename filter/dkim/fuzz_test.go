package dkim

import (
	"strings"
	"testing"
)

// Whatever a stranger's header says: the fields of a header put together are
// the header, relaxing twice is relaxing once, and nothing passes without a key.
func FuzzVerify(f *testing.F) {
	f.Add(mail)
	f.Add("DKIM-Signature: v=1; a=rsa-sha256; d=a.example; s=s; h=from:; bh=AAAA; b=AAAA; l=1\r\nFrom: a@a.example\r\n\r\nx")
	f.Add("dkim-signature : a=ed25519-sha256;\r\n b=;;\r\n\r\n")
	f.Fuzz(func(t *testing.T, m string) {
		h, _, err := Scan(slow(m), func(Header) []Form { return []Form{{true, 3}, {false, -1}} })
		if err != nil {
			t.Skip()
		}
		var all strings.Builder
		for _, field := range h {
			all.WriteString(field.Raw)
			once := Relaxed(field.Raw)
			if twice := Relaxed(once); twice != once {
				t.Errorf("%q: got %q, then %q", field.Raw, once, twice)
			}
			if strings.Contains(Unsigned(field.Raw), "\r\n\r\n") && !strings.Contains(field.Raw, "\r\n\r\n") {
				t.Errorf("%q: got %q", field.Raw, Unsigned(field.Raw))
			}
		}
		if !strings.HasPrefix(m, all.String()) && !strings.HasPrefix(m, "\r\n") {
			t.Errorf("%q: got the header %q", m, all.String())
		}
		for _, record := range []string{"v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=", m} {
			got, err := Verify(t.Context(), text(m), zone{"s._domainkey.a.example": {record}}.look, now)
			for _, r := range got {
				if err != nil || r.Value == Pass {
					t.Errorf("%q: got %+v, %v", m, r, err)
				}
			}
		}
	})
}
