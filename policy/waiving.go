package policy

import (
	"context"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"waybill/artifact"
)

// WaiverStore keeps waivers; *postgres.DB is one. Each method that writes is one transaction with its ledger entry.
type WaiverStore interface {
	// CreateWaiver puts a waiver in force. It is refused when limit are, and, of a digest, when nobody pushed that yet or
	// when its creator did.
	CreateWaiver(ctx context.Context, w artifact.Waiver, limit int) (artifact.Waiver, error)
	// RevokeWaiver ends a waiver at once; NotFound when it is not in force.
	RevokeWaiver(ctx context.Context, id int64, actor string, at time.Time) (artifact.Waiver, error)
	Waiver(ctx context.Context, id int64) (artifact.Waiver, error)
	// ListWaivers returns waivers, newest first, at most n of those older than before.
	ListWaivers(ctx context.Context, ended bool, before int64, n int) ([]artifact.Waiver, error)
}

// WaivingConfig names what waiving needs.
type WaivingConfig struct {
	Store    WaiverStore
	Policies Policies
	MaxLife  time.Duration // from its creation to its expiry
	Max      int           // in force at a time
	Now      func() time.Time
}

// Waiving is the use cases of waivers. It is safe for concurrent use.
type Waiving struct{ cfg WaivingConfig }

// NewWaiving returns the use cases.
func NewWaiving(cfg WaivingConfig) *Waiving { return &Waiving{cfg} }

// WaiverRequest asks for a waiver of RULE or RULE:FINDING, for one digest or for the repositories of a pattern.
type WaiverRequest struct {
	Rule       string
	Digest     artifact.Digest
	Repository string
	Expires    time.Time
	Reason     string
}

// maxWaiverReason bounds what an approver gives as the reason, in bytes: it stands in every verdict.
const maxWaiverReason = 500

var waivedRule = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9._-]{0,62})(?::([!-~]{1,200}))?$`)

// everyEnvironment is p without what it may do for some environments only.
func everyEnvironment(p artifact.Principal) artifact.Principal {
	all := p.Bindings()
	p.Role, p.Repositories, p.Environments, p.More = "", nil, nil, nil
	for _, b := range all {
		switch {
		case len(b.Environments) > 0 && b.Role != artifact.Admin:
		case p.Role == "":
			p.Role, p.Repositories = b.Role, b.Repositories
		default:
			p.More = append(p.More, b)
		}
	}
	return p
}

// Create puts a waiver in force. Its creator answers for it: one who may approve in all the repositories that it is for.
// Of a digest it holds in those of its creator.
func (s *Waiving) Create(ctx context.Context, p artifact.Principal, r WaiverRequest) (artifact.Waiver, error) {
	now := s.cfg.Now()
	w := artifact.Waiver{Digest: r.Digest, Reason: strings.TrimSpace(r.Reason), CreatedBy: p.Name, CreatedAt: now, ExpiresAt: r.Expires}
	if err := s.check(&w, r); err != nil {
		return w, err
	}
	p = everyEnvironment(p) // a waiver holds whatever environment an image goes to
	if !p.Can(artifact.ActionApprove, artifact.Repository{}) {
		return w, artifact.Errorf(artifact.Denied, "%s, %s, may not waive a rule; that takes a token of role approver", p.Name, artifact.An(p.Roles()))
	}
	if r.Repository != "" {
		w.Repositories = []string{r.Repository}
		if !p.CanAll(artifact.ActionApprove, r.Repository) {
			return w, artifact.Errorf(artifact.Denied, "%s may not approve in all of %s: its role is bound to %s; that takes role approver that is bound to all of it", p.Name, r.Repository, strings.Join(p.Patterns(artifact.ActionApprove), ", "))
		}
	} else {
		w.Repositories = p.Patterns(artifact.ActionApprove)
	}
	if err := s.known(ctx, w.Rule); err != nil {
		return w, err
	}
	return s.cfg.Store.CreateWaiver(ctx, w, s.cfg.Max)
}

func (s *Waiving) check(w *artifact.Waiver, r WaiverRequest) error {
	parts := waivedRule.FindStringSubmatch(r.Rule)
	invalid := func(format string, args ...any) error { return artifact.Errorf(artifact.Invalid, format, args...) }
	if parts == nil {
		return invalid("rule %.100q: want RULE or RULE:FINDING, such as max-severity:CVE-2024-24790", r.Rule)
	}
	w.Rule, w.Finding = parts[1], parts[2]
	life := w.ExpiresAt.Sub(w.CreatedAt)
	switch {
	case Unwaivable(w.Rule):
		return invalid("%s cannot be waived: it holds whatever anybody decides%s", w.Rule, map[bool]string{false: "; a policy may make it a warning"}[w.Rule == ruleInspect])
	case r.Digest.IsZero() == (r.Repository == ""):
		return invalid("a waiver is for one digest or for one pattern of repositories; give one of them")
	case r.Repository != "" && !artifact.ValidGlob(r.Repository):
		return invalid("pattern %.100q: want path components such as shop/** or */returns", r.Repository)
	case w.Reason == "" || len(w.Reason) > maxWaiverReason || !utf8.ValidString(w.Reason):
		return invalid("a waiver needs a reason of at most %d bytes: it stands in every verdict that rests on it", maxWaiverReason)
	case life <= 0:
		return invalid("it would have expired already, at %s", w.ExpiresAt.UTC().Format(time.RFC3339))
	case life > s.cfg.MaxLife:
		return invalid("it would expire at %s; a waiver lasts %s at most (policy.waiverLife in the configuration)", w.ExpiresAt.UTC().Format(time.RFC3339), s.cfg.MaxLife)
	}
	return nil
}

// known refuses a rule that no policy in force has: it is misspelt, and would waive nothing.
func (s *Waiving) known(ctx context.Context, rule string) error {
	policies, err := s.cfg.Policies.Policies(ctx)
	if err != nil {
		return err
	}
	var names []string
	for _, p := range policies {
		for _, r := range p.rules {
			names = append(names, r.name)
		}
	}
	if slices.Contains(names, rule) {
		return nil
	}
	slices.Sort(names)
	return artifact.Errorf(artifact.Invalid, "no policy in force has a rule %s; they have %s", rule, strings.Join(slices.Compact(names), ", "))
}

// Revoke ends a waiver at once. Who might have created it may.
func (s *Waiving) Revoke(ctx context.Context, p artifact.Principal, id int64) (artifact.Waiver, error) {
	w, err := s.cfg.Store.Waiver(ctx, id)
	if err != nil {
		return w, err
	}
	if p = everyEnvironment(p); !p.Can(artifact.ActionApprove, artifact.Repository{}) || !approvesAll(p, w) {
		return artifact.Waiver{}, artifact.Errorf(artifact.Denied, "%s, %s, may not revoke waiver %d; that takes an approver of all repositories that it is for", p.Name, artifact.An(p.Roles()), id)
	}
	return s.cfg.Store.RevokeWaiver(ctx, id, p.Name, s.cfg.Now())
}

func approvesAll(p artifact.Principal, w artifact.Waiver) bool {
	if len(w.Repositories) == 0 {
		return p.CanEverywhere(artifact.ActionApprove)
	}
	return !slices.ContainsFunc(w.Repositories, func(pattern string) bool { return !p.CanAll(artifact.ActionApprove, pattern) })
}

// List returns the waivers that p may know of, newest first, at most n of those older than before (0: any), and before which
// there may be more; 0: there are none.
func (s *Waiving) List(ctx context.Context, p artifact.Principal, ended bool, before int64, n int) (all []artifact.Waiver, next int64, err error) {
	if before <= 0 {
		before = math.MaxInt64
	}
	all, last, more, err := artifact.Page(n, artifact.Waiver{ID: before}, func(after artifact.Waiver, n int) ([]artifact.Waiver, bool, error) {
		rows, err := s.cfg.Store.ListWaivers(ctx, ended, after.ID, n)
		return rows, len(rows) == n, err
	}, func(w artifact.Waiver) bool { return touches(p, w) })
	if more {
		next = last.ID
	}
	return all, next, err
}

// touches reports whether a waiver may hold in a repository of p.
func touches(p artifact.Principal, w artifact.Waiver) bool {
	if p.CanEverywhere(artifact.ActionLook) || len(w.Repositories) == 0 {
		return true
	}
	return slices.ContainsFunc(w.Repositories, func(pattern string) bool {
		return p.CanAll(artifact.ActionLook, pattern) || slices.ContainsFunc(p.Patterns(artifact.ActionLook), func(own string) bool { return artifact.GlobCovers(pattern, own) })
	})
}
