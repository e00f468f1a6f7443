package storage

import (
	"regexp"
	"slices"
	"strings"
	"time"

	"waybill/artifact"
)

// graph is a repository's content with who holds whom: an index its children, a subject what refers to it.
type graph struct {
	manifests map[artifact.Digest]Manifest
	order     []artifact.Digest // indexes before their children, else as they were pushed
	tags      []Tag             // that people set, the newest first
	attached  []Tag             // of cosign's, each of which belongs to its subject
	tagged    map[artifact.Digest]bool
	tagsAt    map[artifact.Digest][]Tag // of both kinds
	refers    map[artifact.Digest][]artifact.Digest
	holders   map[artifact.Digest][]artifact.Digest
}

// cosignTag names its subject; without a suffix it is an index of the distribution-spec's referrers tag schema.
var cosignTag = regexp.MustCompile(`^sha256-([0-9a-f]{64})(\.(sig|att|sbom))?$`)

// subjectOf returns the digest that a tag of cosign's belongs to.
func subjectOf(tag artifact.Tag) (artifact.Digest, bool) {
	found := cosignTag.FindStringSubmatch(tag.String())
	if found == nil {
		return artifact.Digest{}, false
	}
	d, err := artifact.ParseDigest("sha256:" + found[1])
	return d, err == nil
}

func newGraph(h Holdings) *graph {
	g := &graph{manifests: make(map[artifact.Digest]Manifest, len(h.Manifests)), tagged: map[artifact.Digest]bool{}, tagsAt: map[artifact.Digest][]Tag{},
		refers: map[artifact.Digest][]artifact.Digest{}, holders: map[artifact.Digest][]artifact.Digest{}}
	for _, m := range h.Manifests {
		g.manifests[m.Digest] = m
	}
	for _, m := range h.Manifests {
		g.refer(m.Subject, m.Digest)
		for _, child := range m.Children {
			g.hold(m.Digest, child)
		}
	}
	for _, tag := range h.Tags {
		g.tagsAt[tag.Digest] = append(g.tagsAt[tag.Digest], tag)
		if subject, ok := subjectOf(tag.Name); ok && !g.manifests[tag.Digest].IsImage {
			g.attached = append(g.attached, tag)
			g.refer(subject, tag.Digest)
			continue
		}
		g.tags = append(g.tags, tag)
		g.tagged[tag.Digest] = true
	}
	slices.SortFunc(g.tags, newestFirst)
	slices.SortFunc(g.attached, newestFirst)
	g.sort(h.Manifests)
	return g
}

func (g *graph) refer(subject, referrer artifact.Digest) {
	if _, here := g.manifests[subject]; here {
		g.refers[subject] = append(g.refers[subject], referrer)
		g.hold(subject, referrer)
	}
}

func (g *graph) hold(holder, held artifact.Digest) {
	if _, here := g.manifests[held]; here {
		g.holders[held] = append(g.holders[held], holder)
	}
}

// sort puts each index before its children. A digest is of the bytes that name the children's, so there is no loop.
func (g *graph) sort(all []Manifest) {
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b Manifest) int { // the youngest first, since children are pushed before their index
		if c := b.PushedAt.Compare(a.PushedAt); c != 0 {
			return c
		}
		return strings.Compare(a.Digest.String(), b.Digest.String())
	})
	seen := map[artifact.Digest]bool{}
	var after []artifact.Digest
	var visit func(artifact.Digest)
	visit = func(d artifact.Digest) {
		m, here := g.manifests[d]
		if !here || seen[d] {
			return
		}
		seen[d] = true
		for _, child := range m.Children {
			visit(child)
		}
		after = append(after, d)
	}
	for _, m := range all {
		visit(m.Digest)
	}
	slices.Reverse(after)
	g.order = after
}

// below returns the digests, all that they hold, what those hold, and so on.
func (g *graph) below(heads ...artifact.Digest) map[artifact.Digest]bool {
	found := map[artifact.Digest]bool{}
	for next := slices.Clone(heads); len(next) > 0; {
		d := next[len(next)-1]
		next = next[:len(next)-1]
		m, here := g.manifests[d]
		if !here || found[d] {
			continue
		}
		found[d] = true
		next = append(next, m.Children...)
		next = append(next, g.refers[d]...)
	}
	return found
}

// tree returns a digest and, of an index, what is below it.
func (g *graph) tree(d artifact.Digest, visit func(Manifest)) {
	seen := map[artifact.Digest]bool{}
	var walk func(artifact.Digest)
	walk = func(d artifact.Digest) {
		m, here := g.manifests[d]
		if !here || seen[d] {
			return
		}
		seen[d] = true
		visit(m)
		for _, child := range m.Children {
			walk(child)
		}
	}
	walk(d)
}

// pulled is when a digest, or anything below it, was last pulled.
func (g *graph) pulled(d artifact.Digest) (last time.Time) {
	g.tree(d, func(m Manifest) {
		if m.PulledAt.After(last) {
			last = m.PulledAt
		}
	})
	return last
}

// referrers returns what refers to a digest, or to anything below it.
func (g *graph) referrers(d artifact.Digest) (all []artifact.Digest) {
	g.tree(d, func(m Manifest) { all = append(all, g.refers[m.Digest]...) })
	return all
}

// since is when a manifest was pushed, or a tag of cosign's was set to it, whichever came last.
func (g *graph) since(d artifact.Digest) time.Time {
	last := g.manifests[d].PushedAt
	for _, tag := range g.tagsAt[d] {
		if tag.SetAt.After(last) {
			last = tag.SetAt
		}
	}
	return last
}
