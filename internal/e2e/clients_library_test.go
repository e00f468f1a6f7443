package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	helm "helm.sh/helm/v4/pkg/registry"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/memory"
	"oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
)

// The clients that are libraries: each is what a well-known program pulls and pushes with.

// orasClient is the library of the oras command.
type orasClient struct {
	host  string
	store credentials.Store
}

func (c *orasClient) registry() (*remote.Registry, error) {
	r, err := remote.NewRegistry(c.host)
	if err == nil {
		r.PlainHTTP, r.Client = true, &auth.Client{Cache: auth.NewCache(), Credential: credentials.Credential(c.store)}
	}
	return r, err
}

// at opens the repository of a reference, and returns its tag or digest.
func (c *orasClient) at(ref string) (registry.Repository, string, error) {
	parsed, err := registry.ParseReference(c.host + "/" + ref)
	if err != nil {
		return nil, "", err
	}
	r, err := c.registry()
	if err != nil {
		return nil, "", err
	}
	repository, err := r.Repository(context.Background(), parsed.Repository)
	return repository, parsed.Reference, err
}

func openORAS(_ *testing.T, s *waybillServer) client {
	ctx := context.Background()
	c := &orasClient{host: s.host, store: credentials.NewMemoryStore()}
	return client{
		login: func(token string) error {
			r, err := c.registry()
			if err != nil {
				return err
			}
			return credentials.Login(ctx, c.store, r, auth.Credential{Username: "ci", Password: token})
		},
		push: func(what sample, ref string) error {
			from, err := oci.New(what.layout)
			if err != nil {
				return err
			}
			to, tag, err := c.at(ref)
			if err != nil {
				return err
			}
			_, err = oras.Copy(ctx, from, "v1", to, tag, oras.DefaultCopyOptions)
			return err
		},
		pull: func(ref string) (string, error) {
			from, name, err := c.at(ref)
			if err != nil {
				return "", err
			}
			got, err := oras.Copy(ctx, from, name, memory.New(), "pulled", oras.DefaultCopyOptions)
			return got.Digest.String(), err
		},
		copy: func(from, to string) error {
			source, name, err := c.at(from)
			if err != nil {
				return err
			}
			target, tag, err := c.at(to)
			if err != nil {
				return err
			}
			_, err = oras.ExtendedCopy(ctx, source.(oras.ReadOnlyGraphTarget), name, target, tag, oras.DefaultExtendedCopyOptions)
			return err
		},
		remove: func(repository, tag, _ string) error {
			r, _, err := c.at(repository + ":" + tag)
			if err != nil {
				return err
			}
			manifest, err := r.Resolve(ctx, tag)
			if err != nil {
				return err
			}
			return r.Manifests().Delete(ctx, manifest)
		},
		tags: func(repository string) ([]string, error) {
			r, _, err := c.at(repository)
			if err != nil {
				return nil, err
			}
			return registry.Tags(ctx, r)
		},
		repositories: func() ([]string, error) {
			r, err := c.registry()
			if err != nil {
				return nil, err
			}
			return registry.Repositories(ctx, r)
		},
		referrers: true,
	}
}

// containerdClient is containerd's resolver with a content store, as its client and the kubelet's images use it.
type containerdClient struct {
	t     *testing.T
	host  string
	token string
}

func (c *containerdClient) resolver() remotes.Resolver {
	return docker.NewResolver(docker.ResolverOptions{Hosts: docker.ConfigureDefaultRegistries(docker.WithPlainHTTP(docker.MatchLocalhost),
		docker.WithAuthorizer(docker.NewDockerAuthorizer(docker.WithAuthCreds(func(string) (string, string, error) { return "ci", c.token, nil }))))})
}

// fetch pulls all of what a descriptor leads to, every platform's.
func (c *containerdClient) fetch(ctx context.Context, ref string) (ocispec.Descriptor, content.Store, error) {
	store, err := local.NewStore(filepath.Join(c.t.TempDir(), "content"))
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	name, desc, err := c.resolver().Resolve(ctx, c.host+"/"+ref)
	if err != nil {
		return desc, nil, err
	}
	fetcher, err := c.resolver().Fetcher(ctx, name)
	if err != nil {
		return desc, nil, err
	}
	return desc, store, images.Dispatch(ctx, images.Handlers(remotes.FetchHandler(store, fetcher), images.ChildrenHandler(store)), nil, desc)
}

func (c *containerdClient) push(ctx context.Context, store content.Store, desc ocispec.Descriptor, ref string) error {
	pusher, err := c.resolver().Pusher(ctx, c.host+"/"+ref)
	if err != nil {
		return err
	}
	return remotes.PushContent(ctx, pusher, desc, store, nil, platforms.All, nil)
}

// referrers are asked for by two artifact types, of which one is there.
func (c *containerdClient) referrers(ctx context.Context, ref string, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	fetcher, err := c.resolver().Fetcher(ctx, c.host+"/"+ref)
	if err != nil {
		return nil, err
	}
	return fetcher.(remotes.ReferrersFetcher).FetchReferrers(ctx, desc.Digest, remotes.WithReferrerArtifactTypes("application/vnd.example.none", spdx))
}

func openContainerd(t *testing.T, s *waybillServer) client {
	ctx := context.Background()
	c := &containerdClient{t: t, host: s.host}
	return client{
		login: func(token string) error { c.token = token; return nil },
		push: func(what sample, ref string) error {
			store, err := local.NewStore(what.layout) // its blobs lie where a layout's do
			if err != nil {
				return err
			}
			digest, err := what.image.Digest()
			if err != nil {
				return err
			}
			from, err := oci.New(what.layout)
			if err != nil {
				return err
			}
			desc, err := from.Resolve(ctx, digest.String())
			if err != nil {
				return err
			}
			return c.push(ctx, store, desc, ref)
		},
		pull: func(ref string) (string, error) {
			desc, _, err := c.fetch(ctx, ref)
			return desc.Digest.String(), err
		},
		copy: func(from, to string) error {
			desc, store, err := c.fetch(ctx, from)
			if err != nil {
				return err
			}
			if err := c.push(ctx, store, desc, to); err != nil {
				return err
			}
			found, err := c.referrers(ctx, from, desc)
			if err != nil {
				return err
			}
			source, _, _ := strings.Cut(from, ":")
			target, _, _ := strings.Cut(to, ":")
			for _, referrer := range found {
				desc, store, err := c.fetch(ctx, source+"@"+referrer.Digest.String())
				if err != nil {
					return err
				}
				if err := c.push(ctx, store, desc, target+"@"+referrer.Digest.String()); err != nil {
					return err
				}
			}
			return nil
		},
		trusting: true, referrers: true,
	}
}

// openHelm pushes a chart; it has no word for copying one.
func openHelm(t *testing.T, s *waybillServer) client {
	open := func() (*helm.Client, error) {
		return helm.NewClient(helm.ClientOptPlainHTTP(), helm.ClientOptCredentialsFile(filepath.Join(t.TempDir(), "registry.json")))
	}
	c, err := open()
	require.NoError(t, err)
	return client{
		login: func(token string) error {
			if c, err = open(); err != nil {
				return err
			}
			return c.Login(s.host, helm.LoginOptBasicAuth("ci", token), helm.LoginOptPlainText(true))
		},
		push: func(_ sample, ref string) error {
			_, err := c.Push(chart(t, "app", version), s.host+"/"+ref, helm.PushOptProvData([]byte("signed by its maintainer")))
			return err
		},
		pull: func(ref string) (string, error) {
			got, err := c.Pull(s.host+"/"+ref, helm.PullOptWithProv(true))
			if err != nil {
				return "", err
			}
			if !bytes.Equal(got.Chart.Data, chart(t, "app", version)) || got.Chart.Meta.Name != "app" {
				return "", fmt.Errorf("another chart: %v", got.Chart.Meta)
			}
			return got.Manifest.Digest, nil
		},
		tags:   func(repository string) ([]string, error) { return c.Tags(s.host + "/" + repository) },
		charts: true,
	}
}

// chart packs what `helm package` would of an empty chart.
func chart(t *testing.T, name, version string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	text := fmt.Sprintf("apiVersion: v2\nname: %s\nversion: %s\n", name, version)
	require.NoError(t, w.WriteHeader(&tar.Header{Name: name + "/Chart.yaml", Mode: 0o644, Size: int64(len(text)), Typeflag: tar.TypeReg}))
	_, err := w.Write([]byte(text))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	require.NoError(t, z.Close())
	return b.Bytes()
}
