package scanner

import (
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// perProcess is how much of the machine's memory a scanner is given for its own, its files in the page cache, and what
// the server and its database need meanwhile, in bytes.
const perProcess = 1536 << 20

// Affordable is how many processes this machine, or the control groups that this process is in, have processors and
// memory for; at least 1.
func Affordable() int {
	memory := uint64(1 << 62)
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		memory = info.Totalram * uint64(info.Unit)
	}
	return affordable(min(memory, groupMemory("/")), runtime.GOMAXPROCS(0))
}

func affordable(memory uint64, processors int) int {
	return max(1, int(min(uint64(processors), memory/perProcess)))
}

// groupMemory is the least that the control group of this process and those above it may use, in bytes: version 2
// (Linux, Documentation/admin-guide/cgroup-v2.rst), as a unit of systemd has it, or a container, which sees its own as the
// uppermost. root is where /proc and /sys are.
func groupMemory(root string) uint64 {
	least := uint64(1 << 62)
	groups, _ := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
	group := "/"
	for line := range strings.Lines(string(groups)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			group = path.Clean("/" + name)
		}
	}
	for ; ; group = path.Dir(group) {
		if b, err := os.ReadFile(filepath.Join(root, "sys/fs/cgroup", group, "memory.max")); err == nil {
			if n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64); err == nil { // else it is "max"
				least = min(least, n)
			}
		}
		if group == "/" {
			return least
		}
	}
}
