package artifact

import "context"

type againKey struct{}

// DoneAgain marks work that is done again when it was lost: a job that is not recorded as done until it is. Its database
// commits need not wait for the disk, one by one; the order in which they reach it stays.
func DoneAgain(ctx context.Context) context.Context { return context.WithValue(ctx, againKey{}, true) }

// IsDoneAgain reports whether ctx is marked so.
func IsDoneAgain(ctx context.Context) bool { marked, _ := ctx.Value(againKey{}).(bool); return marked }
