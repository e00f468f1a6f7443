package web

import (
	"cmp"
	"context"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/gin-gonic/gin"

	"waybill/artifact"
)

// side is one of two digests that are compared, or an image of one.
type side struct {
	Repository artifact.Repository
	Digest     artifact.Digest
	Tags       []artifact.Tag
	Manifest   artifact.StoredManifest
	Size       int64 // bytes of the layers, compressed
	Layers     int
	Scan       artifact.Scan
	Config     *artifact.ImageConfig
	Facts      *artifact.ImageFacts // nil: not known
}

// difference is what the second digest has that the first has not, and the other way round.
type difference struct {
	A, B       side
	Indexes    bool // an image of each, of the same platform, was compared
	Shared     int  // layers that both have
	Added      []artifact.Package
	Removed    []artifact.Package
	Changed    []packageChange
	Introduced []artifact.Finding
	Fixed      []artifact.Finding
	Config     []configChange
	Files      []fileChange
	MoreFiles  int // that are not shown
	FileCounts map[string]int
}

type packageChange struct {
	Name, Type, From, To string
}

type configChange struct {
	Name, From, To string
}

// fileChange is a file that one side has, or both have with other bytes, owner or mode, as far as facts say.
type fileChange struct {
	Path, What string // added, removed or changed
	Bytes      int64  // more, or fewer
}

// SizeChange is by how many bytes b is larger.
func (d difference) SizeChange() int64 { return d.B.Size - d.A.Size }

// Nothing reports whether no difference was found in what was compared.
func (d difference) Nothing() bool {
	return len(d.Added)+len(d.Removed)+len(d.Changed)+len(d.Introduced)+len(d.Fixed)+len(d.Config)+len(d.Files) == 0 && d.Shared == d.A.Layers && d.Shared == d.B.Layers
}

// maxFileRows is how many files of a comparison are shown.
const maxFileRows = 100

// comparePage compares two digests that may lie in two repositories.
type comparePage struct {
	From, To   string // as they were asked for
	Difference *difference
}

func (w *Web) compare(c *gin.Context, p artifact.Principal) error {
	ctx := c.Request.Context()
	page := &comparePage{From: strings.TrimSpace(c.Query("from")), To: strings.TrimSpace(c.Query("to"))}
	if page.From == "" || page.To == "" {
		w.render(c, http.StatusOK, "compare", "Compare", page)
		return nil
	}
	var sides [2]side
	for i, text := range []string{page.From, page.To} {
		ref, err := w.resolve(ctx, p, text)
		if err != nil {
			return err
		}
		sides[i] = side{Repository: ref.Repository, Digest: ref.Digest}
	}
	d, err := w.difference(ctx, sides[0], sides[1])
	if err != nil {
		return err
	}
	page.Difference = &d
	w.render(c, http.StatusOK, "compare", "Compare "+d.A.Digest.Short()+" with "+d.B.Digest.Short(), page)
	return nil
}

// resolve finds the digest that a text names, for a reader who may see it.
func (w *Web) resolve(ctx context.Context, p artifact.Principal, text string) (artifact.Reference, error) {
	named, err := artifact.ParseShortReference(text)
	ref := named.Reference
	if err != nil {
		return ref, err
	}
	if named.Short != "" {
		ref.Digest, err = w.byPrefix(ctx, p, named)
		return ref, err
	}
	if ref.Digest.IsZero() {
		if !p.Can(artifact.ActionLook, ref.Repository) {
			return ref, p.Refusal(artifact.ActionLook, ref.Repository) // a deployer names digests
		}
		if ref.Digest, err = w.cfg.Store.ResolveTag(ctx, ref.Repository, ref.Tag); err != nil {
			return ref, err
		}
	}
	if ok, err := w.sees(ctx, p, ref.Repository, ref.Digest); err != nil || !ok {
		if err == nil {
			err = p.Refusal(artifact.ActionLook, ref.Repository)
		}
		return ref, err
	}
	return ref, nil
}

// byPrefix finds the one digest that begins so, of those that the reader may see.
func (w *Web) byPrefix(ctx context.Context, p artifact.Principal, named artifact.ShortReference) (artifact.Digest, error) {
	found, err := w.cfg.Store.DigestsByPrefix(ctx, named.Repository, named.Short)
	if err != nil {
		return artifact.Digest{}, err
	}
	if !p.Can(artifact.ActionLook, named.Repository) {
		allowed, err := w.cfg.Gate.Filter(ctx, p, named.Repository, found)
		if err != nil {
			return artifact.Digest{}, err
		}
		if found = slices.DeleteFunc(found, func(d artifact.Digest) bool { return !allowed[d] }); len(found) == 0 {
			return artifact.Digest{}, p.Refusal(artifact.ActionLook, named.Repository)
		}
	}
	switch len(found) {
	case 0:
		return artifact.Digest{}, artifact.Errorf(artifact.NotFound, "%s has no manifest whose digest begins with %s", named.Repository, named.Short)
	case 1:
		return found[0], nil
	}
	return artifact.Digest{}, artifact.Errorf(artifact.Conflict, "%s is not unique: %s and %s begin so; give more digits", named, found[0], found[1])
}

// difference compares two digests; of two indexes, their images of one platform. The caller has checked the reader.
func (w *Web) difference(ctx context.Context, a, b side) (d difference, err error) {
	if a, err = w.load(ctx, a); err != nil {
		return d, err
	}
	if b, err = w.load(ctx, b); err != nil {
		return d, err
	}
	d = difference{A: a, B: b, Indexes: a.Manifest.Manifest.IsIndex() || b.Manifest.Manifest.IsIndex()}
	for _, l := range b.Manifest.Manifest.Layers {
		if slices.ContainsFunc(a.Manifest.Manifest.Layers, func(o artifact.Descriptor) bool { return o.Digest == l.Digest }) {
			d.Shared++
		}
	}
	d.packages()
	d.findings()
	d.config()
	d.files()
	return d, nil
}

// load reads a side; of an index, its first image.
func (w *Web) load(ctx context.Context, s side) (side, error) {
	var err error
	if s.Manifest, err = w.cfg.Store.Manifest(ctx, s.Repository, s.Digest); err != nil {
		return s, err
	}
	if s.Tags, err = w.cfg.Store.TagsOf(ctx, s.Repository, s.Digest); err != nil {
		return s, err
	}
	if s.Manifest.Manifest.IsIndex() && len(s.Manifest.Manifest.Manifests) > 0 {
		if s.Manifest, err = w.cfg.Store.Manifest(ctx, s.Repository, s.Manifest.Manifest.Manifests[0].Digest); err != nil {
			return s, err
		}
	}
	for _, l := range s.Manifest.Manifest.Layers {
		s.Size += l.Size
	}
	s.Layers = len(s.Manifest.Manifest.Layers)
	if s.Scan, err = w.cfg.Store.Scan(ctx, s.Manifest.Digest); err != nil || !s.Manifest.IsImage {
		return s, err
	}
	s.Config, s.Facts, err = w.insides(ctx, s.Manifest)
	return s, err
}

// insides reads an image's config and stacks its layers; facts are nil where a layer's are not known.
func (w *Web) insides(ctx context.Context, m artifact.StoredManifest) (*artifact.ImageConfig, *artifact.ImageFacts, error) {
	body, err := w.cfg.Blob(ctx, m.Repository, m.Manifest.Config.Digest)
	if err != nil {
		return nil, nil, err
	}
	return w.stacked(ctx, m, body)
}

// stacked is insides of an image whose config is at hand.
func (w *Web) stacked(ctx context.Context, m artifact.StoredManifest, body []byte) (*artifact.ImageConfig, *artifact.ImageFacts, error) {
	config, err := artifact.ParseImageConfig(body, len(m.Manifest.Layers))
	if err != nil {
		return nil, nil, nil // policy says what is wrong with it
	}
	folding := artifact.NewFolding(config)
	for _, l := range m.Manifest.Layers {
		facts, err := w.cfg.Facts.Layer(ctx, m.Repository, l)
		if err != nil {
			if artifact.KindOf(err) == "" && ctx.Err() != nil {
				return nil, nil, err
			}
			return &config, nil, nil // policy says why it cannot be inspected
		}
		if folding.Add(facts) != nil {
			return &config, nil, nil
		}
	}
	facts := folding.Facts()
	return &config, &facts, nil
}

func (d *difference) packages() {
	type key struct{ name, kind string }
	index := func(all []artifact.Package) map[key][]artifact.Package {
		m := make(map[key][]artifact.Package, len(all))
		for _, p := range all {
			k := key{p.Name, p.Type}
			if !slices.ContainsFunc(m[k], func(o artifact.Package) bool { return o.Version == p.Version }) {
				m[k] = append(m[k], p)
			}
		}
		return m
	}
	before, after := index(d.A.Scan.Packages), index(d.B.Scan.Packages)
	versions := func(all []artifact.Package) string {
		texts := make([]string, len(all))
		for i, p := range all {
			texts[i] = p.Version
		}
		slices.Sort(texts)
		return strings.Join(texts, ", ")
	}
	for k, new := range after {
		if old, ok := before[k]; !ok {
			d.Added = append(d.Added, new...)
		} else if from, to := versions(old), versions(new); from != to {
			d.Changed = append(d.Changed, packageChange{k.name, k.kind, from, to})
		}
	}
	for k, old := range before {
		if _, ok := after[k]; !ok {
			d.Removed = append(d.Removed, old...)
		}
	}
	byName := func(a, b artifact.Package) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Type, b.Type), cmp.Compare(a.Version, b.Version))
	}
	slices.SortFunc(d.Added, byName)
	slices.SortFunc(d.Removed, byName)
	slices.SortFunc(d.Changed, func(a, b packageChange) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Type, b.Type)) })
}

// findings compares vulnerabilities and secrets by id and package, whatever the versions are: a package that was upgraded
// and is vulnerable still was not fixed.
func (d *difference) findings() {
	type key struct{ id, name string }
	index := func(all []artifact.Finding) map[key]bool {
		m := map[key]bool{}
		for _, f := range all {
			m[key{f.ID, f.Package}] = true
		}
		return m
	}
	lacks := func(all, other []artifact.Finding) (missing []artifact.Finding) {
		there, seen := index(other), map[key]bool{}
		for _, f := range all {
			if k := (key{f.ID, f.Package}); f.Class != artifact.ClassLicense && !there[k] && !seen[k] {
				seen[k] = true
				missing = append(missing, f)
			}
		}
		artifact.SortFindings(missing)
		return missing
	}
	d.Introduced, d.Fixed = lacks(d.B.Scan.Findings, d.A.Scan.Findings), lacks(d.A.Scan.Findings, d.B.Scan.Findings)
}

func (d *difference) config() {
	if d.A.Config == nil || d.B.Config == nil {
		return
	}
	a, b := d.A.Config.Config, d.B.Config.Config
	add := func(name, from, to string) {
		if from != to {
			d.Config = append(d.Config, configChange{name, from, to})
		}
	}
	keys := func(m map[string]struct{}) string { return strings.Join(slices.Sorted(maps.Keys(m)), " ") }
	// Values of variables are for who may pull; their names are enough to see that one came or went.
	names := func(env []string) string {
		var all []string
		for _, v := range env {
			name, _, _ := strings.Cut(v, "=")
			all = append(all, name)
		}
		slices.Sort(all)
		return strings.Join(all, " ")
	}
	add("Platform", d.A.Config.Platform().String(), d.B.Config.Platform().String())
	add("User", a.User, b.User)
	add("Entrypoint", strings.Join(a.Entrypoint, " "), strings.Join(b.Entrypoint, " "))
	add("Command", strings.Join(a.Cmd, " "), strings.Join(b.Cmd, " "))
	add("Working directory", a.WorkingDir, b.WorkingDir)
	add("Ports", keys(a.ExposedPorts), keys(b.ExposedPorts))
	add("Volumes", keys(a.Volumes), keys(b.Volumes))
	add("Variables, by name", names(a.Env), names(b.Env))
	labels := map[string]bool{}
	for k := range a.Labels {
		labels[k] = true
	}
	for k := range b.Labels {
		labels[k] = true
	}
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		add("Label "+k, a.Labels[k], b.Labels[k])
	}
}

// files compares what a container would see. Facts have no digest of a file: one with the size, mode, owner and target of
// before, from a layer that both have, is the same, and from another layer it may be.
func (d *difference) files() {
	if d.A.Facts == nil || d.B.Facts == nil {
		return
	}
	a, b := d.A.Facts, d.B.Facts
	d.FileCounts = map[string]int{}
	add := func(path, what string, bytes int64) {
		d.FileCounts[what]++
		d.Files = append(d.Files, fileChange{path, what, bytes})
	}
	for path, f := range b.Files {
		old, ok := a.Files[path]
		switch {
		case f.Type == artifact.Dir:
		case !ok:
			add(path, "added", f.Size)
		case f.Type != old.Type || f.Size != old.Size || f.Mode != old.Mode || f.UID != old.UID || f.GID != old.GID || f.Target != old.Target:
			add(path, "changed", f.Size-old.Size)
		}
	}
	for path, f := range a.Files {
		if _, ok := b.Files[path]; !ok && f.Type != artifact.Dir {
			add(path, "removed", -f.Size)
		}
	}
	weight := func(n int64) int64 { return max(n, -n) }
	slices.SortFunc(d.Files, func(x, y fileChange) int {
		return cmp.Or(cmp.Compare(weight(y.Bytes), weight(x.Bytes)), cmp.Compare(x.Path, y.Path))
	})
	if len(d.Files) > maxFileRows {
		d.Files, d.MoreFiles = d.Files[:maxFileRows], len(d.Files)-maxFileRows
	}
}
