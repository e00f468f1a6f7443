package policy

import (
	"context"
	"slices"
	"strings"

	"waybill/artifact"
)

// Images gives what is stored, in pages; *postgres.DB is one.
type Images interface {
	// ImagesAfter returns the images and indexes that come after one in the order of repository and digest, at most n.
	ImagesAfter(ctx context.Context, after artifact.Reference, n int) ([]artifact.StoredManifest, error)
	// Whereabouts returns by which tags images are known, and in which environments they are, for each of the references.
	Whereabouts(ctx context.Context, all []artifact.Reference) ([]Whereabouts, error)
}

// Whereabouts is where an image is.
type Whereabouts struct {
	Tags     []artifact.Tag         `json:"tags,omitempty"`
	Current  []artifact.Environment `json:"current,omitempty"`  // environments that run it
	Promoted []artifact.Environment `json:"promoted,omitempty"` // environments that may pull it, those that run it among them
}

// ImpactChange is one image whose verdict other policies would change.
type ImpactChange struct {
	Repository artifact.Repository `json:"repository"`
	Digest     artifact.Digest     `json:"digest"`
	Whereabouts
	Was      artifact.Outcome  `json:"was"`
	Becomes  artifact.Outcome  `json:"becomes"`
	Reasons  []artifact.Reason `json:"reasons"`            // those that would be new, or, of what would be allowed, those that would go
	Response artifact.Response `json:"response,omitempty"` // what would happen to it where it is promoted
}

// Impact is what other policies would come to.
type Impact struct {
	Images  int `json:"images"`  // and indexes, that were judged
	Denied  int `json:"denied"`  // would be, and are not
	Allowed int `json:"allowed"` // would be, and are not
	Other   int `json:"other"`   // would change otherwise: from or to pending
	Unknown int `json:"unknown"` // could not be judged: a layer of theirs has no stored facts

	Environments map[string]int `json:"environments"` // how many that would be denied run in each
	Recalled     int            `json:"recalled"`     // would be taken out of every environment
}

// impactPage is how many images are in memory at a time.
const impactPage = 100

// Replace returns the policies in force with others in the place of those of their names, and beside them.
func Replace(inForce []Versioned, with []Document) []Versioned {
	all := slices.DeleteFunc(slices.Clone(inForce), func(p Versioned) bool {
		return slices.ContainsFunc(with, func(d Document) bool { return d.Name() == p.Name() })
	})
	for _, d := range with {
		version := 1
		for _, p := range inForce {
			if p.Name() == d.Name() {
				version = p.Version + 1
			}
		}
		all = append(all, Versioned{Document: d, Version: version})
	}
	return all
}

// JudgeUnder judges a stored manifest under the given policies, and the waivers of now, whatever policies are in force.
// Its verdict makes no pass.
func (j *Judge) JudgeUnder(ctx context.Context, m artifact.StoredManifest, policies []Versioned) (Verdict, error) {
	set, err := j.waived(ctx, NewSet(policies))
	if err != nil {
		return Verdict{}, err
	}
	v, err := j.judgeUnder(ctx, m, set, nil)
	v.sealed = false
	return v, err
}

// Impact judges everything that is stored under the policies in force and under the changed ones, from stored facts, and
// tells each image whose outcome differs, and, now and then, how many it has judged. sees says of which repositories.
func (j *Judge) Impact(ctx context.Context, images Images, changed []Document, sees func(artifact.Repository) bool, tell func(*ImpactChange, int)) (Impact, error) {
	impact := Impact{Environments: map[string]int{}}
	if !j.impact.TryLock() {
		return impact, artifact.Errorf(artifact.Conflict, "another impact is being looked for; wait for its end")
	}
	defer j.impact.Unlock()
	defer j.Forget()
	inForce, err := j.cfg.Policies.Policies(ctx)
	if err != nil {
		return impact, err
	}
	now, err := j.waived(ctx, NewSet(inForce))
	if err != nil {
		return impact, err
	}
	then := now
	then.policies = NewSet(Replace(inForce, changed)).policies
	for after := (artifact.Reference{}); ; {
		page, err := images.ImagesAfter(ctx, after, impactPage)
		if err != nil || len(page) == 0 {
			return impact, err
		}
		last := page[len(page)-1]
		after = artifact.Reference{Repository: last.Repository, Digest: last.Digest}
		page = slices.DeleteFunc(page, func(m artifact.StoredManifest) bool { return !sees(m.Repository) })
		changes, err := j.impactOf(ctx, images, page, now, then, &impact)
		if err != nil {
			return impact, err
		}
		for i := range changes {
			impact.count(changes[i])
			tell(&changes[i], impact.Images)
		}
		tell(nil, impact.Images)
	}
}

// impactOf judges a page under two sets. What is loaded of an image serves both.
func (j *Judge) impactOf(ctx context.Context, images Images, page []artifact.StoredManifest, now, then Set, impact *Impact) ([]ImpactChange, error) {
	was, becomes, errs := make([]Verdict, len(page)), make([]Verdict, len(page)), make([]error, len(page))
	each(page, func(i int) {
		loaded := map[artifact.Digest]Image{}
		if was[i], errs[i] = j.judgeUnder(ctx, page[i], now, loaded); errs[i] == nil {
			becomes[i], errs[i] = j.judgeUnder(ctx, page[i], then, loaded)
		}
	})
	var (
		changes []ImpactChange
		refs    []artifact.Reference
	)
	for i, m := range page {
		switch impact.Images++; {
		case artifact.KindOf(errs[i]) == artifact.NotFound:
			impact.Unknown++
		case errs[i] != nil:
			return nil, errs[i]
		case was[i].Outcome != becomes[i].Outcome:
			changes = append(changes, ImpactChange{Repository: m.Repository, Digest: m.Digest, Was: was[i].Outcome, Becomes: becomes[i].Outcome,
				Reasons: why(was[i], becomes[i]), Response: becomes[i].Response()})
			refs = append(refs, artifact.Reference{Repository: m.Repository, Digest: m.Digest})
		}
	}
	if len(refs) == 0 {
		return nil, nil
	}
	where, err := images.Whereabouts(ctx, refs)
	if err != nil {
		return nil, err
	}
	for i := range changes {
		if changes[i].Whereabouts = where[i]; len(where[i].Promoted) == 0 {
			changes[i].Response = ""
		}
	}
	return changes, nil
}

// why returns the denials that decide: the new ones, or those that go.
func why(was, becomes Verdict) []artifact.Reason {
	with, without := becomes.Denials(), was.Denials()
	if becomes.Outcome == artifact.Allow {
		with, without = without, nil
	}
	fresh := slices.DeleteFunc(slices.Clone(with), func(r artifact.Reason) bool {
		return slices.ContainsFunc(without, func(o artifact.Reason) bool {
			return strings.EqualFold(o.String(), r.String()) && o.Platform == r.Platform
		})
	})
	if len(fresh) == 0 {
		fresh = append([]artifact.Reason{}, with...)
	}
	return fresh
}

func (i *Impact) count(c ImpactChange) {
	switch {
	case c.Becomes == artifact.Deny && c.Was == artifact.Allow:
		i.Denied++
	case c.Becomes == artifact.Allow:
		i.Allowed++
	default:
		i.Other++
	}
	if c.Becomes != artifact.Deny {
		return
	}
	for _, e := range c.Current {
		i.Environments[e.String()]++
	}
	if c.Response == artifact.RespondRecall {
		i.Recalled++
	}
}
