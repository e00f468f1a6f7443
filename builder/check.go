package builder

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"waybill/artifact"
)

// Checked is what a build that was made once more came to.
type Checked struct {
	Key         artifact.Digest
	Digest      artifact.Digest // of the build before, or of the first of two when there was none
	Again       artifact.Digest
	Before      bool      // there was a build before, which the new one is compared with
	Differences []Differs // none when the digests are equal
}

// Differs is a file, or a part of the config, that is not the same in two builds of one key.
type Differs struct {
	Platform string `json:"platform,omitempty"` // where there are several
	Path     string `json:"path"`               // of a file; "config: Env" and the like of what is none
	How      string `json:"how"`
}

// maxDifferences bounds how many are named.
const maxDifferences = 100

// Check builds again what a request's inputs were built to, and compares the digests; what was never built is built
// twice. Nothing is published, recorded or signed.
func (s *Service) Check(ctx context.Context, p artifact.Principal, r Request, archive io.Reader, private Private, log io.Writer) (Checked, error) {
	if err := mayBuild(p, r.Repository); err != nil {
		return Checked{}, err
	}
	temp, err := os.MkdirTemp(s.cfg.Folder, tempPrefix)
	if err != nil {
		return Checked{}, full(err)
	}
	defer os.RemoveAll(temp)
	plan, err := s.plan(ctx, p, r, archive, temp)
	if err != nil {
		return Checked{}, err
	}
	defer func() { _ = plan.Close() }()
	plan.private = private
	first, release, before, err := s.first(ctx, p, plan, temp, log)
	if err != nil {
		return Checked{}, err
	}
	defer release()
	again, err := plan.anew(ctx, p, planning{bases: s.cfg.Bases, hosts: s.cfg.Hosts, engine: s.cfg.Engine})
	if err != nil {
		return Checked{}, err
	}
	again.rebuilt = true
	fmt.Fprintln(log, "building again")
	second, releaseSecond, err := again.build(ctx, temp, s.cfg.Limits, log)
	if err != nil {
		return Checked{}, err
	}
	defer releaseSecond()
	return compare(plan, first, second, before, temp, s.cfg.Limits)
}

// first is the build to compare with: the one before where it is still there, else one that is made now.
func (s *Service) first(ctx context.Context, p artifact.Principal, plan *Plan, temp string, log io.Writer) (a Artifact, release func(), before bool, err error) {
	record, ok, err := s.cfg.Store.Build(ctx, plan.request.Repository, plan.Key())
	if err != nil {
		return nil, nil, false, err
	}
	if ok {
		a, err = s.cfg.Publisher.Stored(ctx, p, plan.request.Repository, record.Digest)
		if err == nil {
			return a, func() {}, true, nil
		}
		if artifact.KindOf(err) != artifact.NotFound {
			return nil, nil, false, err
		}
	}
	a, release, err = plan.build(ctx, temp, s.cfg.Limits, log)
	return a, release, false, err
}

// anew is the same plan to be built once more: a build expands a plan's instructions in place.
func (p *Plan) anew(ctx context.Context, by artifact.Principal, with planning) (*Plan, error) {
	other := *p
	other.targets = nil
	for _, t := range p.targets {
		fresh := &Target{plan: &other, platform: t.platform, explicit: t.explicit}
		other.targets = append(other.targets, fresh)
	}
	for _, t := range other.targets {
		if err := t.resolve(ctx, by, with); err != nil {
			return nil, err
		}
	}
	return &other, nil
}

func compare(plan *Plan, first, second Artifact, before bool, temp string, limits Limits) (Checked, error) {
	c := Checked{Key: plan.Key(), Before: before}
	for to, from := range map[*artifact.Digest]Artifact{&c.Digest: first, &c.Again: second} {
		hash, err := from.Digest()
		if err != nil {
			return c, err
		}
		if *to, err = artifact.ParseDigest(hash.String()); err != nil {
			return c, err
		}
	}
	if c.Digest == c.Again {
		return c, nil
	}
	one, err := imagesOf(first)
	if err != nil {
		return c, err
	}
	two, err := imagesOf(second)
	if err != nil {
		return c, err
	}
	if len(one) != len(two) {
		return c, fmt.Errorf("%d images were built before, and %d now", len(one), len(two))
	}
	for i := range one {
		found, err := differences(one[i], two[i], newWorkspace(temp, limits.withDefaults().Unpacked))
		if err != nil {
			return c, err
		}
		for _, d := range found {
			if len(one) > 1 {
				d.Platform = plan.targets[i].platform.String()
			}
			c.Differences = append(c.Differences, d)
		}
	}
	if len(c.Differences) > maxDifferences {
		c.Differences = c.Differences[:maxDifferences]
	}
	return c, nil
}

func imagesOf(a Artifact) ([]v1.Image, error) {
	if image, ok := a.(v1.Image); ok {
		return []v1.Image{image}, nil
	}
	index, ok := a.(v1.ImageIndex)
	if !ok {
		return nil, fmt.Errorf("a %T is neither image nor index", a)
	}
	m, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	var images []v1.Image
	for _, d := range m.Manifests {
		image, err := index.Image(d.Digest)
		if err != nil {
			return nil, err
		}
		images = append(images, image)
	}
	return images, nil
}

// differences names the files and the parts of the config that two images do not share, and the bytes of layers when
// those are all.
func differences(one, two v1.Image, work *workspace) ([]Differs, error) {
	defer func() { _ = work.Close() }()
	a, err := sumsOf(one, work)
	if err != nil {
		return nil, err
	}
	b, err := sumsOf(two, work)
	if err != nil {
		return nil, err
	}
	var found []Differs
	for _, path := range a.sorted() {
		if how := differs(a.get(path), b.get(path)); how != "" {
			found = append(found, Differs{Path: "/" + path, How: how})
		}
	}
	for _, path := range b.sorted() {
		if a.get(path) == nil {
			found = append(found, Differs{Path: "/" + path, How: "is new"})
		}
	}
	config, err := configDifferences(one, two)
	if err != nil {
		return nil, err
	}
	if found = append(found, config...); len(found) == 0 {
		found = append(found, Differs{Path: "layers", How: "the same files, packed or dated otherwise"})
	}
	return found, nil
}

// sumsOf lists an image with the checksums of its files, which are read where they stand in their layers.
func sumsOf(image v1.Image, work *workspace) (*tree, error) {
	files, err := loadImage(image, work)
	if err != nil {
		return nil, err
	}
	bySource := map[*source]map[int][]*node{}
	for _, path := range files.sorted() {
		n := files.nodes[path]
		if a, ok := n.content.(archived); ok {
			if bySource[a.from] == nil {
				bySource[a.from] = map[int][]*node{}
			}
			bySource[a.from][a.nth] = append(bySource[a.from][a.nth], n)
		}
	}
	for from, wanted := range bySource {
		if err := from.each(func(nth int, content io.Reader) error {
			if len(wanted[nth]) == 0 {
				return nil
			}
			sum := sha256.New()
			if _, err := io.Copy(sum, content); err != nil {
				return err
			}
			for _, n := range wanted[nth] {
				n.sum = hexSum(sum)
			}
			return nil
		}); err != nil {
			return nil, err
		}
	}
	return files, nil
}

func differs(a, b *node) string {
	switch {
	case b == nil:
		return "is gone"
	case a.kind != b.kind:
		return fmt.Sprintf("was a %s, is a %s", a.kind, b.kind)
	case a.sum != b.sum || a.size != b.size:
		return fmt.Sprintf("has other content: %d bytes, were %d", b.size, a.size)
	case a.target != b.target:
		return fmt.Sprintf("leads to %.200q, led to %.200q", b.target, a.target)
	case a.mode != b.mode:
		return fmt.Sprintf("has mode %o, had %o", b.mode, a.mode)
	case a.uid != b.uid || a.gid != b.gid:
		return fmt.Sprintf("belongs to %d:%d, belonged to %d:%d", b.uid, b.gid, a.uid, a.gid)
	case !reflect.DeepEqual(a.xattrs, b.xattrs):
		return "has other extended attributes"
	}
	return ""
}

func configDifferences(one, two v1.Image) ([]Differs, error) {
	var fields [2]map[string]json.RawMessage
	for i, image := range []v1.Image{one, two} {
		raw, err := image.RawConfigFile()
		if err != nil {
			return nil, err
		}
		var file map[string]json.RawMessage
		if err := json.Unmarshal(raw, &file); err != nil {
			return nil, err
		}
		fields[i] = map[string]json.RawMessage{}
		if config := file["config"]; len(config) > 0 {
			if err := json.Unmarshal(config, &fields[i]); err != nil {
				return nil, err
			}
		}
		for _, name := range []string{"architecture", "os", "variant", "created", "author"} {
			fields[i][name] = file[name]
		}
	}
	names := map[string]string{}
	for _, f := range fields {
		for name := range f {
			names[name] = ""
		}
	}
	var found []Differs
	for _, name := range sortedKeys(names) {
		if a, b := fields[0][name], fields[1][name]; !slices.Equal(a, b) {
			found = append(found, Differs{Path: "config: " + name, How: fmt.Sprintf("is %.200s, was %.200s", b, a)})
		}
	}
	return found, nil
}
