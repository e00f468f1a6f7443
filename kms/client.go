package kms

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/rpc"
	"os"
	"sync"
	"syscall"
	"time"
)

// Config says how to run the process.
type Config struct {
	Program string        // path of waybill-kms; default: beside this program, else on PATH
	Version string        // that it must be of
	Environ []string      // what it gets the providers' variables out of; default os.Environ
	Timeout time.Duration // of one request, with the start that it may take; default Timeout
	Idle    time.Duration // after which it ends; default 5 minutes
	Logger  *slog.Logger
}

// Client runs waybill-kms. It is safe for concurrent use.
type Client struct {
	cfg      Config
	starting chan struct{} // holds whoever looks for the process: one starts it, the others wait for that

	mu      sync.Mutex
	running *process // nil: none
	closed  bool
}

// New returns a client; nothing runs until a key is asked for.
func New(cfg Config) *Client {
	if cfg.Environ == nil {
		cfg.Environ = os.Environ()
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = Timeout
	}
	if cfg.Idle == 0 {
		cfg.Idle = 5 * time.Minute
	}
	return &Client{cfg: cfg, starting: make(chan struct{}, 1)}
}

// PublicKey returns the public half of a key, as its KMS has it now.
func (c *Client) PublicKey(ctx context.Context, reference string) (crypto.PublicKey, error) {
	answer, err := ask[PublicKey](ctx, c, "PublicKey", PublicKeyRequest{Reference: reference})
	if err != nil {
		return nil, err
	}
	public, err := x509.ParsePKIXPublicKey(answer.DER)
	if err != nil {
		return nil, fmt.Errorf("what it has is no public key: %w", err)
	}
	return public, nil
}

// Sign has a key sign a hash, or, with no hash function, a message.
func (c *Client) Sign(ctx context.Context, reference string, hash crypto.Hash, content []byte) ([]byte, error) {
	if len(content) > MaxMessage {
		return nil, fmt.Errorf("what is to be signed has %d bytes, and a KMS is given %d at most", len(content), MaxMessage)
	}
	answer, err := ask[Signature](ctx, c, "Sign", SignRequest{Reference: reference, Hash: hash, Content: content})
	return answer.Raw, err
}

var (
	errStopping = errors.New("the server is stopping")
	errDied     = errors.New("waybill-kms died of it, or does not answer as it should, and is started again for the next; the server's log says more")
)

// ask waits for an answer until ctx is done, or for so long as a request may take. A process that takes longer, whoever still
// waits for it, is ended, and so is one that answers nonsense: the next request starts another.
func ask[Answer any](ctx context.Context, c *Client, method string, request any) (answer Answer, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.cfg.Timeout, fmt.Errorf("it did not answer in %s", c.cfg.Timeout))
	defer cancel()
	p, err := c.take(ctx)
	if err != nil {
		return answer, err
	}
	type outcome struct {
		answer Answer
		err    error
	}
	done := make(chan outcome, 1)
	go func() {
		defer c.give(p)
		// It bounds what it does by the same time, and says so; then it has some more to say it.
		overdue := time.AfterFunc(c.cfg.Timeout*4/3, func() { c.drop(p, errors.New("it does not answer")) })
		defer overdue.Stop()
		var o outcome
		o.err = p.rpc.Call("KMS."+method, request, &o.answer)
		var refused rpc.ServerError
		if errors.As(o.err, &refused) {
			o.err = errors.New(Shorten(o.err.Error()))
		} else if o.err != nil {
			c.drop(p, o.err)
			o.err = errDied
		}
		done <- o
	}()
	select {
	case o := <-done:
		return o.answer, o.err
	case <-ctx.Done():
		return answer, context.Cause(ctx)
	}
}

// take returns the process that runs, or starts one. give is to follow.
func (c *Client) take(ctx context.Context) (*process, error) {
	select {
	case c.starting <- struct{}{}:
		defer func() { <-c.starting }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if p, err := c.use(nil); p != nil || err != nil {
		return p, err
	}
	p, err := c.start(ctx)
	if err != nil {
		return nil, fmt.Errorf("waybill-kms does not start: %w", err)
	}
	if _, err := c.use(p); err != nil {
		p.stop(syscall.SIGKILL)
		return nil, err
	}
	return p, nil
}

// use takes the process that runs, which started becomes where there is one.
func (c *Client) use(started *process) (*process, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errStopping
	}
	if started != nil {
		c.running = started
	}
	p := c.running
	if p == nil {
		return nil, nil
	}
	if p.Dead() { // while nobody asked anything
		c.running = nil
		c.cfg.Logger.Error("waybill-kms ended", "error", p.End())
		return nil, nil
	}
	p.asked++
	p.expiry.Stop()
	return p, nil
}

// give lets go of the process; the last to do so has it end after a while.
func (c *Client) give(p *process) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.asked--; p.asked == 0 && p == c.running {
		p.expiry.Reset(c.cfg.Idle)
	}
}

// expire ends the process, unless it was taken just now.
func (c *Client) expire(p *process) {
	c.mu.Lock()
	expired := p == c.running && p.asked == 0
	if expired {
		c.running = nil
	}
	c.mu.Unlock()
	if expired {
		c.end(p)
	}
}

// end stops a process that did what it should. What it said, such as a warning of a provider's, is logged.
func (c *Client) end(p *process) {
	p.stop(syscall.SIGTERM)
	if said := p.Output.String(); said != "" {
		c.cfg.Logger.Warn("waybill-kms said something", "output", said)
	}
}

// drop kills a process that is of no use any more.
func (c *Client) drop(p *process, why error) {
	c.mu.Lock()
	current := p == c.running
	if current {
		c.running = nil
	}
	c.mu.Unlock()
	p.stop(syscall.SIGKILL)
	if current {
		c.cfg.Logger.Error("waybill-kms is of no use any more", "why", why, "error", p.End())
	}
}

// Close ends the process; who waits for an answer gets none.
func (c *Client) Close() {
	c.mu.Lock()
	c.closed = true
	p := c.running
	c.running = nil
	c.mu.Unlock()
	if p != nil {
		p.expiry.Stop()
		c.end(p)
	}
}
