//go:build goexperiment.jsonv2

// Command waybill-scanner parses what others packed: layers, package databases, an advisory database. waybill serve
// starts it when there is work, talks to it on its standard streams, and ends it. It holds no keys, no database of ours
// and opens no network.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"time"

	"waybill/layer"
	"waybill/scanner"
	"waybill/scanner/trivy"
)

// version is set by the linker; waybill refuses a scanner of another.
var version = "dev"

func main() {
	if len(os.Args) > 1 {
		fmt.Println("waybill-scanner", version, "is started by waybill serve, and of no use by itself")
		return
	}
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})))
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "waybill-scanner:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer) error {
	// It was started by a descriptor, and is named after that; ps and top should say what it is.
	if err := os.WriteFile("/proc/self/comm", []byte("waybill-scanner"), 0); err != nil {
		return err
	}
	hello := scanner.Hello{Protocol: scanner.Protocol, Version: version}
	if err := scanner.Confine(os.TempDir(), os.Getenv(scanner.Database), os.Getenv(scanner.Java)); err != nil {
		hello.Unconfined = err.Error() // and what the kernel does take, it took
	}
	if err := scanner.Write(out, hello); err != nil {
		return err
	}
	conn, err := net.FileConn(os.NewFile(3, "layer files"))
	if err != nil {
		return fmt.Errorf("descriptor 3: %w", err)
	}
	files, ok := conn.(*net.UnixConn)
	if !ok {
		return errors.New("descriptor 3 is no Unix socket")
	}
	s, err := trivy.New(version, os.Getenv(scanner.Database), os.Getenv(scanner.Java))
	if err != nil {
		return err
	}
	// The next layer may be long in coming; giving memory back after each would cost more than most of them.
	idle := time.AfterFunc(time.Second, debug.FreeOSMemory)
	defer idle.Stop()
	for requests := bufio.NewReader(in); ; {
		var request scanner.Request
		if err := scanner.Read(requests, &request); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		idle.Stop()
		if err := scanner.Write(out, answer(s, files, request)); err != nil {
			return err
		}
		idle.Reset(time.Second)
	}
}

// answer does what is asked. What goes wrong with a layer or a database is their fault, and refused.
func answer(s *trivy.Scanner, files *net.UnixConn, request scanner.Request) (response scanner.Response) {
	ctx := context.Background()
	switch {
	case request.Analyse != nil:
		file, err := scanner.ReceiveFile(files)
		if err != nil {
			return scanner.Response{Failed: err.Error()}
		}
		defer file.Close()
		analysis, err := s.Analyse(ctx, io.NewSectionReader(file, 0, 1<<62),
			layer.Options{Limits: request.Analyse.Limits, SHA512: request.Analyse.Digest.Algorithm() == "sha512"})
		if err != nil {
			return scanner.Response{Refused: err.Error()}
		}
		return scanner.Response{Analysis: &analysis}
	case request.Match != nil:
		result, err := s.Match(ctx, *request.Match)
		if err != nil {
			return scanner.Response{Failed: err.Error()}
		}
		return scanner.Response{Match: &result}
	case request.Rematch != nil:
		result, err := s.Rematch(ctx, *request.Rematch)
		if err != nil {
			return scanner.Response{Failed: err.Error()}
		}
		return scanner.Response{Rematch: &result}
	case request.Database != nil:
		check := s.Check
		if request.Database.Java {
			check = s.CheckJava
		}
		info, err := check()
		if err != nil {
			return scanner.Response{Refused: err.Error()}
		}
		return scanner.Response{Database: &info}
	}
	return scanner.Response{Failed: "an unknown request"}
}
