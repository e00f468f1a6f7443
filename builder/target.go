package builder

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/buildkit/frontend/dockerfile/dfgitutil"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"

	"waybill/artifact"
)

// Target is what a plan makes for one platform. Its commands are expanded in place when it is built, so it is built once.
type Target struct {
	plan     *Plan
	platform artifact.Platform
	explicit bool // the platform was asked for, and is not the default
	escape   rune
	stages   []*stagePlan
	global   map[string]string // arguments that stand before the first FROM, and those of the platform
	target   int
	order    []int              // the stages that the target is made of
	foreign  string             // why the native engine cannot build it; "" when it can
	trees    map[v1.Image]*tree // of the images that COPY --from read
}

// stagePlan is a stage with its base found.
type stagePlan struct {
	instructions.Stage
	from     int  // the stage that it goes on from, or -1
	base     base // the image; zero for a stage and for scratch
	platform artifact.Platform
	commands []instructions.Command // with the triggers of the base before them
	images   map[string]base        // of COPY --from
}

// scratchName is the empty base.
const scratchName = "scratch"

// resolve parses the Dockerfile and pins what the target is made of.
func (t *Target) resolve(ctx context.Context, p artifact.Principal, with planning) error {
	if err := t.parse(); err != nil {
		return err
	}
	planned := map[int]bool{}
	var plan func(i int) error
	plan = func(i int) error {
		if planned[i] {
			return nil
		}
		planned[i] = true
		s := t.stages[i]
		if s.from >= 0 {
			if err := plan(s.from); err != nil {
				return err
			}
		}
		if err := t.begun(ctx, p, i, with); err != nil {
			return err
		}
		for _, c := range s.commands {
			from, err := t.needs(ctx, p, i, c, with)
			if err != nil {
				return t.plan.at(c, err)
			}
			if from >= 0 {
				if err := plan(from); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if err := plan(t.target); err != nil {
		return err
	}
	t.order = slices.Sorted(maps.Keys(planned))
	return nil
}

func (t *Target) parse() error {
	if len(bytes.TrimSpace(t.plan.dockerfile)) == 0 {
		return artifact.Errorf(artifact.Invalid, "%s is empty", t.plan.request.Dockerfile)
	}
	result, err := parser.Parse(bytes.NewReader(t.plan.dockerfile))
	if err != nil {
		return t.plan.located(err)
	}
	t.escape = result.EscapeToken
	quiet := linter.New(&linter.Config{Warn: func(string, string, string, string, []parser.Range) {}})
	stages, meta, err := instructions.Parse(result.AST, quiet)
	if err != nil {
		return t.plan.located(err)
	}
	if len(stages) == 0 {
		return artifact.Errorf(artifact.Invalid, "%s:1:1: it has no FROM; begin with FROM %s, or with an image of this registry", t.plan.request.Dockerfile, scratchName)
	}
	if t.global, err = t.globals(meta, stages[len(stages)-1].Name); err != nil {
		return err
	}
	for i, s := range stages {
		planned, err := t.stagePlan(i, s)
		if err != nil {
			return t.plan.atLine(firstLine(s.Location), err)
		}
		t.stages = append(t.stages, planned)
	}
	t.target = len(t.stages) - 1
	if name := t.plan.request.Target; name != "" {
		at, ok := t.named(name, len(t.stages))
		if !ok {
			return artifact.Errorf(artifact.Invalid, "%s has no stage %.100q", t.plan.request.Dockerfile, name)
		}
		t.target = at
	}
	return nil
}

func (t *Target) stagePlan(i int, s instructions.Stage) (*stagePlan, error) {
	planned := &stagePlan{Stage: s, from: -1, platform: t.platform, commands: s.Commands, images: map[string]base{}}
	var err error
	if planned.BaseName, err = t.expand(s.BaseName, t.global); err != nil {
		return nil, err
	}
	if planned.BaseName == "" {
		return nil, artifact.Errorf(artifact.Invalid, "the base %.200s comes to nothing; is an argument missing?", s.BaseName)
	}
	if s.Platform != "" {
		text, err := t.expand(s.Platform, t.global)
		if err != nil {
			return nil, err
		}
		if planned.platform, err = parsePlatform(text); err != nil {
			return nil, err
		}
	}
	if at, ok := t.named(planned.BaseName, i); ok && planned.BaseName == strings.ToLower(planned.BaseName) {
		planned.from = at
	}
	return planned, nil
}

// named returns the last stage of a name among the first n.
func (t *Target) named(name string, n int) (int, bool) {
	for i := min(n, len(t.stages)) - 1; i >= 0; i-- {
		if t.stages[i].Name != "" && strings.EqualFold(t.stages[i].Name, name) {
			return i, true
		}
	}
	return 0, false
}

// begun pins a stage's base and puts the triggers of it before the stage's own instructions.
func (t *Target) begun(ctx context.Context, p artifact.Principal, i int, with planning) error {
	s := t.stages[i]
	var triggers []string
	switch {
	case s.from >= 0:
		for _, c := range t.stages[s.from].commands {
			if trigger, ok := c.(*instructions.OnbuildCommand); ok {
				triggers = append(triggers, trigger.Expression)
			}
		}
	case s.BaseName != scratchName:
		var err error
		if s.base, err = t.pin(ctx, p, s.BaseName, s.platform, s.Platform == "", with); err != nil {
			return t.plan.atLine(firstLine(s.Location), err)
		}
		config, err := s.base.image.ConfigFile()
		if err != nil {
			return err
		}
		triggers = config.Config.OnBuild
	}
	var first []instructions.Command
	for _, text := range triggers {
		c, err := parseTrigger(text, s.Location)
		if err != nil {
			return artifact.Errorf(artifact.Invalid, "%s:%d: the base's ONBUILD %.200q: %v", t.plan.request.Dockerfile, firstLine(s.Location), text, err)
		}
		first = append(first, c)
	}
	s.commands = append(first, s.commands...)
	return nil
}

func parseTrigger(text string, at []parser.Range) (instructions.Command, error) {
	result, err := parser.Parse(strings.NewReader(text))
	if err != nil {
		return nil, err
	}
	if len(result.AST.Children) != 1 {
		return nil, errors.New("want one instruction")
	}
	node := result.AST.Children[0]
	node.StartLine, node.EndLine = firstLine(at), firstLine(at)
	c, err := instructions.ParseCommand(node)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// needs returns the stage that an instruction reads, or -1, and pins the image that it reads. It notes what only another
// engine can do.
func (t *Target) needs(ctx context.Context, p artifact.Principal, i int, command instructions.Command, with planning) (int, error) {
	switch c := command.(type) {
	case *instructions.RunCommand:
		t.needsEngine(c, "RUN runs a program")
		for _, m := range instructions.GetMounts(c) {
			if m.From != "" {
				return t.source(ctx, p, i, m.From, with)
			}
		}
	case *instructions.AddCommand:
		for _, source := range c.SourcePaths {
			if remote(source) {
				t.needsEngine(c, fmt.Sprintf("ADD downloads %.200s", source))
			}
		}
	case *instructions.CopyCommand:
		if c.From != "" {
			return t.source(ctx, p, i, c.From, with)
		}
	}
	return -1, nil
}

func (t *Target) needsEngine(c instructions.Command, why string) {
	if t.foreign == "" {
		t.foreign = fmt.Sprintf("%s:%d: %s", t.plan.request.Dockerfile, line(c), why)
	}
}

// remote says whether ADD would fetch a source.
func remote(source string) bool {
	if strings.HasPrefix(source, "http://") || strings.HasPrefix(source, "https://") {
		return true
	}
	ref, isGit, err := dfgitutil.ParseGitRef(source)
	return isGit && (err != nil || !ref.IndistinguishableFromLocal)
}

// source finds what --from names: an earlier stage by name or number, or an image.
func (t *Target) source(ctx context.Context, p artifact.Principal, i int, name string, with planning) (int, error) {
	if strings.Contains(name, "$") {
		return -1, artifact.Errorf(artifact.Invalid, "--from=%.200s: variables are not expanded there; name a stage, FROM %[1]s AS NAME, and copy from it", name)
	}
	at, ok := t.named(name, len(t.stages))
	if n, err := strconv.Atoi(name); err == nil {
		if at, ok = n, n >= 0 && n < len(t.stages); !ok {
			return -1, artifact.Errorf(artifact.Invalid, "--from=%s: there is no stage of that number", name)
		}
	}
	if ok {
		if at >= i {
			return -1, artifact.Errorf(artifact.Invalid, "--from=%s names a stage that is not before this one", name)
		}
		return at, nil
	}
	if name == scratchName {
		return -1, nil
	}
	pinned, err := t.pin(ctx, p, name, t.platform, true, with)
	t.stages[i].images[name] = pinned
	return -1, err
}

// pin resolves an image of this registry. Where its platform was asked for, the image must be of it.
func (t *Target) pin(ctx context.Context, p artifact.Principal, name string, platform artifact.Platform, strict bool, with planning) (base, error) {
	known := name
	if len(t.plan.targets) > 1 || platform.String() != t.platform.String() {
		known += " (" + platform.String() + ")"
	}
	if b, ok := t.plan.bases[known]; ok {
		return b, nil
	}
	local := name
	for _, host := range with.hosts {
		if rest, ok := strings.CutPrefix(name, host+"/"); ok {
			local = rest
		}
	}
	ref, err := artifact.ParseReference(local)
	if err != nil && !strings.ContainsAny(local, ":@") {
		ref, err = artifact.ParseReference(local + ":latest")
	}
	if err != nil {
		return base{}, artifact.Errorf(artifact.Invalid, "base %.200q is in no registry that is allowed: want %s, an earlier stage, or an image of this registry such as base/debian:12 or base/debian@sha256:…", name, scratchName)
	}
	image, digest, err := with.bases.Base(ctx, p, ref, platform)
	if err != nil {
		var known *artifact.Error
		if errors.As(err, &known) {
			failed := artifact.Errorf(known.Kind, "base %.300s: %s", name, known.Message)
			if known.Kind == artifact.NotFound {
				failed.Message += "; push or build it there first, or name an image that is in this registry"
			}
			failed.Reasons = known.Reasons
			return base{}, failed
		}
		return base{}, fmt.Errorf("base %s: %w", name, err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		return base{}, err
	}
	is := artifact.Platform{OS: config.OS, Architecture: config.Architecture, Variant: config.Variant}
	if t.explicit && strict && (is.OS != platform.OS || is.Architecture != platform.Architecture) {
		return base{}, artifact.Errorf(artifact.Invalid, "base %.300s is for %s, and %s is asked for", name, is, platform)
	}
	b := base{ref, digest, image, is}
	t.plan.bases[known] = b
	return b, nil
}

// globals evaluates the ARGs that stand before the first FROM, over those that are there in every build. BUILDPLATFORM is
// linux/amd64 on every machine, since a result must not depend on where it is made. last is the name of the last stage.
func (t *Target) globals(meta []instructions.ArgCommand, last string) (map[string]string, error) {
	name := cmp.Or(t.plan.request.Target, last, "default")
	env := map[string]string{
		"BUILDPLATFORM": "linux/amd64", "BUILDOS": "linux", "BUILDOSVERSION": "", "BUILDARCH": "amd64", "BUILDVARIANT": "",
		"TARGETPLATFORM": t.platform.String(), "TARGETOS": t.platform.OS, "TARGETOSVERSION": "", "TARGETARCH": t.platform.Architecture,
		"TARGETVARIANT": t.platform.Variant, "TARGETSTAGE": name,
	}
	for k := range env {
		if v, ok := t.plan.request.Args[k]; ok {
			env[k] = v
		}
	}
	for _, c := range meta {
		for _, arg := range c.Args {
			value, given := t.plan.request.Args[arg.Key]
			if !given {
				if arg.Value == nil {
					continue
				}
				var err error
				if value, err = t.expand(*arg.Value, env); err != nil {
					return nil, t.plan.at(&c, err)
				}
			}
			env[arg.Key] = value
		}
	}
	return env, nil
}

// environ is a set of variables as the lexer wants them.
func environ(env map[string]string) shell.EnvGetter {
	list := make([]string, 0, len(env))
	for _, k := range sortedKeys(env) {
		list = append(list, k+"="+env[k])
	}
	return shell.EnvsFromSlice(list)
}

func (t *Target) loaded(image v1.Image, work *workspace) (*tree, error) {
	if files, ok := t.trees[image]; ok {
		return files, nil
	}
	files, err := loadImage(image, work)
	if t.trees == nil {
		t.trees = map[v1.Image]*tree{}
	}
	t.trees[image] = files
	return files, err
}

func (t *Target) lex() *shell.Lex { return shell.NewLex(t.escape) }

func (t *Target) expand(word string, env map[string]string) (string, error) {
	out, _, err := t.lex().ProcessWord(word, environ(env))
	if err != nil {
		return "", artifact.Errorf(artifact.Invalid, "%.200q: %v", word, err)
	}
	return out, nil
}
