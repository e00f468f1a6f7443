package builder

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/moby/buildkit/client"

	"waybill/artifact"
)

// Event is a piece of what a build says: a line, or what BuildKit reports.
type Event struct {
	Log    string              `json:"log,omitempty"`
	Status *client.SolveStatus `json:"status,omitempty"`
}

// Run is a build as runs of it are stored.
type Run struct {
	artifact.Build
	Request   Request
	Principal artifact.Principal
	Context   artifact.Digest // names the stored context; zero: it is built where it was asked for
}

// RunStore remembers runs and their logs; *postgres.DB is behind one.
type RunStore interface {
	// AddRun records a run. One with a context is queued, unless its inputs wait or are built already: then it is that run's
	// id that is returned. One without runs at owner's.
	AddRun(ctx context.Context, r Run, owner string) (id string, err error)
	// ClaimRun makes a queued run owner's; ok is false when it is not queued any more.
	ClaimRun(ctx context.Context, id, owner string) (r Run, ok bool, err error)
	// BeatRun says that owner is at it. ok is false when the run is not its any more.
	BeatRun(ctx context.Context, id, owner string) (cancelledBy string, ok bool, err error)
	// EndRun stores what a run came to, and of which key.
	EndRun(ctx context.Context, owner string, b artifact.Build) error
	CancelRun(ctx context.Context, id, by string) error
	Run(ctx context.Context, id string) (artifact.Build, error)
	Runs(ctx context.Context, f artifact.BuildFilter) ([]artifact.Build, error)
	// LostRuns takes up what was left by processes that were not heard of for so long.
	LostRuns(ctx context.Context, unheard time.Duration, attempts int) (int, error)
	ForgetRuns(ctx context.Context, age time.Duration) error
	ContextWanted(ctx context.Context, d artifact.Digest) (bool, error)
	// RunChanges tells that a run said something or has another state, wherever it is: what next returns is closed at the first
	// of that after next was called. leave is to be called in the end. RunCancelled tells that it is to end.
	RunChanges(id string) (next func() <-chan struct{}, leave func())
	RunCancelled(id string) (next func() <-chan struct{}, leave func())
	AppendLog(ctx context.Context, id string, body []byte) (seq int64, err error)
	Log(ctx context.Context, id string, after int64, n int) (pieces [][]byte, last int64, err error)
}

// Contexts keeps the contexts of builds that wait, where every replica finds them.
type Contexts interface {
	Put(ctx context.Context, r io.Reader) (artifact.Digest, error)
	Open(d artifact.Digest) (io.ReadCloser, error)
	Delete(ctx context.Context, d artifact.Digest) error
}

// RunsConfig names what Runs needs.
type RunsConfig struct {
	Service  *Service
	Store    RunStore
	Contexts Contexts
	Ready    func() error // why nothing can be built that the native engine does not
	// Stands refuses (Denied) who may not ask for a build any more, when its turn comes; nil refuses nobody.
	Stands func(ctx context.Context, p artifact.Principal) error
	Logger *slog.Logger
	MaxLog int64 // bytes of a log that are kept
}

// Runs are the builds of all replicas: what they say is kept, and they can be followed and cancelled from each. What
// the native engine builds is built where it was asked for, at once; what takes BuildKit is a job of whichever replica
// has room. A build with secrets stays where those are.
type Runs struct {
	cfg   RunsConfig
	owner string
}

// Times of runs.
const (
	beatEvery  = time.Second
	lostAfter  = 30 * time.Second // without a beat
	maxTries   = 3                // of a run whose server was killed
	lookEvery  = 5 * time.Second  // when nothing is heard of a run that is followed
	writeEvery = 200 * time.Millisecond
	keepRuns   = 30 * 24 * time.Hour
)

// NewRuns returns runs whose owner is this process.
func NewRuns(cfg RunsConfig) *Runs { return &Runs{cfg, rand.Text()} }

// Log is where a request's caller hears of it.
type Log interface {
	StatusLog
	// Begun tells the run's id before anything else is said of it; joined says that others asked for it first.
	Begun(id string, joined bool)
}

// Build is Service.Build, as a run.
func (r *Runs) Build(ctx context.Context, p artifact.Principal, q Request, archive io.Reader, private Private, log Log) (Result, error) {
	work, err := r.cfg.Service.prepare(ctx, p, q, archive)
	if err != nil {
		return Result{}, err
	}
	defer work.close()
	if done, ok, err := r.cfg.Service.before(ctx, p, work.plan); err != nil || ok {
		return r.cfg.Service.tagged(ctx, p, q, done, err)
	}
	run := Run{Build: artifact.Build{ID: rand.Text(), Repository: q.Repository, Key: work.plan.Key(), AskedBy: p.Name, Attempts: 1}, Request: q, Principal: p}
	work.plan.private = private
	if work.plan.foreign() == "" || !private.empty() {
		if run.ID, err = r.cfg.Store.AddRun(ctx, run, r.owner); err != nil {
			return Result{}, err
		}
		log.Begun(run.ID, false)
		return r.run(ctx, run, work, log)
	}
	if err := r.cfg.Ready(); err != nil {
		return Result{}, artifact.Errorf(artifact.Unsupported, "%s: %w", work.plan.foreign(), err)
	}
	run.Request = work.plan.request // with the commit that was fetched
	run.Request.Source.Git = ""
	ended, err := r.await(ctx, run, work, log)
	if err != nil {
		return Result{}, err
	}
	return r.cfg.Service.tagged(ctx, p, q, Result{Repository: q.Repository, Digest: ended.Digest, Key: ended.Key, Built: ended.New, BuiltBy: ended.AskedBy, BuiltAt: ended.StartedAt}, failure(ended))
}

// await has a run queued, or joins the one that is queued already, until it has ended. What whoever asked for it first cancels is
// queued anew for one who joined; what anybody else cancels has ended for all.
func (r *Runs) await(ctx context.Context, run Run, work *work, log Log) (artifact.Build, error) {
	for {
		run.ID = rand.Text()
		own := run.ID
		if err := r.queue(ctx, &run, work); err != nil {
			return artifact.Build{}, err
		}
		joined := run.ID != own
		log.Begun(run.ID, joined)
		if joined {
			_ = r.cfg.Contexts.Delete(ctx, run.Context) // the other has its own
		} else {
			work.close() // it is stored now
		}
		ended, err := r.Follow(ctx, run.ID, 0, func(_ int64, e Event) { tell(log, e) })
		if err != nil || !joined || ended.State != artifact.BuildCancelled || ended.CancelledBy != ended.AskedBy {
			return ended, err
		}
		fmt.Fprintf(log, "%s, who asked for this first, cancelled it; it is begun anew\n", ended.AskedBy)
	}
}

func tell(log StatusLog, e Event) {
	if e.Status != nil {
		log.Status(e.Status)
	} else {
		fmt.Fprintln(log, e.Log)
	}
}

// failure is why a run that has ended came to nothing.
func failure(b artifact.Build) error {
	switch b.State {
	case artifact.BuildDone:
		return nil
	case artifact.BuildCancelled:
		return artifact.Errorf(artifact.Conflict, "%s", b.Failure)
	default:
		return artifact.Errorf(artifact.Invalid, "%s", b.Failure)
	}
}

// queue stores the context and the run. A crash between the two leaves a context, which Tidy finds no run for.
func (r *Runs) queue(ctx context.Context, run *Run, work *work) (err error) {
	packed, w := io.Pipe()
	go func() { w.CloseWithError(work.plan.packSent(w)) }()
	run.Context, err = r.cfg.Contexts.Put(ctx, packed)
	_ = packed.Close()
	if err != nil {
		return err
	}
	run.ID, err = r.cfg.Store.AddRun(ctx, *run, "")
	return err
}

// Work builds a queued run, for the job that is made of each.
func (r *Runs) Work(ctx context.Context, id string) error {
	run, ok, err := r.cfg.Store.ClaimRun(ctx, id, r.owner)
	if err != nil || !ok {
		return err
	}
	defer func() {
		if wanted, err := r.cfg.Store.ContextWanted(context.WithoutCancel(ctx), run.Context); err == nil && !wanted {
			_ = r.cfg.Contexts.Delete(context.WithoutCancel(ctx), run.Context)
		}
	}()
	if err := r.stands(ctx, run.Principal); artifact.KindOf(err) == artifact.Denied {
		return r.end(ctx, run.Build, artifact.BuildFailed, Result{}, err)
	} else if err != nil {
		return err
	}
	archive, err := r.cfg.Contexts.Open(run.Context)
	if err != nil {
		return errors.Join(err, r.end(ctx, run.Build, artifact.BuildFailed, Result{}, artifact.Errorf(artifact.Unavailable, "the build's context is not there any more: %w", err)))
	}
	defer archive.Close()
	work, err := r.cfg.Service.prepare(ctx, run.Principal, run.Request, archive)
	if err != nil {
		return r.end(ctx, run.Build, artifact.BuildFailed, Result{}, err)
	}
	defer work.close()
	_, err = r.run(ctx, run, work, nobody{io.Discard})
	if artifact.KindOf(err) != "" {
		return nil // it is an answer, which the run has
	}
	return err
}

// stands refuses a build whose asker lost the right to it while it waited.
func (r *Runs) stands(ctx context.Context, p artifact.Principal) error {
	if r.cfg.Stands == nil {
		return nil
	}
	err := r.cfg.Stands(ctx, p)
	if artifact.KindOf(err) == artifact.Denied {
		return artifact.Errorf(artifact.Denied, "nothing was built: %w", err)
	}
	return err
}

// nobody listens.
type nobody struct{ io.Writer }

func (nobody) Status(*client.SolveStatus) {}

// run builds here, and says every second that it does.
func (r *Runs) run(ctx context.Context, run Run, work *work, also StatusLog) (Result, error) {
	run.Key = work.plan.Key() // another than it was queued with when a base's tag moved while it waited
	building, cancel := context.WithCancelCause(ctx)
	beating := make(chan struct{})
	go func() {
		defer close(beating)
		r.beat(building, run.ID, cancel)
	}()
	kept := r.newRunLog(ctx, run.ID, also)
	if run.Attempts > 1 {
		fmt.Fprintf(kept, "the server that built this was killed; this is attempt %d\n", run.Attempts)
	}
	result, err := r.cfg.Service.finish(building, run.Principal, work, kept)
	state := artifact.BuildDone
	var cancelled errCancelled
	switch cause := context.Cause(building); {
	case err == nil:
	case errors.As(cause, &cancelled):
		state = artifact.BuildCancelled
		if artifact.KindOf(err) == "" {
			err = artifact.Errorf(artifact.Conflict, "the build was %v", cancelled)
		}
	case errors.Is(cause, context.Canceled):
		state, err = artifact.BuildCancelled, cause // who asked for it left, or the server stops
	case errors.Is(cause, errTaken):
		err = errTaken
	default:
		state = artifact.BuildFailed
	}
	kept.close()
	cancel(nil)
	<-beating
	if errors.Is(err, errTaken) {
		return result, err
	}
	if ctx.Err() != nil && !errors.Is(context.Cause(ctx), context.DeadlineExceeded) && !run.Context.IsZero() {
		return result, ctx.Err() // the server stops: the run is taken up by another, or at the next start
	}
	if ended := r.end(ctx, run.Build, state, result, err); err == nil {
		err = ended
	}
	return result, err
}

// end stores what a run came to.
func (r *Runs) end(ctx context.Context, b artifact.Build, state artifact.BuildState, result Result, err error) error {
	b.State, b.Digest, b.New = state, result.Digest, result.Built
	if err != nil {
		b.Failure, b.Digest = "it failed here; the server's log says why", artifact.Digest{}
		var known *artifact.Error
		switch {
		case errors.As(err, &known):
			b.Failure = known.Message
		case state == artifact.BuildCancelled:
			b.Failure = "who asked for it left"
		default:
			r.cfg.Logger.ErrorContext(ctx, "build failed", "build", b.ID, "repository", b.Repository, "error", err)
		}
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return r.cfg.Store.EndRun(ending, r.owner, b)
}

// errTaken: this process was not heard of for too long, and another builds.
var errTaken = errors.New("another process took the build up")

func (r *Runs) beat(ctx context.Context, id string, cancel context.CancelCauseFunc) {
	cancelled, leave := r.cfg.Store.RunCancelled(id)
	defer leave()
	for tick := time.NewTicker(beatEvery); ; {
		select {
		case <-ctx.Done():
			tick.Stop()
			return
		case <-cancelled():
		case <-tick.C:
		}
		by, ok, err := r.cfg.Store.BeatRun(ctx, id, r.owner)
		switch {
		case err != nil: // the database is away; whether the run is still ours is said by the next
		case !ok:
			cancel(errTaken)
		case by != "":
			cancel(errCancelled{by})
		}
	}
}

// Follow tells what a run says behind a piece of its log, with the number of each piece, until it has ended.
func (r *Runs) Follow(ctx context.Context, id string, after int64, tell func(seq int64, e Event)) (artifact.Build, error) {
	changed, leave := r.cfg.Store.RunChanges(id)
	defer leave()
	for {
		more := changed()
		b, err := r.cfg.Store.Run(ctx, id) // first, so that nothing said before its end is missed
		if err != nil {
			return b, err
		}
		for {
			pieces, last, err := r.cfg.Store.Log(ctx, id, after, 16)
			if err != nil {
				return b, err
			}
			for i, piece := range pieces {
				seq := last - int64(len(pieces)-1-i)
				for lines := json.NewDecoder(bytes.NewReader(piece)); ; {
					var e Event
					if lines.Decode(&e) != nil {
						break
					}
					tell(seq, e)
				}
			}
			if after = last; len(pieces) == 0 {
				break
			}
		}
		if b.State.Ended() {
			return b, nil
		}
		select {
		case <-ctx.Done():
			return b, ctx.Err()
		case <-more:
		case <-time.After(lookEvery):
		}
	}
}

// Run returns a run of an id, or NotFound.
func (r *Runs) Run(ctx context.Context, id string) (artifact.Build, error) {
	return r.cfg.Store.Run(ctx, id)
}

// Runs returns runs, newest first.
func (r *Runs) Runs(ctx context.Context, f artifact.BuildFilter) ([]artifact.Build, error) {
	return r.cfg.Store.Runs(ctx, f)
}

// Cancel ends a run; what of it runs ends within moments.
func (r *Runs) Cancel(ctx context.Context, id, by string) error {
	return r.cfg.Store.CancelRun(ctx, id, by)
}

// Tidy takes up what killed processes left, and forgets what ended long ago. alone says that no other process builds, so that
// whatever runs was left.
func (r *Runs) Tidy(ctx context.Context, alone bool) error {
	unheard := lostAfter
	if alone {
		unheard = 0
	}
	n, err := r.cfg.Store.LostRuns(ctx, unheard, maxTries)
	if n > 0 {
		r.cfg.Logger.WarnContext(ctx, "builds whose server ended are taken up, or failed", "builds", n)
	}
	return errors.Join(err, r.cfg.Store.ForgetRuns(ctx, keepRuns))
}

// work is an unpacked context with its plan.
type work struct {
	plan *Plan
	temp string
	once sync.Once
}

func (w *work) close() {
	w.once.Do(func() {
		_ = w.plan.Close()
		_ = os.RemoveAll(w.temp)
	})
}
