package box

import (
	"encoding/json"
	"testing"

	"postern/appliance/box/share"
	"postern/appliance/e2e/housetest"
)

// pinOf is the PIN that the shares of a box give.
func pinOf(t testing.TB, path string, texts []string) string {
	t.Helper()
	var set share.Set
	if err := json.Unmarshal([]byte(housetest.Contents(t, path)), &set); err != nil {
		t.Fatal(err)
	}
	var all []share.Share
	for _, text := range texts {
		sh, err := share.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, sh)
	}
	pin, err := set.Open(all)
	if err != nil {
		t.Fatal(err)
	}
	return string(pin)
}
