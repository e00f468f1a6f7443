package storage

import (
	"context"
	"log/slog"
	"time"

	"waybill/artifact"
)

// The kinds of runs that look after what is stored.
const (
	RunCollection = "gc"
	RunCheck      = "fsck"
	RunRetention  = "retention"
)

// Run is one that came to an end, well or not.
type Run struct {
	ID      int64     `json:"id"`
	Kind    string    `json:"kind" enum:"gc,fsck,retention"`
	Actor   string    `json:"actor"`
	BeganAt time.Time `json:"beganAt"`
	EndedAt time.Time `json:"endedAt"`
	Outcome Outcome   `json:"outcome" doc:"Until it was cut short, where it was"`
	Problem string    `json:"problem,omitempty" doc:"Why it did not come to its end"`
}

// Outcome is what a run came to.
type Outcome struct {
	Removed   int64    `json:"removed,omitempty" doc:"Blobs, uploads and files that a collection removed, or manifests and tags that retention did"`
	Unlinked  int64    `json:"unlinked,omitempty" doc:"Blobs that a collection took from repositories whose manifests do not need them"`
	Freed     int64    `json:"freedBytes,omitempty"`
	Skipped   int64    `json:"skipped,omitempty" doc:"What retention was to remove, and changed meanwhile"`
	Blobs     int64    `json:"blobs,omitempty" doc:"That a check read"`
	Bytes     int64    `json:"bytes,omitempty" doc:"That a check read"`
	Findings  int64    `json:"findings,omitempty" doc:"Blobs that a check found not to be as they should"`
	Found     []Damage `json:"found,omitempty" doc:"Up to 100 of them"`
	Documents int64    `json:"repositories,omitempty" doc:"Repositories that retention was for"`
}

// Damage is a blob that a check found not to be as it should be.
type Damage struct {
	Kind         string                `json:"damage"`
	Digest       artifact.Digest       `json:"digest"`
	Detail       string                `json:"detail"`
	Repositories []artifact.Repository `json:"repositories,omitempty"`
	Quarantined  bool                  `json:"quarantined,omitempty"`
}

// MaxDamages is how many a run keeps.
const MaxDamages = 100

// RunStore keeps runs; *postgres.DB is one.
type RunStore interface {
	// SaveRun keeps a run, and forgets the oldest of its kind when there are more than keep.
	SaveRun(ctx context.Context, r Run, keep int) error
}

// Book remembers what runs came to.
type Book struct {
	Store  RunStore
	Logger *slog.Logger
	Now    func() time.Time
}

const (
	keptRuns = 200 // of each kind
	noteTime = 10 * time.Second
)

// Note remembers a run that began at a time and has ended now. One that another kept from beginning is none. That it
// cannot be written does not undo what was done: it is logged.
func (b *Book) Note(ctx context.Context, kind, actor string, began time.Time, o Outcome, err error) {
	if artifact.KindOf(err) == artifact.Conflict {
		return
	}
	r := Run{Kind: kind, Actor: actor, BeganAt: began.UTC(), EndedAt: b.Now().UTC(), Outcome: o}
	if err != nil {
		r.Problem = "it was cut short; the server's log says by what"
		if ctx.Err() != nil {
			r.Problem = "who asked for it went away before its end, or the server stopped"
		} else if artifact.KindOf(err) != "" {
			r.Problem = err.Error()
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteTime)
	defer cancel()
	if err := b.Store.SaveRun(ctx, r, keptRuns); err != nil {
		b.Logger.WarnContext(ctx, "a run is not noted", "kind", kind, "error", err)
	}
}
