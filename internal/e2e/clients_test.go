package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
)

// client is a registry client, by what it is told to do. References are REPOSITORY:TAG and REPOSITORY@DIGEST, without
// the host. A verb that the client does not have is nil.
type client struct {
	login        func(token string) error
	push         func(what sample, ref string) error
	pull         func(ref string) (digest string, err error)
	copy         func(from, to string) error                // from REPOSITORY:TAG to another
	untag        func(ref string) error                     // of REPOSITORY:TAG
	remove       func(repository, tag, digest string) error // the manifest, by what the client takes for its name
	tags         func(repository string) ([]string, error)
	repositories func() ([]string, error)

	trusting   bool // its login keeps the token and asks nobody: the verb after it is refused
	charts     bool // what it pushes is a chart of Helm's, which no policy about images denies and nothing signs
	signatures bool // its copy takes along what stands at cosign's tags
	referrers  bool // its copy takes along what refers to the image
}

// version is the tag that is pushed; Helm wants it to be a semantic version.
const version = "1.0.0"

const spdx = "application/spdx+json"

// TestClients has every client do all that it can: log in, push, pull, copy, delete and list.
func TestClients(t *testing.T) {
	t.Parallel()
	s := serve(t)
	pusher, admin := s.token("--role", "pusher"), s.admin()
	for name, open := range map[string]func(*testing.T, *waybillServer) client{
		"docker": openDocker, "podman": openPodman, "buildah": openBuildah, "skopeo": openSkopeo, "crane": openCrane, "regctl": openRegctl,
		"cosign": openCosign, "oras": openORAS, "containerd": openContainerd, "helm": openHelm,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := s.in(t)
			u := &use{client: open(t, s), t: t, s: s, pusher: pusher, admin: admin, from: name + "/app", to: name + "/elsewhere/app"}
			u.logsIn()
			u.pushes()
			u.pulls()
			u.copies()
			u.lists()
			u.deletes()
		})
	}
}

// use is one client at work in repositories of its own.
type use struct {
	client
	t             *testing.T
	s             *waybillServer
	pusher, admin string
	from, to      string // repositories
	digest        string // what was pushed
}

func (u *use) logsIn() {
	err := u.login("wbt_wrong")
	if u.trusting {
		require.NoError(u.t, err)
		_, err = u.pull(u.from + ":" + version)
	}
	require.Error(u.t, err, "a wrong token")
	require.Regexp(u.t, `(?i)unauthorized|authorization failed|invalid username/password`, err.Error())
	require.NoError(u.t, u.login(u.pusher))
}

func (u *use) pushes() {
	good := newSample(u.t, configured(u.t, "1000", files(u.t, map[string]string{"app": u.from})))
	switch {
	case u.push == nil:
		u.s.pushed(u.pusher, u.from+":"+version, good.image)
	case u.charts:
		require.NoError(u.t, u.push(good, u.from+":"+version))
	default:
		bad := newSample(u.t, configured(u.t, "root", files(u.t, map[string]string{"app": u.from})))
		require.ErrorContains(u.t, u.push(bad, u.from+":bad"), "no-root-user")
		require.NoError(u.t, u.push(good, u.from+":"+version))
	}
	u.digest = u.s.current(u.pusher, u.from+":"+version)
}

func (u *use) pulls() {
	for _, ref := range []string{u.from + ":" + version, u.from + "@" + u.digest} {
		got, err := u.pull(ref)
		require.NoError(u.t, err, ref)
		require.Equal(u.t, u.digest, got, ref)
	}
	_, err := u.pull(u.from + ":v2")
	require.Error(u.t, err, "no such tag")
}

// copies: what was signed by Waybill and by another, and what refers to the image, is copied by clients that can. In the
// other repository Waybill signs too; it may be earlier or later than the copy.
func (u *use) copies() {
	if !u.charts {
		u.s.signed(u.pusher, u.from+"@"+u.digest)
	}
	key := u.s.signedByAnother(u.pusher, u.from, u.digest)
	sbom := u.s.attach(u.pusher, u.from, u.digest, spdx, []byte(`{"spdxVersion":"SPDX-2.3"}`))
	if u.copy == nil {
		u.s.pushed(u.pusher, u.to+":"+version, configured(u.t, "1000", files(u.t, map[string]string{"app": u.to})))
		return
	}
	for range 2 { // a copy of what is there changes nothing
		require.NoError(u.t, u.copy(u.from+":"+version, u.to+":"+version))
		require.Equal(u.t, u.digest, u.s.current(u.pusher, u.to+":"+version))
		if !u.charts {
			u.s.await("Waybill's signature of the copy", func() bool { return u.s.signedHere(u.pusher, u.to, u.digest) })
		}
	}
	if u.signatures {
		require.Subset(u.t, u.s.statements(u.pusher, u.to, u.digest), u.s.statements(u.pusher, u.from, u.digest))
		u.s.verify(u.pusher, key, u.to, u.digest)
	}
	if u.referrers {
		require.Contains(u.t, u.s.referrers(u.pusher, u.to, u.digest, spdx), sbom)
	}
}

func (u *use) lists() {
	if u.tags != nil {
		tags, err := u.tags(u.from)
		require.NoError(u.t, err)
		require.Contains(u.t, tags, version)
		require.NotContains(u.t, tags, "bad")
	}
	if u.repositories != nil {
		all, err := u.repositories()
		require.NoError(u.t, err)
		require.Subset(u.t, all, []string{u.from, u.to})
	}
}

// deletes: a pusher does not, an admin does: a tag, and then what it stood at.
func (u *use) deletes() {
	stands := func(ref string) int { status, _ := u.s.get(u.pusher, "/v2/"+ref); return status }
	byTag, byDigest := u.from+"/manifests/"+version, u.from+"/manifests/"+u.digest
	if u.untag != nil {
		require.Error(u.t, u.untag(u.from+":"+version))
		require.Equal(u.t, 200, stands(byTag))
		require.NoError(u.t, u.login(u.admin))
		require.NoError(u.t, u.untag(u.from+":"+version))
		require.Equal(u.t, 404, stands(byTag))
		require.Equal(u.t, 200, stands(byDigest))
		require.Equal(u.t, 200, stands(u.to+"/manifests/"+version), "another repository's")
		u.retag(version)
		require.NoError(u.t, u.login(u.pusher))
	}
	if u.remove != nil {
		require.Error(u.t, u.remove(u.from, version, u.digest))
		require.Equal(u.t, 200, stands(byDigest))
		require.NoError(u.t, u.login(u.admin))
		require.NoError(u.t, u.remove(u.from, version, u.digest))
		require.Equal(u.t, 404, stands(byTag))
		require.Equal(u.t, 404, stands(byDigest))
	}
}

// retag gives what was pushed its tag again.
func (u *use) retag(tag string) {
	ref, err := name.NewDigest(u.s.host + "/" + u.from + "@" + u.digest)
	require.NoError(u.t, err)
	there, err := remote.Get(ref, u.s.auth(u.pusher))
	require.NoError(u.t, err)
	require.NoError(u.t, remote.Tag(ref.Tag(tag), there, u.s.auth(u.pusher)))
}

// sample is an image in the forms that clients push from.
type sample struct {
	image   v1.Image
	archive string // as docker save writes it
	layout  string // an OCI image layout, in which it is v1
}

// sampleTag is what the image is called in the archive.
const sampleTag = "localhost/sample:v1"

func newSample(t *testing.T, img v1.Image) sample {
	t.Helper()
	img = ociImage(t, img)
	dir := filepath.Join(t.TempDir(), "layout")
	path, err := layout.Write(dir, empty.Index)
	require.NoError(t, err)
	require.NoError(t, path.AppendImage(img, layout.WithAnnotations(map[string]string{ocispec.AnnotationRefName: "v1"})))
	return sample{image: img, archive: archive(t, sampleTag, img), layout: dir}
}

// ociImage is an image of Docker's media types in those of the OCI.
func ociImage(t *testing.T, img v1.Image) v1.Image {
	t.Helper()
	layers, err := img.Layers()
	require.NoError(t, err)
	config, err := img.ConfigFile()
	require.NoError(t, err)
	made := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for _, layer := range layers {
		made, err = mutate.Append(made, mutate.Addendum{Layer: layer, MediaType: types.OCILayer})
		require.NoError(t, err)
	}
	made, err = mutate.ConfigFile(made, config)
	require.NoError(t, err)
	return made
}

// archive writes an image as `docker save` would.
func archive(t *testing.T, tag string, img v1.Image) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.tar")
	ref, err := name.NewTag(tag)
	require.NoError(t, err)
	require.NoError(t, tarball.WriteToFile(path, ref, img))
	return path
}

// layoutDigest returns the one digest that an OCI layout is of.
func layoutDigest(dir string) (string, error) {
	b, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		return "", err
	}
	var index ocispec.Index
	if err := json.Unmarshal(b, &index); err != nil || len(index.Manifests) == 0 {
		return "", fmt.Errorf("%s holds nothing: %w", dir, err)
	}
	return index.Manifests[0].Digest.String(), nil
}

// tool runs a command-line client with variables of its own.
type tool struct {
	t    *testing.T
	env  []string
	name string
	args []string // which go before all others
}

func (c tool) run(args ...string) (string, error) {
	c.t.Helper()
	stdout, stderr, code := command(c.t, "", c.env, c.name, slices.Concat(c.args, args)...)
	if code != 0 {
		return stdout, errors.New(stdout + stderr)
	}
	return stdout, nil
}

func (c tool) do(args ...string) error {
	c.t.Helper()
	_, err := c.run(args...)
	return err
}

// lines runs a client that prints a name a line.
func (c tool) lines(args ...string) ([]string, error) {
	c.t.Helper()
	out, err := c.run(args...)
	return strings.Fields(out), err
}

// all does one thing after another until one fails.
func all(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}
