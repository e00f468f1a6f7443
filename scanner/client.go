package scanner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"waybill/artifact"
)

// Config says how to run scanners.
type Config struct {
	Program   string        // path of waybill-scanner
	Version   string        // that it must be of
	Folder    string        // where it may write; a folder is made there and removed at the end
	Processes int           // at most at once; default 2
	Memory    int64         // soft limit of each, in bytes; default 400 MiB
	Timeout   time.Duration // of one request; default 10 minutes
	Idle      time.Duration // after which a process without work ends; default 10 seconds
	Logger    *slog.Logger
}

// Client runs scanner processes. It is safe for concurrent use.
type Client struct {
	cfg   Config
	slots chan struct{}

	mu     sync.Mutex
	idle   []*process // waiting for work, the last used last
	closed bool
}

// New returns a client; nothing runs until there is work.
func New(cfg Config) *Client {
	if cfg.Processes == 0 {
		cfg.Processes = 2
	}
	if cfg.Memory == 0 {
		cfg.Memory = 400 << 20
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 10 * time.Minute
	}
	if cfg.Idle == 0 {
		cfg.Idle = 10 * time.Second
	}
	return &Client{cfg: cfg, slots: make(chan struct{}, cfg.Processes)}
}

// Analyse reads a layer from file. A layer that cannot be inspected, whatever the reason, is a Denied error; a scanner
// that cannot be run is an Unavailable one.
func (c *Client) Analyse(ctx context.Context, file *os.File, d artifact.Descriptor) (Analysis, error) {
	r, err := c.ask(ctx, Request{Analyse: &AnalyseRequest{Digest: d.Digest}}, file)
	if err != nil {
		return Analysis{}, err
	}
	if r.Analysis == nil || r.Analysis.Facts.Digest != d.Digest && d.Digest.Algorithm() == "sha256" {
		return Analysis{}, uninspectable("the scanner read other bytes than were stored")
	}
	r.Analysis.Facts.Digest = d.Digest
	return *r.Analysis, nil
}

// Match finds an image's packages and findings; no layer is read.
func (c *Client) Match(ctx context.Context, m MatchRequest) (MatchResult, error) {
	var folder *os.File
	if m.Database != "" {
		var err error
		if folder, err = os.Open(m.Database); err != nil {
			return MatchResult{}, &artifact.Error{Kind: artifact.Unavailable, Message: "the advisory database is gone; import it again", Err: err}
		}
		defer folder.Close()
	}
	r, err := c.ask(ctx, Request{Match: &m}, folder)
	if err != nil {
		return MatchResult{}, err
	}
	if r.Match == nil {
		return MatchResult{}, artifact.Errorf(artifact.Unavailable, "the scanner gave no answer")
	}
	return *r.Match, nil
}

// CheckDatabase opens an advisory database; one that cannot be read is a Denied error.
func (c *Client) CheckDatabase(ctx context.Context, folder string) (DatabaseInfo, error) {
	opened, err := os.Open(folder)
	if err != nil {
		return DatabaseInfo{}, err
	}
	defer opened.Close()
	r, err := c.ask(ctx, Request{Database: &DatabaseRequest{folder}}, opened)
	if err != nil {
		return DatabaseInfo{}, err
	}
	if r.Database == nil {
		return DatabaseInfo{}, artifact.Errorf(artifact.Unavailable, "the scanner gave no answer")
	}
	return *r.Database, nil
}

func uninspectable(why string) error {
	return artifact.Errorf(artifact.Denied, "cannot be inspected: %s", why)
}

// ask has one process answer. Whatever a process does to a request (crash, exceed its memory or its time) is an answer
// about what it was asked: it is refused, and the server goes on.
func (c *Client) ask(ctx context.Context, request Request, file *os.File) (Response, error) {
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return Response{}, ctx.Err()
	}
	p, err := c.take(ctx)
	if err != nil {
		return Response{}, &artifact.Error{Kind: artifact.Unavailable, Message: "the scanner does not start, and what is not inspected is not accepted; the operator's log says why", Err: err}
	}
	timed, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	response, err := p.ask(timed, request, file)
	if err != nil {
		why := p.kill()
		switch {
		case ctx.Err() != nil:
			return Response{}, ctx.Err()
		case timed.Err() != nil:
			return Response{}, uninspectable(fmt.Sprintf("it took longer than %v", c.cfg.Timeout))
		}
		c.cfg.Logger.ErrorContext(ctx, "scanner died", "error", err, "output", why)
		return Response{}, uninspectable("the scanner died of it")
	}
	c.give(p)
	switch {
	case response.Refused != "":
		return Response{}, uninspectable(response.Refused)
	case response.Failed != "":
		return Response{}, fmt.Errorf("scanner: %s", response.Failed)
	}
	return response, nil
}

// take returns an idle process, or starts one.
func (c *Client) take(ctx context.Context) (*process, error) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil, errors.New("the server is stopping")
	}
	if n := len(c.idle); n > 0 {
		p := c.idle[n-1]
		c.idle = c.idle[:n-1]
		c.mu.Unlock()
		if p.expiry.Stop() {
			return p, nil
		}
		p.kill() // it was just about to end
	} else {
		c.mu.Unlock()
	}
	return start(ctx, c.cfg)
}

// give keeps a process for the next request, for a while.
func (c *Client) give(p *process) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		go p.kill()
		return
	}
	p.expiry = time.AfterFunc(c.cfg.Idle, func() { c.expire(p) })
	c.idle = append(c.idle, p)
}

func (c *Client) expire(p *process) {
	c.mu.Lock()
	for i, other := range c.idle {
		if other == p {
			c.idle = append(c.idle[:i], c.idle[i+1:]...)
			break
		}
	}
	c.mu.Unlock()
	p.kill()
}

// Close ends the processes that wait; those at work end with their request.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	idle := c.idle
	c.idle = nil
	c.mu.Unlock()
	for _, p := range idle {
		p.expiry.Stop()
		p.kill()
	}
	return nil
}

// Find returns the scanner's path: the configured one, else beside this program, else on PATH.
func Find(configured string) (string, error) {
	if configured != "" {
		return configured, nil
	}
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), "waybill-scanner")
		if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() {
			return beside, nil
		}
	}
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		path := filepath.Join(dir, "waybill-scanner")
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", errors.New("waybill-scanner is neither beside this program nor on PATH; `make build` makes it, or set scanner.program")
}
