package service

import (
	"runtime/debug"
	"strconv"
	"time"
)

// epoch is what Built gives, in seconds since 1970, where the linker sets it
// (-X postern/appliance/service.epoch=…): builds of images and packages keep
// what version control says out of their programs.
var epoch string

// Built is the time of the commit that the program was built from, or zero. A
// clock that shows an earlier time is wrong.
func Built() time.Time {
	if s, err := strconv.ParseInt(epoch, 10, 64); err == nil && s > 0 {
		return time.Unix(s, 0).UTC()
	}
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
