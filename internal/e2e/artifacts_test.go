package e2e

import (
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/memory"

	"waybill/artifact"
)

// TestSchema2: images and a manifest list of Docker's, pushed by docker, skopeo and buildah, are kept as they are, and
// podman and containerd pull them.
func TestSchema2(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := serve(t)
	pusher := s.token("--role", "pusher")
	docker, podman, skopeo, containerd := openDocker(t, s), openPodman(t, s), openSkopeo(t, s), &containerdClient{t: t, host: s.host, token: pusher}
	for _, c := range []client{docker, podman, skopeo} {
		require.NoError(t, c.login(pusher))
	}
	amd64 := newSample(t, configured(t, "1000", files(t, map[string]string{"app": "amd64"})))
	arm64 := newSample(t, on(t, "arm64", configured(t, "1000", files(t, map[string]string{"app": "arm64"}))))
	at := func(tag string) string { return s.host + "/shop/schema2:" + tag }

	require.NoError(t, docker.push(amd64, "shop/schema2:amd64"))
	skopeoCopy := tool{t: t, name: "skopeo", args: []string{"copy", "--dest-tls-verify=false", "--dest-creds", "ci:" + pusher}}
	require.NoError(t, skopeoCopy.do("--format", "v2s2", "oci:"+arm64.layout+":v1", "docker://"+at("arm64")))

	dockerList := tool{t: t, name: "docker", env: []string{"DOCKER_CONFIG=" + s.dockerConfig(pusher)}, args: []string{"manifest"}}
	require.NoError(t, dockerList.do("create", "--insecure", at("docker"), at("amd64"), at("arm64")))
	require.NoError(t, dockerList.do("push", "--insecure", at("docker")))
	dir := t.TempDir()
	buildah := tool{t: t, name: "buildah",
		args: []string{"--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"), "--storage-driver", "vfs", "manifest"}}
	require.NoError(t, buildah.do("create", "list"))
	for _, platform := range []string{"amd64", "arm64"} {
		require.NoError(t, buildah.do("add", "--tls-verify=false", "--creds", "ci:"+pusher, "list", "docker://"+at(platform)))
	}
	require.NoError(t, buildah.do("push", "--all", "--format", "v2s2", "--tls-verify=false", "--creds", "ci:"+pusher, "list", "docker://"+at("buildah")))
	require.NoError(t, skopeo.copy("shop/schema2:docker", "shop/schema2/copied:skopeo"))
	require.Equal(t, s.current(pusher, "shop/schema2:docker"), s.current(pusher, "shop/schema2/copied:skopeo"))

	for ref, mediaType := range map[string]string{
		"shop/schema2:amd64": artifact.MediaTypeDockerManifest, "shop/schema2:arm64": artifact.MediaTypeDockerManifest,
		"shop/schema2:docker": artifact.MediaTypeDockerList, "shop/schema2:buildah": artifact.MediaTypeDockerList, "shop/schema2/copied:skopeo": artifact.MediaTypeDockerList,
	} {
		desc, content, err := containerd.fetch(ctx, ref)
		require.NoError(t, err, ref)
		require.Equal(t, mediaType, desc.MediaType, ref)
		require.Equal(t, s.current(pusher, ref), desc.Digest.String(), ref)
		platforms, err := images.Platforms(ctx, content, desc)
		require.NoError(t, err, ref)
		if mediaType == artifact.MediaTypeDockerList {
			require.Len(t, platforms, 2, ref)
		}
		if !strings.HasSuffix(ref, ":arm64") { // which would not run here
			_, err = podman.pull(ref)
			require.NoError(t, err, ref)
		}
	}
}

// TestReferrersPaged: more referrers than fit one answer come in pages that a client follows, each one once, whatever
// somebody wrote into their annotations.
func TestReferrersPaged(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := serve(t)
	pusher := s.token("--role", "pusher")
	s.pushed(pusher, "shop/a:v1", configured(t, "1", files(t, map[string]string{"a": "1"})))
	r := s.oras(pusher, "shop/a")
	about, err := r.Resolve(ctx, "v1")
	require.NoError(t, err)
	var pushed []string
	for i := range 8 {
		made, err := oras.PackManifest(ctx, r, oras.PackManifestVersion1_1, "application/vnd.example.note", oras.PackManifestOptions{Subject: &about,
			ManifestAnnotations: map[string]string{"note": strings.Repeat(string(rune('a'+i)), 1_000_000)}})
		require.NoError(t, err)
		pushed = append(pushed, made.Digest.String())
	}
	code, body := s.get(pusher, "/v2/shop/a/referrers/"+about.Digest.String()+"?artifactType=application/vnd.example.note")
	require.Equal(t, 200, code)
	require.Less(t, len(body), 4<<20)
	require.ElementsMatch(t, pushed, s.referrers(pusher, "shop/a", "v1", "application/vnd.example.note"))
	code, body = s.get(pusher, "/v2/shop/a/referrers/"+about.Digest.String()+"?last=x")
	require.Equal(t, 400, code, body)
}

// on is an image for another architecture.
func on(t *testing.T, architecture string, img v1.Image) v1.Image {
	t.Helper()
	config, err := img.ConfigFile()
	require.NoError(t, err)
	config = config.DeepCopy()
	config.Architecture = architecture
	img, err = mutate.ConfigFile(img, config)
	require.NoError(t, err)
	return img
}

// TestArtifacts: what is no image is stored, found by its type and by what it refers to, and pulled as it was pushed.
func TestArtifacts(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := serve(t)
	pusher := s.token("--role", "pusher")
	r := s.oras(pusher, "shop/filter")
	regctl := openRegctl(t, s)
	require.NoError(t, regctl.login(pusher))

	// CNCF TAG Runtime, "Wasm OCI Artifact layout".
	module := []byte("\x00asm\x01\x00\x00\x00")
	layer, err := oras.PushBytes(ctx, r, "application/wasm", module)
	require.NoError(t, err)
	text, err := json.Marshal(map[string]any{"created": "2026-01-01T00:00:00Z", "architecture": "wasm", "os": "wasip2", "layerDigests": []string{layer.Digest.String()}})
	require.NoError(t, err)
	config, err := oras.PushBytes(ctx, r, "application/vnd.wasm.config.v0+json", text)
	require.NoError(t, err)
	wasm, err := oras.PackManifest(ctx, r, oras.PackManifestVersion1_0, "", oras.PackManifestOptions{ConfigDescriptor: &config, Layers: []ocispec.Descriptor{layer}})
	require.NoError(t, err)
	require.NoError(t, r.Tag(ctx, wasm, "v1"))
	store := memory.New()
	pulled, err := oras.Copy(ctx, r, "v1", store, "v1", oras.DefaultCopyOptions)
	require.NoError(t, err)
	require.Equal(t, wasm.Digest, pulled.Digest)
	digest, err := regctl.pull("shop/filter:v1")
	require.NoError(t, err)
	require.Equal(t, wasm.Digest.String(), digest)

	subject := wasm.Digest.String()
	byType := map[string]string{}
	for artifactType, file := range map[string]string{
		spdx: `{"spdxVersion":"SPDX-2.3"}`, "application/vnd.cyclonedx+json": `{"bomFormat":"CycloneDX"}`, "text/markdown": "# Notes",
	} {
		byType[artifactType] = s.attach(pusher, "shop/filter", subject, artifactType, []byte(file))
	}
	require.Len(t, s.referrers(pusher, "shop/filter", subject, ""), len(byType))
	for artifactType, want := range byType {
		require.Equal(t, []string{want}, s.referrers(pusher, "shop/filter", subject, artifactType))
	}
	// What refers to what refers is copied with it.
	about := s.attach(pusher, "shop/filter", byType[spdx], "application/vnd.example.reviewed", []byte("yes"))
	for name, c := range map[string]client{"regctl": regctl, "oras": openORAS(t, s)} {
		require.NoError(t, c.login(pusher))
		require.NoError(t, c.copy("shop/filter:v1", "shop/"+name+":v1"))
		require.Len(t, s.referrers(pusher, "shop/"+name, subject, ""), len(byType), name)
		require.Equal(t, []string{about}, s.referrers(pusher, "shop/"+name, byType[spdx], ""), name)
	}
}
