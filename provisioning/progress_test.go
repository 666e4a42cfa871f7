package provisioning

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"
)

// A long run says every ten seconds how far it is, and programs hear nothing of it.
func TestProgress(t *testing.T) {
	for asked, want := range map[bool]string{
		false: "6 of 500: 4 done, 1 waiting, 1 failed; 13m44s left at this pace\n12 of 500: 10 done, 1 waiting, 1 failed; 13m34s left at this pace\n",
		true:  "",
	} {
		synctest.Test(t, func(t *testing.T) {
			var said bytes.Buffer
			e := &enrolment{call: &call{App: &App{Stderr: &said}, on: map[string]bool{"json": asked}}, result: enrolled{Count: map[string]int{enrolWaiting: 1, enrolFailed: 1}}}
			p := progress{e: e, all: 500, began: time.Now(), said: time.Now()}
			for n := range 12 {
				time.Sleep(often/6 + time.Millisecond)
				if n >= 2 {
					e.result.Count[enrolDone]++
				}
				p.tell(n + 1)
			}
			if got := said.String(); got != want {
				t.Errorf("json %t: got\n%swant\n%s", asked, got, want)
			}
		})
	}
}
