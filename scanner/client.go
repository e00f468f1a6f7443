package scanner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"waybill/artifact"
	"waybill/internal/child"
)

// Config says how to run scanners.
type Config struct {
	Program   string        // path of waybill-scanner
	Version   string        // that it must be of
	Folder    string        // where it may write; a folder is made there and removed at the end
	Processes int           // at most at once; default Affordable
	Memory    int64         // soft limit of each, in bytes; default 400 MiB
	Timeout   time.Duration // of one request; default 10 minutes
	Layers    artifact.LayerLimits
	Idle      time.Duration // after which a process without work ends; default 10 seconds, and a minute for the last one
	Patience  time.Duration // for which work waits for a process that is at other work, before it starts one; default 200 milliseconds, about what that takes
	Logger    *slog.Logger
}

// Client runs scanner processes. It is safe for concurrent use.
type Client struct {
	cfg   Config
	slots chan struct{}

	last time.Duration // after which the last process without work ends

	mu        sync.Mutex
	freed     chan struct{} // closed when a process becomes idle; then another takes its place
	idle      []*process    // waiting for work, the last used last
	preferred Databases     // of a process that needs none, so that it can match next
	working   int           // processes that are taken, or start for work that is there
	warming   chan struct{} // closed when the process that starts for work to come is idle, or failed; nil: none does
	closed    bool
	warned    bool // that the kernel does not confine them
}

// New returns a client; nothing runs until there is work.
func New(cfg Config) *Client {
	if cfg.Processes == 0 {
		cfg.Processes = Affordable()
	}
	if cfg.Memory == 0 {
		cfg.Memory = 400 << 20
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 10 * time.Minute
	}
	last := cfg.Idle
	if cfg.Idle == 0 {
		cfg.Idle, last = 10*time.Second, time.Minute
	}
	if cfg.Patience == 0 {
		cfg.Patience = 200 * time.Millisecond
	}
	return &Client{cfg: cfg, last: last, slots: make(chan struct{}, cfg.Processes), freed: make(chan struct{})}
}

// Analyse reads a layer from file. A layer that cannot be inspected, whatever the reason, is a Denied error; a scanner
// that cannot be run is an Unavailable one.
func (c *Client) Analyse(ctx context.Context, file *os.File, d artifact.Descriptor) (Analysis, error) {
	r, err := c.ask(ctx, Databases{}, Request{Analyse: &AnalyseRequest{Digest: d.Digest, Limits: c.cfg.Layers}}, file)
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
	databases := Databases{Advisories: m.Database, Java: m.Java}
	if err := databases.there(); err != nil {
		return MatchResult{}, err
	}
	if m.Database != "" {
		c.Prefer(databases)
	}
	r, err := c.ask(ctx, databases, Request{Match: &m}, nil)
	if err != nil {
		return MatchResult{}, err
	}
	if r.Match == nil {
		return MatchResult{}, artifact.Errorf(artifact.Unavailable, "the scanner gave no answer")
	}
	return *r.Match, nil
}

// Rematch finds the vulnerabilities of many images by a database, from what Match kept of them: one exchange, and the
// database is opened once.
func (c *Client) Rematch(ctx context.Context, m RematchRequest) ([]Rematched, error) {
	databases := Databases{Advisories: m.Database}
	if err := databases.there(); err != nil {
		return nil, err
	}
	r, err := c.ask(ctx, databases, Request{Rematch: &m}, nil)
	if err != nil {
		return nil, err
	}
	if r.Rematch == nil || len(r.Rematch.Images) != len(m.Images) {
		return nil, artifact.Errorf(artifact.Unavailable, "the scanner gave no answer")
	}
	return r.Rematch.Images, nil
}

// there says which database is not where it was.
func (d Databases) there() error {
	for what, folder := range map[string]string{"advisory": d.Advisories, "Java": d.Java} {
		if folder == "" {
			continue
		}
		if _, err := os.Stat(folder); err != nil {
			return &artifact.Error{Kind: artifact.Unavailable, Message: "the " + what + " database is gone; import it again", Err: err}
		}
	}
	return nil
}

// CheckDatabase opens an advisory database; one that cannot be read is a Denied error.
func (c *Client) CheckDatabase(ctx context.Context, folder string) (DatabaseInfo, error) {
	return c.check(ctx, Databases{Advisories: folder}, DatabaseRequest{})
}

// CheckJavaDatabase opens a Java database; one that cannot be read is a Denied error.
func (c *Client) CheckJavaDatabase(ctx context.Context, folder string) (DatabaseInfo, error) {
	return c.check(ctx, Databases{Java: folder}, DatabaseRequest{Java: true})
}

func (c *Client) check(ctx context.Context, databases Databases, request DatabaseRequest) (DatabaseInfo, error) {
	r, err := c.ask(ctx, databases, Request{Database: &request}, nil)
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

// maxReason bounds what a scanner says of a layer, in bytes: it is shown, and kept.
const maxReason = 2 << 10

func shorten(s string) string {
	return strings.ToValidUTF8(s[:min(len(s), maxReason)], "")
}

// ask has one process answer, one that sees the databases that are named. Whatever a process does to a request (crash, exceed its memory or its time) is an answer
// about what it was asked: it is refused, and the server goes on.
func (c *Client) ask(ctx context.Context, databases Databases, request Request, file *os.File) (Response, error) {
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return Response{}, ctx.Err()
	}
	p, err := c.take(ctx, databases)
	if err != nil {
		return Response{}, &artifact.Error{Kind: artifact.Unavailable, Message: "the scanner does not start, and what is not inspected is not accepted; the operator's log says why", Err: err}
	}
	defer c.done()
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
		return Response{}, uninspectable(shorten(response.Refused))
	case response.Failed != "":
		return Response{}, fmt.Errorf("scanner: %s", shorten(response.Failed))
	}
	return response, nil
}

// Prefer has processes start with the folders of databases, also for work that needs none.
func (c *Client) Prefer(databases Databases) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.preferred = databases
}

// see says whether a process that sees d can do what wants others.
func (d Databases) see(wants Databases) bool {
	return (wants.Advisories == "" || wants.Advisories == d.Advisories) && (wants.Java == "" || wants.Java == d.Java)
}

// or fills in what is not named, if it is there.
func (d Databases) or(other Databases) Databases {
	for _, both := range [][2]*string{{&d.Advisories, &other.Advisories}, {&d.Java, &other.Java}} {
		if *both[0] != "" {
			continue
		}
		if _, err := os.Stat(*both[1]); err == nil {
			*both[0] = *both[1]
		}
	}
	return d
}

// Warm starts a process for work that is about to come, unless there is one. It does not wait.
func (c *Client) Warm(ctx context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.warming != nil || len(c.idle) > 0 || len(c.slots) > 0 {
		return
	}
	done := make(chan struct{})
	c.warming = done
	go func() {
		p, err := c.start(context.WithoutCancel(ctx), Databases{})
		if err == nil {
			c.give(p)
		}
		c.mu.Lock()
		c.warming = nil
		c.mu.Unlock()
		close(done)
	}()
}

// start runs a process. Where it needs no database it gets the preferred one, if that is there.
func (c *Client) start(ctx context.Context, databases Databases) (*process, error) {
	c.mu.Lock()
	preferred := c.preferred
	c.mu.Unlock()
	p, err := start(ctx, c.cfg, databases.or(preferred))
	if err == nil && p.unconfined != "" {
		c.warn(ctx, p.unconfined)
	}
	return p, err
}

// take returns an idle process that sees the databases, or one that soon is, or starts one. With none asked for, any will do.
func (c *Client) take(ctx context.Context, databases Databases) (*process, error) {
	patience := time.NewTimer(c.cfg.Patience)
	defer patience.Stop()
	for patient := true; ; {
		p, surplus, soon, err := c.pick(databases, patient)
		if err != nil {
			return nil, err
		}
		if soon != nil {
			select {
			case <-soon:
			case <-patience.C:
				patient = false
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			continue
		}
		if surplus != nil && surplus.expiry.Stop() {
			surplus.kill()
		}
		if p == nil {
			break
		}
		if p.expiry.Stop() && !p.dead() {
			return p, nil
		}
		p.kill() // it was just about to end, or died while it waited
		c.done()
	}
	p, err := c.start(ctx, databases)
	if err != nil {
		c.done()
	}
	return p, err
}

// done ends what pick began.
func (c *Client) done() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.working--
}

// pick takes a process out of the idle ones. If there is none that fits, one may be warming or, for the patient, be at other
// work, and soon says when to ask again; and if another would be one too many, surplus is the one that has waited longest.
// Unless it is soon, done is to follow.
func (c *Client) pick(databases Databases, patient bool) (fits, surplus *process, soon chan struct{}, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, nil, nil, errors.New("the server is stopping")
	}
	for i, p := range slices.Backward(c.idle) {
		if p.databases.see(databases) {
			c.idle = slices.Delete(c.idle, i, i+1)
			c.working++
			return p, nil, nil, nil
		}
	}
	if usual := c.preferred.see(databases); usual && c.warming != nil {
		return nil, nil, c.warming, nil
	} else if usual && patient && c.working > 0 {
		return nil, nil, c.freed, nil
	}
	// Each that works, this one to be among them, holds a slot.
	if len(c.idle) > 0 && len(c.idle)+len(c.slots) > cap(c.slots) {
		surplus = c.idle[0]
		c.idle = slices.Delete(c.idle, 0, 1)
	}
	c.working++
	return nil, surplus, nil, nil
}

func (c *Client) warn(ctx context.Context, unconfined string) {
	c.mu.Lock()
	again := c.warned
	c.warned = true
	c.mu.Unlock()
	if !again {
		c.cfg.Logger.WarnContext(ctx, "the kernel does not confine the scanner as it should be", "lacks", shorten(unconfined))
	}
}

// give keeps a process for the next request, for a while.
func (c *Client) give(p *process) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		go p.kill()
		return
	}
	p.spared, p.expiry = false, time.AfterFunc(c.cfg.Idle, func() { c.expire(p) })
	c.idle = append(c.idle, p)
	close(c.freed)
	c.freed = make(chan struct{})
}

// expire ends a process that had no work for long; the last one has more time.
func (c *Client) expire(p *process) {
	c.mu.Lock()
	if more := c.last - c.cfg.Idle; more > 0 && len(c.idle) == 1 && c.idle[0] == p && !p.spared {
		p.spared, p.expiry = true, time.AfterFunc(more, func() { c.expire(p) })
		c.mu.Unlock()
		return
	}
	c.idle = slices.DeleteFunc(c.idle, func(other *process) bool { return other == p })
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
	return child.Find("waybill-scanner", "scanner.program", configured)
}
