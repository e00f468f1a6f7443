// Command pages fills a data folder as a large company's registry is full, and measures every page of a server that has it:
// 500 services with five environments each, 100,000 digests with what is known of them.
//
//	go run ./bench/pages -fill DIR
//	go run ./bench/pages -url URL -token TOKEN [-pid PID] [-rounds 50] [-only board,digest]
//
// bench/pages.sh does both. The pages and what each may take are in pages.txt.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
)

func main() {
	var m measurement
	data := flag.String("fill", "", "data folder to fill, as waybill serve has it, of a server that has run and does not")
	part := flag.Float64("part", 1, "of the versions of each service, to fill in")
	flag.StringVar(&m.url, "url", "", "server to measure")
	flag.StringVar(&m.token, "token", "", "whom to sign in as")
	flag.IntVar(&m.pid, "pid", 0, "process of the server, whose processor time is to be told, and its children's; 0: none's")
	flag.IntVar(&m.rounds, "rounds", 50, "how often each page is asked for")
	flag.StringVar(&m.only, "only", "", "names of pages, with commas; empty: all")
	flag.BoolVar(&m.bytes, "bytes", false, "hold pages to their size alone, where the clock means nothing")
	flag.Parse()
	versions := max(int(*part*maxVersions), 20)
	var err error
	if *data != "" {
		err = fill(context.Background(), *data, versions)
	} else {
		m.versions = versions
		err = m.run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "pages:", err)
		os.Exit(1)
	}
}
