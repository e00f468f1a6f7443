package scanner_test

import (
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/scanner"
)

// TestAffordable: as many at once as there is memory for, and no more than processors.
func TestAffordable(t *testing.T) {
	t.Parallel()
	const gigabyte = 1 << 30
	for _, c := range []struct {
		memory     uint64
		processors int
		want       int
	}{
		{0, 8, 1}, {gigabyte, 8, 1}, {3 * gigabyte, 8, 2}, {4 * gigabyte, 8, 2}, {64 * gigabyte, 8, 8}, {64 * gigabyte, 1, 1}, {1 << 62, 2, 2}, {12 * gigabyte, 1024, 8},
	} {
		require.Equal(t, c.want, scanner.AffordableWith(c.memory, c.processors), "%+v", c)
	}
	require.LessOrEqual(t, scanner.Affordable(), runtime.GOMAXPROCS(0))
	require.Positive(t, scanner.Affordable())
}

// TestGroupMemory: the least of the control groups counts that the process is in.
func TestGroupMemory(t *testing.T) {
	t.Parallel()
	const unlimited = 1 << 62
	for what, c := range map[string]struct {
		group  string
		limits map[string]string
		want   uint64
	}{
		"no control groups":      {"", nil, unlimited},
		"a container's":          {"0::/\n", map[string]string{"": "1073741824\n"}, 1 << 30},
		"none":                   {"0::/\n", map[string]string{"": "max\n"}, unlimited},
		"a unit's":               {"0::/system.slice/waybill.service\n", map[string]string{"system.slice": "max\n", "system.slice/waybill.service": "2147483648\n"}, 2 << 30},
		"what is above it":       {"0::/a/b\n", map[string]string{"a": "100\n", "a/b": "200\n"}, 100},
		"another's":              {"0::/a\n", map[string]string{"a": "200\n", "b": "100\n"}, 200},
		"beside version 1":       {"12:memory:/x\n0::/a\n", map[string]string{"a": "200\n", "x": "100\n"}, 200},
		"one that is not a file": {"0::/../../a\n", map[string]string{"a": "200\n"}, 200},
	} {
		root := t.TempDir()
		write := func(path, content string) {
			path = filepath.Join(root, path)
			require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
			require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		}
		if c.group != "" {
			write("proc/self/cgroup", c.group)
		}
		for group, limit := range c.limits {
			write(filepath.Join("sys/fs/cgroup", group, "memory.max"), limit)
		}
		require.Equal(t, c.want, scanner.GroupMemory(root), what)
	}
}

// TestAtOnce: of many layers that arrive together no more are analysed at a time than there are processes.
func TestAtOnce(t *testing.T) {
	t.Parallel()
	c := client(t, func(cfg *scanner.Config) { cfg.Processes = 2 })
	var (
		together sync.WaitGroup
		mu       sync.Mutex
		pids     = map[string]int{}
	)
	for range 12 {
		together.Go(func() {
			_, err := analyse(t, c, t.Context(), "brief")
			if err == nil {
				var pid string
				pid, err = analyse(t, c, t.Context(), "pid")
				mu.Lock()
				pids[pid]++
				mu.Unlock()
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	done := make(chan struct{})
	go func() {
		together.Wait()
		close(done)
	}()
	most := 0
	require.Eventually(t, func() bool {
		most = max(most, c.Working())
		select {
		case <-done:
			return true
		default:
			return false
		}
	}, time.Minute, time.Millisecond)
	require.LessOrEqual(t, most, 2)
	require.LessOrEqual(t, len(pids), 2, "%v", slices.Collect(maps.Keys(pids)))
}
