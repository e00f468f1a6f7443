// Command waybill is the registry and its client: serve runs the one, every other verb is the other.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// version is set by the linker; the scanner of another version is refused.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := execute(ctx, newRoot(newServe()))
	if err != nil {
		fmt.Fprintln(os.Stderr, "waybill:", err)
	}
	stop()
	os.Exit(exitCode(err))
}
