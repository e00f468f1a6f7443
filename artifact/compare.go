package artifact

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// Compared is an image as it is compared with another.
type Compared struct {
	Layers []Descriptor
	Scan   Scan
	Config *ImageConfig // nil: not known
	Facts  *ImageFacts  // nil: not known
}

// Size is the bytes of the layers, compressed.
func (c Compared) Size() (n int64) {
	for _, l := range c.Layers {
		n += l.Size
	}
	return n
}

// Difference is what a second image has that a first has not, and the other way round.
type Difference struct {
	Shared       int             `json:"sharedLayers"`
	SizeChange   int64           `json:"sizeChange" doc:"Bytes by which the second's layers are more, compressed"`
	Scanned      bool            `json:"scanned" doc:"Both are scanned; where one is not, packages and findings are not compared"`
	Added        []Package       `json:"packagesAdded"`
	Removed      []Package       `json:"packagesRemoved"`
	Changed      []PackageChange `json:"packagesChanged"`
	Introduced   []Finding       `json:"findingsIntroduced"`
	Fixed        []Finding       `json:"findingsFixed"`
	Config       []ConfigChange  `json:"config"`
	Stacked      bool            `json:"stacked" doc:"The layers of both are known; where one's are not, files are not compared"`
	Files        []FileChange    `json:"files" doc:"The heaviest changes first"`
	FilesAdded   int             `json:"filesAdded"`
	FilesRemoved int             `json:"filesRemoved"`
	FilesChanged int             `json:"filesChanged"`
	Same         bool            `json:"same" doc:"Nothing that was compared differs"`
}

// PackageChange is a package whose versions differ.
type PackageChange struct {
	Name string `json:"name"`
	Type string `json:"type"`
	From string `json:"from" doc:"Several with commas"`
	To   string `json:"to"`
}

// ConfigChange is a part of the config that differs; empty is not set.
type ConfigChange struct {
	Name string `json:"name"`
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
}

// FileChange is a file that one image has, or both have with another size, owner, mode or target, as far as facts say.
type FileChange struct {
	Path  string `json:"path"`
	What  string `json:"what" enum:"added,removed,changed"`
	Bytes int64  `json:"bytes" doc:"More, or fewer"`
}

// Compare says how b differs from a. What is not known of one is not compared: an image without a scan would look as if all
// had been fixed.
func Compare(a, b Compared) Difference {
	d := Difference{SizeChange: b.Size() - a.Size(), Scanned: a.Scan.State == Scanned && b.Scan.State == Scanned, Stacked: a.Facts != nil && b.Facts != nil}
	for _, l := range b.Layers {
		if slices.ContainsFunc(a.Layers, func(o Descriptor) bool { return o.Digest == l.Digest }) {
			d.Shared++
		}
	}
	if d.Scanned {
		d.packages(a.Scan.Packages, b.Scan.Packages)
		d.Introduced, d.Fixed = lacking(b.Scan.Findings, a.Scan.Findings), lacking(a.Scan.Findings, b.Scan.Findings)
	}
	if a.Config != nil && b.Config != nil {
		d.config(*a.Config, *b.Config)
	}
	if d.Stacked {
		d.files(a.Facts.Files, b.Facts.Files)
	}
	d.Same = len(d.Added)+len(d.Removed)+len(d.Changed)+len(d.Introduced)+len(d.Fixed)+len(d.Config)+len(d.Files) == 0 && d.Shared == len(a.Layers) && d.Shared == len(b.Layers)
	return d
}

func (d *Difference) packages(before, after []Package) {
	type key struct{ name, kind string }
	index := func(all []Package) map[key][]Package {
		m := make(map[key][]Package, len(all))
		for _, p := range all {
			k := key{p.Name, p.Type}
			if !slices.ContainsFunc(m[k], func(o Package) bool { return o.Version == p.Version }) {
				m[k] = append(m[k], p)
			}
		}
		return m
	}
	versions := func(all []Package) string {
		texts := make([]string, len(all))
		for i, p := range all {
			texts[i] = p.Version
		}
		slices.Sort(texts)
		return strings.Join(texts, ", ")
	}
	old, now := index(before), index(after)
	for k, some := range now {
		if were, ok := old[k]; !ok {
			d.Added = append(d.Added, some...)
		} else if from, to := versions(were), versions(some); from != to {
			d.Changed = append(d.Changed, PackageChange{k.name, k.kind, from, to})
		}
	}
	for k, some := range old {
		if _, ok := now[k]; !ok {
			d.Removed = append(d.Removed, some...)
		}
	}
	byName := func(a, b Package) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Type, b.Type), cmp.Compare(a.Version, b.Version))
	}
	slices.SortFunc(d.Added, byName)
	slices.SortFunc(d.Removed, byName)
	slices.SortFunc(d.Changed, func(a, b PackageChange) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Type, b.Type)) })
}

// lacking are the findings that others lack, by id and package, whatever the versions are: a package that was upgraded and is
// vulnerable still was not fixed.
func lacking(all, others []Finding) (missing []Finding) {
	type key struct{ id, name string }
	seen := map[key]bool{}
	for _, f := range others {
		seen[key{f.ID, f.Package}] = true
	}
	for _, f := range all {
		if k := (key{f.ID, f.Package}); f.Class != ClassLicense && !seen[k] {
			seen[k] = true
			missing = append(missing, f)
		}
	}
	SortFindings(missing)
	return missing
}

func (d *Difference) config(before, after ImageConfig) {
	a, b := before.Config, after.Config
	add := func(name, from, to string) {
		if from != to {
			d.Config = append(d.Config, ConfigChange{name, from, to})
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
	add("Platform", before.Platform().String(), after.Platform().String())
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
func (d *Difference) files(before, after map[string]VisibleFile) {
	for path, f := range after {
		old, ok := before[path]
		switch {
		case f.Type == Dir:
		case !ok:
			d.FilesAdded++
			d.Files = append(d.Files, FileChange{path, "added", f.Size})
		case f.Type != old.Type || f.Size != old.Size || f.Mode != old.Mode || f.UID != old.UID || f.GID != old.GID || f.Target != old.Target:
			d.FilesChanged++
			d.Files = append(d.Files, FileChange{path, "changed", f.Size - old.Size})
		}
	}
	for path, f := range before {
		if _, ok := after[path]; !ok && f.Type != Dir {
			d.FilesRemoved++
			d.Files = append(d.Files, FileChange{path, "removed", -f.Size})
		}
	}
	weight := func(n int64) int64 { return max(n, -n) }
	slices.SortFunc(d.Files, func(x, y FileChange) int {
		return cmp.Or(cmp.Compare(weight(y.Bytes), weight(x.Bytes)), cmp.Compare(x.Path, y.Path))
	})
}

// Counterparts are the images of two manifests that are compared with each other: of an index, the first one of a platform
// that both have; where they have none in common, the first.
func Counterparts(a, b StoredManifest) (x, y Digest) {
	ours, theirs := a.platforms(), b.platforms()
	for _, one := range ours {
		for _, other := range theirs {
			if one.platform != "" && one.platform == other.platform {
				return one.digest, other.digest
			}
		}
	}
	return ours[0].digest, theirs[0].digest
}

type platformed struct {
	platform string // empty: not said, or none, as of an attestation that lies beside its image
	digest   Digest
}

// platforms are an index's images, or the manifest itself; never none.
func (s StoredManifest) platforms() []platformed {
	if !s.Manifest.IsIndex() || len(s.Manifest.Manifests) == 0 {
		return []platformed{{s.Platform, s.Digest}}
	}
	all := make([]platformed, len(s.Manifest.Manifests))
	for i, m := range s.Manifest.Manifests {
		all[i].digest = m.Digest
		if m.Platform != nil && m.Platform.OS != "unknown" {
			all[i].platform = m.Platform.String()
		}
	}
	return all
}
