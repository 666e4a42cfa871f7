package image

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// Version of a release: one to four numbers with dots between them, as in
// IMAGE_VERSION of os-release. The zero Version is before every other.
type Version string

// ParseVersion reads a version: numbers of at most nine digits, none with a zero
// before it, so that one version has one spelling.
func ParseVersion(s string) (Version, error) {
	parts := strings.Split(s, ".")
	for _, p := range parts {
		n, err := strconv.ParseUint(p, 10, 32)
		if err != nil || len(p) > 9 || strconv.FormatUint(n, 10) != p || len(parts) > 4 {
			return "", fmt.Errorf("version %.60q: want up to four numbers with dots between them", s)
		}
	}
	return Version(s), nil
}

// Compare is -1, 0 or 1 as v is before, the same as, or after w. 1.2 is before
// 1.2.0, as systemd-boot and systemd-sysupdate have it.
func (v Version) Compare(w Version) int {
	if v == "" || w == "" {
		return cmp.Compare(len(v), len(w))
	}
	a, b := strings.Split(string(v), "."), strings.Split(string(w), ".")
	for i := range min(len(a), len(b)) {
		x, _ := strconv.Atoi(a[i]) // ParseVersion has seen it
		y, _ := strconv.Atoi(b[i])
		if x != y {
			return cmp.Compare(x, y)
		}
	}
	return cmp.Compare(len(a), len(b))
}
