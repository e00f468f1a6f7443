package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// root is the repository's top folder, fixtures a folder that lives as long as the test binary.
var root, fixtures string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	var err error
	if root, err = filepath.Abs("../.."); err != nil {
		panic(err)
	}
	if fixtures, err = os.MkdirTemp("", "waybill-e2e-"); err != nil {
		panic(err)
	}
	defer os.RemoveAll(fixtures)
	// The database drops to another user and must reach its folder.
	if err := os.Chmod(fixtures, 0o711); err != nil {
		panic(err)
	}
	build := exec.Command("make", "-s", "build", "tools", "examples/returns/returns", "examples/platforms/hello-amd64", "examples/platforms/hello-arm64")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "make build tools: %v\n%s", err, out)
		return 1
	}
	path := []string{filepath.Join(root, "bin"), filepath.Join(root, "internal/tools/bin"), "/usr/sbin", "/sbin", os.Getenv("PATH")}
	_ = os.Setenv("PATH", strings.Join(path, ":"))
	return m.Run()
}
