package postgres_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"waybill/artifact"
	"waybill/postgres"
)

// record has the service sign a digest, from intent to outcome.
func (s *shop) record(digest artifact.Digest, key string) {
	s.t.Helper()
	policy := artifact.DigestOf([]byte("policy"))
	done, err := s.db.IntendSignature(s.ctx, s.repository, digest, "", keyID(key), policy)
	require.NoError(s.t, err)
	require.False(s.t, done)
	signature := s.put("signature of "+digest.String()+" by "+key, func(p *artifact.Push) {
		p.IsImage = false
		p.Manifest.Layers[0].MediaType = "application/vnd.dev.cosign.simplesigning.v1+json"
	})
	_, err = s.db.Pool.Exec(s.ctx, `insert into tags (repository, name, digest, updated_by) values ($1, $2, $3, 'system') on conflict (repository, name) do update set digest = excluded.digest`,
		s.repository, "sha256-"+digest.Hex()+".sig", signature)
	require.NoError(s.t, err)
	require.NoError(s.t, s.db.RecordSignature(s.ctx, s.repository, digest, "", keyID(key), policy, signature))
}

// TestRevokedKey: what a revoked key signed counts no longer, until it is signed again; but for what the ledger proves to
// be older than a given instant.
func TestRevokedKey(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	var told []string
	s.db.OnKeyRevoked = func(_ context.Context, _ pgx.Tx, id string) error { told = append(told, id); return nil }
	v1, v2, v3 := s.put("v1", tagged(t, "v1")), s.put("v2", tagged(t, "v2")), s.put("v3", tagged(t, "v3"))
	s.record(v1, "key-1")
	between := time.Now()
	s.record(v2, "key-1")
	s.rotate("key-2")
	s.record(v3, "key-2")
	s.mustPromote("v1", "dev")

	_, err := s.db.RevokeKey(s.ctx, "user:ada", keyID("key-2"), "lost", time.Time{})
	require.Equal(t, artifact.Conflict, artifact.KindOf(err), "the one that signs")
	_, err = s.db.RevokeKey(s.ctx, "user:ada", keyID("key-9"), "lost", time.Time{})
	require.Equal(t, artifact.NotFound, artifact.KindOf(err))
	_, err = s.db.RevokeKey(s.ctx, "user:ada", keyID("key-1"), "lost", time.Now().Add(time.Hour))
	require.Equal(t, artifact.Invalid, artifact.KindOf(err))
	require.Empty(t, told)
	k, err := s.db.RevokeKey(s.ctx, "user:ada", keyID("key-1"), "lost", between)
	require.NoError(t, err)
	require.Equal(t, []string{keyID("key-1")}, told)
	require.Equal(t, between.UTC().Truncate(time.Microsecond), k.Revocation.Before)
	_, err = s.db.RevokeKey(s.ctx, "user:ada", keyID("key-1"), "lost", time.Time{})
	require.Equal(t, artifact.Conflict, artifact.KindOf(err), "already")

	s.mustPromote("v1", "dev")
	s.mustPromote("v3", "dev")
	_, err = s.promote("v2", "dev")
	require.Equal(t, []string{"signed"}, rules(t, err))
	require.ErrorContains(t, err, "was revoked by user:ada: lost")
	indexes, err := s.db.SignedEntries(s.ctx, s.repository, v1, keyID("key-1"), between)
	require.NoError(t, err)
	require.Len(t, indexes, 1)
	indexes, err = s.db.SignedEntries(s.ctx, s.repository, v2, keyID("key-1"), between)
	require.NoError(t, err)
	require.Empty(t, indexes)
	carriers, err := s.db.SignedBefore(s.ctx, s.repository, v1, "", keyID("key-1"), between)
	require.NoError(t, err)
	require.Len(t, carriers, 1)

	// A row that was made to look older proves nothing.
	_, err = s.db.Pool.Exec(s.ctx, `update signatures set signed_at = $1 where digest = $2`, between.Add(-time.Hour), v2)
	require.NoError(t, err)
	_, err = s.promote("v2", "dev")
	require.Equal(t, []string{"signed"}, rules(t, err))

	// The job signs again what is left, in pages.
	var left []artifact.Digest
	for after := (artifact.SignedStatement{}); ; {
		page, err := s.db.SignedBy(s.ctx, keyID("key-1"), after, 1)
		require.NoError(t, err)
		if len(page) == 0 {
			break
		}
		after = page[0]
		left = append(left, after.Digest)
	}
	require.ElementsMatch(t, []artifact.Digest{v1, v2}, left)
	for _, d := range left {
		s.record(d, "key-2")
	}
	page, err := s.db.SignedBy(s.ctx, keyID("key-1"), artifact.SignedStatement{}, 10)
	require.NoError(t, err)
	require.Empty(t, page)
	s.mustPromote("v2", "dev")
}

// TestSignatureOfRevokedKey: what a key signs while it is revoked is not recorded.
func TestSignatureOfRevokedKey(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	v1 := s.put("v1", tagged(t, "v1"))
	policy := artifact.DigestOf([]byte("policy"))
	done, err := s.db.IntendSignature(s.ctx, s.repository, v1, "", keyID("key-1"), policy)
	require.NoError(t, err)
	require.False(t, done)
	s.rotate("key-2")
	_, err = s.db.RevokeKey(s.ctx, "user:ada", keyID("key-1"), "lost", time.Time{})
	require.NoError(t, err)
	err = s.db.RecordSignature(s.ctx, s.repository, v1, "", keyID("key-1"), policy, v1)
	require.Equal(t, artifact.Conflict, artifact.KindOf(err), err)
}

// TestIntentKeeps: an intent to sign again takes no signature away that counts.
func TestIntentKeeps(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	v1 := s.put("v1", tagged(t, "v1"))
	s.record(v1, "key-1")
	s.rotate("key-2")
	policy := artifact.DigestOf([]byte("policy"))
	done, err := s.db.IntendSignature(s.ctx, s.repository, v1, "", keyID("key-2"), policy)
	require.NoError(t, err)
	require.True(t, done, "the key before signed it, and counts")
	now := time.Now()
	_, err = s.db.RevokeKey(s.ctx, "user:ada", keyID("key-1"), "retired", now)
	require.NoError(t, err)
	done, err = s.db.IntendSignature(s.ctx, s.repository, v1, "", keyID("key-2"), policy)
	require.NoError(t, err)
	require.False(t, done)
	s.mustPromote("v1", "dev") // by the signature that is proven to be older
}

// TestRotationsAtOnce: of two who rotate the same key, one does. What fails in between changes nothing.
func TestRotationsAtOnce(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	names := []string{"a", "b", "c"}
	results := make([]error, len(names))
	var work errgroup.Group
	for i, name := range names {
		work.Go(func() error {
			_, results[i] = s.db.RotateKey(s.ctx, "user:ada", "yearly", keyID("key-1"), func(context.Context, []artifact.SigningKey) (artifact.SigningKey, error) { return keyNamed(name), nil })
			return nil
		})
	}
	require.NoError(t, work.Wait())
	done := 0
	for _, err := range results {
		if err == nil {
			done++
		} else {
			require.Equal(t, artifact.Conflict, artifact.KindOf(err), err)
		}
	}
	require.Equal(t, 1, done)
	known, err := s.db.SigningKeys(s.ctx)
	require.NoError(t, err)
	require.Len(t, known, 2)
	require.Equal(t, known[1].Since, known[0].Until)
	_, err = s.db.RotateKey(s.ctx, "user:ada", "yearly", known[1].ID, func(context.Context, []artifact.SigningKey) (artifact.SigningKey, error) {
		return artifact.SigningKey{}, errors.New("killed")
	})
	require.ErrorContains(t, err, "killed")
	again, err := s.db.SigningKeys(s.ctx)
	require.NoError(t, err)
	require.Equal(t, known, again)
}

// TestRotationIsHeard: another replica knows of a rotation and of a revocation within a second.
func TestRotationIsHeard(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	other, err := postgres.Open(t.Context(), postgres.Config{URL: s.db.Pool.Config().ConnString(), MaxConnections: 4})
	require.NoError(t, err)
	defer other.Close()
	inForce := func() string {
		known, err := other.SigningKeys(s.ctx)
		require.NoError(t, err)
		return known[len(known)-1].ID
	}
	require.Eventually(t, func() bool { return inForce() == keyID("key-1") }, 10*time.Second, 10*time.Millisecond)
	s.rotate("key-2")
	require.Eventually(t, func() bool { return inForce() == keyID("key-2") }, time.Second, 10*time.Millisecond)
	_, err = s.db.RevokeKey(s.ctx, "user:ada", keyID("key-1"), "lost", time.Time{})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		known, err := other.SigningKeys(s.ctx)
		require.NoError(t, err)
		return known[0].Revocation != nil
	}, time.Second, 10*time.Millisecond)
}

// TestKeyRevokedWhilePromoting: what was found to be signed, by a key that is revoked before the promotion is written, is not promoted.
func TestKeyRevokedWhilePromoting(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	v1, v2 := s.put("v1", tagged(t, "v1")), s.put("v2", tagged(t, "v2"))
	s.record(v1, "key-1")
	between := time.Now()
	s.record(v2, "key-1")
	s.rotate("key-2")
	move := func(d artifact.Digest) error {
		verdict, err := s.judge.JudgeStored(s.ctx, s.repository, d)
		require.NoError(t, err)
		pass, err := verdict.Promotion()
		require.NoError(t, err)
		_, err = s.db.Promote(s.ctx, s.to(artifact.Promotion{Action: "promote", Repository: s.repository, Environment: parsed(t, artifact.ParseEnvironment, "dev"), Digest: d, Actor: "user:ada", PolicyHash: pass.PolicyHash()}, pass))
		return err
	}
	require.NoError(t, move(v2))
	_, err := s.db.RevokeKey(s.ctx, "user:ada", keyID("key-1"), "lost", between)
	require.NoError(t, err)
	require.NoError(t, move(v1), "its signature is proven to be older")
	err = move(v2)
	require.Equal(t, artifact.Conflict, artifact.KindOf(err))
	require.ErrorContains(t, err, "which was revoked by user:ada: lost, at this moment")
	require.Equal(t, v1, s.current("dev"))
	s.sound()
}

// TestForgedKeys: a key that is put in, taken out or changed by hand is named by the audit.
func TestForgedKeys(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ sql, want string }{
		"put in":     {`insert into signing_keys (id, algorithm, public_key, reference, since, actor, ledger_index) values (repeat('a', 64), 'x', 'x', 'x', now(), 'eve', 1)`, "no entry records that it was put in force"},
		"taken out":  {`delete from signing_keys where number = (select max(number) from signing_keys)`, "was put in force, but is not there"},
		"changed":    {`update signing_keys set public_key = replace(public_key, 'a', 'b')`, "its public key is another's"},
		"revived":    {`delete from signing_key_revocations`, "was revoked, and its record does not say so"},
		"postponed":  {`update signing_key_revocations set trusted_before = now()`, "was revoked, and its record does not say so"},
		"ended":      {`insert into signing_key_revocations select id, now(), 'eve', 'x', null, 0 from signing_keys order by number desc limit 1`, "is revoked, and no entry records that"},
		"not at all": {`select`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &recorded{shop: newShop(t), signer: newSigner(t)}
			r.rotate("key-2")
			_, err := r.db.RevokeKey(r.ctx, "user:ada", keyID("key-1"), "lost", time.Time{})
			require.NoError(t, err)
			r.checkpoint()
			r.tamper(c.sql)
			problems := r.audit().Problems
			if c.want == "" {
				require.Empty(t, problems)
				return
			}
			require.NotEmpty(t, problems)
			require.Contains(t, problems[0], c.want)
		})
	}
}
