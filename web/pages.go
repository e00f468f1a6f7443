package web

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"waybill/artifact"
)

// boardPage is services × environments.
type boardPage struct {
	Environments []artifact.Environment
	Services     []service
	Pushes       []artifact.PushRecord
	Denials      []artifact.PushRecord
	Empty        bool // nothing was ever pushed that the reader may see
}

// service is a row: a cell per environment, nil where nothing runs.
type service struct {
	Repository artifact.Repository
	Cells      []*artifact.Status
}

func (w *Web) board(c *gin.Context, p artifact.Principal) error {
	ctx := c.Request.Context()
	page := boardPage{}
	var err error
	if page.Environments, err = w.cfg.Environments(ctx); err != nil {
		return err
	}
	all, err := w.cfg.Store.Repositories(ctx)
	if err != nil {
		return err
	}
	known, err := w.cfg.Gate.Repositories(ctx, p, all)
	if err != nil {
		return err
	}
	statuses, err := w.cfg.Store.Status(ctx)
	if err != nil {
		return err
	}
	for _, r := range known {
		row := service{Repository: r, Cells: make([]*artifact.Status, len(page.Environments))}
		for i := range statuses {
			at := slices.Index(page.Environments, statuses[i].Environment)
			if statuses[i].Repository == r && at >= 0 && (p.Can(artifact.ActionLook, r) || slices.Contains(p.Deploys(r), statuses[i].Environment)) {
				row.Cells[at] = &statuses[i]
			}
		}
		page.Services = append(page.Services, row)
	}
	if page.Pushes, err = w.pushes(ctx, p, artifact.Allow); err != nil {
		return err
	}
	if page.Denials, err = w.pushes(ctx, p, artifact.Deny); err != nil {
		return err
	}
	page.Empty = len(page.Services) == 0 && len(page.Denials) == 0
	w.render(c, http.StatusOK, "board", "Board", page)
	return nil
}

// pushes returns the newest pushes in repositories whose content the reader may look at.
func (w *Web) pushes(ctx context.Context, p artifact.Principal, outcome artifact.Outcome) ([]artifact.PushRecord, error) {
	all, err := w.cfg.Store.RecentPushes(ctx, outcome, 100)
	var seen []artifact.PushRecord
	for _, push := range all {
		if p.Can(artifact.ActionLook, push.Repository) && len(seen) < 8 {
			seen = append(seen, push)
		}
	}
	return seen, err
}

// repositoryPage is a repository's tags.
type repositoryPage struct {
	Repository artifact.Repository
	Tags       []struct {
		Name   artifact.Tag
		Digest artifact.Digest
	}
	History []artifact.Promotion // newest first
}

func (w *Web) repository(c *gin.Context, p artifact.Principal) error {
	ctx := c.Request.Context()
	r, err := artifact.ParseRepository(strings.TrimPrefix(c.Param("repository"), "/"))
	if err != nil {
		return err
	}
	known, err := w.cfg.Gate.Repositories(ctx, p, []artifact.Repository{r})
	if err != nil {
		return err
	}
	if len(known) == 0 {
		return p.Refusal(artifact.ActionLook, r)
	}
	page := repositoryPage{Repository: r}
	tags, err := w.cfg.Store.Tags(ctx, r)
	if err != nil {
		return err
	}
	for _, tag := range tags {
		ok, err := w.sees(ctx, p, r, tag.Digest)
		if err != nil {
			return err
		}
		if ok && !strings.HasPrefix(tag.Name.String(), "sha256-") {
			page.Tags = append(page.Tags, tag)
		}
	}
	if p.Can(artifact.ActionLook, r) {
		if page.History, err = w.cfg.Store.History(ctx, r); err != nil {
			return err
		}
		slices.Reverse(page.History)
	}
	w.render(c, http.StatusOK, "repository", r.String(), page)
	return nil
}

// sees reports whether the reader may see a digest: by role, or because the gate lets it be pulled.
func (w *Web) sees(ctx context.Context, p artifact.Principal, r artifact.Repository, d artifact.Digest) (bool, error) {
	if p.Can(artifact.ActionLook, r) {
		return true, nil
	}
	allowed, err := w.cfg.Gate.Filter(ctx, p, r, []artifact.Digest{d})
	return allowed[d], err
}

// digestPage is everything about one digest.
type digestPage struct {
	Manifest   artifact.StoredManifest
	Host       string // as clients name this registry
	Scheme     string
	Tags       []artifact.Tag
	Verdict    artifact.VerdictRecord
	Judged     bool
	TurnedBad  *artifact.TurnedBad // nil: it did not
	Scan       artifact.Scan
	Signatures []artifact.SignatureRecord
	Referrers  []artifact.Descriptor
	Config     *artifact.ImageConfig
	Layers     []layerRow
	Size       int64
	History    []artifact.Promotion // of this digest
	Search     string
	Packages   []artifact.Package
	Total      int // packages before the search
	Now        time.Time
}

type layerRow struct {
	artifact.Descriptor
	CreatedBy string
}

func (w *Web) digest(c *gin.Context, p artifact.Principal) error {
	ctx := c.Request.Context()
	ref, err := artifact.ParseReference(strings.TrimPrefix(c.Param("reference"), "/"))
	if err != nil {
		return err
	}
	if ref.Digest.IsZero() {
		return artifact.Errorf(artifact.Invalid, "want /d/REPOSITORY@DIGEST")
	}
	if ok, err := w.sees(ctx, p, ref.Repository, ref.Digest); err != nil || !ok {
		if err == nil {
			err = p.Refusal(artifact.ActionLook, ref.Repository)
		}
		return err
	}
	page, err := w.story(ctx, p, ref)
	if err != nil {
		return err
	}
	page.Host, page.Scheme = c.Request.Host, "http"
	if scheme, host, ok := strings.Cut(w.cfg.ExternalURL, "://"); ok {
		page.Scheme, page.Host = scheme, strings.TrimSuffix(host, "/")
	}
	page.search(c.Query("q"))
	w.render(c, http.StatusOK, "digest", ref.Repository.String()+" "+ref.Digest.Short(), page)
	return nil
}

func (w *Web) story(ctx context.Context, p artifact.Principal, ref artifact.Reference) (page digestPage, err error) {
	page.Now = w.cfg.Now()
	if page.Manifest, err = w.cfg.Store.Manifest(ctx, ref.Repository, ref.Digest); err != nil {
		return page, err
	}
	page.Verdict, err = w.cfg.Store.RefusedVerdict(ctx, ref.Repository, ref.Digest.String())
	if page.Judged = err == nil; err != nil && artifact.KindOf(err) != artifact.NotFound {
		return page, err
	}
	actor, reason, recalled, err := w.cfg.Store.Recalled(ctx, ref.Repository, ref.Digest)
	if err != nil {
		return page, err
	}
	if recalled {
		page.Judged, page.Verdict.Outcome = true, artifact.Deny
		page.Verdict.Reasons = append([]artifact.Reason{{Rule: "recalled", Message: "it was recalled by " + actor + ": " + reason}}, page.Verdict.Reasons...)
	}
	if bad, is, err := w.cfg.Store.TurnedBad(ctx, ref.Repository, ref.Digest); err != nil {
		return page, err
	} else if is {
		page.TurnedBad = &bad
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
	if p.Can(artifact.ActionLook, ref.Repository) {
		all, err := w.cfg.Store.History(ctx, ref.Repository)
		if err != nil {
			return page, err
		}
		for _, one := range all {
			if one.Digest == ref.Digest {
				page.History = append(page.History, one)
			}
		}
	}
	return page, w.image(ctx, &page)
}

// image reads the config and pairs layers with the steps that made them.
func (w *Web) image(ctx context.Context, page *digestPage) error {
	m := page.Manifest
	for _, d := range m.Manifest.Layers {
		page.Layers = append(page.Layers, layerRow{Descriptor: d})
		page.Size += d.Size
	}
	if !m.IsImage {
		return nil
	}
	body, err := w.cfg.Blob(ctx, m.Repository, m.Manifest.Config.Digest)
	if err != nil {
		return err
	}
	config, err := artifact.ParseImageConfig(body, len(m.Manifest.Layers))
	if err != nil {
		return err
	}
	page.Config = &config
	i := 0
	for _, h := range config.History {
		if !h.EmptyLayer && i < len(page.Layers) {
			page.Layers[i].CreatedBy = h.CreatedBy
			i++
		}
	}
	return nil
}

// search keeps the packages whose name holds the words; all of them without any.
func (p *digestPage) search(words string) {
	p.Search, p.Total = words, len(p.Scan.Packages)
	for _, one := range p.Scan.Packages {
		if strings.Contains(strings.ToLower(one.Name), strings.ToLower(strings.TrimSpace(words))) {
			p.Packages = append(p.Packages, one)
		}
	}
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
