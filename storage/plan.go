package storage

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"waybill/artifact"
)

// Holdings is what a repository holds, as it is at one instant.
type Holdings struct {
	Repository artifact.Repository
	Manifests  []Manifest
	Tags       []Tag
	At         time.Time // the instant, by the clock that set all other times
}

// Manifest is one that a repository holds, with what may keep it.
type Manifest struct {
	Digest   artifact.Digest
	Subject  artifact.Digest   // zero: it refers to none
	Children []artifact.Digest // of an index
	IsImage  bool
	Bytes    int64 // of itself and of the blobs that it names
	PushedAt time.Time
	PulledAt time.Time // zero: never
	// Promoted are the environments that may pull it: it was promoted to them, or belongs to what was.
	Promoted []artifact.Environment
}

// Tag is a tag and when it was set to where it stands.
type Tag struct {
	Name   artifact.Tag
	Digest artifact.Digest
	SetAt  time.Time
}

// Plan is what retention makes of a repository. Of the same content, at the same time, it is the same.
type Plan struct {
	Units []Unit    // what goes, each unit whole or not at all, in this order
	Kept  []KeptTag // the newest first
}

// Unit is a manifest that goes, with its tags, and with what goes only because it does; or a tag that goes alone, since
// something else keeps what it stands at.
type Unit struct {
	Manifests []Manifest // an index before its children
	Tags      []Tag      // all that stand at them; without Manifests, the one that goes
	// Referrers are the manifests that refer to some of these and do not go with them; one that is not among them came
	// since, and nobody thought about it.
	Referrers []artifact.Digest
}

// KeptTag is a tag that stays, and every reason why.
type KeptTag struct {
	Tag
	Reasons []string
}

// SignedFor returns the environments for which somebody signed a manifest of a repository, given the manifests that
// refer to it.
type SignedFor func(digest artifact.Digest, attached []artifact.Digest) ([]artifact.Environment, error)

// Plan says what goes and why the rest stays. It is a pure function but for signed, which is asked about what nothing
// else keeps. Kept are: tags that Tags do not match, the KeepLast newest of the others, tags whose content was set or
// pulled within KeepPulledWithin; what was promoted or signed for an environment; and, whatever is kept, the children
// of an index and all that refers to it. What a tag that goes stood at goes too, with what refers to it and, of an
// index, its children, unless one of these is kept. reserved are names that only a promotion moves.
func (r Retention) Plan(h Holdings, reserved []artifact.Environment, signed SignedFor) (Plan, error) {
	p := &planner{Retention: r, holdings: newGraph(h), signed: signed, now: h.At}
	if err := p.tags(reserved); err != nil {
		return Plan{}, err
	}
	if err := p.untagged(); err != nil {
		return Plan{}, err
	}
	p.units()
	return p.plan, nil
}

type planner struct {
	Retention
	holdings *graph
	signed   SignedFor
	now      time.Time
	plan     Plan

	going []Tag             // in the order in which they were set, the oldest first
	roots []artifact.Digest // kept for their own sake
	loose []artifact.Digest // neither tagged nor held, and too old
}

// tags sorts the tags that people set into those that stay and those that go.
func (p *planner) tags(reserved []artifact.Environment) error {
	kept := 0
	for _, tag := range p.holdings.tags {
		reasons, err := p.keeps(tag, reserved, &kept)
		if err != nil {
			return err
		}
		if len(reasons) == 0 {
			p.going = append(p.going, tag)
			continue
		}
		p.plan.Kept = append(p.plan.Kept, KeptTag{tag, reasons})
		p.roots = append(p.roots, tag.Digest)
	}
	slices.Reverse(p.going)
	return nil
}

// keeps returns why a tag stays; kept counts those that KeepLast did, the newest coming first.
func (p *planner) keeps(tag Tag, reserved []artifact.Environment, kept *int) ([]string, error) {
	var reasons []string
	add := func(format string, args ...any) { reasons = append(reasons, fmt.Sprintf(format, args...)) }
	m := p.holdings.manifests[tag.Digest]
	if len(m.Promoted) > 0 {
		add("promoted to %s", list(m.Promoted))
	}
	switch {
	case slices.ContainsFunc(reserved, func(e artifact.Environment) bool { return e.Tag() == tag.Name }):
		add("an environment's name")
	case !p.removesTags():
		add("no rule removes tags")
	case !matchesTag(p.Tags, tag.Name):
		add("not among the tags that may be removed")
	default:
		if *kept < p.KeepLast {
			*kept++
			add("one of the newest %d", p.KeepLast)
		}
		if p.KeepPulledWithin > 0 {
			if pulled := p.holdings.pulled(tag.Digest); p.within(pulled, p.KeepPulledWithin) {
				add("pulled %s ago", days(p.now.Sub(pulled)))
			}
			if p.within(tag.SetAt, p.KeepPulledWithin) {
				add("set %s ago", days(p.now.Sub(tag.SetAt)))
			}
		}
	}
	if len(reasons) > 0 {
		return reasons, nil
	}
	environments, err := p.signed(tag.Digest, p.holdings.referrers(tag.Digest))
	if len(environments) > 0 {
		add("signed for %s", list(environments))
	}
	return reasons, err
}

// within reports whether something was no longer ago than that.
func (p *planner) within(at time.Time, age time.Duration) bool {
	return !at.IsZero() && p.now.Sub(at) <= age
}

// untagged does the same for manifests that no tag of people's, no index and no subject holds.
func (p *planner) untagged() error {
	for _, digest := range p.holdings.order {
		m := p.holdings.manifests[digest]
		if len(m.Promoted) > 0 {
			p.roots = append(p.roots, digest)
			continue
		}
		if p.holdings.tagged[digest] || len(p.holdings.holders[digest]) > 0 {
			continue
		}
		old := p.Untagged > 0 && !p.within(p.holdings.since(digest), p.Untagged) && !(p.KeepPulledWithin > 0 && p.within(p.holdings.pulled(digest), p.KeepPulledWithin))
		if old {
			environments, err := p.signed(digest, p.holdings.referrers(digest))
			if err != nil {
				return err
			}
			old = len(environments) == 0
		}
		if old {
			p.loose = append(p.loose, digest)
		} else {
			p.roots = append(p.roots, digest)
		}
	}
	return nil
}

// units gathers what goes. What two of them hold goes with the later one: then nothing holds it any more.
func (p *planner) units() {
	var heads []artifact.Digest
	for _, tag := range p.going {
		heads = append(heads, tag.Digest)
	}
	heads = append(heads, p.loose...)
	stays := p.stays(heads)
	unitOf := map[artifact.Digest]int{}
	for i, head := range heads {
		if stays[head] {
			continue
		}
		for digest := range p.holdings.below(head) {
			if !stays[digest] {
				unitOf[digest] = i
			}
		}
	}
	gathered := make([]Unit, len(heads))
	for _, digest := range p.holdings.order { // indexes before children
		if i, goes := unitOf[digest]; goes {
			gathered[i].Manifests = append(gathered[i].Manifests, p.holdings.manifests[digest])
			gathered[i].Tags = append(gathered[i].Tags, p.holdings.tagsAt[digest]...)
			for _, referrer := range p.holdings.refers[digest] {
				if with, goes := unitOf[referrer]; !goes || with != i {
					gathered[i].Referrers = append(gathered[i].Referrers, referrer)
				}
			}
		}
	}
	for _, u := range gathered {
		if len(u.Manifests) > 0 {
			p.plan.Units = append(p.plan.Units, u)
		}
	}
	p.lonelyTags(stays, unitOf)
}

// stays returns what is kept: the roots and all below them. What hold each other, such as an index whose subject is one of
// its own children, and what they hold, are roots too where nothing else leads to them.
func (p *planner) stays(heads []artifact.Digest) map[artifact.Digest]bool {
	reached := p.holdings.below(append(slices.Clone(p.roots), heads...)...)
	for _, digest := range p.holdings.order {
		if !reached[digest] {
			p.roots = append(p.roots, digest)
		}
	}
	return p.holdings.below(p.roots...)
}

// lonelyTags are those that go while what they stand at stays: tags of people's, and cosign's whose subject goes.
func (p *planner) lonelyTags(stays map[artifact.Digest]bool, unitOf map[artifact.Digest]int) {
	going := slices.Clone(p.going)
	for _, tag := range p.holdings.attached {
		subject, _ := subjectOf(tag.Name)
		if _, goes := unitOf[subject]; goes {
			going = append(going, tag)
		}
	}
	for _, tag := range going {
		if _, goes := unitOf[tag.Digest]; !goes && stays[tag.Digest] {
			p.plan.Units = append(p.plan.Units, Unit{Tags: []Tag{tag}})
		}
	}
}

func list(environments []artifact.Environment) string {
	names := make([]string, len(environments))
	for i, e := range environments {
		names[i] = e.String()
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ", ")
}

// days writes an age in its largest unit.
func days(d time.Duration) string {
	for _, unit := range []struct {
		of   time.Duration
		name string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}} {
		if n := int(d / unit.of); n == 1 {
			return "1 " + unit.name
		} else if n > 1 {
			return fmt.Sprintf("%d %ss", n, unit.name)
		}
	}
	return "less than a minute"
}

// newestFirst orders tags by when they were set, and those of one instant by name.
func newestFirst(a, b Tag) int {
	return cmp.Or(b.SetAt.Compare(a.SetAt), strings.Compare(a.Name.String(), b.Name.String()))
}
