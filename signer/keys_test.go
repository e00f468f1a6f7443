package signer_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/signer"
)

// keyRows is a signer.KeyStore in memory, which is killed where it is told to.
type keyRows struct {
	mu    sync.Mutex
	known []artifact.SigningKey
	kill  string // "before": the transaction is not committed; "after": it is, and nobody hears of it
	made  map[artifact.Digest][]artifact.Digest
}

var errKilled = errors.New("killed")

func (r *keyRows) SigningKeys(context.Context) ([]artifact.SigningKey, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]artifact.SigningKey(nil), r.known...), nil
}

func (r *keyRows) RotateKey(ctx context.Context, actor, reason, replaces string, next func(context.Context, []artifact.SigningKey) (artifact.SigningKey, error)) (artifact.SigningKey, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := len(r.known) - 1
	if last >= 0 && r.known[last].ID != replaces {
		return artifact.SigningKey{}, artifact.Errorf(artifact.Conflict, "somebody rotated it")
	}
	k, err := next(ctx, r.known)
	if err != nil {
		return k, err
	}
	if r.kill == "before" {
		return k, errKilled
	}
	k.Since, k.AddedBy, k.Reason = time.Now(), actor, reason
	if last >= 0 {
		r.known[last].Until = k.Since
	}
	r.known = append(r.known, k)
	if r.kill == "after" {
		return k, errKilled
	}
	return k, nil
}

func (r *keyRows) RevokeKey(_ context.Context, actor, id, reason string, before time.Time) (artifact.SigningKey, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.known {
		if r.known[i].ID == id {
			r.known[i].Revocation = &artifact.KeyRevocation{At: time.Now(), By: actor, Reason: reason, Before: before}
			return r.known[i], nil
		}
	}
	return artifact.SigningKey{}, artifact.Errorf(artifact.NotFound, "no such key")
}

func (r *keyRows) SignedBefore(_ context.Context, _ artifact.Repository, digest artifact.Digest, _, _ string, _ time.Time) ([]artifact.Digest, error) {
	return r.made[digest], nil
}

func openKeys(t *testing.T, folder, reference string, rows *keyRows) *signer.Keys {
	t.Helper()
	keys, err := signer.OpenKeys(t.Context(), signer.KeysConfig{Folder: folder, Reference: reference, Store: rows, Logger: slog.New(slog.DiscardHandler),
		Password: func() ([]byte, error) { return os.ReadFile(filepath.Join(folder, "cosign.password")) }})
	require.NoError(t, err)
	return keys
}

func signing(t *testing.T, keys *signer.Keys) *signer.Signer {
	t.Helper()
	s, err := keys.InForce(t.Context())
	require.NoError(t, err)
	_, err = s.Sign(pass(t, artifact.DigestOf([]byte("image")).String()))
	require.NoError(t, err)
	return s
}

func rotate(t *testing.T, keys *signer.Keys) (artifact.SigningKey, error) {
	t.Helper()
	s, err := keys.InForce(t.Context())
	require.NoError(t, err)
	return keys.Rotate(t.Context(), signer.Rotation{Actor: "user:ada", Reason: "yearly", Replaces: s.KeyID()})
}

func keyFiles(t *testing.T, folder string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "cosign*.key"))
	require.NoError(t, err)
	return files
}

// TestOpenKeys: the key of an older version is taken up, and is the same at each start and on each replica.
func TestOpenKeys(t *testing.T) {
	t.Parallel()
	folder, rows := t.TempDir(), &keyRows{}
	older, err := signer.Open(folder)
	require.NoError(t, err)
	for range 2 {
		require.Equal(t, older.KeyID(), signing(t, openKeys(t, folder, "", rows)).KeyID())
	}
	var log bytes.Buffer
	_, err = signer.OpenKeys(t.Context(), signer.KeysConfig{Folder: t.TempDir(), Store: &keyRows{}, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	require.NoError(t, err)
	require.Contains(t, log.String(), "a signing key is in force")
	require.NotContains(t, log.String(), "another", "there was none before")
	require.Len(t, rows.known, 1)
	require.Equal(t, "ecdsa-p256", rows.known[0].Algorithm)

	replica := openKeys(t, folder, "", rows)
	next, err := rotate(t, openKeys(t, folder, "", rows))
	require.NoError(t, err)
	require.Equal(t, next.ID, signing(t, replica).KeyID(), "a replica signs with the new key")
	_, err = replica.Rotate(t.Context(), signer.Rotation{Actor: "user:bob", Reason: "yearly", Replaces: older.KeyID()})
	require.Equal(t, artifact.Conflict, artifact.KindOf(err))
	for _, file := range keyFiles(t, folder) {
		info, err := os.Stat(file)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	}
	// A folder that lacks the key signs nothing, and serves.
	elsewhere := openKeys(t, t.TempDir(), "", rows)
	_, err = elsewhere.InForce(t.Context())
	require.Equal(t, artifact.Unavailable, artifact.KindOf(err), err)
}

// TestRotationKilled: wherever a rotation is killed, the key before or the one after it signs, and no key is left that
// nobody knows of after the next.
func TestRotationKilled(t *testing.T) {
	t.Parallel()
	for kill, committed := range map[string]bool{"before": false, "after": true} {
		t.Run(kill, func(t *testing.T) {
			t.Parallel()
			folder, rows := t.TempDir(), &keyRows{}
			first := signing(t, openKeys(t, folder, "", rows)).KeyID()
			rows.kill = kill
			_, err := rotate(t, openKeys(t, folder, "", rows))
			require.ErrorIs(t, err, errKilled)
			require.Len(t, keyFiles(t, folder), 2)
			left := keyFiles(t, folder)
			rows.kill = ""

			now := signing(t, openKeys(t, folder, "", rows)).KeyID()
			require.Equal(t, committed, now != first)
			next, err := rotate(t, openKeys(t, folder, "", rows))
			require.NoError(t, err)
			require.Equal(t, next.ID, signing(t, openKeys(t, folder, "", rows)).KeyID())
			if !committed {
				require.Equal(t, left, keyFiles(t, folder), "the key that was left is the one that came in force")
			}
			require.Len(t, keyFiles(t, folder), len(rows.known))
		})
	}
}

// TestConfiguredKey: a file that is named signs, comes in force by a rotation when it is another, and never by itself.
func TestConfiguredKey(t *testing.T) {
	t.Parallel()
	folder, other, rows := t.TempDir(), t.TempDir(), &keyRows{}
	older, err := signer.Open(folder)
	require.NoError(t, err)
	file := filepath.Join(folder, "named.key")
	put := func(from string) {
		for name, to := range map[string]string{"cosign.key": "named.key", "cosign.password": "named.password"} {
			b, err := os.ReadFile(filepath.Join(from, name))
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(folder, to), b, 0o600))
		}
	}
	_, err = signer.Open(other)
	require.NoError(t, err)
	put(other)
	open := func() (*signer.Keys, error) {
		return signer.OpenKeys(t.Context(), signer.KeysConfig{Folder: folder, Reference: file, Store: rows, Logger: slog.New(slog.DiscardHandler),
			Password: func() ([]byte, error) { return os.ReadFile(filepath.Join(folder, "named.password")) }})
	}
	keys, err := open()
	require.NoError(t, err)
	require.Len(t, rows.known, 2, "what the key of an older version signed counts still")
	require.Equal(t, older.KeyID(), rows.known[0].ID)
	named := signing(t, keys).KeyID()
	require.Equal(t, file, rows.known[1].Reference)

	_, err = rotate(t, keys)
	require.Equal(t, artifact.Conflict, artifact.KindOf(err))
	require.ErrorContains(t, err, "put a new key there first")
	third := t.TempDir()
	_, err = signer.Open(third)
	require.NoError(t, err)
	put(third)
	require.Equal(t, named, signing(t, keys).KeyID(), "what was opened signs until it is rotated")
	next, err := rotate(t, keys)
	require.NoError(t, err)
	require.Equal(t, next.ID, signing(t, keys).KeyID())

	put(other) // back
	_, err = rotate(t, keys)
	require.ErrorContains(t, err, "a key comes in force once")
	keys, err = open()
	require.NoError(t, err, "a start goes on without it")
	_, err = keys.InForce(t.Context())
	require.ErrorContains(t, err, "is in force; put that there again")
}

// TestRevoke: the private half is removed, and what counts is what was not revoked.
func TestRevoke(t *testing.T) {
	t.Parallel()
	folder, rows := t.TempDir(), &keyRows{}
	keys := openKeys(t, folder, "", rows)
	first := signing(t, keys)
	_, err := rotate(t, keys)
	require.NoError(t, err)
	all, err := keys.Verifiers(t.Context())
	require.NoError(t, err)
	require.Len(t, all, 2)
	before := time.Now()
	_, err = keys.Revoke(t.Context(), "user:ada", first.KeyID(), "lost", before)
	require.NoError(t, err)
	require.Len(t, keyFiles(t, folder), 1)
	all, err = keys.Verifiers(t.Context())
	require.NoError(t, err)
	require.Len(t, all, 1)
	counting, err := keys.Counting(t.Context())
	require.NoError(t, err)
	require.Len(t, counting, 2)
	require.Equal(t, before, counting[1].Before)
}

// TestAttestedByRevokedKey: of a revoked key only those statements count that the ledger shows to have been there before.
func TestAttestedByRevokedKey(t *testing.T) {
	t.Parallel()
	rows := &keyRows{made: map[artifact.Digest][]artifact.Digest{}}
	keys := openKeys(t, t.TempDir(), "", rows)
	first := signing(t, keys)
	image := artifact.DigestOf([]byte("image"))
	attest := func(s *signer.Signer, result string) []byte {
		a, err := s.Attest(pass(t, image.String()), testResult, json.RawMessage(`{"result":"`+result+`"}`))
		require.NoError(t, err)
		return a.Envelope
	}
	store := &attachments{manifests: map[artifact.Digest]artifact.StoredManifest{}, blobs: map[artifact.Digest][]byte{}}
	good := store.attach(dsse, attest(first, "PASSED"))
	store.legacy = store.attach(dsse, store.blobs[store.manifests[good].Manifest.Layers[0].Digest], attest(first, "FORGED"))
	repository, err := artifact.ParseRepository("shop/returns")
	require.NoError(t, err)
	results := func() (all []any) {
		predicates, err := signer.NewAttestations(store, keys).Attested(t.Context(), repository, image, testResult, nil)
		require.NoError(t, err)
		for _, p := range predicates {
			all = append(all, p["result"])
		}
		return all
	}
	require.Equal(t, []any{"PASSED", "FORGED"}, results())
	_, err = rotate(t, keys)
	require.NoError(t, err)
	require.Equal(t, []any{"PASSED", "FORGED"}, results(), "a rotation takes nothing away")
	_, err = keys.Revoke(t.Context(), "user:ada", first.KeyID(), "lost", time.Now())
	require.NoError(t, err)
	require.Empty(t, results(), "the ledger has none of them")
	rows.made[image] = []artifact.Digest{good, artifact.DigestOf([]byte("gone"))}
	require.Equal(t, []any{"PASSED"}, results())
	_, err = keys.Revoke(t.Context(), "user:ada", first.KeyID(), "lost", time.Time{})
	require.NoError(t, err)
	require.Empty(t, results())
}

func TestCheckReference(t *testing.T) {
	t.Parallel()
	for reference, ok := range map[string]bool{
		"": true, "/etc/waybill/cosign.key": true, "hashivault://waybill": true, "awskms:///alias/waybill": true,
		"awskms:///arn:aws:kms:us-east-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab": true,
		"gcpkms://projects/p/locations/global/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1":      true,
		"azurekms://vault.example/waybill":                                                      true,
		"hashivault://":                                                                         false, "hashivault://a/b": false, "hashivault://../x": false, "awskms://x": false, "gcpkms://x": false, "azurekms://x": false,
		"pkcs11://x": false, "k8s://a/b": false, "sh://x": false, "://": false, "HASHIVAULT://waybill": false, "file:///etc/passwd": false,
	} {
		require.Equal(t, ok, signer.CheckReference(reference) == nil, "%q", reference)
	}
	require.Error(t, signer.CheckKMS("/etc/waybill/cosign.key"), "a client names no file")
}
