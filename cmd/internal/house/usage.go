package house

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"postern/appliance/box"
)

// Usage implements box.House.
func (h *House) Usage() (u box.Usage, err error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return u, err
	}
	defer f.Close()
	if u.Memory, u.MemoryOf, err = memory(f); err != nil {
		return u, err
	}
	var s unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(h.Path), &s); err != nil {
		return u, fmt.Errorf("look at data partition: %w", err)
	}
	size := uint64(s.Bsize)
	u.Disk, u.DiskOf = (s.Blocks-s.Bfree)*size>>20, s.Blocks*size>>20
	return u, nil
}

// memory is what of the machine's memory cannot be had for more programs, and
// all of it, in MiB.
func memory(r io.Reader) (used, all uint64, err error) {
	amounts := map[string]uint64{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		name, rest, _ := strings.Cut(lines.Text(), ":")
		kib, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		if err == nil {
			amounts[name] = kib
		}
	}
	all, free := amounts["MemTotal"], amounts["MemAvailable"]
	if err := lines.Err(); err != nil {
		return 0, 0, fmt.Errorf("read memory: %w", err)
	}
	if all == 0 || free > all {
		return 0, 0, fmt.Errorf("read memory: %d of %d KiB are available", free, all)
	}
	return (all - free) >> 10, all >> 10, nil
}
