package config

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Duration is written "1h30m", "250ms" or "30d".
type Duration time.Duration

// day is one of 24 hours.
const day = 24 * time.Hour

// UnmarshalText reads what time.ParseDuration reads, or a whole number of days.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if days, ok := strings.CutSuffix(string(b), "d"); ok {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 16)
		v = time.Duration(n) * day
	}
	if err != nil {
		return fmt.Errorf("%s: want a duration such as 250ms, 10s, 1h30m or 30d", quote(string(b)))
	}
	*d = Duration(v)
	return nil
}

// String prints it without empty parts: 1h, not 1h0m0s.
func (d Duration) String() string {
	if v := time.Duration(d); v >= 2*day && v%day == 0 {
		return strconv.FormatInt(int64(v/day), 10) + "d"
	}
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// Size is a number of bytes, written "256KiB", "50MiB", "1GiB", or as a number.
type Size int64

var units = []struct {
	name string
	size int64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"", 1}}

// UnmarshalText reads a whole number and a unit.
func (s *Size) UnmarshalText(b []byte) error {
	for _, u := range units {
		digits, ok := strings.CutSuffix(string(b), u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(digits, 10, 63)
		if err != nil || int64(n) > math.MaxInt64/u.size {
			break
		}
		*s = Size(int64(n) * u.size)
		return nil
	}
	return fmt.Errorf("%s: want a size such as 256KiB, 50MiB or 1GiB", quote(string(b)))
}

// String prints the largest unit that leaves a whole number.
func (s Size) String() string {
	for _, u := range units {
		if int64(s)%u.size == 0 && s != 0 {
			return strconv.FormatInt(int64(s)/u.size, 10) + u.name
		}
	}
	return "0"
}

// Mode is the permission of a socket, written in octal: "0660".
type Mode fs.FileMode

// UnmarshalText reads octal digits.
func (m *Mode) UnmarshalText(b []byte) error {
	v, err := strconv.ParseUint(string(b), 8, 32)
	if err != nil || v > 0o777 {
		return fmt.Errorf("%s: want an octal mode such as 0660", quote(string(b)))
	}
	*m = Mode(v)
	return nil
}

// String prints four octal digits.
func (m Mode) String() string { return fmt.Sprintf("%04o", uint32(m)) }

// Network is a range of addresses, written "10.0.0.0/8", or one address.
type Network struct{ netip.Prefix }

var errNetwork = errors.New("want a network such as 10.0.0.0/8, or an address")

// UnmarshalText reads a network without host bits, or one address.
func (n *Network) UnmarshalText(b []byte) error {
	if a, err := netip.ParseAddr(string(b)); err == nil && a.Zone() == "" {
		a = a.Unmap()
		n.Prefix = netip.PrefixFrom(a, a.BitLen())
		return nil
	}
	p, err := netip.ParsePrefix(string(b))
	switch {
	case err != nil || p.Addr().Is4In6():
		return fmt.Errorf("%s: %w", quote(string(b)), errNetwork)
	case p != p.Masked():
		return fmt.Errorf("%s: has bits beyond its length, want %s", quote(string(b)), p.Masked())
	}
	n.Prefix = p
	return nil
}

// Rate is how often something may be done in a time, written "100/1m".
type Rate struct {
	Count int
	Per   Duration
}

// maxRatePer is the longest time that a rate may speak of.
const maxRatePer = 24 * time.Hour

// UnmarshalText reads a number, a slash and a duration. Nothing is no limit.
func (r *Rate) UnmarshalText(b []byte) error {
	if *r = (Rate{}); len(b) == 0 {
		return nil
	}
	count, per, _ := strings.Cut(string(b), "/")
	n, err := strconv.ParseUint(count, 10, 20)
	d, err2 := time.ParseDuration(per)
	if err != nil || err2 != nil || n == 0 || d < time.Second || d > maxRatePer {
		return fmt.Errorf("%s: want a number and a time of 1s to 24h, such as 100/1m", quote(string(b)))
	}
	*r = Rate{int(n), Duration(d)}
	return nil
}

// String prints what UnmarshalText reads.
func (r Rate) String() string {
	if r.Count == 0 {
		return ""
	}
	return strconv.Itoa(r.Count) + "/" + r.Per.String()
}
