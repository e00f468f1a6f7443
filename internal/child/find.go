package child

import (
	"fmt"
	"os"
	"path/filepath"
)

// Find returns the path of a program of ours: the configured one, which key names, else beside this program, else on PATH.
func Find(name, key, configured string) (string, error) {
	if configured != "" {
		if !runnable(configured) {
			return "", fmt.Errorf("%s is %s, which is no program", key, configured)
		}
		return filepath.Abs(configured)
	}
	if self, err := os.Executable(); err == nil {
		if beside := filepath.Join(filepath.Dir(self), name); runnable(beside) {
			return beside, nil
		}
	}
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if path := filepath.Join(dir, name); runnable(path) {
			return filepath.Abs(path)
		}
	}
	return "", fmt.Errorf("%s is neither beside this program nor on PATH; `make build` makes it, or set %s", name, key)
}

func runnable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}
