package scanner

import (
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// perProcess is how much of the machine's memory a scanner is given for its own, its files in the page cache, and what
// the server and its database need meanwhile, in bytes.
const perProcess = 1536 << 20

// Affordable is how many processes this machine, or the control group that this process is in, has processors and memory
// for; at least 1.
func Affordable() int {
	memory := uint64(1 << 62)
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		memory = info.Totalram * uint64(info.Unit)
	}
	// Control groups, version 2, as a container sees its own.
	if b, err := os.ReadFile("/sys/fs/cgroup/memory.max"); err == nil {
		if n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64); err == nil {
			memory = min(memory, n)
		}
	}
	return max(1, min(runtime.GOMAXPROCS(0), int(memory/perProcess)))
}
