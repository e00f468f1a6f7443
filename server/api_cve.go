package server

import (
	"context"
	"regexp"
	"slices"

	"waybill/artifact"
)

// cvePage is how many digests are read at a time, and about how many images an answer has; cveReads is how often they are
// read for an answer that has none yet.
const (
	cvePage  = 200
	cveReads = 10
	cveList  = "cve"
)

// AffectedPage is the answer to GET /cves/{id}: a page of images that have the finding.
type AffectedPage struct {
	ID       string              `json:"id"`
	Affected []artifact.Affected `json:"affected"`
	// Next is what to ask for the next page with (after); empty on the last one. A page may be empty and not the last.
	Next     string         `json:"next,omitempty"`
	Database AdvisoryStatus `json:"database"` // what the findings are by, and how old it is
}

type (
	cveInput struct {
		ID    string `path:"id" maxLength:"200" doc:"CVE-2024-24790, or another id that advisories use"`
		After string `query:"after" maxLength:"1000" doc:"Next of the page before"`
	}
	cveOutput struct{ Body AffectedPage }
)

// findingID is what databases call vulnerabilities: CVE-2024-24790, GHSA-…, DLA-…, TEMP-…, RUSTSEC-….
var findingID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:-]*$`)

// cve says which images have a finding, and where they run. A caller sees its own repositories; a deployer what is
// promoted to its environments.
func (a *API) cve(ctx context.Context, p artifact.Principal, in *cveInput) (*cveOutput, error) {
	if !findingID.MatchString(in.ID) {
		return nil, artifact.Errorf(artifact.Invalid, "%.100q is no id of a vulnerability; want one such as CVE-2024-24790", in.ID)
	}
	var after artifact.Digest
	if err := a.cursors.open(cveList, in.After, &after); err != nil {
		return nil, err
	}
	out := &cveOutput{Body: AffectedPage{ID: in.ID, Affected: []artifact.Affected{}}}
	for reads := 1; ; reads++ {
		all, last, err := a.cfg.Records.Affected(ctx, in.ID, after, cvePage)
		if err != nil {
			return nil, err
		}
		if all, err = a.affected(ctx, p, all); err != nil {
			return nil, err
		}
		if out.Body.Affected = append(out.Body.Affected, all...); last.IsZero() {
			break
		}
		if after = last; len(out.Body.Affected) >= cvePage || reads == cveReads {
			out.Body.Next = a.cursors.seal(cveList, last)
			break
		}
	}
	database, ok, err := a.cfg.Advisories.AdvisoryDatabase(ctx)
	if err != nil {
		return nil, err
	}
	out.Body.Database = a.advisoryStatus(database, ok)
	return out, nil
}

// affected returns those of the images that the caller may know of, with what it may know of them.
func (a *API) affected(ctx context.Context, p artifact.Principal, all []artifact.Affected) (known []artifact.Affected, err error) {
	for _, item := range all {
		if mayLookIn(p, item.Repository) != nil {
			continue
		}
		if !p.Can(artifact.ActionLook, item.Repository) {
			allowed, err := a.cfg.Gate.Filter(ctx, p, item.Repository, append([]artifact.Digest{item.Digest}, item.Indexes...))
			if err != nil {
				return nil, err
			}
			if !allowed[item.Digest] {
				continue
			}
			item.Indexes = slices.DeleteFunc(item.Indexes, func(d artifact.Digest) bool { return !allowed[d] })
			item.RunsIn = slices.DeleteFunc(item.RunsIn, func(w artifact.Affecting) bool { return !slices.Contains(p.Deploys(item.Repository), w.Environment) })
			item.Tags = nil // where tags stand is not a deployer's business
		}
		known = append(known, item)
	}
	return known, nil
}
