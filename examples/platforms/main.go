// Hello says for what it was made.
package main

import (
	"os"
	"runtime"
)

func main() { _, _ = os.Stdout.WriteString("hello from " + runtime.GOOS + "/" + runtime.GOARCH + "\n") }
