package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	gcr "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/moby/buildkit/session/sshforward/sshprovider"

	"waybill/artifact"
	"waybill/builder"
	"waybill/server"
)

// buildHere builds on this machine with the service's own engines, and pushes as any client does: the same inputs give the same
// digest. What was built by whom is then not for the service to sign.
func (b buildFlags) buildHere(ctx context.Context, c *client, dir string, query url.Values, secrets map[string][]byte, shown *buildDisplay) (out server.Built, err error) {
	r, err := requestOf(query)
	if err != nil {
		return out, err
	}
	agents, err := sshAgents(b.ssh)
	if err != nil {
		return out, err
	}
	engine, err := localBuildKit(b.builder)
	if err != nil {
		return out, err
	}
	defer engine.Close()
	registry := remoteRegistry{c}
	out = server.Built{Repository: r.Repository, Tags: r.Tags, New: true, BuiltAt: time.Now()}
	out.Key, err = builder.Here(ctx, dir, r, builder.Config{Bases: registry, Engine: engine, Hosts: []string{registry.host()}}, builder.Private{Secrets: secrets, SSH: agents}, shown, func(built builder.Artifact) error {
		fmt.Fprintln(shown, "pushing")
		var err error
		out.Digest, err = registry.push(ctx, r, built)
		return err
	})
	return out, err
}

// requestOf is the API's parameters as the service would read them.
func requestOf(query url.Values) (r builder.Request, err error) {
	if r.Repository, err = artifact.ParseRepository(query.Get("repository")); err != nil {
		return r, err
	}
	for _, s := range query["tag"] {
		tag, err := artifact.ParseTag(s)
		if err != nil {
			return r, err
		}
		r.Tags = append(r.Tags, tag)
	}
	r.Args, r.Labels = pairsOf(query["arg"]), pairsOf(query["label"])
	r.Dockerfile, r.Target, r.Platform = query.Get("dockerfile"), query.Get("target"), query.Get("platform")
	r.Source = builder.Source{URI: query.Get("source"), Commit: query.Get("commit")}
	return r, nil
}

func pairsOf(words []string) map[string]string {
	all := map[string]string{}
	for _, s := range words {
		k, v, _ := strings.Cut(s, "=")
		all[k] = v
	}
	return all
}

func sshAgents(flags []string) ([]sshprovider.AgentConfig, error) {
	var all []sshprovider.AgentConfig
	for _, flag := range flags {
		id, path, ok := strings.Cut(flag, "=")
		if !ok {
			path = os.Getenv("SSH_AUTH_SOCK")
		}
		if id == "" || path == "" {
			return nil, usagef("--ssh %.100q: want ID=SOCKET, or an id where SSH_AUTH_SOCK names the agent", flag)
		}
		all = append(all, sshprovider.AgentConfig{ID: id, Paths: []string{path}})
	}
	return all, nil
}

// localBuildKit is BuildKit as this machine has it.
func localBuildKit(address string) (*builder.BuildKit, error) {
	cfg := BuildKitConfig{Address: address}
	cfg.setDefaults()
	if err := cfg.wrong(); err != nil {
		return nil, usageError{fmt.Errorf("--builder: %w", err)}
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	return cfg.open(filepath.Join(cache, "waybill"), true, slog.New(slog.DiscardHandler)), nil
}

// remoteRegistry is the server as a registry's client sees it.
type remoteRegistry struct{ *client }

func (r remoteRegistry) options(ctx context.Context) []remote.Option {
	options := []remote.Option{remote.WithContext(ctx), remote.WithUserAgent("waybill/" + version)}
	if r.token != "" {
		options = append(options, remote.WithAuth(&authn.Basic{Username: "waybill", Password: r.token}))
	}
	return options
}

func (r remoteRegistry) host() string {
	_, host, _ := strings.Cut(r.base, "://")
	return host
}

func (r remoteRegistry) repository(repository artifact.Repository) (name.Repository, error) {
	scheme, host, _ := strings.Cut(r.base, "://")
	var options []name.Option
	if scheme == "http" {
		options = append(options, name.Insecure)
	}
	return name.NewRepository(host+"/"+repository.String(), options...)
}

// Base implements builder.Bases.
func (r remoteRegistry) Base(ctx context.Context, _ artifact.Principal, ref artifact.Reference, platform artifact.Platform) (gcr.Image, artifact.Digest, error) {
	repository, err := r.repository(ref.Repository)
	if err != nil {
		return nil, artifact.Digest{}, err
	}
	var at name.Reference = repository.Tag(ref.Tag.String())
	if !ref.Digest.IsZero() {
		at = repository.Digest(ref.Digest.String())
	}
	image, err := remote.Image(at, append(r.options(ctx), remote.WithPlatform(gcr.Platform{OS: platform.OS, Architecture: platform.Architecture, Variant: platform.Variant}))...)
	if err != nil {
		return nil, artifact.Digest{}, answer(err)
	}
	hash, err := image.Digest()
	if err != nil {
		return nil, artifact.Digest{}, answer(err)
	}
	digest, err := artifact.ParseDigest(hash.String())
	return image, digest, err
}

// push writes an image, or an index with its images, and its tags.
func (r remoteRegistry) push(ctx context.Context, q builder.Request, built builder.Artifact) (artifact.Digest, error) {
	repository, err := r.repository(q.Repository)
	if err != nil {
		return artifact.Digest{}, err
	}
	for _, tag := range q.Tags {
		switch b := built.(type) {
		case gcr.Image:
			err = remote.Write(repository.Tag(tag.String()), b, r.options(ctx)...)
		case gcr.ImageIndex:
			err = remote.WriteIndex(repository.Tag(tag.String()), b, r.options(ctx)...)
		}
		if err != nil {
			return artifact.Digest{}, answer(err)
		}
	}
	hash, err := built.Digest()
	if err != nil {
		return artifact.Digest{}, err
	}
	return artifact.ParseDigest(hash.String())
}

// answer gives what a registry refused its kind and its own words.
func answer(err error) error {
	var refused *transport.Error
	if !errors.As(err, &refused) {
		return err
	}
	kind := artifact.Denied
	if refused.StatusCode == http.StatusNotFound {
		kind = artifact.NotFound
	}
	var all []string
	for _, e := range refused.Errors {
		all = append(all, e.Message)
	}
	if len(all) == 0 {
		return err
	}
	return artifact.Errorf(kind, "%s", strings.Join(all, "\n"))
}
