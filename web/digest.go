package web

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"waybill/artifact"
	"waybill/promotion"
)

// digestPage is everything about one digest: its waybill.
type digestPage struct {
	Manifest   artifact.StoredManifest
	Host       string // as clients name this registry
	Scheme     string
	Tags       []artifact.Tag
	Verdict    artifact.VerdictRecord
	Judged     bool
	Denied     *artifact.DeniedPush // nil: it was taken in, and Manifest is what is stored
	Recalled   *artifact.Recall     // nil: it was not
	Targets    []target             // environments that it may be promoted to
	TurnedBad  *artifact.TurnedBad  // nil: it did not
	Scan       artifact.Scan
	Signatures []artifact.SignatureRecord
	Referrers  []artifact.Descriptor
	Journey    []stop
	Looks      bool // the reader's role is to look at all, not only at what its environments pull
	Recalls    bool
	Config     *artifact.ImageConfig
	ConfigText string // as it is, for those who may pull
	Raw        string
	Map        *treemap
	Layers     []layerRow
	Size       int64
	Unpacked   int64
	Wasted     int64
	Heaviest   []heavy
	History    []artifact.Promotion // of this digest, newest first
	Pulls      []artifact.PullDay
	Audits     bool

	Search       string
	Packages     []artifact.Package
	PackagePages pages
	Total        int // packages before the search

	Findings     []artifact.Finding
	FindingPages pages
	FindingTotal int
	FindingWords string
	Severity     artifact.Severity
	Now          time.Time
}

// target is an environment that a digest does not run in.
type target struct {
	Environment artifact.Environment
	Open        bool // it was in every environment that is to be before; the other gates are for the page that promotes
	Promotes    bool // the reader may
}

// stop is one on a digest's way from push to production.
type stop struct {
	Name, State, Text string // State: done, bad, wait, past or none
	Who               string
	When              time.Time
	Environment       bool
}

type layerRow struct {
	artifact.Descriptor
	CreatedBy string
	Unpacked  int64
	Wasted    int64
	Files     int
	Share     float64 // of all layers, 0 to 100
	Lost      float64 // of that, what is wasted
	Tone      int
}

// heavy is a file or folder that weighs much.
type heavy struct {
	Path   string
	Layer  int
	Bytes  int64
	Wasted int64
}

// Rows of a page of packages or findings, and of pulls.
const (
	packageRows = 100
	findingRows = 50
	pullRows    = 20
	maxRaw      = 16 << 10 // bytes of a manifest or config that are shown
)

func (w *Web) digest(c *gin.Context, p artifact.Principal) error {
	ctx := c.Request.Context()
	text := strings.TrimPrefix(c.Param("reference"), "/")
	if _, err := artifact.ParseShortReference(text); err != nil {
		return err
	}
	ref, err := w.resolve(ctx, p, text)
	if err != nil {
		return w.elseDenied(ctx, p, text, err)
	}
	page, err := w.story(ctx, p, ref)
	if err != nil {
		return err
	}
	page.Host, page.Scheme = c.Request.Host, "http"
	if scheme, host, ok := strings.Cut(w.cfg.ExternalURL, "://"); ok {
		page.Scheme, page.Host = scheme, strings.TrimSuffix(host, "/")
	}
	page.search(c)
	w.render(c, http.StatusOK, "digest", ref.Repository.String()+" "+ref.Digest.Short(), page)
	return nil
}

func (w *Web) story(ctx context.Context, p artifact.Principal, ref artifact.Reference) (page *digestPage, err error) {
	page = &digestPage{Now: w.cfg.Now(), Looks: p.Can(artifact.ActionLook, ref.Repository), Audits: p.Can(artifact.ActionAudit, ref.Repository),
		Recalls: p.CanTo(artifact.ActionPromote, ref.Repository, artifact.Environment{})}
	page.Manifest, err = w.cfg.Store.Manifest(ctx, ref.Repository, ref.Digest)
	if artifact.KindOf(err) == artifact.NotFound && page.Looks {
		return page, w.denied(ctx, p, page, ref)
	} else if err != nil {
		return page, err
	}
	if err := w.judged(ctx, page, ref); err != nil {
		return page, err
	}
	if page.Tags, err = w.cfg.Store.TagsOf(ctx, ref.Repository, ref.Digest); err != nil {
		return page, err
	}
	if page.Scan, err = w.cfg.Store.Scan(ctx, ref.Digest); err != nil {
		return page, err
	}
	if page.Signatures, err = w.cfg.Store.Signatures(ctx, ref.Repository, ref.Digest); err != nil {
		return page, err
	}
	if page.Referrers, err = w.referrers(ctx, p, ref); err != nil {
		return page, err
	}
	if page.Audits {
		if page.Pulls, err = w.cfg.Store.Pulls(ctx, artifact.PullFilter{Repository: ref.Repository, Digest: ref.Digest, From: page.Now.AddDate(0, 0, -30).UTC().Truncate(24 * time.Hour), To: page.Now, Limit: pullRows}); err != nil {
			return page, err
		}
	}
	if err := w.travelled(ctx, p, page, ref); err != nil {
		return page, err
	}
	return page, w.image(ctx, p, page)
}

// judged reads what is decided of a digest now.
func (w *Web) judged(ctx context.Context, page *digestPage, ref artifact.Reference) (err error) {
	page.Verdict, err = w.cfg.Store.RefusedVerdict(ctx, ref.Repository, ref.Digest.String())
	if page.Judged = err == nil; err != nil && artifact.KindOf(err) != artifact.NotFound {
		return err
	}
	recall, recalled, err := w.cfg.Store.RecallOf(ctx, ref.Repository, ref.Digest)
	if err != nil {
		return err
	}
	if recalled {
		page.Recalled = &recall
	}
	bad, is, err := w.cfg.Store.TurnedBad(ctx, ref.Repository, ref.Digest)
	if is {
		page.TurnedBad = &bad
	}
	return err
}

// travelled makes the journey: what happened to the digest, and what of its pipeline is still before it.
func (w *Web) travelled(ctx context.Context, p artifact.Principal, page *digestPage, ref artifact.Reference) error {
	m := page.Manifest
	page.Journey = append(page.Journey, stop{Name: "Pushed", State: "done", Who: m.PushedBy, When: m.PushedAt})
	verdict := stop{Name: "Verdict", State: "wait", Text: "pending"}
	if page.Judged {
		verdict.Text = string(page.Verdict.Outcome)
		verdict.State = map[artifact.Outcome]string{artifact.Allow: "done", artifact.Deny: "bad", artifact.Pending: "wait"}[page.Verdict.Outcome]
		verdict.Who = strings.Join(page.Verdict.Policies, ", ")
	}
	page.Journey = append(page.Journey, verdict)
	page.scanned()
	signed := stop{Name: "Signature", State: "wait", Text: "not signed yet"}
	for _, s := range page.Signatures {
		if s.Predicate == "" {
			signed = stop{Name: "Signature", State: "done", Text: "key " + s.KeyID[:min(12, len(s.KeyID))], When: s.SignedAt}
		}
	}
	page.Journey = append(page.Journey, signed)
	never := stop{State: "none", Text: "not yet", Environment: true}
	if r := page.Recalled; r != nil {
		page.Journey = append(page.Journey, stop{Name: "Recalled", State: "bad", Text: r.Reason, Who: r.Actor, When: r.At})
		never.Text = "never: it was recalled"
	}
	if !page.Looks {
		return nil
	}
	all, err := w.cfg.Store.History(ctx, ref.Repository)
	if err != nil {
		return err
	}
	pipeline, err := w.cfg.Promotions.Pipeline(ctx, ref.Repository)
	if kind := artifact.KindOf(err); err != nil && kind != artifact.NotFound && kind != artifact.Conflict {
		return err
	}
	var order []artifact.Environment
	for _, stage := range pipeline.Environments {
		order = append(order, stage.Environment)
	}
	reached := map[artifact.Environment]stop{}
	for _, one := range all {
		s, here := reached[one.Environment]
		switch {
		case one.Digest == ref.Digest && (one.Action == "promote" || one.Action == "rollback"):
			s = stop{Name: one.Environment.String(), State: "done", Text: "runs there", Who: one.Actor, When: one.At, Environment: true}
		case one.Digest == ref.Digest:
			s = stop{Name: one.Environment.String(), State: "bad", Text: map[string]string{"recall": "recalled", "retire": "let go of"}[one.Action], Who: one.Actor, When: one.At, Environment: true}
		case here && s.State == "done" && (one.Action == "promote" || one.Action == "rollback"):
			s.State, s.Text = "past", "replaced by "+versionOr(one.Version, one.Digest)
		default:
			continue
		}
		if !slices.Contains(order, one.Environment) {
			order = append(order, one.Environment)
		}
		reached[one.Environment] = s
	}
	for _, e := range order {
		s, ok := reached[e]
		if !ok {
			s = never
			s.Name = e.String()
		}
		page.Journey = append(page.Journey, s)
	}
	page.offer(p, pipeline, reached)
	for _, one := range slices.Backward(all) {
		if one.Digest == ref.Digest {
			page.History = append(page.History, one)
		}
	}
	return nil
}

// scanned adds the scan of an image to the journey.
func (page *digestPage) scanned() {
	if !page.Manifest.IsImage {
		return
	}
	scan := stop{Name: "Scan", State: "wait", Text: string(page.Scan.State), When: page.Scan.ScannedAt}
	switch page.Scan.State {
	case artifact.Scanned:
		scan.State, scan.Text = "done", "no vulnerabilities"
		if worst := page.Scan.Worst(); worst != "" {
			scan.Text = "worst: " + string(worst)
		}
	case artifact.ScanFailed:
		scan.State = "bad"
	}
	page.Journey = append(page.Journey, scan)
}

// offer says where a digest may be promoted to from here: what policies of now allow, and nobody recalled.
func (page *digestPage) offer(p artifact.Principal, pipeline promotion.Pipeline, reached map[artifact.Environment]stop) {
	if !page.Judged || page.Verdict.Outcome != artifact.Allow || page.Recalled != nil {
		return
	}
	was := func(e artifact.Environment) bool { return reached[e].State == "done" || reached[e].State == "past" }
	for _, stage := range pipeline.Environments {
		if reached[stage.Environment].State == "done" {
			continue // it runs there
		}
		t := target{Environment: stage.Environment, Open: true, Promotes: p.CanPromote(page.Manifest.Repository, stage.Environment)}
		for _, earlier := range stage.Requires.After {
			t.Open = t.Open && was(earlier)
		}
		page.Targets = append(page.Targets, t)
	}
}

// Name is what people call it: its tags, or what a denied push called it.
func (page *digestPage) Name() string {
	if d := page.Denied; d != nil && d.Reference != d.Verdict.Digest.String() {
		return d.Reference
	}
	if len(page.Tags) == 0 {
		return page.Manifest.Digest.Short()
	}
	names := make([]string, min(len(page.Tags), maxNames))
	for i := range names {
		names[i] = page.Tags[i].String()
	}
	if more := len(page.Tags) - len(names); more > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	return strings.Join(names, ", ")
}

// maxNames is how many of its tags a heading has.
const maxNames = 5

// Others counts what was found beside vulnerabilities, which have their badges.
func (page *digestPage) Others() (all []string) {
	counts := map[string]int{}
	for _, f := range page.Scan.Findings {
		counts[f.Class]++
	}
	for _, c := range []struct{ class, many string }{{artifact.ClassSecret, "secrets"}, {artifact.ClassMisconfiguration, "misconfigurations"}} {
		switch n := counts[c.class]; {
		case n == 1:
			all = append(all, "1 "+c.class)
		case n > 1:
			all = append(all, fmt.Sprintf("%d %s", n, c.many))
		}
	}
	return all
}

// image reads the config, pairs layers with the steps that made them, and weighs what is in them.
func (w *Web) image(ctx context.Context, p artifact.Principal, page *digestPage) error {
	m := page.Manifest
	page.Raw = indented(m.Body)
	for _, d := range m.Manifest.Layers {
		page.Layers = append(page.Layers, layerRow{Descriptor: d})
		page.Size += d.Size
	}
	if !m.IsImage {
		return nil
	}
	var facts *artifact.ImageFacts
	var err error
	if page.Denied != nil {
		page.Config, facts, err = w.stacked(ctx, m, page.Denied.Config)
	} else {
		page.Config, facts, err = w.insides(ctx, m)
	}
	if err != nil || page.Config == nil {
		return err
	}
	if page.Denied == nil && p.Can(artifact.ActionPull, m.Repository) {
		body, err := w.cfg.Blob(ctx, m.Repository, m.Manifest.Config.Digest)
		if err != nil {
			return err
		}
		page.ConfigText = indented(body)
	}
	i := 0
	for _, h := range page.Config.History {
		if !h.EmptyLayer && i < len(page.Layers) {
			page.Layers[i].CreatedBy = strings.TrimPrefix(h.CreatedBy, "/bin/sh -c #(nop) ")
			i++
		}
	}
	if facts != nil {
		page.weigh(*facts)
	}
	return nil
}

// weigh fills in what layers unpack to and what of it is wasted.
func (page *digestPage) weigh(facts artifact.ImageFacts) {
	trees := facts.Trees(3, 12)
	for _, t := range trees {
		page.Unpacked, page.Wasted = page.Unpacked+t.Added.Bytes, page.Wasted+t.Hidden.Bytes
	}
	for i, t := range trees {
		if i >= len(page.Layers) {
			break
		}
		row := &page.Layers[i]
		row.Unpacked, row.Wasted, row.Files, row.Tone = t.Added.Bytes, t.Hidden.Bytes, t.Added.Files, i%6
		if page.Unpacked > 0 {
			row.Share, row.Lost = float64(t.Added.Bytes)/float64(page.Unpacked)*100, float64(t.Hidden.Bytes)/float64(page.Unpacked)*100
		}
	}
	page.Map = draw(trees)
	for path, f := range facts.Files {
		page.Heaviest = append(page.Heaviest, heavy{Path: path, Layer: f.Layer + 1, Bytes: f.Size})
	}
	for _, f := range facts.Hidden {
		page.Heaviest = append(page.Heaviest, heavy{Path: f.Path, Layer: f.Layer + 1, Bytes: f.Size, Wasted: f.Size})
	}
	slices.SortFunc(page.Heaviest, func(a, b heavy) int {
		if a.Bytes != b.Bytes {
			return int(min(max(b.Bytes-a.Bytes, -1), 1))
		}
		return strings.Compare(a.Path, b.Path)
	})
	page.Heaviest = page.Heaviest[:min(len(page.Heaviest), 10)]
}

// indented is JSON for people, and what is none as it is; of much, the beginning.
func indented(body []byte) string {
	var b bytes.Buffer
	if json.Indent(&b, body, "", "  ") != nil {
		b.Reset()
		b.Write(body)
	}
	if b.Len() > maxRaw {
		return strings.ToValidUTF8(b.String()[:maxRaw], "") + "\n…"
	}
	return b.String()
}

// search keeps the packages and findings that hold the words, and cuts their pages.
func (page *digestPage) search(c *gin.Context) {
	query := c.Request.URL.Query()
	page.Search, page.Total = c.Query("q"), len(page.Scan.Packages)
	words := strings.ToLower(strings.TrimSpace(page.Search))
	for _, one := range page.Scan.Packages {
		if strings.Contains(strings.ToLower(one.Name), words) {
			page.Packages = append(page.Packages, one)
		}
	}
	page.Packages, page.PackagePages = pagedBy("packages", page.Packages, packageRows, query)

	page.FindingWords, page.Severity = c.Query("finding"), artifact.Severity(c.Query("severity"))
	words = strings.ToLower(strings.TrimSpace(page.FindingWords))
	for _, f := range page.Scan.Findings {
		if f.Class == artifact.ClassLicense {
			continue
		}
		page.FindingTotal++
		if (page.Severity == "" || f.Severity == page.Severity) && strings.Contains(strings.ToLower(f.ID+" "+f.Package+" "+f.Title+" "+f.Path), words) {
			page.Findings = append(page.Findings, f)
		}
	}
	page.Findings, page.FindingPages = pagedBy("findings", page.Findings, findingRows, query)
}

// referrers returns what refers to a digest, as far as the reader may have it.
func (w *Web) referrers(ctx context.Context, p artifact.Principal, ref artifact.Reference) ([]artifact.Descriptor, error) {
	all, err := w.cfg.Store.Referrers(ctx, ref.Repository, ref.Digest)
	if err != nil || p.Can(artifact.ActionLook, ref.Repository) {
		return all, err
	}
	digests := make([]artifact.Digest, len(all))
	for i, d := range all {
		digests[i] = d.Digest
	}
	allowed, err := w.cfg.Gate.Filter(ctx, p, ref.Repository, digests)
	return slices.DeleteFunc(all, func(d artifact.Descriptor) bool { return !allowed[d.Digest] }), err
}

// sees reports whether the reader may see a digest: by role, or because the gate lets it be pulled.
func (w *Web) sees(ctx context.Context, p artifact.Principal, r artifact.Repository, d artifact.Digest) (bool, error) {
	if p.Can(artifact.ActionLook, r) {
		return true, nil
	}
	allowed, err := w.cfg.Gate.Filter(ctx, p, r, []artifact.Digest{d})
	return allowed[d], err
}
