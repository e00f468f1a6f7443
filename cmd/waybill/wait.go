package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"waybill/artifact"
	"waybill/server"
)

// How long to wait between two tries: as long as a gate says, but not longer than an approval should take to be seen.
const (
	leastWait = time.Second
	mostWait  = 15 * time.Second
)

// waitFor tries until it is done, as long as all that is not met is what time, people or the server will meet. It tells w
// what it waits for, whenever that changes. With no timeout it tries once.
func waitFor(ctx context.Context, w io.Writer, timeout time.Duration, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var told []string
	for {
		err := try()
		var no problemError
		if err == nil || timeout == 0 || !errors.As(err, &no) || !waitable(server.Problem(no)) {
			return err
		}
		var lines []string
		next := time.Now().Add(mostWait)
		for _, r := range no.Reasons {
			lines = append(lines, r.Rule+string(r.Awaits)+r.Until.String())
			if r.Awaits == artifact.AwaitsTime && !r.Until.IsZero() && r.Until.Before(next) {
				next = r.Until
			}
		}
		if !slices.Equal(lines, told) {
			fmt.Fprintln(w, "waiting:")
			for _, r := range no.Reasons {
				fmt.Fprintln(w, "  "+printable(reasonLine(r)))
			}
			told = lines
		}
		timer := time.NewTimer(max(time.Until(next), leastWait))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fmt.Errorf("it was not met within %s: %w", timeout, err)
			}
			return ctx.Err()
		}
	}
}

// waitable reports whether a refusal is one that passes by itself: every reason is a gate that something will meet.
func waitable(p server.Problem) bool {
	return len(p.Reasons) > 0 && !slices.ContainsFunc(p.Reasons, func(r artifact.Reason) bool { return r.Awaits == "" })
}
