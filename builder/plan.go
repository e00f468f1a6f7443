package builder

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"

	"waybill/artifact"
)

// engine names what turns a plan into bytes. Whatever changes those bytes changes it, so that its keys differ.
const engine = "waybill-native/1"

// Request is what somebody wants built.
type Request struct {
	Repository artifact.Repository
	Tags       []artifact.Tag
	Dockerfile string // path in the context; empty is Dockerfile
	Args       map[string]string
	Target     string // stage; empty is the last
	Platform   string // os/arch[/variant]; empty is linux/amd64, on every machine
	Source     Source
}

// Source says where the context comes from, as the caller claims.
type Source struct {
	URI    string `json:"uri,omitempty"`
	Commit string `json:"commit,omitempty"`
}

// Bases resolves what FROM and COPY --from name outside the Dockerfile: images of this registry.
type Bases interface {
	// Base returns the image that ref means on a platform, for one who may pull it, and its digest.
	Base(ctx context.Context, p artifact.Principal, ref artifact.Reference, platform artifact.Platform) (v1.Image, artifact.Digest, error)
}

// Plan is a build with every input pinned.
type Plan struct {
	request    Request
	platform   artifact.Platform
	context    *tree
	dockerfile []byte
	escape     rune
	stages     []instructions.Stage
	meta       []instructions.ArgCommand
	target     int
	bases      map[string]base // by the reference as it is written, expanded
	used       map[string]string
	key        artifact.Digest
	contextSum artifact.Digest
}

type base struct {
	ref    artifact.Reference
	digest artifact.Digest
	image  v1.Image
}

// newPlan parses the Dockerfile with BuildKit's own parser, refuses what this engine cannot do, and pins every base.
func newPlan(ctx context.Context, p artifact.Principal, r Request, root *os.Root, bases Bases) (*Plan, error) {
	if r.Dockerfile == "" {
		r.Dockerfile = defaultFile
	}
	plan := &Plan{request: r, bases: map[string]base{}, used: map[string]string{}}
	var err error
	if plan.platform, err = parsePlatform(r.Platform); err != nil {
		return nil, err
	}
	if plan.dockerfile, err = readDockerfile(root, r.Dockerfile); err != nil {
		return nil, err
	}
	if err := plan.parse(); err != nil {
		return nil, err
	}
	if plan.context, err = contextTree(root); err != nil {
		return nil, err
	}
	if plan.contextSum, err = plan.context.digest(); err != nil {
		return nil, err
	}
	if err := plan.pin(ctx, p, bases); err != nil {
		return nil, err
	}
	return plan, plan.makeKey()
}

func parsePlatform(text string) (artifact.Platform, error) {
	if text == "" {
		text = "linux/amd64"
	}
	parts := strings.Split(text, "/")
	if len(parts) < 2 || len(parts) > 3 || slices.Contains(parts, "") || parts[0] != "linux" {
		return artifact.Platform{}, artifact.Errorf(artifact.Invalid, "platform %.60q: want linux/ARCH or linux/ARCH/VARIANT", text)
	}
	p := artifact.Platform{OS: parts[0], Architecture: parts[1]}
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	return p, nil
}

func readDockerfile(root *os.Root, name string) ([]byte, error) {
	f, err := root.Open(path.Clean(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, artifact.Errorf(artifact.Invalid, "there is no %s in the build context; name another with -f", name)
	} else if err != nil {
		return nil, artifact.Errorf(artifact.Invalid, "%s: %w", name, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 1<<20+1))
	if err == nil && len(b) > 1<<20 {
		err = artifact.Errorf(artifact.TooLarge, "%s is larger than 1 MiB", name)
	}
	return b, err
}

func (p *Plan) parse() error {
	result, err := parser.Parse(bytes.NewReader(p.dockerfile))
	if err != nil {
		return p.located(err)
	}
	p.escape = result.EscapeToken
	if p.stages, p.meta, err = instructions.Parse(result.AST, linter.New(&linter.Config{Warn: func(string, string, string, string, []parser.Range) {}})); err != nil {
		return p.located(err)
	}
	p.target = len(p.stages) - 1
	if p.request.Target != "" {
		at, ok := p.stage(p.request.Target)
		if !ok {
			return artifact.Errorf(artifact.Invalid, "%s has no stage %q", p.request.Dockerfile, p.request.Target)
		}
		p.target = at
	}
	return nil
}

// located gives a parser's error its line.
func (p *Plan) located(err error) error {
	var at *parser.LocationError
	if errors.As(err, &at) && len(at.Locations) > 0 && len(at.Locations[0]) > 0 {
		start := at.Locations[0][0].Start
		return artifact.Errorf(artifact.Invalid, "%s:%d:%d: %v", p.request.Dockerfile, start.Line, start.Character+1, err)
	}
	return artifact.Errorf(artifact.Invalid, "%s: %v", p.request.Dockerfile, err)
}

func line(c instructions.Command) int {
	if at := c.Location(); len(at) > 0 {
		return at[0].Start.Line
	}
	return 0
}

// stage returns the index of a stage by its name or number.
func (p *Plan) stage(name string) (int, bool) {
	for i, s := range p.stages {
		if strings.EqualFold(s.Name, name) && name != "" {
			return i, true
		}
	}
	if n, err := strconv.Atoi(name); err == nil && n >= 0 && n < len(p.stages) {
		return n, true
	}
	return 0, false
}

// needed returns the stages that the target is made of, in their order.
func (p *Plan) needed() []int {
	wanted := map[int]bool{}
	var want func(i int)
	want = func(i int) {
		if wanted[i] {
			return
		}
		wanted[i] = true
		if from, ok := p.stage(p.stages[i].BaseName); ok && from < i {
			want(from)
		}
		for _, c := range p.stages[i].Commands {
			for _, name := range sourcesOf(c) {
				if from, ok := p.stage(name); ok && from < i {
					want(from)
				}
			}
		}
	}
	want(p.target)
	return slices.Sorted(maps.Keys(wanted))
}

// pin resolves every image that the needed stages name.
func (p *Plan) pin(ctx context.Context, principal artifact.Principal, bases Bases) error {
	for _, i := range p.needed() {
		s := p.stages[i]
		name, err := p.expandMeta(s.BaseName)
		if err != nil {
			return err
		}
		if from, ok := p.stage(name); name != "scratch" && (!ok || from >= i) {
			if err := p.pinOne(ctx, principal, bases, name, firstLine(s.Location)); err != nil {
				return err
			}
		}
		for _, c := range s.Commands {
			for _, name := range sourcesOf(c) {
				if from, ok := p.stage(name); ok && from < i {
					continue
				}
				if err := p.pinOne(ctx, principal, bases, name, line(c)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func firstLine(at []parser.Range) int {
	if len(at) > 0 {
		return at[0].Start.Line
	}
	return 0
}

func (p *Plan) pinOne(ctx context.Context, principal artifact.Principal, bases Bases, name string, line int) error {
	if _, ok := p.bases[name]; ok {
		return nil
	}
	ref, err := artifact.ParseReference(name)
	if err != nil && !strings.ContainsAny(name, ":@") {
		ref, err = artifact.ParseReference(name + ":latest")
	}
	if err != nil {
		return artifact.Errorf(artifact.Invalid, "%s:%d: base %.200q: want scratch, an earlier stage, or an image of this registry such as base/debian:12 or base/debian@sha256:…", p.request.Dockerfile, line, name)
	}
	image, digest, err := bases.Base(ctx, principal, ref, p.platform)
	if err != nil {
		var known *artifact.Error
		if errors.As(err, &known) {
			return artifact.Errorf(known.Kind, "%s:%d: base %s: %s", p.request.Dockerfile, line, name, known.Message)
		}
		return fmt.Errorf("base %s: %w", name, err)
	}
	p.bases[name] = base{ref, digest, image}
	return nil
}

// expandMeta expands the ARGs that stand before the first FROM.
func (p *Plan) expandMeta(word string) (string, error) {
	env := p.platformArgs()
	lex := shell.NewLex(p.escape)
	for _, c := range p.meta {
		for _, arg := range c.Args {
			value, given := p.request.Args[arg.Key]
			if given {
				p.used[arg.Key] = value
			} else if arg.Value != nil {
				var err error
				if value, err = expandWith(lex, *arg.Value, env); err != nil {
					return "", err
				}
			}
			env[arg.Key] = value
		}
	}
	return expandWith(lex, word, env)
}

func expandWith(lex *shell.Lex, word string, env map[string]string) (string, error) {
	var list []string
	for _, k := range slices.Sorted(maps.Keys(env)) {
		list = append(list, k+"="+env[k])
	}
	out, _, err := lex.ProcessWord(word, shell.EnvsFromSlice(list))
	if err != nil {
		return "", artifact.Errorf(artifact.Invalid, "%.200q: %v", word, err)
	}
	return out, nil
}

// platformArgs are the arguments that are there in every build; BUILDPLATFORM is the target's, since a result must not
// depend on where it is built.
func (p *Plan) platformArgs() map[string]string {
	env := map[string]string{}
	for _, prefix := range []string{"TARGET", "BUILD"} {
		env[prefix+"PLATFORM"], env[prefix+"OS"], env[prefix+"ARCH"], env[prefix+"VARIANT"] = p.platform.String(), p.platform.OS, p.platform.Architecture, p.platform.Variant
	}
	return env
}

// Key identifies the inputs: equal keys give equal bytes.
func (p *Plan) Key() artifact.Digest { return p.key }

func (p *Plan) makeKey() error {
	bases := map[string]string{}
	for name, b := range p.bases {
		bases[name] = b.digest.String()
	}
	canonical, err := json.Marshal(struct {
		Engine, Context, Dockerfile, Target, Platform string
		Args, Bases                                   map[string]string
	}{p.engine(), p.contextSum.String(), artifact.DigestOf(p.dockerfile).String(), p.request.Target, p.platform.String(), p.request.Args, bases})
	p.key = artifact.DigestOf(canonical)
	return err
}

// time is what every file and the image are dated: SOURCE_DATE_EPOCH, else the epoch's start, never now.
func (p *Plan) time() (time.Time, error) {
	text, ok := p.request.Args["SOURCE_DATE_EPOCH"]
	if !ok {
		return time.Unix(0, 0).UTC(), nil
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil || seconds < 0 || seconds > 1<<33 {
		return time.Time{}, artifact.Errorf(artifact.Invalid, "SOURCE_DATE_EPOCH is %.30q; want seconds since 1970", text)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

// digest hashes names, modes, links and contents.
func (t *tree) digest() (artifact.Digest, error) {
	sum := sha256.New()
	for _, name := range t.sorted("") {
		n := t.nodes[name]
		content := ""
		if n.open != nil {
			r, err := n.open()
			if err != nil {
				return artifact.Digest{}, err
			}
			file := sha256.New()
			_, err = io.Copy(file, r)
			r.Close()
			if err != nil {
				return artifact.Digest{}, err
			}
			content = hex.EncodeToString(file.Sum(nil))
		}
		fmt.Fprintf(sum, "%q %s %o %q %s\n", name, n.kind, n.mode, n.target, content)
	}
	return artifact.DigestFrom("sha256", sum), nil
}

// builderVersion is for provenance: what compiled the engine is part of what made the bytes.
func (p *Plan) builderVersion(version string) map[string]string {
	return map[string]string{"waybill": version, "engine": p.engine(), "go": runtime.Version()}
}
