package policy

import (
	"context"
	"fmt"
	"slices"
	"time"

	"waybill/artifact"
)

// Waivers gives the waivers that were not revoked; the judge looks at the clock itself.
type Waivers interface {
	Waivers(ctx context.Context) ([]artifact.Waiver, error)
}

// inForce returns the policies and waivers of this instant.
func (j *Judge) inForce(ctx context.Context) (Set, error) {
	policies, err := j.cfg.Policies.Policies(ctx)
	if err != nil {
		return Set{}, err
	}
	return j.waived(ctx, NewSet(policies))
}

func (j *Judge) waived(ctx context.Context, s Set) (Set, error) {
	if j.cfg.Waivers == nil {
		return s, nil
	}
	waivers, err := j.cfg.Waivers.Waivers(ctx)
	return s.With(waivers, j.now()), err
}

func (j *Judge) now() time.Time {
	if j.cfg.Now != nil {
		return j.cfg.Now().UTC()
	}
	return time.Now().UTC()
}

// With returns the set with those of the waivers that hold at an instant. Of two for the same, the one that ends last
// counts.
func (s Set) With(waivers []artifact.Waiver, now time.Time) Set {
	s.waivers = slices.DeleteFunc(slices.Clone(waivers), func(w artifact.Waiver) bool { return !w.InForce(now) })
	slices.SortStableFunc(s.waivers, func(a, b artifact.Waiver) int { return b.ExpiresAt.Compare(a.ExpiresAt) })
	return s
}

// Unwaivable are the rules that hold whatever anybody decides: what cannot be looked at cannot be answered for, and what
// holds everywhere is for a policy to make a warning.
func Unwaivable(rule string) bool {
	return rule == ruleInspect || slices.ContainsFunc(always, func(r boundRule) bool { return r.kind == rule })
}

// waive makes warnings of the findings that somebody took the responsibility for. policy is "" where no policy has the
// rule; that cannot be waived.
func (r boundRule) waive(policy string, img Image, found []finding) []finding {
	if len(img.waivers) == 0 || r.action == warn || policy == "" || Unwaivable(r.kind) {
		return found
	}
	found = slices.Clone(found)
	for i, f := range found {
		if f.warning {
			continue
		}
		for _, w := range img.waivers {
			if w.Covers(img.Subject.Repository, img.Subject.Digest, r.name, f.id) {
				found[i].message, found[i].warning, found[i].waivers, found[i].until = waivedBy(w, f.message), true, []int64{w.ID}, w.ExpiresAt
				break
			}
		}
	}
	return found
}

// waiveOfIndex makes a warning of a reason against an image of an index, where the index itself is exempt.
func (s Set) waiveOfIndex(index artifact.Subject, r artifact.Reason) artifact.Reason {
	if r.Warning && !r.Promotion || r.Policy == "" || Unwaivable(r.Rule) {
		return r
	}
	for _, w := range s.waivers {
		if !w.Digest.IsZero() && w.Covers(index.Repository, index.Digest, r.Rule, r.Finding) {
			r.Message, r.Warning, r.Waivers, r.WaivedUntil = waivedBy(w, r.Message), true, []int64{w.ID}, w.ExpiresAt
			r.Promotion, r.Signature = false, false
			return r.Bounded()
		}
	}
	return r
}

func waivedBy(w artifact.Waiver, message string) string {
	return fmt.Sprintf("waived until %s by %s (waiver %d: %s): %s", w.ExpiresAt.UTC().Format(time.RFC3339), w.CreatedBy, w.ID, w.Reason, message)
}

// restOn notes the waivers that a reason rests on, and until when.
func (v *Verdict) restOn(r artifact.Reason) {
	v.Until, v.Waivers = earlier(v.Until, r.WaivedUntil), join(v.Waivers, r.Waivers)
}

// join returns the numbers of both, each once.
func join(a, b []int64) []int64 {
	for _, id := range b {
		if !slices.Contains(a, id) {
			a = append(slices.Clip(a), id)
		}
	}
	return a
}

// earlier returns the earlier of two times; the zero time is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
