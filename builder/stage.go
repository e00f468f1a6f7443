package builder

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"waybill/artifact"
)

// stage is a stage of a Dockerfile while it is built. What its instructions do to the config is what BuildKit's
// frontend/dockerfile/dockerfile2llb/convert.go does.
type stage struct {
	target *Target
	plan   *stagePlan
	ctx    context.Context //nolint:containedctx // of the instruction that runs
	work   *workspace
	log    io.Writer
	done   map[int]*stage
	spec   dockerspec.DockerOCIImage
	layers []v1.Layer
	base   v1.Image          // whose files are listed when they are asked for; nil for scratch
	files  *tree             // what is there; nil until it is asked for
	env    map[string]string // arguments and environment, whichever was set last
	cmdSet bool              // a CMD of this stage outlives an ENTRYPOINT
	kept   bool              // its layers are the image's: else none are written
}

func (s *stage) config() *dockerspec.DockerOCIImageConfig { return &s.spec.Config }

// begin starts a stage from scratch, an earlier stage or a base.
func (t *Target) begin(i int, done map[int]*stage, work *workspace, log io.Writer) (*stage, error) {
	plan := t.stages[i]
	s := &stage{target: t, plan: plan, work: work, log: log, done: done, env: map[string]string{}}
	switch {
	case plan.from >= 0:
		if err := s.goOn(done[plan.from]); err != nil {
			return nil, err
		}
	case plan.BaseName == scratchName:
		s.files = newTree()
		s.spec.OS, s.spec.Architecture, s.spec.Variant = t.platform.OS, t.platform.Architecture, t.platform.Variant
		s.spec.RootFS.Type = "layers"
		s.config().WorkingDir = "/"
	default:
		if err := s.onImage(plan.base.image); err != nil {
			return nil, err
		}
	}
	s.config().OnBuild = nil // its triggers ran, or will have
	if !slices.ContainsFunc(s.config().Env, func(v string) bool { return strings.HasPrefix(v, "PATH=") }) {
		s.config().Env = append(s.config().Env, "PATH="+defaultPath)
	}
	for _, variable := range s.config().Env {
		k, v, _ := strings.Cut(variable, "=")
		s.env[k] = v
	}
	return s, nil
}

// defaultPath is what BuildKit gives images that have no PATH.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// goOn takes over an earlier stage: its config, its layers, its files and its arguments.
func (s *stage) goOn(from *stage) error {
	b, err := json.Marshal(from.spec)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &s.spec); err != nil {
		return err
	}
	s.layers, s.base, s.env = slices.Clone(from.layers), from.base, maps.Clone(from.env)
	if from.files != nil {
		s.files = from.files.clone()
	}
	return nil
}

func (s *stage) onImage(image v1.Image) error {
	raw, err := image.RawConfigFile()
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, &s.spec); err != nil {
		return artifact.Errorf(artifact.Invalid, "the config of base %s cannot be read: %w", s.plan.BaseName, err)
	}
	s.base = image
	s.layers, err = image.Layers()
	return err
}

// run evaluates one instruction.
func (s *stage) run(ctx context.Context, command instructions.Command) error {
	s.ctx = ctx
	if err := s.expandIn(command); err != nil {
		return err
	}
	switch c := command.(type) {
	case *instructions.ArgCommand:
		return s.arg(c)
	case *instructions.WorkdirCommand:
		return s.workdir(c)
	case *instructions.CopyCommand:
		from := s.target.plan.context
		if c.From != "" {
			var err error
			if from, err = s.source(c.From); err != nil {
				return err
			}
		}
		return s.copyFiles(c, from, c.SourcesAndDest, copyOptions{chown: c.Chown, chmod: c.Chmod, exclude: c.ExcludePatterns, parents: c.Parents, link: c.Link})
	case *instructions.AddCommand:
		if c.Checksum != "" {
			return artifact.Errorf(artifact.Invalid, "--checksum is for what is downloaded")
		}
		return s.copyFiles(c, s.target.plan.context, c.SourcesAndDest, copyOptions{chown: c.Chown, chmod: c.Chmod, exclude: c.ExcludePatterns, link: c.Link, unpack: c.Unpack == nil || *c.Unpack})
	default:
		return s.configure(command)
	}
}

// expandIn expands an instruction's words, and the content of heredocs, where quotes stay.
func (s *stage) expandIn(command instructions.Command) error {
	_, isArg := command.(*instructions.ArgCommand) // whose default counts only when no value is given
	if c, ok := command.(instructions.SupportsSingleWordExpansion); ok && !isArg {
		if err := c.Expand(s.expand); err != nil {
			return err
		}
	}
	if c, ok := command.(instructions.SupportsSingleWordExpansionRaw); ok {
		return c.ExpandRaw(func(word string) (string, error) {
			lex := shell.NewLex('\\')
			lex.SkipProcessQuotes = true
			out, _, err := lex.ProcessWord(word, environ(s.env))
			if err != nil {
				return "", artifact.Errorf(artifact.Invalid, "the heredoc: %v", err)
			}
			return out, nil
		})
	}
	return nil
}

func (s *stage) expand(word string) (string, error) { return s.target.expand(word, s.env) }

// arg declares arguments: the request's value, else the default, else that of an ARG before the first FROM.
func (s *stage) arg(c *instructions.ArgCommand) error {
	var said []string
	for _, a := range c.Args {
		value, known := s.target.plan.request.Args[a.Key]
		switch {
		case a.Key == epochArg: // which every engine gives, as it dates what it makes
			value, known = strconv.FormatInt(s.target.plan.date.Unix(), 10), true
		case known:
		case a.Value != nil:
			var err error
			if value, err = s.expand(*a.Value); err != nil {
				return err
			}
			known = true
		default:
			value, known = s.target.global[a.Key]
		}
		if !known {
			said = append(said, a.Key)
			continue
		}
		s.env[a.Key] = value
		said = append(said, a.Key+"="+value)
	}
	s.history("ARG "+strings.Join(said, " "), true)
	return nil
}

func (s *stage) workdir(c *instructions.WorkdirCommand) error {
	dir := c.Path
	if !path.IsAbs(dir) {
		dir = path.Join("/", s.config().WorkingDir, dir)
	}
	s.config().WorkingDir = path.Clean(dir)
	if err := s.load(); err != nil {
		return err
	}
	making := &copying{files: s.files, changed: map[string]bool{}, work: s.work}
	if user := s.config().User; user != "" {
		var err error
		if making.owner, err = making.lookup(user, false); err != nil {
			return err
		}
	}
	if err := making.mkdirAll(s.config().WorkingDir); err != nil {
		return err
	}
	return s.layer("WORKDIR "+s.config().WorkingDir, making)
}

// source returns the files of an earlier stage or of an image.
func (s *stage) source(name string) (*tree, error) {
	if b, ok := s.plan.images[name]; ok {
		return s.target.loaded(b.image, s.work)
	}
	i, err := s.target.source(s.ctx, artifact.Principal{}, len(s.target.stages), name, planning{})
	if i < 0 && err == nil {
		return newTree(), nil // scratch
	}
	if err != nil || s.done[i] == nil {
		return nil, fmt.Errorf("stage %s was not built: %w", name, err)
	}
	if err := s.done[i].load(); err != nil {
		return nil, err
	}
	return s.done[i].files, nil
}

// load lists what the stage holds by now.
func (s *stage) load() error {
	if s.files != nil {
		return nil
	}
	var err error
	s.files, err = loadImage(s.base, s.work)
	return err
}

// layer appends what an instruction changed, if it changed anything.
func (s *stage) layer(said string, c *copying) error {
	if len(c.changed) == 0 {
		s.history(said, true)
		return nil
	}
	entries := make([]*node, 0, len(c.changed))
	for _, p := range slices.Sorted(maps.Keys(c.changed)) {
		if n := c.files.get(p); n != nil {
			entries = append(entries, n)
		}
	}
	if c.files != s.files {
		for _, n := range entries {
			s.files.put(n)
		}
	}
	if !s.kept {
		return nil
	}
	l, err := s.work.writeLayer(s.ctx, entries, s.target.plan.date)
	if err != nil {
		return err
	}
	s.layers = append(s.layers, l)
	s.spec.RootFS.DiffIDs = append(s.spec.RootFS.DiffIDs, ociDigest(l.diffID))
	s.history(said, false)
	return nil
}

// history appends the instruction to the image's history, in BuildKit's words.
func (s *stage) history(said string, noLayer bool) {
	at := s.target.plan.date
	s.spec.History = append(s.spec.History, ocispec.History{Created: &at, CreatedBy: said, Comment: nativeName, EmptyLayer: noLayer})
}

// finish writes the image that the instructions came to.
func (s *stage) finish() (v1.Image, error) {
	at := s.target.plan.date
	s.spec.Created = &at
	if labels := s.target.plan.request.Labels; len(labels) > 0 {
		if s.config().Labels == nil {
			s.config().Labels = map[string]string{}
		}
		maps.Copy(s.config().Labels, labels)
	}
	if s.target.explicit {
		s.spec.OS, s.spec.Architecture = s.target.platform.OS, s.target.platform.Architecture
		if s.target.platform.Variant != "" {
			s.spec.Variant = s.target.platform.Variant
		}
	}
	return assemble(s.spec, s.layers)
}
