package builder

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"

	"waybill/artifact"
)

// Name implements Engine.
func (*BuildKit) Name() string { return buildkitEngine }

// Build implements Engine.
func (b *BuildKit) Build(ctx context.Context, t *Target, w *workspace, log io.Writer) (v1.Image, error) {
	if err := b.Ready(); err != nil {
		return nil, artifact.Errorf(artifact.Unsupported, "%s: %w", t.foreign, err)
	}
	r := t.plan.request
	folder := filepath.Join(w.folder, "context")
	if err := os.Mkdir(folder, 0o700); err != nil {
		return nil, full(err)
	}
	root, err := os.OpenRoot(folder)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if err := t.plan.writeContext(root); err != nil {
		return nil, err
	}
	if err := t.plan.dateContext(root); err != nil {
		return nil, err
	}
	in := Inputs{File: r.Dockerfile, Dockerfile: t.plan.dockerfile, Context: folder, Target: r.Target, Platform: t.platform, Args: r.Args, Labels: r.Labels,
		At: t.plan.date, Runs: t.runs(), NoCache: t.plan.rebuilt, Bases: t.images()}
	ignore, ok, err := t.plan.sent.read(r.Dockerfile+ignoreFile, maxDockerfile)
	if err != nil {
		return nil, err
	}
	if ok {
		in.Ignore = append([]byte{}, ignore...) // empty, it still goes before the other
	}
	image, err := b.Solve(ctx, in, w.folder, t.plan.private, log)
	if err != nil {
		return nil, err
	}
	return t.labelled(image)
}

// labelled is an image that says which platform it is for. BuildKit says that it is for the one it was told, which nobody asked
// for when FROM names another.
func (t *Target) labelled(image v1.Image) (v1.Image, error) {
	first := t.stages[t.target]
	for first.from >= 0 {
		first = t.stages[first.from]
	}
	is := first.base.platform
	if t.explicit || first.base.image == nil || is.OS == t.platform.OS && is.Architecture == t.platform.Architecture {
		return image, nil
	}
	raw, err := image.RawConfigFile()
	if err != nil {
		return nil, err
	}
	var spec dockerspec.DockerOCIImage
	if err := json.Unmarshal(raw, &spec); err != nil {
		return nil, fmt.Errorf("BuildKit's image: %w", err)
	}
	spec.OS, spec.Architecture, spec.Variant = is.OS, is.Architecture, is.Variant
	layers, err := image.Layers()
	if err != nil {
		return nil, err
	}
	return assemble(spec, layers)
}

// dateContext gives files of different content different times, within the second that all are dated in the end: BuildKit takes
// two versions of a path for the same where size and time are, and files that are written at once have one time.
func (p *Plan) dateContext(root *os.Root) error {
	for name, n := range p.sent.nodes {
		if n.kind != artifact.Regular {
			continue
		}
		sum, err := strconv.ParseUint(n.sum[:min(8, len(n.sum))], 16, 32)
		if err != nil {
			return fmt.Errorf("%s has no sum: %w", name, err)
		}
		at := p.date.Add(time.Duration(sum%999_999_999 + 1))
		if err := root.Chtimes(name, at, at); err != nil {
			return err
		}
	}
	return nil
}

// runs reports whether the target is made by running programs.
func (t *Target) runs() bool {
	for _, i := range t.order {
		for _, c := range t.stages[i].commands {
			if _, ok := c.(*instructions.RunCommand); ok {
				return true
			}
		}
	}
	return false
}

// images are those that the target's stages name. One that is wanted for another platform than the target's has that behind its
// name.
func (t *Target) images() map[string]v1.Image {
	all := map[string]v1.Image{}
	for _, i := range t.order {
		s := t.stages[i]
		if s.base.image != nil && s.platform.String() != t.platform.String() {
			all[s.BaseName+"::"+s.platform.String()] = s.base.image
		} else if s.base.image != nil {
			all[s.BaseName] = s.base.image
		}
		for name, b := range s.images {
			all[name] = b.image
		}
	}
	return all
}

// foreign names the first thing that the native engine leaves to another; "" when there is none.
func (p *Plan) foreign() string {
	for _, t := range p.targets {
		if t.foreign != "" {
			return t.foreign
		}
	}
	return ""
}

// builtOn is what an image of the plan was built on.
func (p *Plan) builtOn(digest artifact.Digest) []artifact.BuiltOn {
	var all []artifact.BuiltOn
	for _, b := range p.bases {
		on := artifact.BuiltOn{Repository: p.request.Repository, Digest: digest, BaseRepository: b.ref.Repository, BaseDigest: b.digest}
		if b.ref.Digest.IsZero() {
			on.BaseTag = b.ref.Tag.String()
		}
		all = append(all, on)
	}
	return all
}
