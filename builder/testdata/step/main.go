// Step is what RUN runs in tests: one small static program.
package main

import (
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
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
	case "flood": // N lines of a kilobyte
		n, err := strconv.Atoi(args[1])
		check(err)
		line := []byte(strings.Repeat("x", 1023) + "\n")
		for range n {
			_, err := os.Stdout.Write(line)
			check(err)
		}
	case "keys": // of the ssh agent: SSH_AGENTC_REQUEST_IDENTITIES (RFC 9987), and how many it names
		agent, err := net.Dial("unix", os.Getenv("SSH_AUTH_SOCK"))
		check(err)
		_, err = agent.Write([]byte{0, 0, 0, 1, 11})
		check(err)
		answer := make([]byte, 9)
		_, err = io.ReadFull(agent, answer)
		check(err)
		fmt.Println("keys:", answer[8])
	case "random": // PATH
		b := make([]byte, 32)
		_, err := rand.Read(b)
		check(err)
		check(os.WriteFile(args[1], b, 0o644))
	case "count": // until it is killed
		fmt.Println("waiting")
		ended := make(chan os.Signal, 1)
		signal.Notify(ended, syscall.SIGTERM)
		for n, tick := 0, time.NewTicker(200*time.Millisecond); ; n++ {
			select {
			case <-ended:
				return
			case <-tick.C:
				fmt.Println("count", n)
			}
		}
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
