package policy

import (
	"fmt"
	"slices"
	"strings"

	"waybill/artifact"
)

// sizeLimits are the parameters of max-size; one that is absent does not limit.
type sizeLimits struct {
	Compressed   Quantity `yaml:"compressed"`   // bytes of all blobs
	Uncompressed Quantity `yaml:"uncompressed"` // bytes of all tars, or of their files where sparse ones unpack to more
	Layer        Quantity `yaml:"layer"`        // compressed bytes of any one layer
	Layers       int      `yaml:"layers"`       // how many
	Wasted       Quantity `yaml:"wasted"`       // bytes of files that a later layer removes or replaces
	Files        int      `yaml:"files"`        // how many a container would see, of every type
}

// bindMaxSize: the image is not bloated. The reasons name what is heaviest.
func bindMaxSize(with Node, given bool) (check, error) {
	limits, err := parameters[sizeLimits](with, given)
	if err != nil {
		return nil, err
	}
	if limits == (sizeLimits{}) {
		return nil, with.Errorf("max-size wants at least one of compressed, uncompressed, layer, layers, wasted and files, such as with: {compressed: 500Mi}")
	}
	for key, n := range map[string]int{"layers": limits.Layers, "files": limits.Files} {
		if n < 0 {
			return nil, with.At("$.%s", key).Errorf("%s is %d; want a number above 0", key, n)
		}
	}
	return limits.check, nil
}

func (l sizeLimits) check(img Image) []finding {
	if img.of == artifacts {
		img.Facts.Layers = blobs(img.Subject.Manifest) // no image: nothing was unpacked
	}
	var compressed, uncompressed, wasted int64
	for _, layer := range img.Facts.Layers {
		compressed, uncompressed, wasted = compressed+layer.Compressed, uncompressed+unpackedSize(layer), wasted+layer.Wasted
	}
	var found []finding
	over := func(what string, size int64, limit Quantity, hint func() string) {
		if limit > 0 && size > int64(limit) {
			found = append(found, finding{message: fmt.Sprintf("%s is %s, over the cap of %s%s", what, Quantity(size), limit, hint())})
		}
	}
	packed := func() string {
		return "; " + heaviest(img.Facts, func(l artifact.LayerSummary) int64 { return l.Compressed })
	}
	unpacked := func() string { return "; " + heaviest(img.Facts, unpackedSize) }
	over("the image, compressed,", compressed, l.Compressed, packed)
	over("the image, uncompressed,", uncompressed, l.Uncompressed, unpacked)
	over("what later layers remove or replace", wasted, l.Wasted, func() string {
		return "; " + mostWasted(img.Facts) + "; remove files in the step that adds them"
	})
	for i, layer := range img.Facts.Layers {
		over(fmt.Sprintf("layer %d (%s)", i+1, step(layer)), layer.Compressed, l.Layer, func() string { return "" })
	}
	// Of a layer that lies elsewhere only the compressed size is known: whoever fetches it checks that.
	if len(img.Foreign) > 0 && (l.Uncompressed > 0 || l.Wasted > 0 || l.Files > 0) {
		found = append(found, finding{message: "the image has layers that lie elsewhere, and what they unpack to cannot be told; push them with the image"})
	}
	if n := len(img.Facts.Files); l.Files > 0 && n > l.Files {
		found = append(found, finding{message: fmt.Sprintf("the image has %d files and directories, over the cap of %d; %s", n, l.Files, mostFiles(img.Facts))})
	}
	if l.Layers > 0 && len(img.Facts.Layers) > l.Layers {
		found = append(found, finding{message: fmt.Sprintf("the image has %s, over the cap of %d; join steps, or build in several stages", artifact.Count(len(img.Facts.Layers), "layer"), l.Layers)})
	}
	return found
}

// unpackedSize is what a layer takes on a disk: its tar, or its files where sparse ones unpack to more.
func unpackedSize(l artifact.LayerSummary) int64 { return max(l.Uncompressed, l.Unpacked) }

// heaviest names the three largest layers and files.
func heaviest(facts artifact.ImageFacts, size func(artifact.LayerSummary) int64) string {
	type weight struct {
		name string
		size int64
	}
	top := func(all []weight) []string {
		slices.SortFunc(all, func(a, b weight) int {
			if a.size != b.size {
				return int(min(max(b.size-a.size, -1), 1))
			}
			return compare(a.name, b.name)
		})
		var words []string
		for _, w := range all[:min(3, len(all))] {
			words = append(words, w.name+" "+Quantity(w.size).String())
		}
		return words
	}
	var layers, files []weight
	for i, l := range facts.Layers {
		layers = append(layers, weight{fmt.Sprintf("layer %d (%s)", i+1, step(l)), size(l)})
	}
	for p, f := range facts.Files {
		if f.Size > 1<<20 {
			files = append(files, weight{"/" + p, f.Size})
		}
	}
	text := "heaviest: " + strings.Join(top(layers), ", ")
	if len(files) > 0 {
		text += "; files: " + strings.Join(top(files), ", ")
	}
	return text
}

// blobs are an artifact's layers as max-size counts them.
func blobs(m artifact.Manifest) []artifact.LayerSummary {
	var all []artifact.LayerSummary
	for _, d := range m.Layers {
		all = append(all, artifact.LayerSummary{Digest: d.Digest, Compressed: d.Size})
	}
	return all
}

// mostFiles names the three layers that bring the most.
func mostFiles(facts artifact.ImageFacts) string {
	order := make([]int, len(facts.Layers))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return facts.Layers[b].Entries - facts.Layers[a].Entries })
	var words []string
	for _, i := range order[:min(3, len(order))] {
		words = append(words, fmt.Sprintf("layer %d (%s) %d", i+1, step(facts.Layers[i]), facts.Layers[i].Entries))
	}
	return "most come with: " + strings.Join(words, ", ")
}

func mostWasted(facts artifact.ImageFacts) string {
	hidden := slices.Clone(facts.Hidden)
	slices.SortFunc(hidden, func(a, b artifact.HiddenFile) int {
		if a.Size != b.Size {
			return int(min(max(b.Size-a.Size, -1), 1))
		}
		return compare(a.Path, b.Path)
	})
	var words []string
	for _, h := range hidden[:min(3, len(hidden))] {
		words = append(words, fmt.Sprintf("/%s %s", h.Path, Quantity(h.Size)))
	}
	return "most of it: " + strings.Join(words, ", ")
}

// step names a layer by what made it, shortened.
func step(l artifact.LayerSummary) string {
	text := strings.Join(strings.Fields(l.CreatedBy), " ")
	if text == "" {
		return l.Digest.Short()
	}
	if len(text) > 60 {
		text = strings.ToValidUTF8(text[:60], "") + "…"
	}
	return text
}
