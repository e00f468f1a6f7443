package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/klauspost/compress/zstd"

	"waybill/artifact"
)

// retryFailed is how long a layer that could not be inspected stays refused without another try: a crash may have
// had a passing cause, a bomb stays one.
const retryFailed = 5 * time.Minute

// LayerFacts returns what is known of a layer. found is false when it must be inspected (again); a layer that
// cannot be inspected is a Denied error.
func (db *DB) LayerFacts(ctx context.Context, digest artifact.Digest) (facts artifact.LayerFacts, found bool, err error) {
	var (
		packed  []byte
		failure string
		at      time.Time
	)
	err = db.Pool.QueryRow(ctx, `select facts, failure, inspected_at from layer_facts where digest = $1 and format = $2`,
		digest, artifact.FactsFormat).Scan(&packed, &failure, &at)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return facts, false, nil
	case err != nil:
		return facts, false, translate(err)
	case failure != "" && time.Since(at) > retryFailed:
		return facts, false, nil
	case failure != "":
		return facts, true, artifact.Errorf(artifact.Denied, "%s", failure)
	}
	return facts, true, unpack(packed, &facts)
}

// FactsBytes returns of layers that have facts how many bytes those are when they are read; it reads the first few of each.
func (db *DB) FactsBytes(ctx context.Context, layers []artifact.Digest) (map[artifact.Digest]int64, error) {
	names := make([]string, len(layers))
	for i, d := range layers {
		names[i] = d.String()
	}
	rows, err := db.Pool.Query(ctx, `select digest, substring(facts for $3) from layer_facts where digest = any($1) and format = $2 and facts is not null`, names, artifact.FactsFormat, zstd.HeaderMaxSize)
	if err != nil {
		return nil, translate(err)
	}
	bytes := map[artifact.Digest]int64{}
	var (
		digest artifact.Digest
		head   []byte
	)
	_, err = pgx.ForEachRow(rows, []any{&digest, &head}, func() error {
		var frame zstd.Header
		if err := frame.Decode(head); err != nil {
			return fmt.Errorf("stored facts of %s: %w", digest, err)
		}
		bytes[digest] = int64(frame.FrameContentSize)
		return nil
	})
	return bytes, translate(err)
}

// LockLayer waits until no other replica inspects a layer, and keeps it so until release is called. It holds a connection
// of its own for that long.
func (db *DB) LockLayer(ctx context.Context, digest artifact.Digest) (release func(), err error) {
	return hold(ctx, db.holds.layers, "layer/"+digest.String())
}

// SaveLayer keeps a layer's facts and the scanner's analysis of it, together.
func (db *DB) SaveLayer(ctx context.Context, facts artifact.LayerFacts, analyser string, analysis []byte) error {
	packed, err := pack(facts)
	if err != nil {
		return err
	}
	if analysis, err = compress(analysis); err != nil {
		return err
	}
	_, err = db.loose.Exec(ctx, `with facts as (insert into layer_facts (digest, format, diff_id, facts) values ($1, $2, $3, $4)
			on conflict (digest) do update set format = excluded.format, diff_id = excluded.diff_id, facts = excluded.facts, failure = '', inspected_at = now())
		insert into layer_analyses (digest, analyser, analysis) values ($1, $5, $6) on conflict (digest, analyser) do update set analysis = excluded.analysis, made_at = now()`,
		facts.Digest, facts.Format, facts.DiffID, packed, analyser, analysis)
	return translate(err)
}

// SaveLayerFailure keeps why a layer cannot be inspected.
func (db *DB) SaveLayerFailure(ctx context.Context, digest artifact.Digest, why string) error {
	_, err := db.Pool.Exec(ctx, `insert into layer_facts (digest, format, failure) values ($1, $2, $3)
		on conflict (digest) do update set format = excluded.format, facts = null, failure = excluded.failure, inspected_at = now()`,
		digest, artifact.FactsFormat, why)
	return translate(err)
}

// LayerAnalyses returns the scanner's analysis of each layer, in the order asked for, or NotFound when one is missing.
func (db *DB) LayerAnalyses(ctx context.Context, layers []artifact.Digest) ([][]byte, error) {
	names := make([]string, len(layers))
	for i, d := range layers {
		names[i] = d.String()
	}
	rows, err := db.Pool.Query(ctx, `select distinct on (digest) digest, analysis from layer_analyses where digest = any($1) order by digest, made_at desc, analyser desc`, names)
	if err != nil {
		return nil, translate(err)
	}
	byDigest := map[artifact.Digest][]byte{}
	var (
		digest   artifact.Digest
		analysis []byte
	)
	if _, err := pgx.ForEachRow(rows, []any{&digest, &analysis}, func() error {
		byDigest[digest], err = decompress(analysis)
		return err
	}); err != nil {
		return nil, translate(err)
	}
	ordered := make([][]byte, len(layers))
	for i, d := range layers {
		if ordered[i] = byDigest[d]; ordered[i] == nil {
			return nil, artifact.Errorf(artifact.NotFound, "layer %s has not been analysed", d)
		}
	}
	return ordered, nil
}
