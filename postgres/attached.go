package postgres

import (
	"context"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
)

// attached tells what has arrived that speaks for something: a referrer, or what cosign attests at its tag. What Waybill
// attaches itself it takes into account where it does so; what signs nothing but an image changes no verdict.
func (db *DB) attached(ctx context.Context, tx pgx.Tx, p artifact.Push) error {
	if db.OnAttached == nil || p.PushedBy == artifact.System.Name {
		return nil
	}
	var subjects []string
	for _, tag := range p.Tags {
		if subject, ok := attestedAt(tag); ok {
			subjects = append(subjects, subject)
		}
	}
	if p.Manifest.Subject != nil {
		subjects = append(subjects, p.Manifest.Subject.Digest.String())
	}
	return db.tellAttached(ctx, tx, subjects)
}

// detached tells, before a manifest is deleted, of what it speaks for.
func (db *DB) detached(ctx context.Context, tx pgx.Tx, repository artifact.Repository, digest artifact.Digest) error {
	if db.OnAttached == nil {
		return nil
	}
	rows, err := tx.Query(ctx, `select subject from manifests where repository = $1 and digest = $2 and subject is not null
		union all select name from tags where repository = $1 and digest = $2 and name like 'sha%.att'`, repository, digest)
	if err != nil {
		return err
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for i, name := range found {
		if tag, err := artifact.ParseTag(name); err == nil {
			found[i], _ = attestedAt(tag)
		}
	}
	return db.tellAttached(ctx, tx, found)
}

func (db *DB) tellAttached(ctx context.Context, tx pgx.Tx, subjects []string) error {
	slices.Sort(subjects)
	for _, subject := range slices.Compact(subjects) {
		digest, err := artifact.ParseDigest(subject)
		if err != nil {
			continue
		}
		if err := db.OnAttached(ctx, tx, digest); err != nil {
			return err
		}
	}
	return nil
}

// attestedAt returns the digest whose attestations cosign keeps at a tag.
func attestedAt(tag artifact.Tag) (digest string, ok bool) {
	name, ok := strings.CutSuffix(tag.String(), ".att")
	return strings.Replace(name, "-", ":", 1), ok && tag.IsCosign()
}
