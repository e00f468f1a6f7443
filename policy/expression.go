package policy

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/types"

	"waybill/artifact"
)

// Bounds of an expression. A step of CEL's cost model takes some ten nanoseconds.
const (
	maxExpression = 4 << 10   // bytes
	maxEstimate   = 5_000_000 // steps that it may be estimated at, at worst
	maxSteps      = 1_000_000 // steps that it may take
)

// expressionSource is the parameters of expression.
type expressionSource struct {
	CEL     string `yaml:"cel"`     // true of an image that is as it should be
	Message string `yaml:"message"` // what to say of one that is not
}

// bindExpression: a CEL expression that users write is true of the image. One that does not compile, is no bool, or may
// cost too much is refused when it is applied; one that fails when it is evaluated denies.
func bindExpression(with Node, given bool) (check, error) {
	src, err := parameters[expressionSource](with, given)
	if err != nil {
		return nil, err
	}
	at := with.At("$.cel")
	switch {
	case src.CEL == "":
		return nil, with.Errorf("expression wants cel, such as with: {cel: \"image.config.user != ''\", message: \"USER is not set\"}")
	case len(src.CEL) > maxExpression:
		return nil, at.Errorf("the expression has %d bytes; at most %d are taken", len(src.CEL), maxExpression)
	case len(src.Message) > 500:
		return nil, with.At("$.message").Errorf("the message has %d bytes; at most 500 are taken", len(src.Message))
	}
	compiled, err := compileExpression(src.CEL)
	if err != nil {
		return nil, at.Errorf("%v", err)
	}
	if src.Message == "" {
		src.Message = "this is not true: " + strings.Join(strings.Fields(src.CEL), " ")
	}
	compiled.message = src.Message
	return compiled.check, nil
}

// expression is one that was compiled.
type expression struct {
	program  cel.Program
	findings bool // it asks for what only a scan knows
	now      bool // it asks for the time
	message  string
}

func (e expression) check(img Image) []finding {
	if why := notScanned(img); e.findings && why != nil {
		return why
	}
	if e.now && img.Now.IsZero() {
		return []finding{{message: e.message + " (what time it is cannot be told here)"}}
	}
	result, _, err := e.program.Eval(variables(img))
	if err != nil {
		return []finding{{message: fmt.Sprintf("%s (the expression cannot be evaluated: %v)", e.message, err)}}
	}
	if result != types.True {
		return []finding{{message: e.message}}
	}
	return nil
}

// bounds are options of every environment.
func bounds() []cel.EnvOption {
	return []cel.EnvOption{
		cel.ParserExpressionSizeLimit(maxExpression), cel.ParserRecursionLimit(50), cel.ExpressionNodeLimit(2000), cel.RegexProgramSizeLimit(1000),
		cel.DefaultUTCTimeZone(true), cel.CrossTypeNumericComparisons(true),
	}
}

// environment is what an expression may name. It is made once: that takes some milliseconds.
var environment = sync.OnceValues(func() (*cel.Env, error) {
	object := func(v *cel.NativeTypeDesc) *cel.Type { return cel.ObjectType(typeName(v.ReflectType().Name())) }
	descs := []*cel.NativeTypeDesc{native[celImage](), native[celConfig](), native[celFacts](), native[celLayer](), native[celPackage](), native[celFinding](), native[celScan]()}
	options := bounds()
	for _, d := range descs {
		options = append(options, cel.Types(d))
	}
	options = append(options,
		cel.Variable("image", object(descs[0])), cel.Variable("facts", object(descs[2])),
		cel.Variable("findings", cel.ListType(object(descs[5]))), cel.Variable("scan", object(descs[6])), cel.Variable("now", cel.TimestampType))
	return cel.NewEnv(options...)
})

// compileExpression returns an error that says where in the expression it is.
func compileExpression(text string) (expression, error) {
	env, err := environment()
	if err != nil {
		return expression{}, err
	}
	program, names, err := compileBool(env, text, "an image as it should be", "a large image")
	return expression{program: program, findings: names["findings"] || names["scan"], now: names["now"]}, err
}

// compileBool compiles an expression that is a bool and costs little, and returns the names of the variables in it.
func compileBool(env *cel.Env, text, truth, worst string) (cel.Program, map[string]bool, error) {
	parsed, issues := env.Compile(text)
	if issues.Err() != nil {
		var all []string
		for _, e := range issues.Errors() {
			all = append(all, fmt.Sprintf("at %d:%d of the expression: %s", e.Location.Line(), e.Location.Column()+1, e.Message))
		}
		return nil, nil, fmt.Errorf("the expression does not compile: %s", strings.Join(all[:min(3, len(all))], "; "))
	}
	if parsed.OutputType() != cel.BoolType {
		return nil, nil, fmt.Errorf("the expression is %s, at 1:1 of the expression; want a bool that is true of %s", artifact.An(parsed.OutputType().String()), truth)
	}
	estimate, err := env.EstimateCost(parsed, sizes{})
	if err != nil {
		return nil, nil, err
	}
	if estimate.Max > maxEstimate {
		return nil, nil, fmt.Errorf("the expression may take %d steps on %s, and at most %d are allowed; do not nest one list in another", estimate.Max, worst, maxEstimate)
	}
	program, err := env.Program(parsed, cel.CostLimit(maxSteps), cel.EvalOptions(cel.OptOptimize))
	names := map[string]bool{}
	for _, ref := range parsed.NativeRep().ReferenceMap() {
		names[ref.Name] = true
	}
	return program, names, err
}

// sizes bounds what an expression may walk over, for the estimate. What is larger still ends at maxSteps.
type sizes struct{}

func (sizes) EstimateCallCost(_, _ string, _ *cost.AstNode, _ []cost.AstNode) *cost.CallEstimate {
	return nil
}

func (sizes) EstimateSize(node cost.AstNode) *cost.SizeEstimate {
	path := node.Path()
	if len(path) == 0 {
		return nil
	}
	most := cost.SizeEstimate{Max: 256} // a text, or a short list
	switch path[len(path)-1] {
	case "packages", "findings":
		most.Max = 5000
	case "layers":
		most.Max = artifact.MaxLayers
	case "env", "entrypoint", "cmd", "labels", "annotations", "exposedPorts", "volumes", "licenses", "tags":
		most.Max = 100
	}
	return &most
}

// variables are the values of what an expression may name.
func variables(img Image) map[string]any {
	if img.memo != nil && img.memo.variables != nil {
		return img.memo.variables
	}
	v := map[string]any{"image": newCELImage(img), "facts": newCELFacts(img.Facts), "findings": newCELFindings(img.Scan), "now": img.Now,
		"scan": celScan{State: string(img.Scan.State), DatabaseUpdatedAt: img.Scan.DatabaseUpdatedAt, Packages: newCELPackages(img.Scan.Packages)}}
	if img.memo != nil {
		img.memo.variables = v
	}
	return v
}

func newCELImage(img Image) celImage {
	s, c := img.Subject, img.Config
	out := celImage{Repository: s.Repository.String(), Digest: s.Digest.String(), MediaType: s.Manifest.MediaType, ArtifactType: s.Manifest.ArtifactType,
		Annotations: s.Manifest.Annotations, OS: c.OS, Architecture: c.Architecture, Variant: c.Variant,
		Config: celConfig{User: c.Config.User, Entrypoint: c.Config.Entrypoint, Cmd: c.Config.Cmd, WorkingDir: c.Config.WorkingDir, StopSignal: c.Config.StopSignal,
			Labels: c.Config.Labels, ExposedPorts: sortedKeys(c.Config.ExposedPorts), Volumes: sortedKeys(c.Config.Volumes)}}
	if c.Created != nil {
		out.Created = *c.Created
	}
	for _, t := range s.Tags {
		out.Tags = append(out.Tags, t.String())
	}
	for _, variable := range c.Config.Env {
		name, _, _ := strings.Cut(variable, "=")
		out.Config.Env = append(out.Config.Env, name)
	}
	return out
}

func newCELFacts(f artifact.ImageFacts) celFacts {
	out := celFacts{Files: int64(len(f.Files)), Hidden: int64(len(f.Hidden)), Packages: newCELPackages(f.Packages)}
	for _, l := range f.Layers {
		out.Compressed += l.Compressed
		out.Uncompressed += unpackedSize(l)
		out.Wasted += l.Wasted
		out.Layers = append(out.Layers, celLayer{Digest: l.Digest.String(), DiffID: l.DiffID.String(), Compressed: l.Compressed,
			Uncompressed: unpackedSize(l), Wasted: l.Wasted, Entries: int64(l.Entries), CreatedBy: l.CreatedBy})
	}
	return out
}

func newCELPackages(packages []artifact.Package) []celPackage {
	out := make([]celPackage, len(packages))
	for i, p := range packages {
		out[i] = celPackage{Name: p.Name, Version: p.Version, Type: p.Type, Licenses: p.Licenses}
	}
	return out
}

func newCELFindings(s artifact.Scan) []celFinding {
	out := make([]celFinding, len(s.Findings))
	for i, f := range s.Findings {
		out[i] = celFinding{Class: f.Class, ID: f.ID, Severity: string(f.Severity), Rank: int64(f.Severity.Rank()), Package: f.Package, Installed: f.Installed,
			Fixed: f.Fixed, Path: f.Path, Published: f.PublishedAt, Resolved: f.VEX.Resolved()}
	}
	return out
}

// celImage is the variable image. The fields of these types are what docs/policy.md lists.
type celImage struct {
	Repository   string            `cel:"repository"`
	Digest       string            `cel:"digest"`
	Tags         []string          `cel:"tags"` // that a push is about to set
	MediaType    string            `cel:"mediaType"`
	ArtifactType string            `cel:"artifactType"`
	Annotations  map[string]string `cel:"annotations"`
	OS           string            `cel:"os"`
	Architecture string            `cel:"architecture"`
	Variant      string            `cel:"variant"`
	Created      time.Time         `cel:"created"`
	Config       celConfig         `cel:"config"`
}

type celConfig struct {
	User         string            `cel:"user"`
	Env          []string          `cel:"env"` // names: values may be secrets, and reasons are shown
	Entrypoint   []string          `cel:"entrypoint"`
	Cmd          []string          `cel:"cmd"`
	ExposedPorts []string          `cel:"exposedPorts"`
	Volumes      []string          `cel:"volumes"`
	WorkingDir   string            `cel:"workingDir"`
	StopSignal   string            `cel:"stopSignal"`
	Labels       map[string]string `cel:"labels"`
}

type celFacts struct {
	Compressed   int64        `cel:"compressed"`
	Uncompressed int64        `cel:"uncompressed"`
	Wasted       int64        `cel:"wasted"`
	Files        int64        `cel:"files"`
	Hidden       int64        `cel:"hidden"`
	Layers       []celLayer   `cel:"layers"`
	Packages     []celPackage `cel:"packages"` // of the operating system
}

type celLayer struct {
	Digest       string `cel:"digest"`
	DiffID       string `cel:"diffID"`
	Compressed   int64  `cel:"compressed"`
	Uncompressed int64  `cel:"uncompressed"`
	Wasted       int64  `cel:"wasted"`
	Entries      int64  `cel:"entries"`
	CreatedBy    string `cel:"createdBy"`
}

type celPackage struct {
	Name     string   `cel:"name"`
	Version  string   `cel:"version"`
	Type     string   `cel:"type"`
	Licenses []string `cel:"licenses"`
}

type celFinding struct {
	Class     string    `cel:"class"`
	ID        string    `cel:"id"`
	Severity  string    `cel:"severity"`
	Rank      int64     `cel:"rank"` // 0 unknown to 4 critical
	Package   string    `cel:"package"`
	Installed string    `cel:"installed"`
	Fixed     string    `cel:"fixed"`
	Path      string    `cel:"path"`
	Published time.Time `cel:"published"`
	Resolved  bool      `cel:"resolved"` // by a VEX document that counts
}

type celScan struct {
	State             string       `cel:"state"`
	DatabaseUpdatedAt time.Time    `cel:"databaseUpdatedAt"`
	Packages          []celPackage `cel:"packages"` // of every kind
}

// native gives CEL a type of ours, under the name that errors show.
func native[T any]() *cel.NativeTypeDesc {
	d := cel.NativeTypeFor[T]()
	return cel.NativeTypeFor[T](types.ParseStructTags(true), cel.NativeTypeAlias(typeName(d.ReflectType().Name())))
}

func typeName(name string) string { return strings.ToLower(strings.TrimPrefix(name, "cel")) }
