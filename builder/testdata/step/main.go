// Step is what RUN runs in tests: one small static program.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
)

func main() {
	switch args := os.Args[1:]; args[0] {
	case "write": // PATH TEXT
		check(os.WriteFile(args[1], []byte(strings.Join(args[2:], " ")), 0o644))
	case "copy": // FROM TO
		b, err := os.ReadFile(args[1])
		check(err)
		check(os.WriteFile(args[2], b, 0o644))
	case "print": // PATH, in two pieces
		b, err := os.ReadFile(args[1])
		check(err)
		half := len(b) / 2
		fmt.Print("it is " + string(b[:half]))
		fmt.Println(string(b[half:]))
	case "fail": // CODE
		for i := range 200 {
			fmt.Println("line", i)
		}
		code, err := strconv.Atoi(args[1])
		check(err)
		os.Exit(code)
	case "wait": // until it is killed
		fmt.Println("waiting")
		ended := make(chan os.Signal, 1)
		signal.Notify(ended, syscall.SIGTERM)
		<-ended
	case "environment": // PATH NAME; all of it has what differs from run to run
		check(os.WriteFile(args[1], []byte(os.Getenv(args[2])), 0o644))
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
