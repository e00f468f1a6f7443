package postgres

import (
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	restarts   = 12                    // in a row, before it is given up: about a minute
	restartMin = 50 * time.Millisecond // before the first, twice that before the next
	restartMax = 10 * time.Second
	steady     = time.Minute // a server that ran for that long is no part of a row
)

// supervise starts the server again whenever it ends by itself, until it is stopped, or does not start any more. While
// its disk is full or read-only, it is tried for ever: it can only be the operator who ends that.
func (e *Embedded) supervise(p *process) {
	defer close(e.done)
	row := 0
	for {
		begun := time.Now()
		select {
		case <-e.running.Done():
			p.stop()
			return
		case <-p.ended:
		}
		if time.Since(begun) > steady {
			row = 0
		}
		e.logger.Error("PostgreSQL ended, and is started again", "error", p.end())
		if p = e.again(&row, p.end()); p == nil {
			return
		}
		e.logger.Info("PostgreSQL runs again", "after", time.Since(begun).Round(time.Millisecond))
	}
}

// again returns a server that was started anew; nil when it is stopped meanwhile, or given up. row counts starts that did
// not last.
func (e *Embedded) again(row *int, why error) *process {
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

// process is a child.
type process struct {
	cmd    *exec.Cmd
	output *tail
	ended  chan struct{}
}

// run starts a child that ends with this process.
func run(cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd, output: &tail{}, ended: make(chan struct{})}
	cmd.Stderr = p.output
	started := make(chan error)
	go func() {
		// Pdeathsig fires when the thread that forked ends, so that thread must live as long as the child.
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // end says how it was
			close(p.ended)
		}
	}()
	return p, <-started
}

// end says how it ended.
func (p *process) end() error {
	return fmt.Errorf("%s: %s", p.cmd.ProcessState, p.output)
}

// stop ends a server by its fast shutdown (SIGINT) and waits; after ten seconds it kills.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGINT)
	select {
	case <-p.ended:
	case <-time.After(10 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
}

// tail keeps the last few kilobytes of what a child prints, for the error that needs them.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if over := len(t.b) - 4096; over > 0 {
		t.b = t.b[over:]
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.b))
}
