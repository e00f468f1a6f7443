package builder

import (
	"context"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/shell"

	"waybill/artifact"
)

// stage is a stage of a Dockerfile while it is built.
type stage struct {
	plan      *Plan
	temp      string
	at        time.Time
	image     v1.Image
	config    v1.Config
	files     *tree // what is there; nil until it is asked for
	args      map[string]string
	layerType types.MediaType
	cmdSet    bool // a CMD of this stage outlives an ENTRYPOINT
	log       io.Writer
	done      map[int]*stage
}

// build makes the target's image in a temporary folder.
func (p *Plan) build(ctx context.Context, temp string, log io.Writer) (v1.Image, error) {
	at, err := p.time()
	if err != nil {
		return nil, err
	}
	done := map[int]*stage{}
	for _, i := range p.needed() {
		s, err := p.begin(i, done, temp, at, log)
		if err != nil {
			return nil, err
		}
		for _, command := range p.stages[i].Commands {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			fmt.Fprintf(log, "[%s] %s\n", s.name(i), command)
			if err := s.run(command); err != nil {
				return nil, p.at(command, err)
			}
		}
		if s.image, err = s.finish(); err != nil {
			return nil, err
		}
		done[i] = s
	}
	return done[p.target].image, nil
}

func (s *stage) name(i int) string {
	if name := s.plan.stages[i].Name; name != "" {
		return name
	}
	return fmt.Sprintf("stage %d", i)
}

// at gives an error the line of its instruction.
func (p *Plan) at(c instructions.Command, err error) error {
	kind := artifact.KindOf(err)
	if kind == "" {
		return fmt.Errorf("%s:%d: %w", p.request.Dockerfile, line(c), err)
	}
	return artifact.Errorf(kind, "%s:%d: %v", p.request.Dockerfile, line(c), err)
}

// begin starts a stage from scratch, an earlier stage or a base.
func (p *Plan) begin(i int, done map[int]*stage, temp string, at time.Time, log io.Writer) (*stage, error) {
	s := &stage{plan: p, temp: temp, at: at, args: map[string]string{}, log: log, done: done, layerType: types.OCILayer}
	name, err := p.expandMeta(p.stages[i].BaseName)
	if err != nil {
		return nil, err
	}
	switch from, ok := p.stage(name); {
	case name == "scratch":
		s.image, err = scratch(p.platform, at)
		s.files = newTree()
	case ok && from < i:
		s.image = done[from].image
	default:
		s.image = p.bases[name].image
	}
	if err != nil {
		return nil, err
	}
	mediaType, err := s.image.MediaType()
	if err != nil {
		return nil, err
	}
	if mediaType == types.DockerManifestSchema2 {
		s.layerType = types.DockerLayer
	}
	config, err := s.image.ConfigFile()
	if err != nil {
		return nil, err
	}
	s.config = *config.Config.DeepCopy()
	if len(s.config.OnBuild) > 0 {
		return nil, artifact.Errorf(artifact.Unsupported, "base %s has ONBUILD triggers (%s), which this engine does not run", name, strings.Join(s.config.OnBuild, "; "))
	}
	return s, nil
}

func scratch(platform artifact.Platform, at time.Time) (v1.Image, error) {
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	return mutate.ConfigFile(image, &v1.ConfigFile{OS: platform.OS, Architecture: platform.Architecture, Variant: platform.Variant, Created: v1.Time{Time: at},
		RootFS: v1.RootFS{Type: "layers"}})
}

// expand expands a word with the stage's arguments and environment, as far as they are known by now.
func (s *stage) expand(word string) (string, error) {
	env := s.plan.platformArgs()
	for k := range env {
		if _, declared := s.args[k]; !declared {
			delete(env, k) // they must be declared to be used
		}
	}
	for k, v := range s.args {
		env[k] = v
	}
	for _, variable := range s.config.Env {
		k, v, _ := strings.Cut(variable, "=")
		env[k] = v
	}
	return expandWith(shell.NewLex(s.plan.escape), word, env)
}

// run evaluates one instruction.
func (s *stage) run(command instructions.Command) error {
	if expanding, ok := command.(instructions.SupportsSingleWordExpansion); ok {
		if err := expanding.Expand(s.expand); err != nil {
			return err
		}
	}
	switch c := command.(type) {
	case *instructions.ArgCommand:
		return s.arg(c)
	case *instructions.CopyCommand:
		return s.copy(c)
	case *instructions.AddCommand:
		return s.add(c)
	case *instructions.WorkdirCommand:
		return s.workdir(c)
	default:
		return s.configure(command)
	}
}

// configure evaluates the instructions that only change the config.
func (s *stage) configure(command instructions.Command) error {
	switch c := command.(type) {
	case *instructions.EnvCommand:
		for _, kv := range c.Env {
			s.setEnv(kv.Key, kv.Value)
		}
	case *instructions.LabelCommand:
		if s.config.Labels == nil {
			s.config.Labels = map[string]string{}
		}
		for _, kv := range c.Labels {
			s.config.Labels[kv.Key] = kv.Value
		}
	case *instructions.UserCommand:
		s.config.User = c.User
	case *instructions.EntrypointCommand:
		s.config.Entrypoint = s.commandLine(c.ShellDependantCmdLine)
		if !s.cmdSet {
			s.config.Cmd = nil
		}
	case *instructions.CmdCommand:
		s.config.Cmd, s.cmdSet = s.commandLine(c.ShellDependantCmdLine), true
	case *instructions.ExposeCommand:
		return s.expose(c)
	case *instructions.VolumeCommand:
		if s.config.Volumes == nil {
			s.config.Volumes = map[string]struct{}{}
		}
		for _, v := range c.Volumes {
			s.config.Volumes[v] = struct{}{}
		}
	case *instructions.StopSignalCommand:
		s.config.StopSignal = c.Signal
	case *instructions.ShellCommand:
		s.config.Shell = c.Shell
	case *instructions.HealthCheckCommand:
		h := c.Health
		s.config.Healthcheck = &v1.HealthConfig{Test: h.Test, Interval: h.Interval, Timeout: h.Timeout, StartPeriod: h.StartPeriod, Retries: h.Retries}
	case *instructions.OnbuildCommand:
		s.config.OnBuild = append(s.config.OnBuild, c.Expression)
	case *instructions.MaintainerCommand:
		return artifact.Errorf(artifact.Unsupported, "MAINTAINER was removed from Dockerfiles; use LABEL org.opencontainers.image.authors=%q", c.Maintainer)
	default:
		return artifact.Errorf(artifact.Unsupported, "%s is not offered", command.Name())
	}
	return s.history(command, nil)
}

func (s *stage) setEnv(key, value string) {
	entry := key + "=" + value
	for i, v := range s.config.Env {
		if k, _, _ := strings.Cut(v, "="); k == key {
			s.config.Env[i] = entry
			return
		}
	}
	s.config.Env = append(s.config.Env, entry)
}

func (s *stage) commandLine(c instructions.ShellDependantCmdLine) []string {
	if !c.PrependShell {
		return c.CmdLine
	}
	shell := s.config.Shell
	if len(shell) == 0 {
		shell = []string{"/bin/sh", "-c"}
	}
	return append(slices.Clone(shell), strings.Join(c.CmdLine, " "))
}

func (s *stage) expose(c *instructions.ExposeCommand) error {
	if s.config.ExposedPorts == nil {
		s.config.ExposedPorts = map[string]struct{}{}
	}
	for _, word := range c.Ports {
		expanded, err := s.expand(word)
		if err != nil {
			return err
		}
		for _, port := range strings.Fields(expanded) {
			number, protocol, _ := strings.Cut(port, "/")
			if number == "" || strings.Trim(number, "0123456789-") != "" {
				return artifact.Errorf(artifact.Invalid, "port %q: want NUMBER or NUMBER/PROTOCOL", port)
			}
			if protocol == "" {
				protocol = "tcp"
			}
			s.config.ExposedPorts[number+"/"+strings.ToLower(protocol)] = struct{}{}
		}
	}
	return s.history(c, nil)
}

// arg declares arguments: the request's value, else the default, else that of an ARG before the first FROM.
func (s *stage) arg(c *instructions.ArgCommand) error {
	for _, a := range c.Args {
		if value, given := s.plan.request.Args[a.Key]; given {
			s.args[a.Key], s.plan.used[a.Key] = value, value
			continue
		}
		if a.Value != nil {
			s.args[a.Key] = *a.Value
			continue
		}
		value, err := s.plan.expandMeta("${" + a.Key + "}")
		if err != nil {
			return err
		}
		s.args[a.Key] = value
	}
	return s.history(c, nil)
}

func (s *stage) workdir(c *instructions.WorkdirCommand) error {
	dir := c.Path
	if !path.IsAbs(dir) {
		dir = path.Join("/", s.config.WorkingDir, dir)
	}
	s.config.WorkingDir = path.Clean(dir)
	if err := s.load(); err != nil {
		return err
	}
	// The folder is made as a copy of an empty one would.
	making := &copying{stage: s, from: newTree(), mode: -1, added: map[string]*node{}}
	if err := making.add(&node{kind: artifact.Dir, mode: 0o755}, s.config.WorkingDir); err != nil {
		return err
	}
	return s.layer(c, making.added)
}

func (s *stage) copy(c *instructions.CopyCommand) error {
	from := s.plan.context
	if c.From != "" {
		var err error
		if from, err = s.source(c.From); err != nil {
			return err
		}
	}
	return s.copying(c, &copying{stage: s, from: from, source: c.SourcesAndDest, chown: c.Chown, chmod: c.Chmod, exclude: c.ExcludePatterns, parents: c.Parents})
}

func (s *stage) add(c *instructions.AddCommand) error {
	if c.Checksum != "" {
		return artifact.Errorf(artifact.Unsupported, "ADD --checksum is for downloads, which this engine does not make")
	}
	return s.copying(c, &copying{stage: s, from: s.plan.context, source: c.SourcesAndDest, chown: c.Chown, chmod: c.Chmod, exclude: c.ExcludePatterns, unpack: c.Unpack == nil || *c.Unpack})
}

func (s *stage) copying(command instructions.Command, c *copying) error {
	if err := s.load(); err != nil {
		return err
	}
	if _, err := c.entries(); err != nil {
		return err
	}
	return s.layer(command, c.added)
}

// source returns the files of an earlier stage or of an image.
func (s *stage) source(name string) (*tree, error) {
	if i, ok := s.plan.stage(name); ok && s.done[i] != nil {
		err := s.done[i].load()
		return s.done[i].files, err
	}
	b, ok := s.plan.bases[name]
	if !ok {
		return nil, artifact.Errorf(artifact.Invalid, "--from=%s is neither an earlier stage nor an image", name)
	}
	flattened := mutate.Extract(b.image)
	defer flattened.Close()
	return loadTree(flattened, s.temp)
}

// load lists what the stage holds by now.
func (s *stage) load() error {
	if s.files != nil {
		return nil
	}
	flattened := mutate.Extract(s.image)
	defer flattened.Close()
	var err error
	s.files, err = loadTree(flattened, s.temp)
	return err
}

// layer appends what an instruction added, if it added anything.
func (s *stage) layer(command instructions.Command, added map[string]*node) error {
	entries := make([]*node, 0, len(added))
	for _, n := range added {
		entries = append(entries, n)
	}
	if len(entries) == 0 {
		return s.history(command, nil)
	}
	l, err := writeLayer(s.temp, entries, s.at, s.layerType)
	if err != nil {
		return err
	}
	for _, n := range entries {
		s.files.put(n)
	}
	return s.history(command, l)
}

// history appends the instruction to the image's history, with its layer or none.
func (s *stage) history(command instructions.Command, l v1.Layer) (err error) {
	entry := v1.History{Created: v1.Time{Time: s.at}, CreatedBy: fmt.Sprint(command), Comment: engine, EmptyLayer: l == nil}
	s.image, err = mutate.Append(s.image, mutate.Addendum{Layer: l, History: entry})
	return err
}

// finish writes the config that the instructions came to.
func (s *stage) finish() (v1.Image, error) {
	config, err := s.image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.Config, config.Created = s.config, v1.Time{Time: s.at}
	config.Author, config.Container, config.DockerVersion = "", "", "" //nolint:staticcheck // a base may still have them
	return mutate.ConfigFile(s.image, config)
}
