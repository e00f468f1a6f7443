package policy

// bindHonestConfig: the config's diff_ids are those of the layers. Runtimes compare them too, each at its own time, so
// that one which lies is refused late or not at all. Without a policy that says otherwise it denies.
func bindHonestConfig(with Node, given bool) (check, error) {
	return func(img Image) []finding { return said(img.Lies) }, without(with, given)
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
