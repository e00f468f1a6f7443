package e2e

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	gcr "github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
)

// in returns the server for a test within the one that started it.
func (s *waybillServer) in(t testing.TB) *waybillServer {
	within := *s
	within.t = t
	return &within
}

// cosignTag is where cosign keeps the signatures of a digest, in the repository of a reference.
func cosignTag(ref, digest string) string {
	repository, _, _ := strings.Cut(ref, ":")
	return repository + ":" + strings.Replace(digest, ":", "-", 1) + ".sig"
}

// statements returns what is signed about a digest at cosign's tag.
func (s *waybillServer) statements(token, repository, digest string) []string {
	s.t.Helper()
	ref, err := name.ParseReference(s.host + "/" + cosignTag(repository, digest))
	require.NoError(s.t, err)
	img, err := gcr.Image(ref, s.auth(token))
	require.NoError(s.t, err)
	layers, err := img.Layers()
	require.NoError(s.t, err)
	var all []string
	for _, layer := range layers {
		r, err := layer.Compressed()
		require.NoError(s.t, err)
		b, err := io.ReadAll(r)
		require.NoError(s.t, err)
		all = append(all, string(b))
	}
	return all
}

// signedHere reports whether Waybill has signed a digest in this repository, and not only in one that it was copied from.
func (s *waybillServer) signedHere(token, repository, digest string) bool {
	s.t.Helper()
	if status, _ := s.get(token, "/v2/"+strings.Replace(cosignTag(repository, digest), ":", "/manifests/", 1)); status != 200 {
		return false
	}
	return strings.Contains(strings.Join(s.statements(token, repository, digest), "\n"), fmt.Sprintf(`"docker-reference":%q`, repository))
}

// cosignKey makes a key pair of somebody who is not Waybill, once; its password is empty.
var cosignKey = sync.OnceValues(func() (string, error) {
	prefix := filepath.Join(fixtures, "another")
	return prefix, runQuiet("env", "COSIGN_PASSWORD=", "cosign", "generate-key-pair", "--output-key-prefix", prefix)
})

// signedByAnother has cosign add a signature, and returns the key to verify it with.
func (s *waybillServer) signedByAnother(token, repository, digest string) string {
	s.t.Helper()
	prefix, err := cosignKey()
	require.NoError(s.t, err)
	stdout, stderr, code := command(s.t, "", []string{"COSIGN_PASSWORD=", "DOCKER_CONFIG=" + s.dockerConfig(token)}, "cosign", "sign", "--yes", "--key", prefix+".key",
		"--tlog-upload=false", "--allow-http-registry", s.host+"/"+repository+"@"+digest)
	require.Zero(s.t, code, stdout+stderr)
	return prefix + ".pub"
}

// verify has cosign verify a signature by a key.
func (s *waybillServer) verify(token, key, repository, digest string) {
	s.t.Helper()
	stdout, stderr, code := command(s.t, "", []string{"DOCKER_CONFIG=" + s.dockerConfig(token)}, "cosign", "verify", "--key", key, "--insecure-ignore-tlog=true",
		"--allow-http-registry", s.host+"/"+repository+"@"+digest)
	require.Zero(s.t, code, stdout+stderr)
	require.Contains(s.t, stdout, digest)
}

// oras opens a repository with the oras library.
func (s *waybillServer) oras(token, repository string) registry.Repository {
	s.t.Helper()
	c := &orasClient{host: s.host, store: credentials.NewMemoryStore()}
	require.NoError(s.t, c.store.Put(context.Background(), s.host, auth.Credential{Username: "ci", Password: token}))
	r, _, err := c.at(repository)
	require.NoError(s.t, err)
	return r
}

// attach pushes an artifact of one file whose subject is a manifest, and returns its digest.
func (s *waybillServer) attach(token, repository, subject, artifactType string, file []byte) string {
	s.t.Helper()
	ctx, r := context.Background(), s.oras(token, repository)
	about, err := r.Resolve(ctx, subject)
	require.NoError(s.t, err)
	layer, err := oras.PushBytes(ctx, r, artifactType, file)
	require.NoError(s.t, err)
	made, err := oras.PackManifest(ctx, r, oras.PackManifestVersion1_1, artifactType, oras.PackManifestOptions{Subject: &about, Layers: []ocispec.Descriptor{layer}})
	require.NoError(s.t, err)
	return made.Digest.String()
}

// referrers returns what refers to a digest, of one artifact type when that is not empty.
func (s *waybillServer) referrers(token, repository, subject, artifactType string) []string {
	s.t.Helper()
	ctx, r := context.Background(), s.oras(token, repository)
	about, err := r.Resolve(ctx, subject)
	require.NoError(s.t, err)
	var digests []string
	require.NoError(s.t, r.(registry.ReferrerLister).Referrers(ctx, about, artifactType, func(page []ocispec.Descriptor) error {
		for _, d := range page {
			digests = append(digests, d.Digest.String())
		}
		return nil
	}))
	return digests
}

// TestSignedAtOnce: who signs at the same moment does not drop what another signed, nor what Waybill did.
func TestSignedAtOnce(t *testing.T) {
	t.Parallel()
	s := serve(t)
	pusher := s.token("--role", "pusher")
	digest := s.pushed(pusher, "shop/a:v1", configured(t, "1", files(t, map[string]string{"a": "1"})))
	ref, err := name.ParseReference(s.host + "/" + cosignTag("shop/a:v1", digest))
	require.NoError(t, err)
	signatures := 8
	var work errgroup.Group
	for i := range signatures {
		// Of one payload by several keys: layers of one digest that differ in their annotations.
		payload := static.NewLayer(fmt.Appendf(nil, `{"payload":%d}`, i/2), "application/vnd.dev.cosign.simplesigning.v1+json")
		img, err := mutate.Append(ociImage(t, empty.Image), mutate.Addendum{Layer: payload, Annotations: map[string]string{"dev.cosignproject.cosign/signature": strconv.Itoa(i)}})
		require.NoError(t, err)
		work.Go(func() error { return gcr.Write(ref, img, s.auth(pusher)) })
	}
	require.NoError(t, work.Wait())
	s.await("Waybill's signature", func() bool { return s.signedHere(pusher, "shop/a", digest) })
	img, err := gcr.Image(ref, s.auth(pusher))
	require.NoError(t, err)
	manifest, err := img.Manifest()
	require.NoError(t, err)
	config, err := img.ConfigFile()
	require.NoError(t, err)
	require.Len(t, config.RootFS.DiffIDs, len(manifest.Layers))
	found := map[string]bool{}
	for _, layer := range manifest.Layers {
		found[layer.Annotations["dev.cosignproject.cosign/signature"]] = true
	}
	require.Len(t, found, signatures+1)
}

// TestSignedAgain: what was deleted with its signature is signed when it is pushed again.
func TestSignedAgain(t *testing.T) {
	t.Parallel()
	s := serve(t)
	pusher, img := s.token("--role", "pusher"), configured(t, "1", files(t, map[string]string{"a": "1"}))
	digest := s.pushed(pusher, "shop/a:v1", img)
	s.signed(pusher, "shop/a@"+digest)
	crane := tool{t: t, name: "crane", env: []string{"DOCKER_CONFIG=" + s.dockerConfig(s.admin())}, args: []string{"--insecure"}}
	cosign := tool{t: t, name: "cosign", env: crane.env}
	require.NoError(t, cosign.do("clean", "--force", "--type=signature", "--allow-http-registry", s.host+"/shop/a@"+digest))
	require.NoError(t, crane.do("delete", s.host+"/shop/a@"+digest))
	require.Equal(t, digest, s.pushed(pusher, "shop/a:v1", img))
	s.signed(pusher, "shop/a@"+digest)
	s.ok(s.token("--role", "promoter"), "promote", "a", "v1", "dev")
	require.Contains(t, s.ok(s.admin(), "audit"), "ok")
}
