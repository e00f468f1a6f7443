package signer_test

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	gcr "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/policy"
	"waybill/signer"
)

// store keeps what is signed in a registry of go-containerregistry's, and fails where it is told to.
type store struct {
	t    *testing.T
	repo name.Repository

	mu      sync.Mutex
	intents map[string]bool // done?
	fail    map[string]bool // by step: put-before, put-after, intend, signed, attest-before, attest-after, remove, attested
	made    map[string]signer.Attested
}

func (s *store) failing(step string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail[step] {
		delete(s.fail, step)
		return errors.New("killed at " + step)
	}
	return nil
}

func (s *store) Image(_ context.Context, _ artifact.Repository, tag artifact.Tag) (gcr.Image, error) {
	image, err := remote.Image(s.repo.Tag(tag.String()))
	if err != nil {
		return nil, nil //nolint:nilerr // the registry answers 404
	}
	return image, nil
}

func (s *store) Put(_ context.Context, _ artifact.Repository, tag artifact.Tag, image gcr.Image) (artifact.Digest, error) {
	if err := s.failing("put-before"); err != nil {
		return artifact.Digest{}, err
	}
	hash, err := image.Digest()
	require.NoError(s.t, err)
	var ref name.Reference = s.repo.Digest(hash.String())
	if !tag.IsZero() {
		ref = s.repo.Tag(tag.String())
	}
	require.NoError(s.t, remote.Write(ref, image))
	return artifact.MustDigest(hash.String()), s.failing("put-after")
}

func (s *store) Subject(_ context.Context, _ artifact.Repository, d artifact.Digest) (artifact.Descriptor, error) {
	got, err := remote.Get(s.repo.Digest(d.String()))
	return artifact.Descriptor{MediaType: string(got.MediaType), Digest: d, Size: got.Size}, err
}

func (s *store) Intend(_ context.Context, r signer.Record) (bool, error) {
	if err := s.failing("intend"); err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.intents[r.Predicate], nil
}

func (s *store) Signed(_ context.Context, r signer.Record, _ artifact.Digest) error {
	if err := s.failing("signed"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.intents[r.Predicate] = true
	return nil
}

// world is a signer, a registry with an image, and a pass for it.
func world(t *testing.T) (*signer.Signer, *store, policy.Pass, name.Digest) {
	t.Helper()
	server := httptest.NewServer(registry.New(registry.WithReferrersSupport(true)))
	t.Cleanup(server.Close)
	repo, err := name.NewRepository(strings.TrimPrefix(server.URL, "http://") + "/shop/returns")
	require.NoError(t, err)
	image, err := random.Image(100, 1)
	require.NoError(t, err)
	hash, err := image.Digest()
	require.NoError(t, err)
	require.NoError(t, remote.Write(repo.Digest(hash.String()), image))
	key, err := signer.Open(t.TempDir())
	require.NoError(t, err)
	return key, &store{t: t, repo: repo, intents: map[string]bool{}, fail: map[string]bool{}, made: map[string]signer.Attested{}}, pass(t, hash.String()), repo.Digest(hash.String())
}

func pass(t *testing.T, digest string) policy.Pass {
	t.Helper()
	documents, err := policy.Parse("baseline", policy.Baseline())
	require.NoError(t, err)
	repository, err := artifact.ParseRepository("shop/returns")
	require.NoError(t, err)
	verdict := policy.NewSet([]policy.Versioned{{Document: documents[0], Version: 1}}).Artifact(artifact.Subject{Repository: repository, Digest: artifact.MustDigest(digest)})
	p, err := verdict.Pass()
	require.NoError(t, err)
	return p
}

// checks verifies as `cosign verify --key --insecure-ignore-tlog` does, by cosign's own code.
func checks(t *testing.T, key *signer.Signer) *cosign.CheckOpts {
	t.Helper()
	public, err := cryptoutils.UnmarshalPEMToPublicKey(key.PublicKeyPEM())
	require.NoError(t, err)
	verifier, err := signature.LoadVerifier(public, crypto.SHA256)
	require.NoError(t, err)
	return &cosign.CheckOpts{SigVerifier: verifier, IgnoreTlog: true, IgnoreSCT: true, ClaimVerifier: cosign.SimpleClaimVerifier}
}

func TestSignImage(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	key, store, pass, ref := world(t)
	service := signer.NewService(key, store)
	require.NoError(t, service.SignImage(ctx, pass))
	require.NoError(t, service.SignImage(ctx, pass))
	found, _, err := cosign.VerifyImageSignatures(ctx, ref, checks(t, key))
	require.NoError(t, err)
	require.Len(t, found, 1)

	other, err := signer.Open(t.TempDir())
	require.NoError(t, err)
	_, _, err = cosign.VerifyImageSignatures(ctx, ref, checks(t, other))
	require.Error(t, err, "another key's signature does not count")
	require.Error(t, service.SignImage(ctx, policy.Pass{}), "no pass, no signature")
	_, err = key.Sign(policy.Pass{})
	require.Error(t, err)
	_, err = key.Attest(policy.Pass{}, "https://example.com/x", json.RawMessage(`{}`))
	require.Error(t, err)
}

// TestKilled: whatever fails, stored or not, the next run ends with exactly one signature, which verifies.
func TestKilled(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"intend", "put-before", "put-after", "signed"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			key, store, pass, ref := world(t)
			service := signer.NewService(key, store)
			store.fail[step] = true
			require.ErrorContains(t, service.SignImage(ctx, pass), "killed at "+step)
			require.NoError(t, service.SignImage(ctx, pass))
			found, _, err := cosign.VerifyImageSignatures(ctx, ref, checks(t, key))
			require.NoError(t, err)
			require.Len(t, found, 1)
			require.True(t, store.intents[""])
		})
	}
}

// TestKeepsOthers: what others signed stays.
func TestKeepsOthers(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	key, store, pass, ref := world(t)
	other, err := signer.Open(t.TempDir())
	require.NoError(t, err)
	require.NoError(t, signer.NewService(other, store).SignImage(ctx, pass))
	store.intents = map[string]bool{}
	require.NoError(t, signer.NewService(key, store).SignImage(ctx, pass))
	for _, k := range []*signer.Signer{key, other} {
		found, _, err := cosign.VerifyImageSignatures(ctx, ref, checks(t, k))
		require.NoError(t, err)
		require.Len(t, found, 1)
	}
}

// TestOpen: the key is made once, and only its owner reads it.
func TestOpen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	one, err := signer.Open(dir)
	require.NoError(t, err)
	two, err := signer.Open(dir)
	require.NoError(t, err)
	require.Equal(t, one.KeyID(), two.KeyID())
	require.Equal(t, one.PublicKeyPEM(), two.PublicKeyPEM())
}
