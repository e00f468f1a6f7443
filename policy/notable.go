package policy

import (
	"maps"
	"slices"
	"strings"
)

// notable returns the paths of the files that some rule may have a word about, sorted: of a hundred thousand files, a
// few. They are looked for once, however many rules ask.
func notable(img Image) []string {
	if img.memo != nil && img.memo.looked {
		return img.memo.notable
	}
	var paths []string
	for p, f := range img.Facts.Files {
		if len(f.Marks) > 0 || f.Mode&0o6000 != 0 || f.Capabilities != 0 || slices.Contains(sshDaemons, p[strings.LastIndexByte(p, '/')+1:]) {
			paths = append(paths, p)
		}
	}
	slices.Sort(paths)
	if img.memo != nil {
		img.memo.notable, img.memo.looked = paths, true
	}
	return paths
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
