package server

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"waybill/artifact"
	"waybill/policy"
)

// Inspection is what the bytes of a manifest say.
type Inspection struct {
	Repository artifact.Repository `json:"repository"`
	Digest     artifact.Digest     `json:"digest"`
	Type       string              `json:"type" enum:"image,index,artifact,unknown" doc:"Unknown is what was denied and not kept"`
	MediaType  string              `json:"mediaType"`
	Size       int64               `json:"size"` // bytes of the manifest
	Platform   string              `json:"platform,omitempty"`
	Tags       []artifact.Tag      `json:"tags,omitempty"`
	PushedBy   string              `json:"pushedBy"`
	PushedAt   time.Time           `json:"pushedAt"`
	Children   []Child             `json:"children,omitempty"` // of an index
	Image      *ImageInspection    `json:"image,omitempty"`    // of an image
	Denied     *Denial             `json:"denied,omitempty"`   // its push was denied: it is not here
}

// Child is one manifest of an index.
type Child struct {
	Digest   artifact.Digest `json:"digest"`
	Platform string          `json:"platform,omitempty"`
	Size     int64           `json:"size"`
}

// ImageInspection is an image's config and its layers' facts, stacked. Of environment variables it has the names
// only: values are for who may pull.
type ImageInspection struct {
	Created      *time.Time              `json:"created,omitempty"`
	User         string                  `json:"user"` // as the config spells it; empty is root
	Entrypoint   []string                `json:"entrypoint,omitempty"`
	Cmd          []string                `json:"cmd,omitempty"`
	WorkingDir   string                  `json:"workingDir,omitempty"`
	ExposedPorts []string                `json:"exposedPorts,omitempty"`
	Environment  []string                `json:"environmentNames,omitempty"`
	Labels       map[string]string       `json:"labels,omitempty"`
	Layers       []artifact.LayerSummary `json:"layers"`
	Compressed   int64                   `json:"compressed"`   // bytes of the layer blobs
	Uncompressed int64                   `json:"uncompressed"` // bytes of the layer tars
	Wasted       int64                   `json:"wasted"`       // bytes that a later layer hides
	Files        int                     `json:"files"`        // that a container would see
	Hidden       int                     `json:"hidden"`       // that a later layer removed or replaced
	Packages     []artifact.Package      `json:"packages"`
	Unscanned    string                  `json:"unscanned,omitempty" doc:"Why packages has those of the operating system alone: what programs are made of, only a scan knows"`
	Trees        []artifact.LayerTree    `json:"trees,omitempty"` // what each layer adds, overwrites, removes and wastes, where it was asked for
}

type (
	inspectInput struct {
		Ref  string `query:"ref" required:"true" doc:"REPOSITORY:TAG or REPOSITORY@DIGEST" example:"shop/returns:v456"`
		Tree int    `query:"tree" minimum:"0" maximum:"8" doc:"how many levels of folders to show of each layer" example:"2"`
	}
	inspectOutput struct{ Body Inspection }
)

// maxBranches is how many entries of a folder a tree shows, the heaviest.
const maxBranches = 20

func (a *API) inspect(ctx context.Context, p artifact.Principal, in *inspectInput) (*inspectOutput, error) {
	s, denied, err := a.lookOrDenied(ctx, p, in.Ref)
	if err != nil {
		return nil, err
	}
	var i Inspection
	if denied != nil {
		i, err = a.inspectDenied(ctx, denied, in.Tree)
	} else {
		i, err = a.inspection(ctx, s.StoredManifest, in.Tree)
	}
	if err != nil {
		return nil, err
	}
	return &inspectOutput{Body: i}, nil
}

// outline is an Inspection without the image's insides, which cost a read of every layer's facts.
func (a *API) outline(ctx context.Context, m artifact.StoredManifest) (Inspection, error) {
	tags, err := a.cfg.Content.TagsOf(ctx, m.Repository, m.Digest)
	if err != nil {
		return Inspection{}, err
	}
	i := sketch(m)
	i.Tags = tags
	return i, nil
}

// sketch is what a manifest says by itself.
func sketch(m artifact.StoredManifest) Inspection {
	i := Inspection{Repository: m.Repository, Digest: m.Digest, Type: "artifact", MediaType: m.Manifest.MediaType, Size: int64(len(m.Body)),
		Platform: m.Platform, PushedBy: m.PushedBy, PushedAt: m.PushedAt}
	switch {
	case m.Manifest.IsIndex():
		i.Type = "index"
		for _, d := range m.Manifest.Manifests {
			child := Child{Digest: d.Digest, Size: d.Size}
			if d.Platform != nil {
				child.Platform = d.Platform.String()
			}
			i.Children = append(i.Children, child)
		}
	case m.IsImage:
		i.Type = "image"
	}
	return i
}

func (a *API) inspection(ctx context.Context, m artifact.StoredManifest, tree int) (Inspection, error) {
	i, err := a.outline(ctx, m)
	if err != nil || !m.IsImage {
		return i, err
	}
	body, err := a.cfg.Content.Blob(ctx, m.Repository, m.Manifest.Config.Digest)
	if err != nil {
		return i, err
	}
	i.Image, err = a.insides(ctx, m, body, tree)
	return i, err
}

// insides reads a config, and stacks the layers.
func (a *API) insides(ctx context.Context, m artifact.StoredManifest, body []byte, tree int) (*ImageInspection, error) {
	config, err := artifact.ParseImageConfig(body, len(m.Manifest.Layers))
	if err != nil {
		return nil, err
	}
	stacked, err := policy.Stack(ctx, a.cfg.Facts, m, config)
	if err != nil {
		return nil, err
	}
	image := summarize(config, stacked)
	if tree > 0 {
		image.Trees = stacked.Trees(tree, maxBranches)
	}
	scan, err := a.cfg.Records.Scan(ctx, m.Digest)
	if err != nil && artifact.KindOf(err) != artifact.NotFound {
		return nil, err
	}
	image.addScanned(scan)
	return image, nil
}

// addScanned adds the packages that a scan knows: facts have those of the operating system alone.
func (s *ImageInspection) addScanned(scan artifact.Scan) {
	type version struct{ name, version string }
	known := map[version]bool{}
	for _, p := range scan.Packages {
		known[version{p.Name, p.Version}] = true
	}
	s.Packages = append(slices.Clone(orEmpty(scan.Packages)), slices.DeleteFunc(s.Packages, func(p artifact.Package) bool { return known[version{p.Name, p.Version}] })...)
	if scan.State != artifact.Scanned && len(scan.Packages) == 0 {
		s.Unscanned = cmp.Or(scan.Reason, "not scanned yet")
	}
}

func summarize(config artifact.ImageConfig, facts artifact.ImageFacts) *ImageInspection {
	run := config.Config
	s := &ImageInspection{Created: config.Created, User: run.User, Entrypoint: run.Entrypoint, Cmd: run.Cmd, WorkingDir: run.WorkingDir,
		Labels: run.Labels, Layers: orEmpty(facts.Layers), Files: len(facts.Files), Hidden: len(facts.Hidden), Packages: orEmpty(facts.Packages)}
	for port := range run.ExposedPorts {
		s.ExposedPorts = append(s.ExposedPorts, port)
	}
	slices.Sort(s.ExposedPorts)
	for _, variable := range run.Env {
		name, _, _ := strings.Cut(variable, "=")
		s.Environment = append(s.Environment, name)
	}
	for _, l := range facts.Layers {
		s.Compressed += l.Compressed
		s.Uncompressed += l.Uncompressed
		s.Wasted += l.Wasted
	}
	return s
}

type verdictOutput struct{ Body artifact.VerdictRecord }

// verdict judges what is stored as of now; of a refused push, which left nothing stored, it tells what was said then.
func (a *API) verdict(ctx context.Context, p artifact.Principal, in *refInput) (*verdictOutput, error) {
	s, err := a.look(ctx, p, in.Ref)
	if artifact.KindOf(err) == artifact.NotFound && (s.reference.Short == "" || !s.reference.Digest.IsZero()) {
		refused, refusedErr := a.refused(ctx, s.reference.Reference)
		if refusedErr != nil {
			return nil, err
		}
		return &verdictOutput{Body: refused}, nil
	}
	if err != nil {
		return nil, err
	}
	v, err := a.judged(ctx, s.StoredManifest)
	if err != nil {
		return nil, err
	}
	return &verdictOutput{Body: v}, nil
}

func (a *API) refused(ctx context.Context, r artifact.Reference) (artifact.VerdictRecord, error) {
	target := r.Tag.String()
	if !r.Digest.IsZero() {
		target = r.Digest.String()
	}
	v, err := a.cfg.Records.RefusedVerdict(ctx, r.Repository, target)
	v.Reasons, v.Policies = orEmpty(v.Reasons), orEmpty(v.Policies)
	return v, err
}

func (a *API) judged(ctx context.Context, m artifact.StoredManifest) (artifact.VerdictRecord, error) {
	v, err := a.cfg.Judge.JudgeStored(ctx, m.Repository, m.Digest)
	if err != nil {
		return v.VerdictRecord, err
	}
	record, err := a.unlessRecalled(ctx, v.VerdictRecord)
	record.Reasons, record.Policies = orEmpty(record.Reasons), orEmpty(record.Policies)
	return record, err
}

// unlessRecalled denies what was recalled, whatever policy says of it.
func (a *API) unlessRecalled(ctx context.Context, v artifact.VerdictRecord) (artifact.VerdictRecord, error) {
	actor, reason, recalled, err := a.cfg.Records.Recalled(ctx, v.Repository, v.Digest)
	if recalled {
		v.Outcome = artifact.Deny
		v.Reasons = append([]artifact.Reason{artifact.Reason{Rule: "recalled", Message: "it was recalled by " + actor + ": " + reason}.Bounded()}, v.Reasons...)
	}
	return v, err
}

// ScanReport is the newest scan of an image, or of each image of an index. State, Counts and Findings are of all of
// them together; State is scanned only when every one is.
type ScanReport struct {
	Repository        artifact.Repository `json:"repository"`
	Digest            artifact.Digest     `json:"digest"`
	State             artifact.ScanState  `json:"state"`
	Reason            string              `json:"reason,omitempty"`
	ScannedAt         time.Time           `json:"scannedAt,omitzero"`
	DatabaseDigest    artifact.Digest     `json:"databaseDigest,omitzero"`
	DatabaseUpdatedAt time.Time           `json:"databaseUpdatedAt,omitzero"`
	DatabaseAge       int64               `json:"databaseAgeSeconds,omitempty"`
	// UnnamedJars and JavaDatabaseDigest are as in artifact.Scan.
	UnnamedJars        bool                      `json:"unnamedJars,omitempty"`
	JavaDatabaseDigest artifact.Digest           `json:"javaDatabaseDigest,omitzero"`
	Counts             map[artifact.Severity]int `json:"counts"`
	Findings           []artifact.Finding        `json:"findings"`
	Packages           []artifact.Package        `json:"packages,omitempty"`
	Images             []ImageScan               `json:"images,omitempty"` // of an index
	Denied             *Denial                   `json:"denied,omitempty"` // its push was denied: it is not here
}

// ImageScan is the scan of one image of an index.
type ImageScan struct {
	Platform string        `json:"platform,omitempty"`
	Scan     artifact.Scan `json:"scan"`
}

type scanOutput struct{ Body ScanReport }

func (a *API) scan(ctx context.Context, p artifact.Principal, in *refInput) (*scanOutput, error) {
	s, denied, err := a.lookOrDenied(ctx, p, in.Ref)
	if err != nil {
		return nil, err
	}
	var report ScanReport
	if denied != nil {
		report, err = a.scanDenied(ctx, denied)
	} else {
		report, err = a.scanReport(ctx, s.StoredManifest)
	}
	if err != nil {
		return nil, err
	}
	return &scanOutput{Body: report}, nil
}

func (a *API) scanReport(ctx context.Context, m artifact.StoredManifest) (ScanReport, error) {
	report := ScanReport{Repository: m.Repository, Digest: m.Digest, State: artifact.Scanned, Counts: map[artifact.Severity]int{}, Findings: []artifact.Finding{}}
	targets := []ImageScan{{Platform: m.Platform, Scan: artifact.Scan{Digest: m.Digest}}}
	if m.Manifest.IsIndex() {
		targets = targets[:0]
		for _, d := range m.Manifest.Manifests {
			t := ImageScan{Scan: artifact.Scan{Digest: d.Digest}}
			if d.Platform != nil {
				t.Platform = d.Platform.String()
			}
			targets = append(targets, t)
		}
	} else if !m.IsImage {
		return report, artifact.Errorf(artifact.NotFound, "%s@%s is no image; only images are scanned", m.Repository, m.Digest)
	}
	for i := range targets {
		scan, err := a.cfg.Records.Scan(ctx, targets[i].Scan.Digest)
		if artifact.KindOf(err) == artifact.NotFound {
			scan = artifact.Scan{Digest: targets[i].Scan.Digest, State: artifact.ScanPending, Reason: "not scanned yet"}
		} else if err != nil {
			return report, err
		}
		if scan.Findings, err = a.cfg.VEX.Apply(ctx, m.Repository, scan.Digest, scan.Findings); err != nil {
			return report, err
		}
		targets[i].Scan = scan
		report.add(scan)
	}
	if m.Manifest.IsIndex() {
		report.Images = targets
	}
	if report.State == artifact.Scanned && report.DatabaseUpdatedAt.IsZero() {
		report.State, report.Reason = artifact.ScanPending, "no image to scan" // nothing was looked at, so nothing is clean
	}
	if !report.DatabaseUpdatedAt.IsZero() {
		report.DatabaseAge = int64(a.cfg.Now().Sub(report.DatabaseUpdatedAt).Seconds())
	}
	return report, nil
}

// add folds one image's scan in. Fail closed: the oldest database and the least certain state stand for all.
func (r *ScanReport) add(s artifact.Scan) {
	if s.State != artifact.Scanned && r.State != artifact.ScanFailed {
		r.State, r.Reason = s.State, s.Reason
	}
	if s.State == artifact.Scanned && (r.DatabaseUpdatedAt.IsZero() || s.DatabaseUpdatedAt.Before(r.DatabaseUpdatedAt)) {
		r.DatabaseUpdatedAt, r.DatabaseDigest, r.ScannedAt = s.DatabaseUpdatedAt, s.DatabaseDigest, s.ScannedAt
	}
	if s.UnnamedJars && (!r.UnnamedJars || s.JavaDatabaseDigest.IsZero()) {
		r.UnnamedJars, r.JavaDatabaseDigest = true, s.JavaDatabaseDigest
	}
	for severity, n := range s.Counts {
		r.Counts[severity] += n
	}
	r.Findings = append(r.Findings, s.Findings...)
	r.Packages = append(r.Packages, s.Packages...)
}

// Story is everything recorded of one digest. Scan has counts only; GET /scan has the findings.
type Story struct {
	Manifest   Inspection             `json:"manifest"`
	Verdict    artifact.VerdictRecord `json:"verdict"`
	Scan       *ScanReport            `json:"scan,omitempty"` // none of what is no image
	Signatures []SignatureRecord      `json:"signatures"`
	Promotions []artifact.Promotion   `json:"promotions"`
	RunsIn     []artifact.Deployment  `json:"runsIn"`              // environments whose current digest this is
	TurnedBad  *artifact.TurnedBad    `json:"turnedBad,omitempty"` // it is promoted, and the policies of now deny it
}

type showOutput struct{ Body Story }

func (a *API) show(ctx context.Context, p artifact.Principal, in *refInput) (*showOutput, error) {
	s, denied, err := a.lookOrDenied(ctx, p, in.Ref)
	if err != nil {
		return nil, err
	}
	var story Story
	if denied != nil {
		story, err = a.tellDenied(ctx, denied)
	} else {
		story, err = a.story(ctx, p, s.StoredManifest)
	}
	if err != nil {
		return nil, err
	}
	if story.Scan != nil {
		story.Scan.Findings, story.Scan.Packages, story.Scan.Images = []artifact.Finding{}, nil, nil
	}
	return &showOutput{Body: story}, nil
}

// story is all that is known of a digest, findings and packages too.
func (a *API) story(ctx context.Context, p artifact.Principal, m artifact.StoredManifest) (story Story, err error) {
	story = Story{Promotions: []artifact.Promotion{}, RunsIn: []artifact.Deployment{}}
	if story.Manifest, err = a.outline(ctx, m); err != nil {
		return story, err
	}
	if story.Verdict, err = a.judged(ctx, m); err != nil {
		return story, err
	}
	if m.IsImage || m.Manifest.IsIndex() {
		report, err := a.scanReport(ctx, m)
		if err != nil {
			return story, err
		}
		story.Scan = &report
	}
	if bad, is, err := a.cfg.Records.TurnedBad(ctx, m.Repository, m.Digest); err != nil {
		return story, err
	} else if is {
		story.TurnedBad = &bad
	}
	signatures, err := a.cfg.Records.Signatures(ctx, m.Repository, m.Digest)
	if err != nil {
		return story, err
	}
	story.Signatures = orEmpty(signatures)
	return story, a.addPromotions(ctx, p, &story, m)
}

// addPromotions fills what happened to the digest and where it runs.
func (a *API) addPromotions(ctx context.Context, p artifact.Principal, story *Story, m artifact.StoredManifest) error {
	history, err := a.promotions(ctx, p, m.Repository)
	if err != nil {
		return err
	}
	for _, h := range history {
		if h.Digest == m.Digest {
			story.Promotions = append(story.Promotions, h)
		}
	}
	cells, err := a.cells(ctx, p)
	if err != nil {
		return err
	}
	for _, c := range cells {
		if c.Repository == m.Repository && c.Digest == m.Digest {
			story.RunsIn = append(story.RunsIn, c.Deployment)
		}
	}
	return nil
}
