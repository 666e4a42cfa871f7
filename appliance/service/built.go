package service

import (
	"runtime/debug"
	"time"
)

// Built is the time of the commit that the program was built from, or zero. A
// clock that shows an earlier time is wrong.
func Built() time.Time {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return time.Time{}
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.time" {
			if t, err := time.Parse(time.RFC3339, s.Value); err == nil {
				return t
			}
		}
	}
	return time.Time{}
}
