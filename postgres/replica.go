package postgres

import (
	"context"
	"crypto/rand"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
)

const (
	enlistEvery = 20 * time.Second
	goneAfter   = "1 minute" // without that, for one that does not answer either
	// settleFor is how long one who withdraws waits for a replica that says nothing. What that relies on has run out by then, and
	// it has cut off what rested on it.
	settleFor = artifact.HeardFor + 100*time.Millisecond
)

// replica is this process among those that serve what is in the database. Its row is there before it relies on anything that
// the database said.
type replica struct {
	id string

	mu       sync.Mutex // guards all below
	enlisted time.Time  // when its row was seen to last
	settling map[string]chan string
}

func newReplica() *replica { return &replica{id: rand.Text(), settling: map[string]chan string{}} }

// unlisted has the row seen to again: another database may answer by now.
func (r *replica) unlisted() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.enlisted = time.Time{}
}

// enlist sees to this replica's row, if that was not done a moment ago.
func (db *DB) enlist(ctx context.Context) error {
	r, now := db.replica, time.Now()
	r.mu.Lock()
	done := now.Sub(r.enlisted) < enlistEvery
	r.mu.Unlock()
	if done {
		return nil
	}
	if _, err := db.Pool.Exec(ctx, `insert into replicas (id) values ($1) on conflict (id) do update set seen_at = now()`, r.id); err != nil {
		// A database that cannot write still says whether it is there.
		var one int
		if db.Pool.QueryRow(ctx, `select 1 from replicas where id = $1`, r.id).Scan(&one) != nil {
			return translate(err)
		}
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.enlisted = now
	return nil
}

// leave takes the row away; nothing is served any more.
func (db *DB) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, _ = db.Pool.Exec(ctx, `delete from replicas where id = $1`, db.replica.id) // others wait for a row that stays, once
}

// Settled returns when no replica serves any more what was withdrawn before: each has said so, or what it relies on has run out.
// It takes a second at most.
func (db *DB) Settled(ctx context.Context) {
	bounded, cancel := context.WithTimeout(ctx, settleFor)
	defer cancel()
	left, err := db.askOthers(bounded)
	if err == nil && len(left) == 0 {
		return
	}
	<-bounded.Done()
	if len(left) > 0 {
		forgetting, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_, _ = db.Pool.Exec(forgetting, `delete from replicas where id = any($1) and seen_at < now() - $2::interval`, left, goneAfter)
	}
}

// askOthers asks the other replicas whether they are done, and returns those that did not answer in time.
func (db *DB) askOthers(ctx context.Context) (left []string, err error) {
	rows, err := db.Pool.Query(ctx, `select id from replicas where id <> $1`, db.replica.id)
	if err != nil {
		return nil, err
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(all) == 0 {
		return nil, err
	}
	id, answers := db.replica.settle()
	defer db.replica.forget(id)
	if _, err := db.Pool.Exec(ctx, `select pg_notify('settle', $1)`, id); err != nil {
		return all, err
	}
	waiting := map[string]bool{}
	for _, other := range all {
		waiting[other] = true
	}
	for len(waiting) > 0 {
		select {
		case who := <-answers:
			delete(waiting, who)
		case <-ctx.Done():
			for other := range waiting {
				left = append(left, other)
			}
			return left, ctx.Err()
		}
	}
	return nil, nil
}

// settle returns a question's id, and where the answers to it come.
func (r *replica) settle() (id string, answers <-chan string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	id, room := rand.Text(), make(chan string, 100)
	r.settling[id] = room
	return id, room
}

func (r *replica) forget(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.settling, id)
}

// settled hears an answer: whose question it is of, and who is done.
func (r *replica) settled(answer string) {
	id, who, _ := strings.Cut(answer, " ")
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case r.settling[id] <- who:
	default: // nobody waits any more
	}
}

// settle hears a question, behind all that was withdrawn before it: it answers when nothing of that is served any more. The line is not
// held up.
func (db *DB) settle(ctx context.Context, id string) {
	cut := db.tell(artifact.Repository{})
	go func() {
		cut()
		answering, cancel := context.WithTimeout(ctx, settleFor)
		defer cancel()
		_, _ = db.Pool.Exec(answering, `select pg_notify('settled', $1)`, id+" "+db.replica.id) // who asked does not wait for ever
	}()
}
