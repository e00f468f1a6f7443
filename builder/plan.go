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
	"maps"
	"os"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/platforms"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"waybill/artifact"
)

// Request is what somebody wants built.
type Request struct {
	Repository artifact.Repository
	Tags       []artifact.Tag
	Dockerfile string // path in the context; empty is Dockerfile
	Args       map[string]string
	Labels     map[string]string // set on the image, beside the Dockerfile's
	Target     string            // stage; empty is the last
	Platform   string            // os/arch[/variant], several with commas; empty is linux/amd64, on every machine
	Source     Source
}

// Source says where the context comes from: as the caller claims, or, when Fetched, as the service saw for itself.
type Source struct {
	Git     string    `json:"-"` // a git URL to fetch the context from: see Fetcher; empty when the context is sent
	URI     string    `json:"uri,omitempty"`
	Commit  string    `json:"commit,omitempty"`
	Tree    string    `json:"tree,omitempty"` // the commit's tree, or that of the folder in it, as git hashes it
	Fetched bool      `json:"fetched,omitempty"`
	Time    time.Time `json:"-"` // of the commit; zero when it is not known
}

// Bases resolves what FROM and COPY --from name outside the Dockerfile: images of this registry.
type Bases interface {
	// Base returns the image that ref means on a platform, for one who may pull it, and its digest. What policy denies is
	// refused, as is what was recalled.
	Base(ctx context.Context, p artifact.Principal, ref artifact.Reference, platform artifact.Platform) (v1.Image, artifact.Digest, error)
}

// Plan is a build with every input pinned.
type Plan struct {
	request    Request
	context    *tree // without what is ignored
	dockerfile []byte
	engine     Engine
	targets    []*Target
	bases      map[string]base // by the reference as it is written, expanded, and its platform where there are several
	date       time.Time       // of files and image
	key        artifact.Digest
	contextSum artifact.Digest
	private    Private
	layers     LayerStore // where the native engine's go; nil: temporary files
	rebuilt    bool       // nothing is taken from a cache
	sent       *tree      // the context, with what is ignored
	spool      *os.File   // what is in its files
}

// Close lets go of the context's file, which who made its folder removes.
func (p *Plan) Close() error { return p.spool.Close() }

type base struct {
	ref      artifact.Reference
	digest   artifact.Digest
	image    v1.Image
	platform artifact.Platform
}

// planning is what newPlan needs of the service.
type planning struct {
	bases  Bases
	hosts  []string // that this registry is reached at: FROM may name them
	engine Engine   // for what the native one cannot build; nil when there is none
}

// newPlan parses the Dockerfile with BuildKit's own parser, finds the stages that the target is made of, and pins every base.
func newPlan(ctx context.Context, p artifact.Principal, r Request, files *tree, with planning) (*Plan, error) {
	if r.Dockerfile == "" {
		r.Dockerfile = defaultFile
	}
	plan := &Plan{request: r, sent: files, bases: map[string]base{}}
	wanted, err := parsePlatforms(r.Platform)
	if err != nil {
		return nil, err
	}
	if plan.dockerfile, err = readDockerfile(files, r.Dockerfile); err != nil {
		return nil, err
	}
	if plan.context, err = withoutIgnored(files, r.Dockerfile); err != nil {
		return nil, err
	}
	plan.contextSum = plan.context.digest()
	for _, platform := range wanted {
		t := &Target{plan: plan, platform: platform, explicit: r.Platform != ""}
		plan.targets = append(plan.targets, t)
		if err := t.resolve(ctx, p, with); err != nil {
			return nil, err
		}
	}
	if err := plan.choose(with.engine); err != nil {
		return nil, err
	}
	if plan.date, err = plan.time(); err != nil {
		return nil, err
	}
	return plan, plan.makeKey()
}

// maxPlatforms is how many images one build makes.
const maxPlatforms = 16

func parsePlatforms(text string) ([]artifact.Platform, error) {
	if text == "" {
		return []artifact.Platform{{OS: "linux", Architecture: "amd64"}}, nil
	}
	var all []artifact.Platform
	for one := range strings.SplitSeq(text, ",") {
		p, err := parsePlatform(one)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(all, func(other artifact.Platform) bool { return other.String() == p.String() }) {
			return nil, artifact.Errorf(artifact.Invalid, "platform %s is named twice", p)
		}
		if all = append(all, p); len(all) > maxPlatforms {
			return nil, artifact.Errorf(artifact.TooLarge, "more than %d platforms are named", maxPlatforms)
		}
	}
	return all, nil
}

func parsePlatform(text string) (artifact.Platform, error) {
	p, err := platforms.Parse(strings.TrimSpace(text))
	if err != nil || p.OS != "linux" || !strings.HasPrefix(strings.TrimSpace(text), "linux/") {
		return artifact.Platform{}, artifact.Errorf(artifact.Invalid, "platform %.60q: want linux/ARCH or linux/ARCH/VARIANT", text)
	}
	p = platforms.Normalize(p)
	return artifact.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant}, nil
}

// maxDockerfile bounds a Dockerfile and a .dockerignore, in bytes.
const maxDockerfile = 1 << 20

func readDockerfile(files *tree, name string) ([]byte, error) {
	b, ok, err := files.read(name, maxDockerfile)
	if err == nil && !ok {
		err = artifact.Errorf(artifact.Invalid, "there is no %s in the build context; name another with -f", name)
	}
	return b, err
}

// read returns a small file's content, links followed; ok is false when there is no such file.
func (t *tree) read(name string, bound int64) (b []byte, ok bool, err error) {
	at, err := t.resolve(path.Clean(name), true)
	if err != nil {
		return nil, false, err
	}
	n := t.get(at)
	if n == nil || n.kind != artifact.Regular {
		return nil, false, nil
	}
	if n.size > bound {
		return nil, true, artifact.Errorf(artifact.TooLarge, "%s is larger than %s", name, size(bound))
	}
	r, err := n.content.open()
	if err != nil {
		return nil, true, err
	}
	defer r.Close()
	b, err = io.ReadAll(io.LimitReader(r, bound))
	return b, true, err
}

// located gives a parser's error its line and column.
func (p *Plan) located(err error) error {
	var at *parser.LocationError
	if errors.As(err, &at) && len(at.Locations) > 0 && len(at.Locations[0]) > 0 {
		line := at.Locations[0][0].Start.Line
		if said := err.Error(); strings.Contains(said, "escape token") || strings.Contains(said, "parser directive") {
			line++ // directives are read before their line is counted
		}
		return artifact.Errorf(artifact.Invalid, "%s:%d:%d: %v", p.request.Dockerfile, line, p.column(line, err.Error()), err)
	}
	return artifact.Errorf(artifact.Invalid, "%s: %v", p.request.Dockerfile, err)
}

// column is where in a line the flag is that an error names, else where the instruction begins: the parser knows lines
// alone.
func (p *Plan) column(line int, message string) int {
	lines := bytes.Split(p.dockerfile, []byte("\n"))
	if line < 1 || line > len(lines) {
		return 1
	}
	text := string(lines[line-1])
	if _, word, ok := strings.Cut(message, "unknown flag: "); ok {
		word, _, _ = strings.Cut(word, " ")
		if at := strings.Index(text, word); at >= 0 {
			return at + 1
		}
	}
	return len(text) - len(strings.TrimLeft(text, " \t")) + 1
}

// at gives an error the line of its instruction.
func (p *Plan) at(c instructions.Command, err error) error { return p.atLine(line(c), err) }

func (p *Plan) atLine(line int, err error) error {
	var known *artifact.Error
	if !errors.As(err, &known) {
		return fmt.Errorf("%s:%d: %w", p.request.Dockerfile, line, err)
	}
	located := artifact.Errorf(known.Kind, "%s:%d: %s", p.request.Dockerfile, line, err)
	located.Reasons = known.Reasons
	return located
}

func line(c instructions.Command) int { return firstLine(c.Location()) }

func firstLine(at []parser.Range) int {
	if len(at) > 0 {
		return at[0].Start.Line
	}
	return 0
}

// Key identifies the inputs: equal keys give equal bytes.
func (p *Plan) Key() artifact.Digest { return p.key }

// makeKey hashes all that the bytes follow from, and nothing else: not who asks, when, or for which tag; nor the commit,
// but for its time.
func (p *Plan) makeKey() error {
	bases := map[string]string{}
	for name, b := range p.bases {
		bases[name] = b.digest.String()
	}
	var wanted []string
	for _, t := range p.targets {
		wanted = append(wanted, t.platform.String())
	}
	canonical, err := json.Marshal(struct {
		Engine, Context, Dockerfile, Target string
		Platforms                           []string
		Explicit                            bool
		Args, Labels, Bases                 map[string]string
		Time                                int64
	}{p.engine.Name(), p.contextSum.String(), artifact.DigestOf(p.dockerfile).String(), p.request.Target, wanted, p.request.Platform != "",
		p.request.Args, p.request.Labels, bases, p.date.Unix()})
	p.key = artifact.DigestOf(canonical)
	return err
}

// epochArg says what files are dated (reproducible-builds.org, "SOURCE_DATE_EPOCH").
const epochArg = "SOURCE_DATE_EPOCH"

// time is what every file and the image are dated: SOURCE_DATE_EPOCH as an argument, else as the Dockerfile's ARG has it, else
// the time of the commit, else the epoch's start; never now.
func (p *Plan) time() (time.Time, error) {
	text, ok := p.request.Args[epochArg]
	if !ok {
		text, ok = p.targets[0].global[epochArg]
	}
	if !ok || text == "" || text == "context" {
		if p.request.Source.Time.Unix() > 0 {
			return p.request.Source.Time.UTC(), nil
		}
		return time.Unix(0, 0).UTC(), nil
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil || seconds < 0 || seconds > 1<<33 {
		return time.Time{}, artifact.Errorf(artifact.Invalid, "SOURCE_DATE_EPOCH is %.30q; want seconds since 1970", text)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

// digest hashes names, modes, links and contents.
func (t *tree) digest() artifact.Digest {
	sum := sha256.New()
	for _, name := range t.sorted() {
		n := t.nodes[name]
		fmt.Fprintf(sum, "%q %s %o %q %s\n", name, n.kind, n.mode, n.target, n.sum)
	}
	return artifact.DigestFrom("sha256", sum)
}

func hexSum(sum interface{ Sum(b []byte) []byte }) string { return hex.EncodeToString(sum.Sum(nil)) }

// builderVersion is for provenance: what compiled the engine is part of what made the bytes.
func (p *Plan) builderVersion(version string) map[string]string {
	return map[string]string{"waybill": version, "engine": p.engine.Name(), "go": runtime.Version()}
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
