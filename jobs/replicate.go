package jobs

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"waybill/artifact"
)

// queueReplication is apart, so that a registry that is slow or away holds up nothing here.
const queueReplication = "replication"

// replicateTimeout is for one attempt; the next goes on from where it ended.
const replicateTimeout = 2 * time.Hour

// replicateArgs asks for a promoted digest to be copied to another registry.
type replicateArgs struct {
	Target      string               `json:"target"`
	Repository  artifact.Repository  `json:"repository"`
	Digest      artifact.Digest      `json:"digest"`
	Environment artifact.Environment `json:"environment"`
	Version     string               `json:"version,omitempty"`
}

func (replicateArgs) Kind() string { return "replicate" }

// InsertOpts: it is tried until it is done, however long the other registry is away.
func (replicateArgs) InsertOpts() river.InsertOpts {
	return river.InsertOpts{Queue: queueReplication, MaxAttempts: math.MaxInt16}
}

// Replicator copies promoted digests to other registries.
type Replicator struct {
	river.WorkerDefaults[replicateArgs]

	// Copy makes one attempt; an error says to try again.
	Copy func(ctx context.Context, r artifact.Replication) (artifact.Replication, error)
	// Save records what an attempt came to.
	Save   func(ctx context.Context, r artifact.Replication) error
	Logger *slog.Logger
}

// Timeout is longer than other jobs': images may be large, and lines slow.
func (*Replicator) Timeout(*river.Job[replicateArgs]) time.Duration { return replicateTimeout }

// NextRetry waits from two seconds up to five minutes.
func (*Replicator) NextRetry(job *river.Job[replicateArgs]) time.Time {
	return time.Now().Add(min(time.Second<<min(job.Attempt, 9), 5*time.Minute))
}

// Work makes one attempt, and says what it came to where people look.
func (r *Replicator) Work(ctx context.Context, job *river.Job[replicateArgs]) error {
	a := job.Args
	asked := artifact.Replication{Target: a.Target, Repository: a.Repository, Digest: a.Digest, Environment: a.Environment, Version: a.Version, Attempts: job.Attempt}
	done, err := r.Copy(ctx, asked)
	if err != nil {
		done = asked
		done.State, done.Problem = artifact.ReplicationFailed, "it failed here; the server's log says why"
		var known *artifact.Error
		if errors.As(err, &known) {
			done.Problem = known.Message
		}
		r.Logger.Warn("not replicated yet", "target", a.Target, "repository", a.Repository, "digest", a.Digest, "environment", a.Environment, "attempt", job.Attempt, "error", err)
	}
	return errors.Join(err, r.Save(context.WithoutCancel(ctx), done))
}

// Replicate inserts, in the promotion's own transaction, the copy of what was promoted.
func (c *Client) Replicate(ctx context.Context, tx pgx.Tx, r artifact.Replication) error {
	_, err := c.river.InsertTx(ctx, tx, replicateArgs{r.Target, r.Repository, r.Digest, r.Environment, r.Version}, nil)
	return err
}
