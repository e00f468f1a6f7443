package builder

import (
	"context"
	"fmt"
	"io"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"waybill/artifact"
)

// Engine makes the image of one platform of a plan. The native engine does so in process, for Dockerfiles that run
// nothing and download nothing; whatever else there is to build is for another engine (Target.Foreign says why).
//
// An engine reads its inputs from the target alone, all of which are pinned by then: the Dockerfile's bytes, the unpacked context without
// what is ignored, arguments, labels, bases by digest, and the time that files are dated. So equal keys give equal bytes.
// It logs a line per instruction, leaves nothing outside of the workspace, and ends soon after its context does. What it
// returns may read the workspace until that is closed. Errors that are the Dockerfile's fault are artifact.Errors.
type Engine interface {
	// Name is part of the build key. Whatever changes the bytes that the engine makes of a plan changes it.
	Name() string
	// Build may be called for several platforms at once, and once for each target.
	Build(ctx context.Context, t *Target, work *workspace, log io.Writer) (v1.Image, error)
}

// nativeName changes with whatever changes the bytes of images.
const nativeName = "waybill-native/4"

// Native is the engine for Dockerfiles without RUN.
type Native struct{}

// Name implements Engine.
func (Native) Name() string { return nativeName }

// Build implements Engine.
func (Native) Build(ctx context.Context, t *Target, work *workspace, log io.Writer) (v1.Image, error) {
	done, kept := map[int]*stage{}, t.kept()
	for _, i := range t.order {
		s, err := t.begin(i, done, work, log)
		if err != nil {
			return nil, err
		}
		s.kept = kept[i]
		for _, command := range t.stages[i].commands {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			fmt.Fprintf(log, "[%s] %s\n", t.label(i), command)
			if err := s.run(ctx, command); err != nil {
				return nil, t.plan.at(command, err)
			}
		}
		done[i] = s
	}
	return done[t.target].finish()
}

// kept are the stages whose layers the image has. Of the others only files are copied.
func (t *Target) kept() map[int]bool {
	kept := map[int]bool{}
	for i := t.target; i >= 0; i = t.stages[i].from {
		kept[i] = true
	}
	return kept
}

// label names a stage in the log.
func (t *Target) label(i int) string {
	name := fmt.Sprintf("stage-%d", i)
	if t.stages[i].Name != "" {
		name = t.stages[i].Name
	}
	if len(t.plan.targets) > 1 {
		name = t.platform.String() + " " + name
	}
	return name
}

// build makes the image, or the index of the platforms' images, in a temporary folder, which is there for as long as the
// result is used, as release is to be called after that.
func (p *Plan) build(ctx context.Context, temp string, limits Limits, log io.Writer) (_ Artifact, _ func(), err error) {
	var works []*workspace
	release := func() {
		for _, w := range works {
			_ = w.Close()
		}
	}
	defer func() {
		if err != nil {
			release()
		}
	}()
	images := make([]v1.Image, 0, len(p.targets))
	for _, t := range p.targets {
		folder, err := os.MkdirTemp(temp, "target-")
		if err != nil {
			return nil, nil, full(err)
		}
		work := newWorkspace(folder, limits.withDefaults().Unpacked)
		work.layers = p.layers
		works = append(works, work)
		image, err := p.engine.Build(ctx, t, work, log)
		if err != nil {
			return nil, nil, full(err)
		}
		images = append(images, image)
	}
	if len(images) == 1 {
		return images[0], release, nil
	}
	return assembleIndex(p.targets, images), release, nil
}

// choose takes the native engine where it can, and the other, if there is one, for the rest.
func (p *Plan) choose(other Engine) error {
	p.engine = Native{}
	for _, t := range p.targets {
		if t.foreign == "" {
			continue
		}
		if other == nil {
			return artifact.Errorf(artifact.Unsupported, "%s; this server has no engine for that: make it before, and COPY it, or build with docker and push", t.foreign)
		}
		p.engine = other
	}
	return nil
}
