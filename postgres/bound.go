package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"waybill/artifact"
)

// defaultTimeout is how long a statement that somebody waits for may take: many times what any takes of a database that is
// well, and so little that a client still hears why.
const defaultTimeout = 15 * time.Second

// bound ends statements that somebody waits for, and their waits for a connection, when the database does not answer in time:
// one that hangs takes connections and says nothing. pgx goes on with the context that a tracer's start returns, and gives
// it to the end. Work that takes its time (artifact.TakesTime), and jobs, wait on the connection that they have until the database goes on.
type bound struct{ most time.Duration }

type endKey struct{}

func (b bound) start(ctx context.Context) context.Context {
	if !artifact.IsAnswering(ctx) {
		return ctx
	}
	ctx, cancel := context.WithTimeout(ctx, b.most)
	return context.WithValue(ctx, endKey{}, cancel)
}

func (b bound) end(ctx context.Context) {
	if cancel, ok := ctx.Value(endKey{}).(context.CancelFunc); ok && artifact.IsAnswering(ctx) {
		cancel()
	}
}

// TraceQueryStart implements pgx.QueryTracer. Until its end the rows are read, too.
func (b bound) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return b.start(ctx)
}

// TraceQueryEnd implements pgx.QueryTracer.
func (b bound) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryEndData) { b.end(ctx) }

// TraceBatchStart implements pgx.BatchTracer.
func (b bound) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return b.start(ctx)
}

// TraceBatchQuery implements pgx.BatchTracer.
func (bound) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

// TraceBatchEnd implements pgx.BatchTracer.
func (b bound) TraceBatchEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchEndData) { b.end(ctx) }

// TraceCopyFromStart implements pgx.CopyFromTracer.
func (b bound) TraceCopyFromStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceCopyFromStartData) context.Context {
	return b.start(ctx)
}

// TraceCopyFromEnd implements pgx.CopyFromTracer.
func (b bound) TraceCopyFromEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceCopyFromEndData) {
	b.end(ctx)
}

// TraceAcquireStart implements pgxpool.AcquireTracer.
func (b bound) TraceAcquireStart(ctx context.Context, _ *pgxpool.Pool, _ pgxpool.TraceAcquireStartData) context.Context {
	return b.start(ctx)
}

// TraceAcquireEnd implements pgxpool.AcquireTracer.
func (b bound) TraceAcquireEnd(ctx context.Context, _ *pgxpool.Pool, _ pgxpool.TraceAcquireEndData) {
	b.end(ctx)
}
