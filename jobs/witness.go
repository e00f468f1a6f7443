package jobs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/riverqueue/river"

	"waybill/ledger"
)

// witnessArgs asks for the newest checkpoint to be cosigned.
type witnessArgs struct{}

func (witnessArgs) Kind() string { return "witness" }
func (witnessArgs) InsertOpts() river.InsertOpts {
	return river.InsertOpts{Queue: queueWebhook, MaxAttempts: 1, UniqueOpts: river.UniqueOpts{ByPeriod: askWitness}}
}

// askWitness is how often witnesses are asked, if there is something new.
const askWitness = 10 * time.Second

// Bounds of what a witness may do.
const (
	witnessTimeout = 10 * time.Second
	maxCosigned    = 64 << 10 // bytes of its answer
)

// Witness is somebody who cosigns checkpoints.
type Witness struct {
	Name string // in its key
	URL  string // its submission prefix; below it is add-checkpoint
	Key  string // its verifier key
}

// WitnessStore is what a Witnesser asks; *postgres.DB is most of one.
type WitnessStore interface {
	// Checkpoint returns the newest, signed.
	Checkpoint(ctx context.Context) (ledger.Checkpoint, string, error)
	ProveConsistency(ctx context.Context, newer, older int64) ([]ledger.Hash, error)
	CosignedSize(ctx context.Context, witness string) (int64, error)
	SaveCosignature(ctx context.Context, size int64, witness, line string) error
}

// Witnesser has witnesses cosign checkpoints (C2SP tlog-witness). One that is away holds up no other, and is asked again.
type Witnesser struct {
	river.WorkerDefaults[witnessArgs]

	Store     WitnessStore
	Witnesses []Witness
	Client    *http.Client // nil: one that follows no redirect
	Logger    *slog.Logger
}

// Work asks each witness who has not cosigned the newest checkpoint.
func (w *Witnesser) Work(ctx context.Context, _ *river.Job[witnessArgs]) error {
	newest, note, err := w.Store.Checkpoint(ctx)
	if err != nil || newest.Size == 0 {
		return err
	}
	for _, witness := range w.Witnesses {
		if err := w.ask(ctx, witness, newest, note); err != nil && ctx.Err() == nil {
			w.Logger.WarnContext(ctx, "a checkpoint is not cosigned; it is asked for again", "witness", witness.Name, "size", newest.Size, "error", err)
		}
	}
	return nil
}

// ask has one cosign the newest checkpoint. Who cosigned another one than is known here says which, and is asked once more.
func (w *Witnesser) ask(ctx context.Context, witness Witness, newest ledger.Checkpoint, signed string) error {
	old, err := w.Store.CosignedSize(ctx, witness.Name)
	if err != nil || old == newest.Size {
		return err
	}
	lines, err := w.add(ctx, witness, old, newest, signed)
	var conflict *ledger.Conflict
	if errors.As(err, &conflict) && conflict.Size != old {
		if conflict.Size > newest.Size {
			return fmt.Errorf("it has cosigned a checkpoint of %d entries, and the ledger has %d: it was restored from an older copy, or somebody else has its key", conflict.Size, newest.Size)
		}
		lines, err = w.add(ctx, witness, conflict.Size, newest, signed)
	}
	if err != nil {
		return err
	}
	_, line, ok := ledger.CosignedBy(ledger.WithCosignatures(signed, lines), witness.Key)
	if !ok {
		return errors.New("its answer is no cosignature by its key")
	}
	return w.Store.SaveCosignature(ctx, newest.Size, witness.Name, line)
}

// add posts a checkpoint, with the proof that it extends the tree of old entries, and returns the lines of the answer.
func (w *Witnesser) add(ctx context.Context, witness Witness, old int64, newest ledger.Checkpoint, signed string) (string, error) {
	request := ledger.AddCheckpoint{Old: old, Checkpoint: signed}
	if old > 0 && old < newest.Size {
		var err error
		if request.Proof, err = w.Store.ProveConsistency(ctx, newest.Size, old); err != nil {
			return "", err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, witnessTimeout)
	defer cancel()
	post, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimRight(witness.URL, "/")+"/add-checkpoint", bytes.NewReader(request.Encode()))
	if err != nil {
		return "", err
	}
	client := w.Client
	if client == nil {
		client = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	answer, err := client.Do(post)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxCosigned))
	if err != nil {
		return "", err
	}
	switch answer.StatusCode {
	case http.StatusOK:
		return string(body), nil
	case http.StatusConflict:
		size, err := strconv.ParseInt(strings.TrimSpace(string(body)), 10, 64)
		if err != nil || size < 0 {
			return "", fmt.Errorf("it answered %s without a size", answer.Status)
		}
		return "", &ledger.Conflict{Size: size}
	case http.StatusUnprocessableEntity:
		return "", fmt.Errorf("it answered %s: this ledger does not extend the one that it cosigned, of %d entries; run `waybill audit`", answer.Status, old)
	}
	return "", fmt.Errorf("it answered %s: %.200q", answer.Status, body)
}

func (w *Witnesser) periodic() *river.PeriodicJob {
	return river.NewPeriodicJob(river.PeriodicInterval(askWitness), func() (river.JobArgs, *river.InsertOpts) { return witnessArgs{}, nil }, &river.PeriodicJobOpts{RunOnStart: true})
}
