package postgres

import (
	"fmt"
	"strings"
	"syscall"
	"time"

	"waybill/internal/child"
)

const (
	restarts   = 12                    // in a row, before it is given up: about a minute
	restartMin = 50 * time.Millisecond // before the first, twice that before the next
	restartMax = 10 * time.Second
	steady     = time.Minute // a server that ran for that long is no part of a row
)

// supervise starts the server again whenever it ends by itself, until it is stopped, or does not start any more. While
// its disk is full or read-only, it is tried for ever: it can only be the operator who ends that.
func (e *Embedded) supervise(p *child.Process) {
	defer close(e.done)
	row := 0
	for {
		begun := time.Now()
		select {
		case <-e.running.Done():
			stop(p)
			return
		case <-p.Ended:
		}
		if time.Since(begun) > steady {
			row = 0
		}
		e.logger.Error("PostgreSQL ended, and is started again", "error", p.End())
		if p = e.again(&row, p.End()); p == nil {
			return
		}
		e.logger.Info("PostgreSQL runs again", "after", time.Since(begun).Round(time.Millisecond))
	}
}

// again returns a server that was started anew; nil when it is stopped meanwhile, or given up. row counts starts that did
// not last.
func (e *Embedded) again(row *int, why error) *child.Process {
	for wait := e.wait << min(*row, 8); *row < restarts; wait = min(2*wait, restartMax) {
		if pause(e.running, wait) != nil {
			return nil
		}
		p, err := e.start(e.running)
		switch {
		case err == nil:
			*row++
			return p
		case e.running.Err() != nil:
			return nil
		case !outOfRoom(err):
			*row++
		}
		why = err
		e.logger.Error("PostgreSQL does not start, and is tried again", "error", err)
	}
	e.failure = fmt.Errorf("the private PostgreSQL in %s ended, and to start it again %d times did not help: %w", e.dir, *row, why)
	return nil
}

// outOfRoom reports whether a start failed for a disk that takes nothing. The texts are the C library's, in the locale
// that dress gives.
func outOfRoom(err error) bool {
	for _, why := range []error{syscall.ENOSPC, syscall.EROFS, syscall.EDQUOT} {
		if strings.Contains(strings.ToLower(err.Error()), why.Error()) {
			return true
		}
	}
	return false
}

// outputKept is how many bytes of what a server prints are kept, for the error that needs them.
const outputKept = 4096

// stop ends a server by its fast shutdown (SIGINT) and waits; after ten seconds it kills.
func stop(p *child.Process) { p.Stop(syscall.SIGINT, 10*time.Second) }
