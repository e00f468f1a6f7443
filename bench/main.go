// Command bench measures registries side by side: the same work, by the same clients, on each target in turn, round after
// round. What counts is the ratio to the best peer of one run; absolute figures are the machine's.
//
//	go run ./bench -target waybill=http://127.0.0.1:8080,TOKEN -target zot=http://127.0.0.1:5001 -work manifest-digest,push-1MB
//
// bench/run.sh starts the targets with fresh folders and calls it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// target is a registry under test; the first is ours.
type target struct {
	name, url string
	pusher    string // Authorization header of who pushes; empty: anonymous
	puller    string // of who pulls; empty: as pusher
}

type targets []target

func (t *targets) String() string { return "" }

// Set parses NAME=URL[,TOKEN[,PULL-TOKEN]].
func (t *targets) Set(text string) error {
	name, rest, ok := strings.Cut(text, "=")
	parts := strings.Split(rest, ",")
	if !ok || len(parts) > 3 {
		return errors.New("want NAME=URL[,TOKEN[,PULL-TOKEN]]")
	}
	target := target{name: name, url: strings.TrimSuffix(parts[0], "/")}
	if len(parts) > 1 {
		target.pusher = basic(parts[1])
	}
	target.puller = target.pusher
	if len(parts) > 2 {
		target.puller = basic(parts[2])
	}
	*t = append(*t, target)
	return nil
}

func run(ctx context.Context) error {
	var all targets
	flag.Var(&all, "target", "NAME=URL[,TOKEN[,PULL-TOKEN]]; repeat for peers, ours first")
	chosen := flag.String("work", "", "comma-separated; default all: "+strings.Join(names(), ", "))
	rounds := flag.Int("rounds", 5, "rounds; the median counts")
	length := flag.Duration("length", 3*time.Second, "of one measurement of reads")
	layer := flag.String("analysis", "", "a layer's file: only compare uploads to the first target while layers are analysed, and while none is")
	flag.Parse()
	if len(all) == 0 {
		return errors.New("no -target")
	}
	if *layer != "" {
		return analysis(ctx, all[0], *layer, *rounds)
	}
	fmt.Printf("%-18s", "work")
	for _, t := range all {
		fmt.Printf("%22s", t.name)
	}
	fmt.Printf("%18s\n", "ours / best peer")
	for _, w := range works {
		if *chosen != "" && !slices.Contains(strings.Split(*chosen, ","), w.name) {
			continue
		}
		if err := compare(ctx, w, all, *rounds, *length); err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
	}
	return nil
}

// compare runs a work on each target in turn, in rounds, and prints the medians.
func compare(ctx context.Context, w work, all targets, rounds int, length time.Duration) error {
	rates, tails, failed := make([][]float64, len(all)), make([][]time.Duration, len(all)), make([]error, len(all))
	for round := range rounds {
		prepared, err := w.prepare(ctx, round)
		if err != nil {
			return err
		}
		for i := range all {
			at := (i + round) % len(all) // nobody is always first
			if failed[at] != nil {
				continue
			}
			measured, err := prepared(ctx, all[at], length)
			if err != nil && at > 0 {
				failed[at] = err
				continue
			}
			if err != nil {
				return fmt.Errorf("%s: %w", all[at].name, err)
			}
			rates[at] = append(rates[at], measured.rate)
			tails[at] = append(tails[at], measured.p99)
		}
	}
	fmt.Printf("%-18s", w.name)
	best := 0.0
	for i := range all {
		if failed[i] != nil {
			fmt.Printf("%22s", "failed")
			continue
		}
		rate := median(rates[i])
		if i > 0 {
			best = max(best, rate)
		}
		fmt.Printf("%22s", fmt.Sprintf("%s (p99 %.1f ms)", figure(rate, w.unit), median(tails[i]).Seconds()*1000))
	}
	if best > 0 {
		fmt.Printf("%18.2f", median(rates[0])/best)
	}
	fmt.Println()
	for i, err := range failed {
		if err != nil {
			fmt.Printf("  %s: %v\n", all[i].name, err)
		}
	}
	return nil
}

func figure(rate float64, unit string) string {
	if unit == "GB/s" {
		return fmt.Sprintf("%.2f GB/s", rate/1e9)
	}
	return fmt.Sprintf("%.0f/s", rate)
}

func median[T float64 | time.Duration](values []T) T {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
