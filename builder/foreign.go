package builder

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/buildkit/frontend/dockerfile/dfgitutil"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"

	"waybill/artifact"
)

// beyond names the first thing of the needed stages that the native engine leaves to BuildKit; "" when there is none.
func (p *Plan) beyond() string {
	for _, i := range p.needed() {
		for _, command := range p.stages[i].Commands {
			what := ""
			switch c := command.(type) {
			case *instructions.RunCommand:
				what = "RUN"
			case *instructions.AddCommand:
				if c.Checksum != "" || slices.ContainsFunc(c.SourcePaths, remote) {
					what = "ADD of what is elsewhere"
				}
			}
			if what != "" {
				return fmt.Sprintf("%s:%d: %s", p.request.Dockerfile, line(command), what)
			}
		}
	}
	return ""
}

// engine names what turns the plan into bytes.
func (p *Plan) engine() string {
	if p.beyond() != "" {
		return buildkitEngine
	}
	return engine
}

// remote reports whether ADD would fetch a source.
func remote(source string) bool {
	if strings.HasPrefix(source, "http://") || strings.HasPrefix(source, "https://") {
		return true
	}
	ref, isGit, err := dfgitutil.ParseGitRef(source)
	return isGit && (err != nil || !ref.IndistinguishableFromLocal)
}

// sourcesOf returns the stages and images that an instruction takes files from.
func sourcesOf(command instructions.Command) []string {
	var all []string
	switch c := command.(type) {
	case *instructions.CopyCommand:
		all = append(all, c.From)
	case *instructions.RunCommand:
		for _, m := range instructions.GetMounts(c) {
			all = append(all, m.From)
		}
	}
	var named []string
	for _, name := range all {
		if name != "" && name != "scratch" {
			named = append(named, name)
		}
	}
	return named
}

// make builds with the engine that the plan takes: dir is the context's folder, temp one for what comes of it.
func (p *Plan) make(ctx context.Context, b *BuildKit, dir, temp string, private Private, log io.Writer) (v1.Image, error) {
	why := p.beyond()
	if why == "" {
		return p.build(ctx, temp, log)
	}
	if err := b.Ready(); err != nil {
		return nil, artifact.Errorf(artifact.Unsupported, "%s: %w", why, err)
	}
	at, err := p.time()
	if err != nil {
		return nil, err
	}
	in := Inputs{File: p.request.Dockerfile, Dockerfile: p.dockerfile, Context: dir, Target: p.request.Target, Platform: p.platform, Args: p.request.Args, At: at, Bases: map[string]v1.Image{}}
	for name, base := range p.bases {
		in.Bases[name] = base.image
	}
	return b.Solve(ctx, in, temp, private, log)
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
