// Package child runs programs that end with this process, however that ends.
package child

import (
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Process is a child that was started.
type Process struct {
	Cmd    *exec.Cmd
	Output *Tail
	Ended  chan struct{} // closed when it has ended
}

// Start starts cmd, whose standard error goes to Output. With Pdeathsig set in it, it ends with this process: that signal
// comes when the thread that forked ends, so that thread is kept for as long as the child lives.
func Start(cmd *exec.Cmd, keep int) (*Process, error) {
	p := &Process{Cmd: cmd, Output: NewTail(keep), Ended: make(chan struct{})}
	if cmd.Stderr == nil {
		cmd.Stderr = p.Output
	}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // End says how it was
			close(p.Ended)
		}
	}()
	return p, <-started
}

// Dead reports whether it has ended.
func (p *Process) Dead() bool {
	select {
	case <-p.Ended:
		return true
	default:
		return false
	}
}

// End says how it ended.
func (p *Process) End() error {
	return fmt.Errorf("%s: %s", p.Cmd.ProcessState, p.Output)
}

// Stop asks it to end with a signal, waits for so long, and then kills it. Safe to call twice.
func (p *Process) Stop(signal syscall.Signal, wait time.Duration) {
	_ = p.Cmd.Process.Signal(signal)
	select {
	case <-p.Ended:
	case <-time.After(wait):
		_ = p.Cmd.Process.Kill()
		<-p.Ended
	}
}

// Tail keeps the end of what is written to it, for the error that needs it. It is safe for concurrent use.
type Tail struct {
	keep int
	mu   sync.Mutex
	b    []byte
}

// NewTail keeps so many bytes.
func NewTail(keep int) *Tail { return &Tail{keep: keep} }

// Write never fails.
func (t *Tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if over := len(t.b) - t.keep; over > 0 {
		t.b = t.b[over:]
	}
	return len(p), nil
}

func (t *Tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.b))
}
