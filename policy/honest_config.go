package policy

import (
	"fmt"

	"waybill/artifact"
)

// bindHonestConfig: the config's diff_ids are those of the layers. Runtimes compare them too, each at its own time, so
// that one which lies is refused late or not at all. Without a policy that says otherwise it denies.
// A history that does not fit is a warning: no runtime looks at it, and some builders write half of it.
func bindHonestConfig(with Node, given bool) (check, error) {
	return func(img Image) []finding { return append(said(img.Lies), history(img)...) }, without(with, given)
}

func history(img Image) []finding {
	steps := 0
	for _, h := range img.Config.History {
		if !h.EmptyLayer {
			steps++
		}
	}
	if len(img.Config.History) == 0 || steps == len(img.Facts.Layers) {
		return nil
	}
	return []finding{{warning: true, message: fmt.Sprintf("the config's history tells of %s, and the image has %s, so that what reasons say of steps may be wrong", artifact.Count(steps, "layer"), artifact.Count(len(img.Facts.Layers), "layer"))}}
}

// bindNoForeignLayers: every layer is here. What lies elsewhere (OCI image-spec 1.1, layer.md, "Non-Distributable
// Layers") cannot be judged, scanned or proven. Without a policy that says otherwise it denies.
func bindNoForeignLayers(with Node, given bool) (check, error) {
	return func(img Image) []finding { return said(img.Foreign) }, without(with, given)
}

func said(messages []string) []finding {
	found := make([]finding, len(messages))
	for i, m := range messages {
		found[i].message = m
	}
	return found
}
