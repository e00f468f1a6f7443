package artifact

import (
	"context"
	"time"
)

type answeringKey struct{}

// Answering marks work that a request waits for: a database that does not answer within its bound ends it.
func Answering(ctx context.Context) context.Context {
	return context.WithValue(ctx, answeringKey{}, true)
}

// TakesTime takes that mark away, for what may take as long as it does: an audit, a collection, an export.
func TakesTime(ctx context.Context) context.Context {
	return context.WithValue(ctx, answeringKey{}, false)
}

// IsAnswering reports whether ctx is marked so.
func IsAnswering(ctx context.Context) bool {
	marked, _ := ctx.Value(answeringKey{}).(bool)
	return marked
}

type againKey struct{}

// DoneAgain marks work that is done again when it was lost: a job that is not recorded as done until it is. Its database
// commits need not wait for the disk, one by one; the order in which they reach it stays.
func DoneAgain(ctx context.Context) context.Context { return context.WithValue(ctx, againKey{}, true) }

// IsDoneAgain reports whether ctx is marked so.
func IsDoneAgain(ctx context.Context) bool { marked, _ := ctx.Value(againKey{}).(bool); return marked }

// HeardFor is how long what the database said is relied upon, at most: what is remembered of it, and that an answer which is under
// way may go on. So long after a recall, and some moments, no replica serves what was recalled, whether or not it heard of it.
const HeardFor = 900 * time.Millisecond

type afreshKey struct{}

// Afresh marks a question that the database is to answer now: what is remembered will not do.
func Afresh(ctx context.Context) context.Context { return context.WithValue(ctx, afreshKey{}, true) }

// IsAfresh reports whether ctx is marked so.
func IsAfresh(ctx context.Context) bool { marked, _ := ctx.Value(afreshKey{}).(bool); return marked }
