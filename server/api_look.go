package server

import (
	"context"
	"errors"
	"slices"
	"strings"

	"waybill/artifact"
)

// refInput names one manifest.
type refInput struct {
	Ref string `query:"ref" required:"true" doc:"REPOSITORY:TAG or REPOSITORY@DIGEST; of the digest the first 12 hex digits are enough" example:"shop/returns:v456"`
}

// subject is a stored manifest that the caller may know of, and what it was called.
type subject struct {
	artifact.StoredManifest
	reference artifact.ShortReference
}

// look is the one door to what is known of a digest: it parses, asks whether the caller may look, and only then
// says whether there is such a thing.
func (a *API) look(ctx context.Context, p artifact.Principal, ref string) (subject, error) {
	parsed, err := artifact.ParseShortReference(ref)
	if err != nil {
		return subject{}, err
	}
	if err := mayLookIn(p, parsed.Repository); err != nil {
		return subject{}, err
	}
	s := subject{reference: parsed}
	digest, err := a.digest(ctx, p, parsed)
	if err == nil && parsed.Short != "" {
		s.reference.Digest = digest
	}
	if err != nil {
		return s, hideAbsence(p, parsed, a.elseNotStored(ctx, p, parsed.Reference, err))
	}
	if !p.Can(artifact.ActionLook, parsed.Repository) {
		if err := a.cfg.Gate.Pull(ctx, p, parsed.Repository, digest); err != nil {
			return s, hideAbsence(p, parsed, err)
		}
	}
	s.StoredManifest, err = a.cfg.Content.Manifest(ctx, parsed.Repository, digest)
	return s, hideAbsence(p, parsed, err)
}

// digest returns the digest that a reference stands for; with both, the digest is the identity. One that is cut short
// stands for the only one that begins so, of those that the caller may see; what was denied, where nothing that is stored does.
func (a *API) digest(ctx context.Context, p artifact.Principal, r artifact.ShortReference) (artifact.Digest, error) {
	switch {
	case r.Short != "":
		return a.byPrefix(ctx, p, r)
	case !r.Digest.IsZero():
		return r.Digest, nil
	}
	d, err := a.cfg.Content.ResolveTag(ctx, r.Repository, r.Tag)
	if artifact.KindOf(err) == artifact.NotFound {
		err = artifact.Coded(artifact.NotFound, "MANIFEST_UNKNOWN", "%s has no tag %s; push it, or name one of those at /r/%s", r.Repository, r.Tag, r.Repository)
	}
	return d, err
}

func (a *API) byPrefix(ctx context.Context, p artifact.Principal, r artifact.ShortReference) (artifact.Digest, error) {
	found, err := a.cfg.Content.DigestsByPrefix(ctx, r.Repository, r.Short)
	switch looks := p.Can(artifact.ActionLook, r.Repository); {
	case err == nil && looks && len(found) == 0:
		found, err = a.cfg.Records.DeniedByPrefix(ctx, r.Repository, r.Short)
	case err == nil && !looks:
		var allowed map[artifact.Digest]bool
		allowed, err = a.cfg.Gate.Filter(ctx, p, r.Repository, found)
		found = slices.DeleteFunc(found, func(d artifact.Digest) bool { return !allowed[d] })
	}
	switch {
	case err != nil:
		return artifact.Digest{}, err
	case len(found) == 0:
		return artifact.Digest{}, artifact.Coded(artifact.NotFound, "MANIFEST_UNKNOWN", "%s has no manifest whose digest begins with %s; of one that was removed, name the whole digest", r.Repository, r.Short)
	case len(found) > 1:
		all := make([]string, len(found))
		for i, d := range found {
			all[i] = d.String()
		}
		return artifact.Digest{}, artifact.Errorf(artifact.Conflict, "%s is not unique: %s begin so; give more digits", r, strings.Join(all, ", "))
	}
	return found[0], nil
}

// mayLookIn answers from the role alone. A deployer may look where its repositories are; each digest is the gate's.
func mayLookIn(p artifact.Principal, r artifact.Repository) error {
	if p.Can(artifact.ActionLook, r) || len(p.Deploys(r)) > 0 {
		return nil
	}
	return p.Refusal(artifact.ActionLook, r)
}

// hideAbsence makes "not there" and "not yours" one answer to a deployer, so that it cannot list by guessing. The answer
// about a tag does not name the digest where it stands.
func hideAbsence(p artifact.Principal, ref artifact.ShortReference, err error) error {
	var refused *artifact.Error
	notPromoted := errors.As(err, &refused) && len(refused.Reasons) > 0 && refused.Reasons[0].Rule == "not-promoted"
	if !p.Can(artifact.ActionLook, ref.Repository) && (artifact.KindOf(err) == artifact.NotFound || notPromoted && ref.Digest.IsZero()) {
		return artifact.Errorf(artifact.Denied, "%s is not promoted to an environment of %s; promote it first", ref, p.Name)
	}
	return err
}

// may checks an action on one repository; admit has checked that the role includes it at all.
func may(p artifact.Principal, action artifact.Action, r artifact.Repository) error {
	if p.Can(action, r) {
		return nil
	}
	return p.Refusal(action, r)
}

// service returns the repository that a service's name stands for, if the caller may do the action there. To a caller
// that is bound to some repositories, what is not there, what is not its own and what is not unique look the same.
func (a *API) service(ctx context.Context, p artifact.Principal, action artifact.Action, name string) (artifact.Repository, error) {
	r, err := a.cfg.Promotions.ResolveService(ctx, name)
	bound := !p.CanEverywhere(artifact.ActionLook)
	kind := artifact.KindOf(err)
	if err != nil && !(bound && (kind == artifact.NotFound || kind == artifact.Conflict)) {
		return r, err
	}
	looks := action == artifact.ActionLook && err == nil && mayLookIn(p, r) == nil
	if looks && !p.Can(artifact.ActionLook, r) {
		// Of a repository that nothing was promoted from it does not know.
		known, err := a.cfg.Gate.Repositories(ctx, p, []artifact.Repository{r})
		if err != nil {
			return r, err
		}
		looks = len(known) > 0
	}
	if err != nil || !(looks || p.Can(action, r)) {
		return r, artifact.Errorf(artifact.Denied, "%s may %s in no service named %.255q; name a whole repository, one that its role, %s, is bound to; others take role %s, bound to them", p.Name, action, name, p.Roles(), artifact.RolesWith(action))
	}
	return r, nil
}

// visible returns those of the items whose digest the caller may know of. key gives an item's repository, its
// digest and the environments that name it; a deployer sees items of its own environments only.
func visible[T any](ctx context.Context, a *API, p artifact.Principal, all []T, key func(T) (artifact.Repository, artifact.Environment, artifact.Digest)) ([]T, error) {
	kept := make([]T, 0, len(all))
	allowed := map[artifact.Repository]map[artifact.Digest]bool{}
	digests := map[artifact.Repository][]artifact.Digest{}
	for _, item := range all {
		if r, _, d := key(item); !slices.Contains(digests[r], d) {
			digests[r] = append(digests[r], d)
		}
	}
	for _, item := range all {
		r, e, d := key(item)
		if mayLookIn(p, r) != nil {
			continue
		}
		if !p.Can(artifact.ActionLook, r) {
			if !slices.Contains(p.Deploys(r), e) {
				continue
			}
			if _, asked := allowed[r]; !asked {
				var err error
				if allowed[r], err = a.cfg.Gate.Filter(ctx, p, r, digests[r]); err != nil {
					return nil, err
				}
			}
			if !allowed[r][d] {
				continue
			}
		}
		kept = append(kept, item)
	}
	return kept, nil
}

// RepositoryList is the answer to GET /repositories.
type RepositoryList struct {
	Repositories []artifact.Repository `json:"repositories"`
}

type repositoriesOutput struct{ Body RepositoryList }

func (a *API) repositories(ctx context.Context, p artifact.Principal, _ *struct{}) (*repositoriesOutput, error) {
	all, err := a.cfg.Content.Repositories(ctx)
	if err != nil {
		return nil, err
	}
	out := &repositoriesOutput{Body: RepositoryList{Repositories: []artifact.Repository{}}}
	deployed := map[artifact.Repository]bool{}
	if p.Is(artifact.Deployer) {
		// What is promoted, not what exists: a deployer's list is made from the board, through the gate.
		cells, err := a.cells(ctx, p)
		if err != nil {
			return nil, err
		}
		for _, c := range cells {
			deployed[c.Repository] = true
		}
	}
	for _, r := range all {
		if p.Can(artifact.ActionLook, r) || deployed[r] {
			out.Body.Repositories = append(out.Body.Repositories, r)
		}
	}
	slices.SortFunc(out.Body.Repositories, func(x, y artifact.Repository) int { return strings.Compare(x.String(), y.String()) })
	return out, nil
}
