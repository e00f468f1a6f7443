package server

import (
	"context"
	"slices"
	"strings"
	"time"

	"waybill/artifact"
	"waybill/promotion"
)

// PromotionRequest asks to promote. Service is a repository, or its last part where that is unique; version a tag or
// a digest.
type PromotionRequest struct {
	Service     string `json:"service" minLength:"1" maxLength:"255"`
	Version     string `json:"version" minLength:"1" maxLength:"200"`
	Environment string `json:"environment" minLength:"1" maxLength:"63"`
	Reason      string `json:"reason,omitempty" maxLength:"2000"`
	DryRun      bool   `json:"dryRun,omitempty" doc:"Evaluate every gate, change nothing"`
	Override    bool   `json:"override,omitempty" doc:"Promote it though gates are not met; an admin's, with a reason. It stands in the ledger, and overrides neither policy nor a recall nor a missing signature"`
}

// RollbackRequest asks for an environment's previous digest.
type RollbackRequest struct {
	Service     string `json:"service" minLength:"1" maxLength:"255"`
	Environment string `json:"environment" minLength:"1" maxLength:"63"`
	Version     string `json:"version,omitempty" maxLength:"200" doc:"Any that it ran before; without one, the last"`
	Reason      string `json:"reason,omitempty" maxLength:"2000"`
}

// RecallRequest asks to take a digest out of every environment.
type RecallRequest struct {
	Ref    string `json:"ref" minLength:"1" maxLength:"500" doc:"REPOSITORY@DIGEST, of which the first 12 hex digits are enough, or REPOSITORY:TAG"`
	Reason string `json:"reason" minLength:"1" maxLength:"2000"`

	Advisory string `json:"advisory,omitempty" maxLength:"500" doc:"A link to more about why"`
}

// RetireRequest asks to let go of an environment.
type RetireRequest struct {
	Environment string `json:"environment" minLength:"1" maxLength:"63"`
	Reason      string `json:"reason" minLength:"1" maxLength:"2000"`
}

// Retired is what that came to.
type Retired struct {
	Environment artifact.Environment `json:"environment"`
	Digests     int                  `json:"digests" doc:"How many could be pulled from it"`
}

// Promoted is what a promotion or a rollback came to.
type Promoted struct {
	Repository  artifact.Repository  `json:"repository"`
	Environment artifact.Environment `json:"environment"`
	Digest      artifact.Digest      `json:"digest"`
	Version     string               `json:"version,omitempty"`
	Previous    artifact.Digest      `json:"previous,omitzero"`
	LedgerIndex int64                `json:"ledgerIndex"`
	DryRun      bool                 `json:"dryRun,omitempty"`
	Unchanged   bool                 `json:"unchanged,omitempty" doc:"It was the environment's current digest already"`
	Overridden  []string             `json:"overridden,omitempty" doc:"The gates that were not met"`
}

// Recalled is what a recall came to.
type Recalled struct {
	Repository artifact.Repository `json:"repository"`
	Digest     artifact.Digest     `json:"digest"`
	Reason     string              `json:"reason"`
	// Copies of one digest in several repositories are one artifact.
	Copies []artifact.Repository `json:"copies,omitempty" doc:"Other repositories that hold the digest; it is recalled there too"`
	Left   []artifact.Repository `json:"left,omitempty" doc:"Other repositories that hold the digest, where the caller may not recall it"`
}

type (
	promoteInput   struct{ Body PromotionRequest }
	rollbackInput  struct{ Body RollbackRequest }
	recallInput    struct{ Body RecallRequest }
	retireInput    struct{ Body RetireRequest }
	retiredOutput  struct{ Body Retired }
	promotedOutput struct{ Body Promoted }
	recalledOutput struct{ Body Recalled }
)

func (a *API) promote(ctx context.Context, p artifact.Principal, in *promoteInput) (*promotedOutput, error) {
	r, e, err := a.target(ctx, p, in.Body.Service, in.Body.Environment)
	if err != nil {
		return nil, err
	}
	done, err := a.cfg.Promotions.Promote(ctx, p, promotion.Request{Repository: r, Version: in.Body.Version, Environment: e, Reason: in.Body.Reason, DryRun: in.Body.DryRun, Override: in.Body.Override})
	if err != nil {
		return nil, err
	}
	return promoted(done), nil
}

func (a *API) rollback(ctx context.Context, p artifact.Principal, in *rollbackInput) (*promotedOutput, error) {
	r, e, err := a.target(ctx, p, in.Body.Service, in.Body.Environment)
	if err != nil {
		return nil, err
	}
	done, err := a.cfg.Promotions.RollbackTo(ctx, p, promotion.Request{Repository: r, Version: in.Body.Version, Environment: e, Reason: in.Body.Reason})
	if err != nil {
		return nil, err
	}
	return promoted(done), nil
}

func (a *API) recall(ctx context.Context, p artifact.Principal, in *recallInput) (*recalledOutput, error) {
	ref, err := artifact.ParseShortReference(in.Body.Ref)
	if err != nil {
		return nil, err
	}
	if err := may(p, artifact.ActionPromote, ref.Repository); err != nil {
		return nil, err
	}
	digest, err := a.digest(ctx, p, ref)
	if err != nil {
		return nil, err
	}
	if err := a.cfg.Promotions.Recall(ctx, p, ref.Repository, digest, in.Body.Reason, in.Body.Advisory); err != nil {
		return nil, err
	}
	out := &recalledOutput{Body: Recalled{Repository: ref.Repository, Digest: digest, Reason: in.Body.Reason}}
	out.Body.Copies, out.Body.Left, err = a.cfg.Promotions.Copies(ctx, p, ref.Repository, digest)
	return out, err
}

func (a *API) retire(ctx context.Context, p artifact.Principal, in *retireInput) (*retiredOutput, error) {
	e, err := artifact.ParseEnvironment(in.Body.Environment)
	if err != nil {
		return nil, err
	}
	n, err := a.cfg.Promotions.Retire(ctx, p, e, in.Body.Reason)
	if err != nil {
		return nil, err
	}
	return &retiredOutput{Body: Retired{Environment: e, Digests: n}}, nil
}

// target resolves where something is to be promoted and asks whether the caller may; the use case asks again, with
// everything that it knows.
func (a *API) target(ctx context.Context, p artifact.Principal, service, environment string) (artifact.Repository, artifact.Environment, error) {
	e, err := artifact.ParseEnvironment(environment)
	if err != nil {
		return artifact.Repository{}, e, err
	}
	r, err := a.service(ctx, p, artifact.ActionPromote, service)
	if err != nil {
		return r, e, err
	}
	if !p.CanPromote(r, e) {
		return r, e, artifact.Errorf(artifact.Denied, "%s may not promote %s to %s: it has role %s, bound to other environments; that takes role promoter that is bound to %s, or admin", p.Name, r, e, p.Roles(), e)
	}
	return r, e, nil
}

// Board is what runs where. Environments are in the order of the pipelines.
type Board struct {
	At           time.Time              `json:"at"`
	Environments []artifact.Environment `json:"environments"`
	Cells        []artifact.Status      `json:"cells"`
	Recalled     []artifact.Withdrawn   `json:"recalled,omitempty" doc:"Environments that run nothing, since what they ran was recalled"`
	Hidden       []Place                `json:"hidden,omitempty" doc:"Of what these run the caller may not know"`
}

// Place is an environment of a repository.
type Place struct {
	Repository  artifact.Repository  `json:"repository"`
	Environment artifact.Environment `json:"environment"`
}

type (
	statusInput struct {
		Service string `query:"service" maxLength:"255" doc:"A repository, or its last part where that is unique"`
		At      string `query:"at" maxLength:"40" doc:"RFC 3339; what ran then, from the record of promotions. Of then, the digests only: verdict and scan are of now and stay out" example:"2026-10-01T12:00:00Z"`
	}
	statusOutput struct{ Body Board }
	historyInput struct {
		Service string `query:"service" required:"true" maxLength:"255"`
	}
	historyOutput struct{ Body HistoryList }
)

// HistoryList is the answer to GET /history, oldest first.
type HistoryList struct {
	Repository artifact.Repository  `json:"repository"`
	Promotions []artifact.Promotion `json:"promotions"`
}

func (a *API) status(ctx context.Context, p artifact.Principal, in *statusInput) (*statusOutput, error) {
	var only artifact.Repository
	if in.Service != "" {
		var err error
		if only, err = a.service(ctx, p, artifact.ActionLook, in.Service); err != nil {
			return nil, err
		}
	}
	board := Board{At: a.cfg.Now().UTC()}
	var err error
	if in.At == "" {
		board.Cells, err = a.cells(ctx, p)
	} else {
		if board.At, err = parseTime(in.At); err != nil {
			return nil, err
		}
		if now := a.cfg.Now(); board.At.After(now) {
			return nil, artifact.Errorf(artifact.Invalid, "%s is in the future, of which nothing is known; it is %s now", in.At, now.UTC().Format(time.RFC3339))
		}
		board.Cells, err = a.cellsAt(ctx, p, board.At)
	}
	if err != nil {
		return nil, err
	}
	if board.Recalled, err = a.withdrawn(ctx, p, board.At); err != nil {
		return nil, err
	}
	if !only.IsZero() {
		board.Cells = slices.DeleteFunc(board.Cells, func(c artifact.Status) bool { return c.Repository != only })
		board.Recalled = slices.DeleteFunc(board.Recalled, func(w artifact.Withdrawn) bool { return w.Repository != only })
	}
	return &statusOutput{Body: board}, a.addEnvironments(ctx, p, only, &board)
}

// withdrawn returns what was recalled of what ran, as the caller may see it: the gate tells a deployer of that too.
func (a *API) withdrawn(ctx context.Context, p artifact.Principal, at time.Time) ([]artifact.Withdrawn, error) {
	all, err := a.cfg.Records.Withdrawn(ctx, at)
	return slices.DeleteFunc(all, func(w artifact.Withdrawn) bool { return !sees(p, w.Repository, w.Environment) }), err
}

// sees reports whether a principal may know what an environment of a repository runs.
func sees(p artifact.Principal, r artifact.Repository, e artifact.Environment) bool {
	return p.Can(artifact.ActionLook, r) || slices.Contains(p.Deploys(r), e)
}

func parseTime(s string) (time.Time, error) {
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04Z07:00", time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, artifact.Errorf(artifact.Invalid, "time %.50q: want 2026-10-01T12:00:00Z, 2026-10-01T12:00Z or 2026-10-01", s)
}

// parseEnd reads the end of a period: of a day its last instant, so that the day is in the period.
func parseEnd(s string) (time.Time, error) {
	t, err := parseTime(s)
	if _, notDay := time.Parse(time.DateOnly, s); err == nil && notDay == nil {
		t = t.AddDate(0, 0, 1)
	}
	return t, err
}

// cells returns the board as the caller may see it.
func (a *API) cells(ctx context.Context, p artifact.Principal) ([]artifact.Status, error) {
	all, err := a.cfg.Records.Status(ctx)
	if err != nil {
		return nil, err
	}
	return visible(ctx, a, p, all, cellKey)
}

func cellKey(c artifact.Status) (artifact.Repository, artifact.Environment, artifact.Digest) {
	return c.Repository, c.Environment, c.Digest
}

// cellsAt replays the record up to a time.
func (a *API) cellsAt(ctx context.Context, p artifact.Principal, at time.Time) ([]artifact.Status, error) {
	history, err := a.cfg.Records.History(ctx, artifact.Repository{})
	if err != nil {
		return nil, err
	}
	return visible(ctx, a, p, replay(history, at), cellKey)
}

// replay returns what each environment stood at after the promotions up to a time, which are given oldest first.
func replay(history []artifact.Promotion, at time.Time) []artifact.Status {
	type place struct {
		repository  artifact.Repository
		environment artifact.Environment
	}
	current := map[place]artifact.Status{}
	for _, h := range history {
		if h.At.After(at) {
			continue
		}
		where := place{h.Repository, h.Environment}
		if h.Action == "recall" || h.Action == "retire" {
			if current[where].Digest == h.Digest {
				delete(current, where)
			}
			continue
		}
		current[where] = artifact.Status{Deployment: artifact.Deployment{Repository: h.Repository, Environment: h.Environment,
			Digest: h.Digest, Version: h.Version, Since: h.At, Actor: h.Actor, Reason: h.Reason}}
	}
	cells := make([]artifact.Status, 0, len(current))
	for _, c := range current {
		cells = append(cells, c)
	}
	slices.SortFunc(cells, func(x, y artifact.Status) int {
		if c := strings.Compare(x.Repository.String(), y.Repository.String()); c != 0 {
			return c
		}
		return strings.Compare(x.Environment.String(), y.Environment.String())
	})
	return cells
}

// addEnvironments adds the environments of the repositories' pipelines in their order, then any that only cells name. What the
// caller may see of no repository is left out, and what it may not see of one is said to be hidden. What was recalled from an
// environment that is no more is forgotten.
func (a *API) addEnvironments(ctx context.Context, p artifact.Principal, only artifact.Repository, board *Board) error {
	repositories := []artifact.Repository{}
	if !only.IsZero() {
		repositories = append(repositories, only)
	}
	know := func(r artifact.Repository) {
		if !slices.Contains(repositories, r) {
			repositories = append(repositories, r)
		}
	}
	for _, c := range board.Cells {
		know(c.Repository)
	}
	for _, w := range board.Recalled {
		know(w.Repository)
	}
	ordered := []artifact.Environment{}
	add := func(e artifact.Environment) {
		if !slices.Contains(ordered, e) {
			ordered = append(ordered, e)
		}
	}
	for _, r := range repositories {
		pipeline, err := a.cfg.Promotions.Pipeline(ctx, r)
		if kind := artifact.KindOf(err); kind == artifact.NotFound || kind == artifact.Conflict {
			continue // its own cells say where it is; a promotion says what is wrong with its pipelines
		}
		if err != nil {
			return err
		}
		for _, stage := range pipeline.Environments {
			if sees(p, r, stage.Environment) {
				add(stage.Environment)
			} else {
				board.Hidden = append(board.Hidden, Place{r, stage.Environment})
			}
		}
	}
	for _, c := range board.Cells {
		add(c.Environment)
	}
	board.Environments = ordered
	board.Hidden = slices.DeleteFunc(board.Hidden, func(h Place) bool { return !slices.Contains(ordered, h.Environment) })
	board.Recalled = slices.DeleteFunc(board.Recalled, func(w artifact.Withdrawn) bool { return !slices.Contains(ordered, w.Environment) })
	return nil
}

func (a *API) history(ctx context.Context, p artifact.Principal, in *historyInput) (*historyOutput, error) {
	r, err := a.service(ctx, p, artifact.ActionLook, in.Service)
	if err != nil {
		return nil, err
	}
	all, err := a.promotions(ctx, p, r)
	if err != nil {
		return nil, err
	}
	return &historyOutput{Body: HistoryList{Repository: r, Promotions: all}}, nil
}

// promotions returns a repository's record as the caller may see it, oldest first.
func (a *API) promotions(ctx context.Context, p artifact.Principal, r artifact.Repository) ([]artifact.Promotion, error) {
	all, err := a.cfg.Records.History(ctx, r)
	if err != nil {
		return nil, err
	}
	return visible(ctx, a, p, all, func(h artifact.Promotion) (artifact.Repository, artifact.Environment, artifact.Digest) {
		return h.Repository, h.Environment, h.Digest
	})
}

func promoted(r promotion.Result) *promotedOutput {
	return &promotedOutput{Body: Promoted{Repository: r.Repository, Environment: r.Environment, Digest: r.Digest, Version: r.Version,
		Previous: r.Previous, LedgerIndex: r.LedgerIndex, DryRun: r.DryRun, Unchanged: r.Unchanged, Overridden: r.Overridden}}
}
