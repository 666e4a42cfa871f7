package service

import (
	"testing"
	"time"
)

// What the linker sets counts; anything that is no time does not.
func TestBuilt(t *testing.T) {
	before := epoch
	defer func() { epoch = before }()
	epoch = ""
	without := Built()
	for _, c := range []struct {
		epoch string
		want  time.Time
	}{
		{"1764079482", time.Date(2025, 11, 25, 14, 4, 42, 0, time.UTC)},
		{"soon", without}, {"-5", without}, {"0", without}, {"1764079482.5", without},
	} {
		if epoch = c.epoch; !Built().Equal(c.want) {
			t.Errorf("%q: got %v, want %v", c.epoch, Built(), c.want)
		}
	}
}
